//! Everything that knows the machine: shards, mailboxes, acceptor, control thread, logs, preflight.

pub mod control;
pub mod listen;
pub mod log;
pub mod mailbox;
pub mod placement;
pub mod plan;
pub mod preflight;
pub mod publish;
pub mod running;
pub mod runtime;
pub mod shard;
