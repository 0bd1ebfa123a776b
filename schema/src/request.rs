//! Bodies that a client sends, borrowed from the frame. Nothing is allocated for a body that is well formed.

use crate::error::Code;
use crate::gavel_generated::gavel::wire;
use crate::verify;

/// Longest `Hello.client`, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;
/// Longest `Hello.token`, in bytes.
pub const TOKEN_BYTES_MAX: usize = 256;
/// Longest public name of a model, in bytes.
pub const MODEL_NAME_BYTES_MAX: usize = 128;
/// Bytes of `Rank.trace`.
pub const TRACE_BYTES: usize = 25;
/// Longest body of a ping.
pub const PING_BYTES_MAX: usize = 64;

/// Body of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloView<'a> {
    /// Name and version of the caller; may be empty.
    pub client: &'a str,
    /// Shared secret; empty where none was sent.
    pub token: &'a [u8],
    /// Newest protocol version that the client speaks.
    pub version_max: u8,
}

impl<'a> HelloView<'a> {
    /// Verifies a body in place. Error: [`Code::BodyMalformed`] (also for a name or token that is too long).
    pub fn parse(body: &'a [u8]) -> Result<HelloView<'a>, Code> {
        let table = verify::table::<wire::Hello<'a>>(body).map_err(|_| Code::BodyMalformed)?;
        let view = HelloView {
            client: table.client().unwrap_or_default(),
            token: table.token().map_or(&[], |token| token.bytes()),
            version_max: table.version_max(),
        };
        if view.client.len() > CLIENT_NAME_BYTES_MAX || view.token.len() > TOKEN_BYTES_MAX {
            return Err(Code::BodyMalformed);
        }
        Ok(view)
    }
}

/// Body of a describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescribeView<'a> {
    /// Public name; empty where the header's signature asks instead.
    pub model: &'a str,
}

impl<'a> DescribeView<'a> {
    /// Verifies a body in place. Error: [`Code::BodyMalformed`] (also for a name that is too long).
    pub fn parse(body: &'a [u8]) -> Result<DescribeView<'a>, Code> {
        let table = verify::table::<wire::Describe<'a>>(body).map_err(|_| Code::BodyMalformed)?;
        let model = table.model().unwrap_or_default();
        if model.len() > MODEL_NAME_BYTES_MAX {
            return Err(Code::BodyMalformed);
        }
        Ok(DescribeView { model })
    }
}

/// W3C trace context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// `trace-id`.
    pub trace_id: [u8; 16],
    /// `parent-id`: the caller's span.
    pub parent: [u8; 8],
    /// `trace-flags`.
    pub flags: u8,
}

impl Trace {
    /// Reads `Rank.trace`. None unless it is [`TRACE_BYTES`] long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Trace> {
        let (trace_id, rest) = bytes.split_first_chunk::<16>()?;
        let (parent, rest) = rest.split_first_chunk::<8>()?;
        let [flags] = rest else { return None };
        Some(Trace { trace_id: *trace_id, parent: *parent, flags: *flags })
    }
    /// The form of the wire.
    pub fn to_bytes(&self) -> [u8; TRACE_BYTES] {
        let mut bytes = [0; TRACE_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent);
        bytes[24] = self.flags;
        bytes
    }
}

/// Body of a rank request: what a server reads and a client writes. Blocks are little-endian bytes at any alignment, an absent block is
/// empty. Their sizes are not checked here: that needs the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankView<'a> {
    /// f32, one row.
    pub context_dense: &'a [u8],
    /// u32 or u64, one row.
    pub context_ids: &'a [u8],
    /// u16 per variable feature.
    pub context_lengths: &'a [u8],
    /// f32 per id of a weighted feature.
    pub context_weights: &'a [u8],
    /// f32, row-major.
    pub dense: &'a [u8],
    /// u32 or u64, row-major.
    pub ids: &'a [u8],
    /// u16 per row and variable feature.
    pub lengths: &'a [u8],
    /// f32 per id of a weighted feature, row-major.
    pub weights: &'a [u8],
    /// A byte per candidate, 1 = eligible; none = all are.
    pub mask: Option<&'a [u8]>,
    /// i64 micros per candidate; none = order by score alone.
    pub bids: Option<&'a [u8]>,
    /// 0 = all scores in row order, else the best k.
    pub top_k: u32,
    /// The output that orders.
    pub rank_output: u16,
    /// Equal keys reach the same arm of an A/B split.
    pub split_key: u64,
    /// Where the caller's trace goes on.
    pub trace: Option<Trace>,
}

/// The same type, as the side that sends it calls it.
pub type RankBody<'a> = RankView<'a>;

impl<'a> RankView<'a> {
    /// Verifies a body in place. Errors: [`Code::BodyMalformed`], [`Code::TraceInvalid`].
    pub fn parse(body: &'a [u8]) -> Result<RankView<'a>, Code> {
        let table = verify::table::<wire::Rank<'a>>(body).map_err(|_| Code::BodyMalformed)?;
        let block = |vector: Option<flatbuffers::Vector<'a, u8>>| vector.map_or(&[][..], |vector| vector.bytes());
        let trace = match table.trace() {
            None => None,
            Some(bytes) => Some(Trace::from_bytes(bytes.bytes()).ok_or(Code::TraceInvalid)?),
        };
        Ok(RankView {
            context_dense: block(table.context_dense()),
            context_ids: block(table.context_ids()),
            context_lengths: block(table.context_lengths()),
            context_weights: block(table.context_weights()),
            dense: block(table.dense()),
            ids: block(table.ids()),
            lengths: block(table.lengths()),
            weights: block(table.weights()),
            mask: table.mask().map(|vector| vector.bytes()),
            bids: table.bids().map(|vector| vector.bytes()),
            top_k: table.top_k(),
            rank_output: table.rank_output(),
            split_key: table.split_key(),
            trace,
        })
    }

    /// Bytes of all blocks.
    pub fn block_bytes(&self) -> usize {
        [self.context_dense, self.context_ids, self.context_lengths, self.context_weights, self.dense, self.ids, self.lengths, self.weights]
            .iter()
            .chain(self.mask.iter())
            .chain(self.bids.iter())
            .map(|block| block.len())
            .sum()
    }
}
