//! cuBLASLt, NVIDIA's library for products of matrices, opened at run time. It may be missing: [`Blas::open`] then says so and nothing panics.
//!
//! The library thinks in columns: our row-major OUT[rows][n] is its n x rows matrix, so that the weights are its A (n columns of k inputs each,
//! transposed), X its B, and the bias belongs to its rows.

use std::ffi::c_void;
use std::panic::catch_unwind;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::sys;
use cudarc::cublaslt::sys::cublasLtMatmulDescAttributes_t as Attribute;
use cudarc::cublaslt::sys::cublasLtMatmulPreferenceAttributes_t as Preference;

use super::blas_functions::{self as functions, Proposal, Status};
use super::matmul_shape::MatmulShape;
use super::{Context, DriverError, Stream};
use crate::engine::cuda::DevicePointer;

/// The library with a handle of its own.
#[derive(Debug)]
pub struct Blas {
    context: Arc<Context>,
    raw: sys::cublasLtHandle_t,
}

/// A product in one of the library's ways, for a number of rows.
#[derive(Clone, Debug)]
pub struct Matmul {
    parts: Arc<Parts>,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace_bytes: usize,
}

/// What the library wants described.
#[derive(Debug)]
struct Parts {
    blas: Arc<Blas>,
    shape: MatmulShape,
    operation: sys::cublasLtMatmulDesc_t,
    a: sys::cublasLtMatrixLayout_t,
    b: sys::cublasLtMatrixLayout_t,
    d: sys::cublasLtMatrixLayout_t,
}

/// Why the library cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlasUnavailable {
    /// It is not installed.
    #[error("no libcublasLt.so.12 was found; the folder that holds it belongs on LD_LIBRARY_PATH")]
    NoLibrary,
    /// It lacks functions.
    #[error("libcublasLt is unusable: it lacks functions, or crashed")]
    Broken,
    /// It is not of the version whose interface is called.
    #[error(
        "the libcublasLt.so that was found has version {}.{}, and version {MAJOR} is needed; the folder of one belongs first on LD_LIBRARY_PATH, \
         where libcublasLt.so is looked for before libcublasLt.so.{MAJOR}",
        found / 10_000, found / 100 % 100
    )]
    WrongVersion {
        /// As [`Blas::version`].
        found: usize,
    },
    /// It makes no handle.
    #[error("{0}")]
    Refused(DriverError),
}

// SAFETY: the library's calls on a handle may come from any thread; it belongs to the device's primary context.
unsafe impl Send for Blas {}
// SAFETY: as above; nothing here is written after `open`.
unsafe impl Sync for Blas {}
// SAFETY: descriptions are not written after they were made, and the library only reads them then.
unsafe impl Send for Parts {}
// SAFETY: as above.
unsafe impl Sync for Parts {}

impl Blas {
    /// Finds the library on the loader's search path and makes a handle. Never panics.
    pub fn open(context: &Arc<Context>) -> Result<Arc<Blas>, BlasUnavailable> {
        // SAFETY: opens a library by name; its initialisers are the vendor's.
        if !unsafe { sys::is_culib_present() } {
            return Err(BlasUnavailable::NoLibrary);
        }
        if !catch_unwind(functions::find).unwrap_or(false) {
            return Err(BlasUnavailable::Broken);
        }
        let found = functions::version();
        if found / 10_000 != MAJOR {
            return Err(BlasUnavailable::WrongVersion { found });
        }
        context.bind().map_err(BlasUnavailable::Refused)?;
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for a handle; the context is the thread's.
        check(unsafe { functions::cublasLtCreate(&mut raw) }, "opening cuBLASLt").map_err(BlasUnavailable::Refused)?;
        Ok(Arc::new(Blas { context: Arc::clone(context), raw }))
    }

    /// 120901 for 12.9.1.
    pub fn version(&self) -> usize {
        functions::version()
    }

