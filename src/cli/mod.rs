//! The commands.

pub mod inspect;
