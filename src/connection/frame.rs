//! Frames out of bytes.

use gavel_protocol::{Code, HEADER_BYTES, Header};

/// What the unconsumed bytes of a connection begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Not yet a whole frame. `bytes`: how many there must be, if the header is there already.
    More {
        /// Length of the frame under way.
        bytes: Option<usize>,
    },
    /// A whole frame of `HEADER_BYTES + body.len()` bytes.
    Whole {
        /// Checked.
        header: Header,
        /// Not looked at yet.
        body: &'a [u8],
    },
    /// The connection cannot go on.
    Broken {
        /// Why.
        code: Code,
        /// Of the broken frame, 0 if even that is unknown.
        request_id: u64,
    },
}

/// Looks at the start of `bytes`. A frame longer than `frame_bytes_max` is broken as soon as its header is there.
pub fn next_frame(bytes: &[u8], frame_bytes_max: usize) -> Frame<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        // A wrong magic is told at once: whoever sends it may never send 48 bytes.
        let magic = gavel_protocol::MAGIC.to_le_bytes();
        let known = bytes.len().min(magic.len());
        return if bytes[..known] == magic[..known] {
            Frame::More { bytes: None }
        } else {
            Frame::Broken { code: Code::BadMagic, request_id: 0 }
        };
    };
    let header = match Header::parse(header) {
        Ok(header) => header,
        Err((code, request_id)) => return Frame::Broken { code, request_id },
    };
    let body_len = header.body_len as usize;
    if body_len > frame_bytes_max.saturating_sub(HEADER_BYTES) {
        return Frame::Broken { code: Code::FrameTooLarge, request_id: header.request_id };
    }
    match rest.get(..body_len) {
        Some(body) => Frame::Whole { header, body },
        None => Frame::More { bytes: Some(HEADER_BYTES + body_len) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_protocol::{Kind, RawHeader};

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = Header { body_len: body.len() as u32, ..Header::new(Kind::Rank, 7) }.to_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn every_prefix_asks_for_more_and_the_whole_is_whole() {
        let bytes = frame(&[1, 2, 3, 4, 5]);
        for end in 0..bytes.len() {
            let expected = if end < HEADER_BYTES { None } else { Some(bytes.len()) };
            assert_eq!(next_frame(&bytes[..end], 4096), Frame::More { bytes: expected }, "prefix of {end}");
        }
        for extra in [0, 1, 100] {
            let mut more = bytes.clone();
            more.resize(bytes.len() + extra, 0xaa);
            assert!(matches!(next_frame(&more, 4096), Frame::Whole { body: [1, 2, 3, 4, 5], .. }));
        }
    }

    #[test]
    fn limits_and_faults() {
        let bytes = frame(&[0; 100]);
        assert!(matches!(next_frame(&bytes, HEADER_BYTES + 100), Frame::Whole { .. }));
        assert_eq!(next_frame(&bytes[..HEADER_BYTES], HEADER_BYTES + 99), Frame::Broken { code: Code::FrameTooLarge, request_id: 7 });
        assert_eq!(next_frame(b"GET / HTTP/1.1", 4096), Frame::Broken { code: Code::BadMagic, request_id: 0 });
        assert_eq!(next_frame(b"X", 4096), Frame::Broken { code: Code::BadMagic, request_id: 0 });
        for (offset, code) in [
            (4, Code::VersionUnsupported),
            (5, Code::KindUnknown),
            (6, Code::HeaderMalformed),
            (37, Code::HeaderMalformed),
            (40, Code::HeaderMalformed),
        ] {
            let mut bad = bytes.clone();
            bad[offset] = 0x7f;
            assert_eq!(next_frame(&bad, 4096), Frame::Broken { code, request_id: 7 }, "offset {offset}");
        }
    }

    #[test]
    fn the_magic_is_where_the_header_says() {
        assert_eq!(std::mem::offset_of!(RawHeader, magic), 0);
    }
}
