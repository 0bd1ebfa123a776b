//! The commands.

pub mod exit;
pub mod inspect;
pub mod progress;
pub mod rank;
pub mod table;