    /// At most `most` ways to multiply, those first that the library thinks fastest. Error: it knows none for this shape.
    pub fn matmuls(self: &Arc<Blas>, shape: &MatmulShape, most: usize) -> Result<Vec<Matmul>, DriverError> {
        self.context.bind()?;
        let parts = Arc::new(Parts::new(self, shape)?);
        let most = most.min(RESULTS_MAX);
        let found = Wishes::new()?.ask(&parts, most)?;
        let known = found.iter().filter(|proposal| proposal.state == functions::SUCCESS);
        let made =
            known.map(|&Proposal { algorithm, workspace_bytes, .. }| Matmul { parts: Arc::clone(&parts), algorithm, workspace_bytes });
        Ok(made.collect())
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made in `open`, destroyed once: every description holds this.
            let _ = unsafe { functions::cublasLtDestroy(self.raw) };
        }
    }
}

impl Matmul {
    /// The same for another number of rows. Error: the library's ([`DriverError::is_of_library`]) if it cannot multiply them in this way; another one
    /// was never compared.
    pub fn for_rows(&self, rows: usize) -> Result<Matmul, DriverError> {
        let Parts { blas, shape, .. } = &*self.parts;
        if rows == shape.rows {
            return Ok(self.clone());
        }
        let shape = MatmulShape { rows, ..*shape };
        let parts = Parts::new(blas, &shape)?;
        let mut proposal = Proposal::NONE;
        let Parts { operation, a, b, d, .. } = parts;
        let place = ptr::from_mut(&mut proposal).cast();
        // SAFETY: all descriptions live; `place` is one for a proposal.
        let status = unsafe { functions::cublasLtMatmulAlgoCheck(blas.raw, operation, a, b, d, d, &self.algorithm, place) };
        let Proposal { workspace_bytes, state, .. } = proposal;
        if status == functions::SUCCESS && state == functions::SUCCESS && workspace_bytes <= WORKSPACE_MAX {
            return Ok(Matmul { parts: Arc::new(parts), algorithm: self.algorithm, workspace_bytes });
        }
        Err(DriverError::of_library(functions::NOT_SUPPORTED, "asking cuBLASLt whether it multiplies another number of rows so, too"))
    }

    /// Device memory that it wants while it runs.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// Puts the product into a stream, or into the graph that it records.
    ///
    /// # Safety
    /// - `x` and `out` lead to as many rows as the shape has, `workspace` to `workspace_bytes` bytes, the shape's pointers to weights and bias,
    ///   all of them until the stream is done with it, or the graph is launched no more.
    pub unsafe fn put(&self, stream: &Stream, x: DevicePointer, out: DevicePointer, workspace: DevicePointer) -> Result<(), DriverError> {
        let Parts { blas, shape, operation, a, b, d } = &*self.parts;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let pointer = |address: DevicePointer| address as *mut c_void;
        // SAFETY: the descriptions live; factors are read before the call returns (the pointer mode is the host's); the rest is the caller's promise.
        let code = unsafe {
            functions::cublasLtMatmul(
                blas.raw,
                *operation,
                ptr::from_ref(&one).cast(),
                pointer(shape.weights),
                *a,
                pointer(x),
                *b,
                ptr::from_ref(&zero).cast(),
                pointer(out),
                *d,
                pointer(out),
                *d,
                &self.algorithm,
                pointer(workspace),
                self.workspace_bytes,
                stream.raw().cast(),
            )
        };
        check(code, "multiplying by cuBLASLt")
    }
}

