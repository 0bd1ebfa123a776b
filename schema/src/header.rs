//! The fixed 48-byte header in front of every body.
//!
//! ```text
//!  0        4       5      6        8         12         16           24          32           36        37         40         48
//!  | magic  | vers. | kind | flags  | body    | budget   | request_id | signature | candidates | priority| reserved | reserved |
//!  | u32    | u8    | u8   | u16    | len u32 | us u32   | u64        | u64       | u32        | u8      | 3 bytes  | u64      |
//! ```
//! Little-endian. It is enough to route, refuse, time out or cancel a request without reading its body.

use bytemuck::{Pod, Zeroable};

use crate::error::Code;

/// Bytes of a header on the wire.
pub const HEADER_BYTES: usize = 48;
/// `"GAVL"` read as a little-endian u32.
pub const MAGIC: u32 = u32::from_le_bytes(*b"GAVL");
/// The only protocol version so far.
pub const VERSION: u8 = 1;

/// What a frame is. Answers are the request's number with the high bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of a client; body [`crate::wire::Hello`].
    Hello = 0x01,
    /// Asks for a layout; body [`crate::wire::Describe`].
    Describe = 0x02,
    /// One context and N candidates; body [`crate::wire::Rank`].
    Rank = 0x03,
    /// Gives up the rank request of the same id; no body, no answer of its own.
    Cancel = 0x04,
    /// Answered by `Pong` with the same body (at most 64 bytes).
    Ping = 0x05,
    /// Server to client: it is going away; body [`crate::wire::Drain`].
    Drain = 0x06,
    /// Answer to `Hello`.
    HelloAnswer = 0x81,
    /// Answer to `Describe`.
    Description = 0x82,
    /// Answer to `Rank`.
    Scores = 0x83,
    /// Answer to `Ping`.
    Pong = 0x85,
    /// Client to server: it has seen the drain and sends no more requests.
    DrainAnswer = 0x86,
    /// Answer to any request that failed; body [`crate::wire::Error`].
    Error = 0xff,
}

impl Kind {
    /// The kind with this number.
    pub const fn from_u8(number: u8) -> Option<Kind> {
        Some(match number {
            0x01 => Kind::Hello,
            0x02 => Kind::Describe,
            0x03 => Kind::Rank,
            0x04 => Kind::Cancel,
            0x05 => Kind::Ping,
            0x06 => Kind::Drain,
            0x81 => Kind::HelloAnswer,
            0x82 => Kind::Description,
            0x83 => Kind::Scores,
            0x85 => Kind::Pong,
            0x86 => Kind::DrainAnswer,
            0xff => Kind::Error,
            _ => return None,
        })
    }

    /// Whether a client may send it.
    pub const fn from_client(self) -> bool {
        matches!(self, Kind::Hello | Kind::Describe | Kind::Rank | Kind::Cancel | Kind::Ping | Kind::DrainAnswer)
    }
}

/// The header as it lies on the wire (little-endian hosts read it in place).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RawHeader {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u8,
    /// [`Kind`].
    pub kind: u8,
    /// None defined yet: zero.
    pub flags: u16,
    /// Bytes behind the header.
    pub body_len: u32,
    /// What is left of the caller's budget, in µs, counted from the header's arrival; 0 = none.
    pub budget_us: u32,
    /// Chosen by the client, echoed in the answer.
    pub request_id: u64,
    /// Rank, describe: which model and layout.
    pub signature: u64,
    /// Rank: number of candidates.
    pub candidates: u32,
    /// Rank: 0 = normal; higher is served first under pressure.
    pub priority: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Zero.
    pub reserved_tail: u64,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
#[cfg(target_endian = "big")]
compile_error!("gavel's wire format is read in place and needs a little-endian host");

/// A header whose magic, version, kind and reserved fields were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Bytes behind the header.
    pub body_len: u32,
    /// Caller's remaining budget in µs; 0 = none.
    pub budget_us: u32,
    /// Chosen by the client.
    pub request_id: u64,
    /// Model layout; 0 where it does not apply.
    pub signature: u64,
    /// Number of candidates; 0 where it does not apply.
    pub candidates: u32,
    /// Rank only.
    pub priority: u8,
}

impl Header {
    /// A header of `kind` with everything else zero.
    pub const fn new(kind: Kind, request_id: u64) -> Header {
        Header { kind, body_len: 0, budget_us: 0, request_id, signature: 0, candidates: 0, priority: 0 }
    }

