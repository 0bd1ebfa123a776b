//! gavel's wire protocol: frame [`Header`], FlatBuffers bodies ([`wire`]), error [`Code`]s. `PROTOCOL.md` beside this crate is the
//! specification; `vectors/` holds frames that every client replays.

mod error;
#[allow(missing_docs, unsafe_code, unused_imports, unused_qualifications, clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, mismatched_lifetime_syntaxes, dead_code)]
#[rustfmt::skip]
mod gavel_generated;
mod header;

pub use error::{Code, Fault};
pub use gavel_generated::gavel::wire;
pub use header::{HEADER_BYTES, Header, Kind, MAGIC, RawHeader, VERSION};
