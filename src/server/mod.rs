//! Everything that knows the machine: shards, mailboxes, acceptor, control thread, logs, preflight.

pub mod control;
pub mod log;
pub mod mailbox;
pub mod placement;
pub mod preflight;
pub mod runtime;
pub mod shard;
