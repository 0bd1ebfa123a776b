//! gavel's wire protocol: frame [`Header`], FlatBuffers bodies ([`wire`] and the views over them), error [`Code`]s, [`signature()`].
//! `PROTOCOL.md` beside this crate is the specification; `vectors/` holds frames that every client replays.
//!
//! A server reads [`HelloView`], [`DescribeView`] and [`RankView`]; a client [`HelloAnswerView`], [`Description`], [`ScoresView`],
//! [`ErrorView`] and [`DrainView`]; both write with an [`Encoder`]. Absent on purpose: sockets, clocks, and whatever needs a layout.

mod answer;
mod description;
mod encoder;
mod error;
mod feature;
#[allow(missing_docs, unsafe_code, unused_imports, unused_qualifications, clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, mismatched_lifetime_syntaxes, dead_code)]
#[rustfmt::skip]
mod gavel_generated;
mod header;
mod request;
mod signature;
mod verify;

pub use answer::{AnswerFault, DrainView, ErrorView, HelloAnswerView, ScoresView};
pub use description::{DescribedFeature, DescribedOutput, Description};
pub use encoder::{Encoder, HelloAnswerBody, ScoresBody, rank_frame_bytes_max, scores_frame_bytes_max};
pub use error::{Code, Fault};
pub use feature::{FeatureKind, OutputKind, Scope, feature_flag, status};
pub use gavel_generated::gavel::wire;
pub use header::{HEADER_BYTES, Header, Kind, MAGIC, RawHeader, VERSION};
pub use request::{
    CLIENT_NAME_BYTES_MAX, DescribeView, HelloView, MODEL_NAME_BYTES_MAX, PING_BYTES_MAX, RankBody, RankView, TOKEN_BYTES_MAX, TRACE_BYTES,
    Trace,
};
pub use signature::{SignatureFeature, signature};
