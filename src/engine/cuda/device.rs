//! A device as all shards of a process share it.

use std::sync::{Arc, OnceLock};

use super::driver::{Blas, Context, DriverError, Gpu, GpuUnavailable, open};
use super::permits::Permits;
use crate::engine::EngineError;

/// How a device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Its number among the GPUs of this process.
    pub ordinal: usize,
    /// Batches that a shard gives it at once.
    pub in_flight_per_shard: usize,
    /// Batches that all shards together give it at once.
    pub in_flight_per_device: usize,
    /// Inputs of a bucket from this size on are copied by the copy engine; smaller ones are read by kernels where they lie.
    pub copy_from_bytes: usize,
}

impl Default for DeviceOptions {
    fn default() -> DeviceOptions {
        DeviceOptions { ordinal: 0, in_flight_per_shard: 2, in_flight_per_device: 4, copy_from_bytes: 256 << 10 }
    }
}

/// An open GPU.
#[derive(Debug)]
pub struct Device {
    gpu: Gpu,
    options: DeviceOptions,
    context: Arc<Context>,
    permits: Permits,
    fault: OnceLock<String>,
    blas: OnceLock<Option<Arc<Blas>>>,
}

impl Device {
    /// Opens a GPU. Never panics.
    pub fn open(options: DeviceOptions) -> Result<Arc<Device>, GpuUnavailable> {
        let (gpu, context) = open(options.ordinal)?;
        let permits = Permits::new(options.in_flight_per_device.max(1));
        let (fault, blas) = (OnceLock::new(), OnceLock::new());
        Ok(Arc::new(Device { gpu, options, context, permits, fault, blas }))
    }

    /// What it is.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How it is used.
    pub fn options(&self) -> DeviceOptions {
        self.options
    }

    /// Why it computes nothing any more, once a call on it has failed while serving: a fault of a kernel or of the device ends its context, and with
    /// it everything that this process has there. Only a new process can go on.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// As errors name it.
    pub(super) fn name(&self) -> String {
        format!("GPU {} ({})", self.gpu.ordinal, self.gpu.name)
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    /// cuBLASLt, if this build knows it and it is installed. The first to ask has it opened, and said if there is none.
    pub(super) fn blas(&self) -> Option<&Arc<Blas>> {
        let opened = self.blas.get_or_init(|| {
            if !cfg!(feature = "cublaslt") {
                return None;
            }
            match Blas::open(&self.context) {
                Ok(blas) => {
                    tracing::info!(version = blas.version(), "cuBLASLt is offered for wide layers");
                    Some(blas)
                }
                Err(reason) => {
                    tracing::warn!("cuBLASLt is not offered for wide layers: {reason}");
                    None
                }
            }
        });
        opened.as_ref()
    }

    /// Remembers the first failure, and logs it.
    pub(super) fn fail(&self, reason: &dyn std::fmt::Display) {
        if self.fault.get().is_none() {
            let Gpu { ordinal, name, .. } = &self.gpu;
            let text = format!("GPU {ordinal} ({name}) is lost to this process: {reason}");
            if self.fault.set(text.clone()).is_ok() {
                tracing::error!("{text}");
            }
        }
    }

    /// An error on the control path.
    pub(super) fn error(&self, what: impl Into<String>) -> impl FnOnce(DriverError) -> EngineError {
        let (device, what) = (self.name(), what.into());
        move |source| EngineError::Device { device, what, source }
    }
}
