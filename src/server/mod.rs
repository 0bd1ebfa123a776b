//! Everything that knows the machine: shards, mailboxes, acceptor, preflight.

pub mod mailbox;
pub mod runtime;
