//! Recurrent layers (`kernels/recurrent.cuh`).

use crate::engine::cpu::kernels::gru::GruLayer;
use crate::engine::cpu::plan::generic::Generic;
use crate::model::GruKind;

use crate::engine::cuda::generate::emitter::Emitter;
use crate::engine::cuda::generate::families::BLOCK_THREADS;

impl Emitter<'_, '_> {
    pub(super) fn gru(&mut self, gru: &Generic) {
        let Generic::Gru { gates, first, length, attention, weights, bias, layer } = gru else { unreachable!("called for layers alone") };
        let GruLayer { steps, hidden, kind, reverse, last, reset_after } = *layer;
        let padded = hidden.next_multiple_of(QUAD);
        // [states read / 4][3 gates][states][4], from [3 gates][states][states read].
        let mut packed = vec![0.0f32; padded * 3 * hidden];
        for (at, &weight) in weights.iter().enumerate() {
            let (column, k) = (at / hidden, at % hidden);
            packed[(k / QUAD * 3 * hidden + column) * QUAD + k % QUAD] = weight;
        }
        let mut bias = bias.clone();
        bias.resize(hidden, 0.0);
        let (packed, bias) = (self.blob.add(&packed), self.blob.add(&bias));
        let state = self.shared_room(2 * padded * size_of::<f32>());
        let z = if reset_after { "None".to_owned() } else { self.shared_room(hidden * size_of::<f32>()) };
        let rows = [8, 4, 2].into_iter().find(|rows| self.places.tile / rows * hidden >= BLOCK_THREADS).unwrap_or(1);
        let (gates, first, length) = (self.view(*gates), self.view_or_none(*first), self.view_or_none(*length));
        let (attention, out) = (self.view_or_none(*attention), self.out_view());
        let kind = match kind {
            GruKind::Gru => "GRU",
            GruKind::Agru => "AGRU",
            GruKind::Augru => "AUGRU",
        };
        self.step(format!(
            "gru<{gates}, {first}, {length}, {attention}, {out}, {state}, {z}, {steps}, {hidden}, {kind}, {reverse}, {last}, {reset_after}, \
             {rows}, {packed}, {bias}>(b);"
        ));
    }
}

/// States that are read at once.
const QUAD: usize = 4;
