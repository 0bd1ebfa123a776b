//! The async client, on tokio.

mod client;
mod link;
mod pool;
mod stream;

pub use client::{Client, Pending};
