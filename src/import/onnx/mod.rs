//! ONNX files as bundles.
//!
//! ```text
//!   file ──▶ proto ──▶ lower: node by node, values with the place of the rows ──▶ ir ──▶ features, tables ──▶ manifest, weights
//!                                                                       selftest rows, by the reference interpreter
//! ```
//! Protobuf messages are read with hand-written types (`proto`); constants are computed at import (`constant`, `nd`, `lower::fold`); every
//! other value knows at which axis of its ONNX shape the rows lie (`value`), and an op that would touch that axis is refused: that is the
//! proof that a row's score does not depend on the rows beside it. `docs/import.md` says what is taken and how inputs become features.

mod constant;
mod draft;
mod emit;
mod error;
mod features;
mod graph;
mod import;
mod ir;
mod lower;
mod missing;
mod names;
mod nd;
mod node;
mod outputs;
mod proto;
mod raw;
mod report;
mod rows;
mod rules;
mod tensor;
mod value;

pub use draft::Draft;
pub use error::{ImportError, Problem};
pub use graph::{Converted, convert};
pub use import::{Options, import};
pub use report::{Expected, Report};
pub use rules::Rules;