impl Parts {
    fn new(blas: &Arc<Blas>, shape: &MatmulShape) -> Result<Parts, DriverError> {
        const DOING: &str = "describing a product to cuBLASLt";
        let (operation, a, b, d) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let mut parts = Parts { blas: Arc::clone(blas), shape: *shape, operation, a, b, d };
        let (compute, f32_type) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
        let bf16_type = sys::cudaDataType::CUDA_R_16BF;
        let out_type = if shape.out_is_bf16 { bf16_type } else { f32_type };
        let MatmulShape { rows, k, n, x_stride, weights_stride, out_stride, .. } = *shape;
        let layouts = [
            (&mut parts.a, bf16_type, k, n, weights_stride),
            (&mut parts.b, bf16_type, k, rows, x_stride),
            (&mut parts.d, out_type, n, rows, out_stride),
        ];
        for (layout, element, rows, columns, stride) in layouts {
            // SAFETY: `layout` is a place for a handle, which `drop` gives back.
            check(unsafe { functions::cublasLtMatrixLayoutCreate(layout, element, rows as u64, columns as u64, stride as i64) }, DOING)?;
        }
        // SAFETY: as above.
        check(unsafe { functions::cublasLtMatmulDescCreate(&mut parts.operation, compute, f32_type) }, DOING)?;
        let epilogue = match shape.relu {
            true => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
            false => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        };
        parts.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        parts.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        parts.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &shape.bias)?;
        Ok(parts)
    }

    fn set<T>(&self, attribute: Attribute, value: &T) -> Result<(), DriverError> {
        // SAFETY: the description lives; the library copies as many bytes as it is told.
        let code =
            unsafe { functions::cublasLtMatmulDescSetAttribute(self.operation, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        check(code, "describing a product to cuBLASLt")
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for layout in [self.a, self.b, self.d].into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { functions::cublasLtMatrixLayoutDestroy(layout) };
        }
        if !self.operation.is_null() {
            // SAFETY: as above.
            let _ = unsafe { functions::cublasLtMatmulDescDestroy(self.operation) };
        }
    }
}

/// What a way to multiply must keep to.
struct Wishes(sys::cublasLtMatmulPreference_t);

impl Wishes {
    fn new() -> Result<Wishes, DriverError> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is a place for a handle.
        check(unsafe { functions::cublasLtMatmulPreferenceCreate(&mut raw) }, ASKING)?;
        let wishes = Wishes(raw);
        wishes.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE_MAX as u64))?;
        // Weights lie on 256 bytes, which is what the library takes for granted; rows of values on 16.
        for operand in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            wishes.set(operand, &16_u32)?;
        }
        Ok(wishes)
    }

    fn set<T>(&self, attribute: Preference, value: &T) -> Result<(), DriverError> {
        // SAFETY: the handle lives; the library copies as many bytes as it is told.
        let code =
            unsafe { functions::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        check(code, ASKING)
    }

    fn ask(&self, parts: &Parts, most: usize) -> Result<Vec<Proposal>, DriverError> {
        let Parts { blas, operation, a, b, d, .. } = parts;
        let mut proposals = vec![Proposal::NONE; most];
        let mut count = 0;
        let places = proposals.as_mut_ptr().cast();
        // SAFETY: all descriptions live; there are places for as many proposals as are asked for.
        let status = unsafe {
            functions::cublasLtMatmulAlgoGetHeuristic(blas.raw, *operation, *a, *b, *d, *d, self.0, most as i32, places, &mut count)
        };
        check(status, ASKING)?;
        proposals.truncate(usize::try_from(count).unwrap_or(0));
        Ok(proposals)
    }
}

impl Drop for Wishes {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { functions::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

fn check(status: Status, doing: &'static str) -> Result<(), DriverError> {
    if status == functions::SUCCESS { Ok(()) } else { Err(DriverError::of_library(status, doing)) }
}

/// The version whose interface this module calls.
const MAJOR: usize = 12;
/// CUBLAS_OP_T of cublas_api.h, which the binding of this library leaves out.
const TRANSPOSED: u32 = 1;
const ASKING: &str = "asking cuBLASLt for ways to multiply";
/// As NVIDIA recommends for Hopper; parts of the inputs that are summed apart go there.
const WORKSPACE_MAX: usize = 32 << 20;
/// More are never asked for.
const RESULTS_MAX: usize = 16;
