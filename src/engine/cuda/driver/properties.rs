//! What a device says of itself beyond what serving needs: for reports of measurements.

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::{Context, DriverError, check, functions};

/// Properties as the driver tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// The newest CUDA that the driver knows: 12090 for 12.9.
    pub driver_version: i32,
    /// Highest clock of the multiprocessors.
    pub clock_khz: i32,
    /// Highest clock of the memory.
    pub memory_clock_khz: i32,
    /// Width of its bus.
    pub memory_bus_bits: i32,
    /// Second-level cache.
    pub l2_bytes: i32,
    /// Shared memory of a multiprocessor.
    pub shared_bytes_multiprocessor: i32,
    /// Engines that copy beside kernels.
    pub copy_engines: i32,
    /// Where it sits, as Linux names it: `0000:3b:00.0`.
    pub pci: String,
    /// Whether host memory may be registered for reading alone.
    pub registers_read_only: bool,
}

impl Context {
    /// Asks for all of them.
    pub fn properties(&self) -> Result<Properties, DriverError> {
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: `value` is a place for an int, the device came from the driver.
            check(unsafe { functions::cuDeviceGetAttribute(&mut value, which, self.device()) }, "asking a GPU for its properties")?;
            Ok::<i32, DriverError>(value)
        };
        let domain = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let slot = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        let mut driver_version = 0;
        // SAFETY: `driver_version` is a place for an int.
        check(unsafe { functions::cuDriverGetVersion(&mut driver_version) }, "asking the driver for its version")?;
        Ok(Properties {
            driver_version,
            clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            shared_bytes_multiprocessor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            copy_engines: attribute(Attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)?,
            pci: format!("{domain:04x}:{bus:02x}:{slot:02x}.0"),
            registers_read_only: attribute(Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED)? != 0,
        })
    }
}
