//! Everything that knows the machine: shards, mailboxes, acceptor, control thread, logs, preflight.

pub mod control;
pub mod log;
pub mod mailbox;
pub mod runtime;
pub mod shard;
