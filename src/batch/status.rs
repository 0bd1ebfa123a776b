//! Status bits of a row or of a context: what the server did to it. The same numbers as on the wire.

/// Not eligible: not computed.
pub const MASKED: u8 = 1;
/// An id at or above its table's rows was replaced.
pub const OUT_OF_RANGE: u8 = 2;
/// A missing id was replaced or left out.
pub const MISSING: u8 = 4;
/// A NaN was replaced, or handed on to the graph, by its feature's rule.
pub const NAN: u8 = 8;
/// The model's score is NaN or infinite.
pub const NOT_FINITE: u8 = 16;
