//! What the driver answers when it refuses.

use cudarc::driver::sys::{CUresult, CUresult as Code};

/// A call of the driver that failed. Formatting it calls nothing, unlike the binding's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverError {
    code: CUresult,
    doing: &'static str,
    /// Of cuBLASLt, where that is what failed.
    status: Option<u32>,
}

impl DriverError {
    /// Whether memory was too little: less of it may do.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == Code::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// Whether a library refused, which breaks nothing, rather than the driver.
    pub fn is_of_library(&self) -> bool {
        self.status.is_some()
    }

    #[cfg(feature = "cublaslt")]
    pub(super) fn of_library(status: u32, doing: &'static str) -> DriverError {
        DriverError { code: Code::CUDA_ERROR_UNKNOWN, doing, status: Some(status) }
    }

    /// Whether compiled code does not suit the driver or the device: code compiled by something else may.
    pub fn is_refused_code(&self) -> bool {
        matches!(self.code, Code::CUDA_ERROR_INVALID_IMAGE | Code::CUDA_ERROR_NO_BINARY_FOR_GPU | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
    }
}

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{}: cuBLASLt answers status {status}", self.doing),
            None => write!(f, "{}: the driver answers {:?}", self.doing, self.code),
        }
    }
}

impl std::error::Error for DriverError {}

/// Whether a call did what it says, `doing` being what it was for.
pub(super) fn check(code: CUresult, doing: &'static str) -> Result<(), DriverError> {
    match code {
        Code::CUDA_SUCCESS => Ok(()),
        code => Err(DriverError { code, doing, status: None }),
    }
}

/// Of a call that asks whether something is done.
pub(super) fn check_ready(code: CUresult, doing: &'static str) -> Result<bool, DriverError> {
    match code {
        Code::CUDA_ERROR_NOT_READY => Ok(false),
        code => check(code, doing).map(|()| true),
    }
}
