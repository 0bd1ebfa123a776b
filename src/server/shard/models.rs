//! The models that a shard serves.

use std::collections::HashMap;
use std::sync::Arc;

use crate::batch::{Layout, SlotLimits};
use crate::engine::selftest::Report;
use crate::engine::{Engine, EngineError, Prepared};
use crate::metrics::ModelSlot;
use crate::units::{ModelNumber, SlotId};

/// A model version made ready for serving, once per process; every shard gets the same one.
pub struct Published {
    /// Public name.
    pub name: String,
    /// Version: goes into every answer.
    pub version: u64,
    /// Which layout it has.
    pub signature: u64,
    /// The same, in memory.
    pub layout: Arc<Layout>,
    /// Names of the features, for messages to clients.
    pub features: Vec<String>,
    /// For this process's engine.
    pub prepared: Prepared,
    /// The whole answer to a describe, request id zero.
    pub description: Vec<u8>,
    /// Where it counts.
    pub cells: ModelSlot,
    /// Most candidates in a request.
    pub candidates_max: usize,
    /// Most ids in a request, context and candidates together.
    pub ids_max: usize,
    /// What the selftest said, where one was replayed.
    pub selftest: Option<Report>,
    /// Slots per shard.
    pub slots: usize,
    /// Size of each.
    pub slot_limits: SlotLimits,
}

/// A published model with the slots it has on this shard.
pub struct Served {
    /// The same on all shards.
    pub published: Arc<Published>,
    /// On this shard's engine.
    pub slots: Vec<SlotId>,
}

/// All models of a shard. A model's number is its place here; numbers are not reused.
#[derive(Default)]
pub struct Models {
    served: Vec<Served>,
    by_signature: HashMap<u64, ModelNumber>,
    by_name: HashMap<String, ModelNumber>,
}

impl Models {
    /// Takes a model in; requests of its layout and name go to it unless a newer version is there. Returns its number.
    pub fn publish(&mut self, published: Arc<Published>, engine: &mut dyn Engine) -> Result<ModelNumber, EngineError> {
        let slots = engine.attach(&published.prepared, published.slots, published.slot_limits)?;
        let number = ModelNumber(self.served.len() as u16);
        let newer = |old: Option<&ModelNumber>, served: &[Served]| {
            old.is_none_or(|old| served[usize::from(old.0)].published.version <= published.version)
        };
        if newer(self.by_signature.get(&published.signature), &self.served) {
            self.by_signature.insert(published.signature, number);
        }
        if newer(self.by_name.get(&published.name), &self.served) {
            self.by_name.insert(published.name.clone(), number);
        }
        self.served.push(Served { published, slots });
        Ok(number)
    }

    /// The newest ready version of a layout.
    pub fn by_signature(&self, signature: u64) -> Option<ModelNumber> {
        self.by_signature.get(&signature).copied()
    }

    /// The newest ready version of a name.
    pub fn by_name(&self, name: &str) -> Option<ModelNumber> {
        self.by_name.get(name).copied()
    }

    /// A model by its number.
    pub fn get(&self, number: ModelNumber) -> &Served {
        &self.served[usize::from(number.0)]
    }

    /// Largest number of candidates that any model takes.
    pub fn candidates_max(&self) -> usize {
        self.served.iter().map(|served| served.published.candidates_max).max().unwrap_or(0)
    }
}
