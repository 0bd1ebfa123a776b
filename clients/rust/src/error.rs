//! Why a call gave no scores.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gavel_protocol::{AnswerFault, Code};

use crate::build_error::BuildError;

/// Why a call gave no scores. Cheap to clone: one lost connection fails all its calls with the same error.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server said no.
    #[error("the server refused: {code}: {message}")]
    Refused {
        /// Why; see the error table of PROTOCOL.md.
        code: Code,
        /// The server's words, for a developer's eyes.
        message: String,
        /// When a retry may succeed, where the server knows.
        retry_after: Option<Duration>,
    },
    /// The server said no with a code that this release does not know.
    #[error("the server refused with error {number}, which this client does not know: {message}")]
    RefusedUnknown {
        /// The code's number.
        number: u16,
        /// The server's words.
        message: String,
    },
    /// The request was not built correctly; nothing was sent.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The call's deadline passed; a request that was under way was cancelled.
    #[error("the deadline passed before the answer came")]
    Deadline,
    /// The connection ended with the call in flight.
    #[error("the connection to {address} ended with the request in flight")]
    Closed {
        /// The server.
        address: Arc<str>,
    },
    /// The socket failed.
    #[error("{address}: {doing}: {source}")]
    Io {
        /// The server.
        address: Arc<str>,
        /// Connecting, reading, writing.
        doing: &'static str,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// The server sent something that the protocol does not allow. The connection was given up.
    #[error("{address} broke the protocol: {what}")]
    Protocol {
        /// The server.
        address: Arc<str>,
        /// How.
        what: String,
    },
    /// No connection could be had in time.
    #[error("no connection to {addresses}: {last}")]
    Unavailable {
        /// All servers of the client.
        addresses: String,
        /// What the last attempt met.
        last: String,
    },
    /// The connection has as many unanswered requests as the server allows; receive first.
    #[error("{in_flight} requests are unanswered on this connection, the server allows no more; receive answers first")]
    Saturated {
        /// How many.
        in_flight: usize,
    },
    /// The request's frame exceeds what the server reads.
    #[error("the request takes {bytes} bytes, the server reads frames of at most {bytes_max}; send fewer candidates per request")]
    TooLarge {
        /// Of the frame, at least.
        bytes: usize,
        /// The server's limit.
        bytes_max: usize,
    },
    /// An address that is none.
    #[error("{text:?} is no address: {why}; write host:port or unix:/path")]
    Address {
        /// As given.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Error {
    /// Whether the server does not know the request's layout (any more): describe the model again and build the request anew.
    pub fn is_layout_unknown(&self) -> bool {
        self.code() == Some(Code::SignatureUnknown)
    }

    /// The server's code, if it refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same request may succeed when sent again, elsewhere or later.
    pub fn may_retry(&self) -> bool {
        match self {
            Error::Refused { code, .. } => code.retry(),
            Error::Closed { .. } | Error::Io { .. } | Error::Unavailable { .. } | Error::Saturated { .. } => true,
            Error::RefusedUnknown { .. }
            | Error::Build(_)
            | Error::Deadline
            | Error::Protocol { .. }
            | Error::TooLarge { .. }
            | Error::Address { .. } => false,
        }
    }

    pub(crate) fn io(address: &Arc<str>, doing: &'static str, source: io::Error) -> Error {
        Error::Io { address: Arc::clone(address), doing, source: Arc::new(source) }
    }

    pub(crate) fn protocol(address: &Arc<str>, what: impl Into<String>) -> Error {
        Error::Protocol { address: Arc::clone(address), what: what.into() }
    }

    pub(crate) fn answer(address: &Arc<str>, fault: AnswerFault) -> Error {
        Error::protocol(address, fault.to_string())
    }
}