    /// Reads the first [`HEADER_BYTES`] of a frame. Errors are framing faults: the connection cannot go on.
    /// The request id is returned beside the code so that the answer can bear it.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, (Code, u64)> {
        let raw: RawHeader = bytemuck::pod_read_unaligned(bytes);
        if raw.magic != MAGIC {
            return Err((Code::BadMagic, 0));
        }
        if raw.version != VERSION {
            return Err((Code::VersionUnsupported, raw.request_id));
        }
        let Some(kind) = Kind::from_u8(raw.kind) else {
            return Err((Code::KindUnknown, raw.request_id));
        };
        if raw.flags != 0 || raw.reserved != [0; 3] || raw.reserved_tail != 0 {
            return Err((Code::HeaderMalformed, raw.request_id));
        }
        Ok(Header {
            kind,
            body_len: raw.body_len,
            budget_us: raw.budget_us,
            request_id: raw.request_id,
            signature: raw.signature,
            candidates: raw.candidates,
            priority: raw.priority,
        })
    }

    /// The bytes to put on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        bytemuck::cast(RawHeader {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind as u8,
            flags: 0,
            body_len: self.body_len,
            budget_us: self.budget_us,
            request_id: self.request_id,
            signature: self.signature,
            candidates: self.candidates,
            priority: self.priority,
            reserved: [0; 3],
            reserved_tail: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 12] = [
        Kind::Hello,
        Kind::Describe,
        Kind::Rank,
        Kind::Cancel,
        Kind::Ping,
        Kind::Drain,
        Kind::HelloAnswer,
        Kind::Description,
        Kind::Scores,
        Kind::Pong,
        Kind::DrainAnswer,
        Kind::Error,
    ];

    fn header(kind: Kind) -> Header {
        Header {
            kind,
            body_len: 0x0403_0201,
            budget_us: 0x0807_0605,
            request_id: 0x100f_0e0d_0c0b_0a09,
            signature: 0x1817_1615_1413_1211,
            candidates: 0x1c1b_1a19,
            priority: 0x1d,
        }
    }

    #[test]
    fn round_trip() {
        for kind in KINDS {
            assert_eq!(Header::parse(&header(kind).to_bytes()), Ok(header(kind)));
        }
        let known = (0..=u8::MAX).filter(|number| Kind::from_u8(*number).is_some()).count();
        assert_eq!(known, KINDS.len());
    }

    #[test]
    fn fields_lie_where_the_drawing_says() {
        let mut expected = [0; HEADER_BYTES];
        expected[..6].copy_from_slice(b"GAVL\x01\x03");
        for (value, byte) in (1..=29).zip(&mut expected[8..37]) {
            *byte = value;
        }
        assert_eq!(header(Kind::Rank).to_bytes(), expected);
    }

    #[test]
    fn faults() {
        let cases = [
            ("magic", 0, b'g', Code::BadMagic, 0),
            ("magic's last byte", 3, 0, Code::BadMagic, 0),
            ("version 0", 4, 0, Code::VersionUnsupported, header(Kind::Rank).request_id),
            ("version 2", 4, 2, Code::VersionUnsupported, header(Kind::Rank).request_id),
            ("kind 0", 5, 0, Code::KindUnknown, header(Kind::Rank).request_id),
            ("kind 7", 5, 7, Code::KindUnknown, header(Kind::Rank).request_id),
            ("low flag", 6, 1, Code::HeaderMalformed, header(Kind::Rank).request_id),
            ("high flag", 7, 0x80, Code::HeaderMalformed, header(Kind::Rank).request_id),
            ("reserved, first", 37, 1, Code::HeaderMalformed, header(Kind::Rank).request_id),
            ("reserved, last", 39, 1, Code::HeaderMalformed, header(Kind::Rank).request_id),
            ("reserved tail, first", 40, 1, Code::HeaderMalformed, header(Kind::Rank).request_id),
            ("reserved tail, last", 47, 1, Code::HeaderMalformed, header(Kind::Rank).request_id),
        ];
        for (case, at, value, code, request_id) in cases {
            let mut bytes = header(Kind::Rank).to_bytes();
            bytes[at] = value;
            assert_eq!(Header::parse(&bytes), Err((code, request_id)), "{case}");
        }
    }
}
