//! Listening sockets, and the thread that deals what they accept to the shards.
//!
//! One thread accepts for all shards: the kernel's own spreading (`SO_REUSEPORT`) hashes addresses and leaves shards with very different numbers
//! of long-lived connections. Absent on purpose: bytes of clients, except the one refusal of a full server.

mod acceptor;
mod sockets;

pub use acceptor::{Acceptor, ShardIntake};
pub use sockets::{ListenError, Listeners, bind};
