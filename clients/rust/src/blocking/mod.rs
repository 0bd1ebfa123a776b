//! The blocking client: sockets of the standard library's kind, no threads, no runtime.

mod client;
mod connection;

pub use client::Client;
pub use connection::Connection;
