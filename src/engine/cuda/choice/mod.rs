//! How each wide layer is computed: every way is compared with the kernel by mma.sync on the device at hand, and the fastest that agrees is taken.
//!
//! Once per process, before slots are made, so that all slots of a model compute alike. A layer's ways run alone, on made-up inputs
//! ([`bench`]): what they must agree on does not depend on the model's rows. A way that disagrees is never taken, whatever its speed.

mod agreement;
mod bench;
mod contestant;
mod matmuls;

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::driver::DeviceMemory;
use super::loaded::Loaded;
use super::program::{Launch, Way, WideLayer};
use crate::engine::EngineError;

use self::bench::Bench;

pub(super) use self::matmuls::Matmuls;

/// Whether wide layers may be computed in other ways than by mma.sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WideLayers {
    /// In the fastest way that agrees with it, measured when a model is loaded.
    #[default]
    Measured,
    /// By mma.sync; nothing else is ever launched.
    ByMma,
}

/// How ways are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Candidates; a request for every 64 of them.
    pub rows: usize,
    /// How often each way is timed, by turns; the median counts.
    pub turns: usize,
    /// Launches of a turn, one behind the other.
    pub launches: usize,
    /// A way that is taken wherever it agrees, however slow it is ([`WayFound::name`]): for comparisons of whole batches.
    pub prefer: Option<&'static str>,
}

impl Default for Trial {
    /// The smallest batch that large tiles are for; some milliseconds a layer.
    fn default() -> Trial {
        Trial { rows: 4096, turns: 9, launches: 4, prefer: None }
    }
}

/// What was found out about a wide layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerChoice {
    /// The kernel that judged the others.
    pub kernel: String,
    /// The layer's name.
    pub layer: String,
    /// Inputs.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Rows that were computed.
    pub rows: usize,
    /// All ways, the judge first.
    pub ways: Vec<WayFound>,
}

/// One way to compute a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WayFound {
    /// `mma.sync`, `wgmma` or `cuBLASLt`.
    pub name: &'static str,
    /// The median of its times, in microseconds; none if it was not timed.
    pub microseconds: Option<f64>,
    /// Products and sums per second at that, in 10^12.
    pub teraflops: Option<f64>,
    /// The largest difference from the judge, as a share of what rounding explains; none if it could not be run.
    pub difference: Option<f64>,
    /// Why it is out of question. A yardstick, which leaves out a part of the layer, is timed all the same.
    pub refused: Option<String>,
    /// Whether it is the one that serves.
    pub taken: bool,
}

impl LayerChoice {
    /// The way that serves.
    pub fn taken(&self) -> &WayFound {
        self.ways.iter().find(|way| way.taken).expect("one of them is taken")
    }
}

impl fmt::Display for LayerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} ({} to {}), {} rows:", self.layer, self.k, self.n, self.rows)?;
        for (at, way) in self.ways.iter().enumerate() {
            write!(f, "{} {}", if at > 0 { "," } else { "" }, way.name)?;
            match (way.microseconds, way.teraflops) {
                (Some(time), Some(rate)) => write!(f, " {time:.1} µs ({rate:.1} TFLOP/s)")?,
                _ => write!(f, " refused")?,
            }
            if let Some(difference) = way.difference.filter(|_| at > 0) {
                write!(f, ", differs by {difference:.2} of what rounding explains")?;
            }
            if let Some(reason) = way.refused.as_ref().filter(|_| way.microseconds.is_some()) {
                write!(f, ", {reason}")?;
            }
        }
        write!(f, "; {} is taken", self.taken().name)
    }
}

/// The choice for each layer of a program.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// As it is told.
    pub(super) layers: Vec<LayerChoice>,
    by_kernel: HashMap<String, Choice>,
    /// Held for their memory.
    _product_weights: Option<DeviceMemory>,
}

/// What to launch in place of a kernel.
#[derive(Debug)]
pub(super) struct Choice {
    /// Which of the layer's ways; `None` for the kernel itself.
    pub(super) way: Option<usize>,
    /// Where that is a product.
    pub(super) matmuls: Option<Matmuls>,
}

impl Chosen {
    /// Measures all layers that have several ways.
    pub(super) fn new(loaded: &Loaded, trial: &Trial) -> Result<Chosen, EngineError> {
        let program = loaded.program();
        let launches = program.variants.iter().flat_map(|variant| &variant.launches);
        let layers: Vec<(&Launch, &WideLayer)> = launches.filter_map(|launch| Some((launch, launch.layer.as_deref()?))).collect();
        let mut chosen = Chosen::default();
        if layers.is_empty() {
            return Ok(chosen);
        }
        let mut bench = Bench::new(loaded, trial)?;
        for (launch, layer) in layers {
            let (choice, told) = bench.choose(launch, layer)?;
            tracing::info!(model = program.model.name, kernel = launch.kernel, "{told}");
            chosen.layers.push(told);
            chosen.by_kernel.insert(launch.kernel.clone(), choice);
        }
        if chosen.by_kernel.values().any(|choice| choice.matmuls.is_some()) {
            chosen._product_weights = bench.into_product_weights();
        }
        Ok(chosen)
    }

    /// For the kernel of this name.
    pub(super) fn of(&self, kernel: &str) -> Option<&Choice> {
        self.by_kernel.get(kernel)
    }
}

/// As reports name a way.
fn name_of(way: &Way) -> &'static str {
    match way {
        Way::Kernel(_) => "wgmma",
        Way::Product(_) => BY_LIBRARY,
    }
}

const BY_LIBRARY: &str = "cuBLASLt";
