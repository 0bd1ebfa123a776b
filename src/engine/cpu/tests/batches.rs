//! Requests as plain data, and into a slot.

use crate::batch::{Counts, IdTarget, NO_ROW, Need, RowsMut, ScopeLayout, Slot, SlotLimits};
use crate::model::{FeatureKind, Model, Scope};

use super::Random;

/// One feature of one row.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub dense: Vec<f32>,
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
    pub ints: Vec<i64>,
}

/// A row: a cell per feature of the model (empty for those of the other scope).
pub type Row = Vec<Cell>;

/// A context and its candidates.
#[derive(Clone, Debug)]
pub struct Request {
    pub context: Row,
    pub candidates: Vec<Row>,
    pub dead: bool,
}

/// A request with random rows: dense values are multiples of 1/8 in −4 .. 4, one id in seven is missing, one bag in four empty.
pub fn request(model: &Model, random: &mut Random, candidates: usize) -> Request {
    let context = row(model, random, Scope::Context);
    let candidates = (0..candidates).map(|_| row(model, random, Scope::Candidate)).collect();
    Request { context, candidates, dead: false }
}

fn row(model: &Model, random: &mut Random, scope: Scope) -> Row {
    let cell = |feature: &crate::model::Feature| {
        let mut cell = Cell::default();
        if feature.scope != scope {
            return cell;
        }
        match &feature.kind {
            FeatureKind::Dense { .. } => cell.dense = (0..feature.width).map(|_| random.below(64) as f32 / 8.0 - 4.0).collect(),
            FeatureKind::Integer => cell.ints = (0..feature.width).map(|_| random.below(9) as i64 - 4).collect(),
            FeatureKind::Sparse { rows, .. } => {
                let count = match feature.is_variable() {
                    true if random.chance(4) => 0,
                    true => random.below(feature.max_len as usize + 1),
                    false => feature.width as usize,
                };
                cell.ids = (0..count).map(|_| if random.chance(7) { NO_ROW } else { random.below(*rows as usize) as u32 }).collect();
                cell.weights = (0..count).map(|_| if feature.is_weighted() { random.unit() as f32 } else { 1.0 }).collect();
            }
        }
        cell
    };
    model.features.iter().map(cell).collect()
}

/// Limits that just hold these requests.
pub fn limits(requests: &[Request]) -> SlotLimits {
    let ids = |rows: &mut dyn Iterator<Item = &Row>| rows.flatten().map(|cell| cell.ids.len()).sum::<usize>();
    let context_ids = ids(&mut requests.iter().map(|request| &request.context));
    let candidate_ids = ids(&mut requests.iter().flat_map(|request| &request.candidates));
    SlotLimits {
        contexts: requests.len().max(1),
        rows: requests.iter().map(|request| request.candidates.len()).sum::<usize>().max(1),
        ids: context_ids.max(candidate_ids).max(1),
    }
}

/// Writes a request into a slot, as a connection would.
pub fn write(slot: &mut Slot, ticket: u32, request: &Request) -> usize {
    let layout = slot.layout().clone();
    let ids = |rows: &[Row]| rows.iter().flatten().map(|cell| cell.ids.len()).sum();
    let context = std::slice::from_ref(&request.context);
    let need = Need { rows: request.candidates.len(), context_ids: ids(context), candidate_ids: ids(&request.candidates) };
    let mut draft = slot.reserve(need).expect("the limits were made for these requests");
    write_rows(&mut draft.context, &layout.context, context);
    write_rows(&mut draft.candidates, &layout.candidate, &request.candidates);
    draft.origin.iter_mut().enumerate().for_each(|(at, origin)| *origin = at as u32);
    slot.commit(ticket, Counts { rows: need.rows, context_ids: need.context_ids, candidate_ids: need.candidate_ids })
}

fn write_rows(to: &mut RowsMut, layout: &ScopeLayout, rows: &[Row]) {
    let mut id = 0;
    for (at, row) in rows.iter().enumerate() {
        for run in &layout.dense {
            to.dense[at * layout.dense_width + run.column..][..run.width].copy_from_slice(&row[run.feature].dense);
        }
        for field in &layout.ids {
            let cell = &row[field.feature];
            match field.target {
                IdTarget::Integer { column } => {
                    to.ints[at * layout.int_width + column..][..field.width].copy_from_slice(&cell.ints);
                }
                IdTarget::Bag { bag, .. } => {
                    if layout.bag_stride.is_none() {
                        to.starts[at * layout.bags + bag] = to.ids_base + id as u32;
                    }
                    to.ids[id..id + cell.ids.len()].copy_from_slice(&cell.ids);
                    if layout.weighted {
                        to.weights[id..id + cell.ids.len()].copy_from_slice(&cell.weights);
                    }
                    id += cell.ids.len();
                }
            }
        }
    }
}
