//! Requests to rotate over, as packed blocks, from a file of the driver.
//!
//! Per request, without gaps: the context's dense values, its ids, the candidates' dense values, their ids; f32 and u32, little-endian, in the
//! order of the wire.

use std::path::Path;

use gavel::batch::{Blocks, Layout, Request, ScopeLayout, Slot, admit, measure};

/// Requests of one size.
pub struct Inputs {
    bytes: Vec<u8>,
    /// Bytes of context dense, context ids, candidate dense, candidate ids.
    blocks: [usize; 4],
    batch: usize,
}

impl Inputs {
    /// Reads `sets` requests of `batch` candidates.
    pub fn read(file: &Path, layout: &Layout, batch: usize, sets: usize) -> Result<Inputs, String> {
        let plain = |scope: &ScopeLayout| scope.id_bytes == 4 && scope.variable == 0 && !scope.weighted;
        if !plain(&layout.context) || !plain(&layout.candidate) {
            return Err("the model has bags of variable length, weights or 64-bit ids; this bench sends plain u32 ids".into());
        }
        let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let (context, candidate) = (&layout.context, &layout.candidate);
        let elements = [context.dense_width, context.fixed_ids, batch * candidate.dense_width, batch * candidate.fixed_ids];
        let blocks = elements.map(|count| count * 4);
        let expected = blocks.iter().sum::<usize>() * sets;
        if bytes.len() != expected || sets == 0 {
            return Err(format!("{}: {} bytes, expected {expected} for {sets} requests", file.display(), bytes.len()));
        }
        Ok(Inputs { bytes, blocks, batch })
    }

    /// Number of requests.
    pub fn sets(&self) -> usize {
        self.bytes.len() / self.blocks.iter().sum::<usize>()
    }

    /// Puts request `set` into an empty slot as a shard does: measured, checked, copied.
    pub fn fill(&self, set: usize, slot: &mut Slot) -> Result<(), String> {
        let bytes: usize = self.blocks.iter().sum();
        let mut rest = &self.bytes[set * bytes..][..bytes];
        let blocks = self.blocks.map(|bytes| {
            let (block, behind) = rest.split_at(bytes);
            rest = behind;
            block
        });
        let request = Request {
            context: Blocks { dense: blocks[0], ids: blocks[1], ..Blocks::default() },
            candidate: Blocks { dense: blocks[2], ids: blocks[3], ..Blocks::default() },
            candidates: self.batch,
            mask: None,
            bids: None,
        };
        let refused = |fault| format!("request {set} is refused: {fault:?}");
        slot.clear();
        let layout = std::sync::Arc::clone(slot.layout());
        let need = measure(&layout, &request).map_err(refused)?;
        let draft = slot.reserve(need).map_err(|_| "a request does not fit the slot made for it".to_string())?;
        let counts = admit(&layout, &request, draft).map_err(refused)?;
        slot.commit(0, counts);
        Ok(())
    }
}
