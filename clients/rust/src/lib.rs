//! Clients of gavel: [`Client`] (async, on tokio) and [`blocking::Client`].
//!
//! ```no_run
//! use std::time::Duration;
//! use gavel_client::{Call, Options, RequestBuilder, blocking::Client};
//!
//! # fn main() -> Result<(), gavel_client::Error> {
//! let client = Client::connect(&["127.0.0.1:7878".parse()?], Options::default())?;
//! let layout = client.describe("ctr")?;
//! let mut request = RequestBuilder::new(&layout);
//! request.context().dense("age", 0.5)?.id("campaign", 3)?;
//! for ad in [7, 9, 11] {
//!     request.add_candidate()?.id("ad", ad)?;
//! }
//! request.top_k(1);
//! let scores = client.rank(&request.finish()?, &Call::within(Duration::from_millis(5)))?;
//! println!("{:?} with {:?}", scores.winners(), scores.row(0));
//! # Ok(()) }
//! ```
//!
//! What both share is without I/O: the layout of a described signature, the request builder, one connection as a state machine. Absent on purpose:
//! retries of requests that a server has seen (the caller's deadline decides), TLS.

mod address;
mod backoff;
pub mod blocking;
mod build_error;
mod builder;
mod error;
mod layout;
mod options;
mod pooled;
mod receive_buffer;
mod request;
mod rows;
mod scores;
mod session;

pub use address::Address;
pub use build_error::{BuildError, RowName};
pub use builder::{RequestBuilder, Row};
pub use error::Error;
pub use gavel_protocol::{
    Code, DescribedFeature, DescribedOutput, Description, FeatureKind, OutputKind, RankBody, Scope, Trace, feature_flag, status,
};
pub use layout::{FeatureHandle, FeatureKey, Layout};
pub use options::{Call, Options};
pub use pooled::{Client, Pending};
pub use request::Request;
pub use scores::{Scores, Timings};
pub use session::ServerLimits;

/// An id that is missing: all ones. Becomes all ones of the block's element size.
pub const MISSING: u64 = u64::MAX;
