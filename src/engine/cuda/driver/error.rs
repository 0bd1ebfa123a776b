//! What the driver answers when it refuses.

use std::fmt;

use super::functions::{self, Code};

/// A call of the driver that failed. Formatting it calls nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverError {
    code: Code,
    /// The driver's name for it; `None` where it has none.
    name: Option<&'static str>,
    doing: &'static str,
    /// Of cuBLASLt, where that is what failed.
    status: Option<Code>,
}

impl DriverError {
    /// Whether memory was too little: less of it may do.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == functions::OUT_OF_MEMORY
    }

    /// Whether a library refused, which breaks nothing, rather than the driver.
    pub fn is_of_library(&self) -> bool {
        self.status.is_some()
    }

    #[cfg(feature = "cublaslt")]
    pub(super) fn of_library(status: Code, doing: &'static str) -> DriverError {
        DriverError { code: functions::SUCCESS, name: None, doing, status: Some(status) }
    }

    /// Whether compiled code does not suit the driver or the device: code compiled by something else may.
    pub fn is_refused_code(&self) -> bool {
        matches!(self.code, functions::INVALID_IMAGE | functions::NO_BINARY_FOR_GPU | functions::UNSUPPORTED_PTX_VERSION)
    }

    /// Whether the library is the one that programs are linked with, and no driver.
    pub(super) fn is_stub(&self) -> bool {
        self.code == functions::STUB_LIBRARY
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.name) {
            (Some(status), _) => write!(f, "{}: cuBLASLt answers status {status}", self.doing),
            (None, Some(name)) => write!(f, "{}: the driver answers {name}", self.doing),
            (None, None) => write!(f, "{}: the driver answers code {}", self.doing, self.code),
        }
    }
}

impl std::error::Error for DriverError {}

/// Whether a call did what it says, `doing` being what it was for.
pub(super) fn check(code: Code, doing: &'static str) -> Result<(), DriverError> {
    match code {
        functions::SUCCESS => Ok(()),
        code => Err(DriverError { code, name: functions::name(code), doing, status: None }),
    }
}

/// Of a call that asks whether something is done.
pub(super) fn check_ready(code: Code, doing: &'static str) -> Result<bool, DriverError> {
    match code {
        functions::NOT_READY => Ok(false),
        code => check(code, doing).map(|()| true),
    }
}
