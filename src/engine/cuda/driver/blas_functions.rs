//! cuBLASLt's functions as they are: what they answer is a number.
//!
//! As with the driver's ([`super::functions`]), the binding's own functions answer with an enum of the codes that were known when it was made, which
//! another version's code would make undefined behaviour; so the binding gives types and constants here, and opens the library.
#![allow(non_snake_case, clippy::too_many_arguments, reason = "as the library has them")]

use std::ffi::{c_int, c_void};
use std::mem::offset_of;

use cudarc::cublaslt::sys::{self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t};
use cudarc::cublaslt::sys::{cublasLtMatmulDescAttributes_t, cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t};
use cudarc::cublaslt::sys::{cublasLtMatrixLayout_t, cudaDataType_t, cudaStream_t};

use super::foreign::foreign_functions;

/// What a function answers: 0, or why not.
pub(super) type Status = c_int;

pub(super) const SUCCESS: Status = 0;
pub(super) const NOT_INITIALIZED: Status = 1;
pub(super) const NOT_SUPPORTED: Status = 15;

/// What the library knows of a way to multiply: `cublasLtMatmulHeuristicResult_t`, in which the binding has an enum, too.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal {
    pub(super) algorithm: cublasLtMatmulAlgo_t,
    pub(super) workspace_bytes: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

impl Proposal {
    /// Where the library writes one.
    pub(super) const NONE: Proposal = Proposal {
        algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspace_bytes: 0,
        state: NOT_SUPPORTED,
        waves: 0.0,
        reserved: [0; 4],
    };
}

const _: () = {
    type Bound = sys::cublasLtMatmulHeuristicResult_t;
    assert!(size_of::<Proposal>() == size_of::<Bound>() && align_of::<Proposal>() == align_of::<Bound>());
    assert!(offset_of!(Proposal, algorithm) == offset_of!(Bound, algo) && offset_of!(Proposal, state) == offset_of!(Bound, state));
    assert!(offset_of!(Proposal, workspace_bytes) == offset_of!(Bound, workspaceSize));
};

/// The binding's type of a [`Proposal`]: a place for one is written through its address alone.
pub(super) type BoundProposal = sys::cublasLtMatmulHeuristicResult_t;

foreign_functions! {
    answer Status, bound sys::cublasStatus_t, without NOT_INITIALIZED;
    other cublasLtGetVersion: unsafe extern "C" fn() -> usize;
    cublasLtCreate(handle: *mut cublasLtHandle_t);
    cublasLtDestroy(handle: cublasLtHandle_t);
    cublasLtMatmul(handle: cublasLtHandle_t, operation: cublasLtMatmulDesc_t, alpha: *const c_void, a: *const c_void, a_layout: cublasLtMatrixLayout_t,
        b: *const c_void, b_layout: cublasLtMatrixLayout_t, beta: *const c_void, c: *const c_void, c_layout: cublasLtMatrixLayout_t, d: *mut c_void,
        d_layout: cublasLtMatrixLayout_t, algorithm: *const cublasLtMatmulAlgo_t, workspace: *mut c_void, workspace_bytes: usize, stream: cudaStream_t);
    cublasLtMatmulAlgoCheck(handle: cublasLtHandle_t, operation: cublasLtMatmulDesc_t, a: cublasLtMatrixLayout_t, b: cublasLtMatrixLayout_t,
        c: cublasLtMatrixLayout_t, d: cublasLtMatrixLayout_t, algorithm: *const cublasLtMatmulAlgo_t, proposal: *mut BoundProposal);
    cublasLtMatmulAlgoGetHeuristic(handle: cublasLtHandle_t, operation: cublasLtMatmulDesc_t, a: cublasLtMatrixLayout_t, b: cublasLtMatrixLayout_t,
        c: cublasLtMatrixLayout_t, d: cublasLtMatrixLayout_t, preference: cublasLtMatmulPreference_t, most: c_int, proposals: *mut BoundProposal,
        count: *mut c_int);
    cublasLtMatmulDescCreate(operation: *mut cublasLtMatmulDesc_t, compute: cublasComputeType_t, scale: cudaDataType_t);
    cublasLtMatmulDescDestroy(operation: cublasLtMatmulDesc_t);
    cublasLtMatmulDescSetAttribute(operation: cublasLtMatmulDesc_t, which: cublasLtMatmulDescAttributes_t, value: *const c_void, bytes: usize);
    cublasLtMatmulPreferenceCreate(preference: *mut cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute(preference: cublasLtMatmulPreference_t, which: cublasLtMatmulPreferenceAttributes_t, value: *const c_void,
        bytes: usize);
    cublasLtMatrixLayoutCreate(layout: *mut cublasLtMatrixLayout_t, element: cudaDataType_t, rows: u64, columns: u64, stride: i64);
    cublasLtMatrixLayoutDestroy(layout: cublasLtMatrixLayout_t);
}

/// 120901 for 12.9.1; 0 before `find`.
pub(super) fn version() -> usize {
    // SAFETY: takes nothing and cannot fail.
    FUNCTIONS.get().map_or(0, |functions| unsafe { (functions.cublasLtGetVersion)() })
}
