//! Everything that knows the machine: shards, mailboxes, acceptor, preflight.

pub mod mailbox;
pub mod placement;
pub mod preflight;
pub mod runtime;
