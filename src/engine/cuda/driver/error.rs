//! What the driver answers when it refuses.

use cudarc::driver::sys::{CUresult, CUresult as Code};

/// A call of the driver that failed. Formatting it calls nothing, unlike the binding's own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverError {
    code: CUresult,
    doing: &'static str,
}

impl DriverError {
    /// Whether memory was too little: less of it may do.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == Code::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// Whether compiled code does not suit the driver or the device: code compiled by something else may.
    pub fn is_refused_code(&self) -> bool {
        matches!(self.code, Code::CUDA_ERROR_INVALID_IMAGE | Code::CUDA_ERROR_NO_BINARY_FOR_GPU | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
    }
}

impl std::fmt::Display for DriverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: the driver answers {:?}", self.doing, self.code)
    }
}

impl std::error::Error for DriverError {}

/// Whether a call did what it says, `doing` being what it was for.
pub(super) fn check(code: CUresult, doing: &'static str) -> Result<(), DriverError> {
    match code {
        Code::CUDA_SUCCESS => Ok(()),
        code => Err(DriverError { code, doing }),
    }
}

/// Of a call that asks whether something is done.
pub(super) fn check_ready(code: CUresult, doing: &'static str) -> Result<bool, DriverError> {
    match code {
        Code::CUDA_ERROR_NOT_READY => Ok(false),
        code => check(code, doing).map(|()| true),
    }
}
