//! Which slot a request joins, which slot runs next, who is refused.
//!
//! A pure state machine over slot numbers, row counts and deadlines: time is an argument, there is no I/O inside, and it never sees a byte of a
//! request. Work-conserving: [`Scheduler::take`] hands out whatever has gathered as soon as the engine can take a batch; there is no delay
//! knob. Earliest deadline first over slots.

mod cost;
#[cfg(test)]
mod simulation;

use cost::RowCost;

use crate::units::{Instant, ModelNumber, SlotId, Span};

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every slot of the model is full or running.
    NoRoom,
    /// By the measured cost per row, what is ahead of it takes longer than its budget. The span is how much longer.
    TooLate(Span),
}

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Empty, nobody's.
    Free,
    /// Gathers requests.
    Open,
    /// Full, waits for the engine.
    Sealed,
    /// In the engine.
    Running { since: Instant },
}

#[derive(Clone, Copy, Debug)]
struct SlotState {
    model: ModelNumber,
    phase: Phase,
    requests: u32,
    rows: u32,
    /// Effective deadline of the most urgent request in it.
    due: Instant,
    /// Predicted cost of its rows, as of when they joined.
    cost: Span,
    /// Order of opening, for ties.
    opened: u64,
}

#[derive(Debug)]
struct ModelState {
    open: Option<SlotId>,
    cost: RowCost,
}

/// The state machine. Its vectors grow only in [`Scheduler::attach`] (and `running` to what the engine takes at once).
#[derive(Debug, Default)]
pub struct Scheduler {
    /// By slot number; `None` for numbers that are not attached.
    slots: Vec<Option<SlotState>>,
    /// By model number.
    models: Vec<Option<ModelState>>,
    opened: u64,
    /// Slots in the engine: one, or a few.
    running: Vec<SlotId>,
    /// What waits in open and sealed slots: requests, rows, predicted cost.
    requests_waiting: u32,
    rows_waiting: u32,
    waiting: Span,
}

/// A request without a deadline is served as if it had this much time: it cannot be starved by requests that have one.
const DEFAULT_SLACK: Span = Span::from_ms(1_000);

impl Scheduler {
    /// A model and its slots join.
    pub fn attach(&mut self, model: ModelNumber, slots: impl IntoIterator<Item = SlotId>) {
        let index = usize::from(model.0);
        if self.models.len() <= index {
            self.models.resize_with(index + 1, || None);
        }
        self.models[index] = Some(ModelState { open: None, cost: RowCost::default() });
        for slot in slots {
            let index = usize::from(slot.0);
            if self.slots.len() <= index {
                self.slots.resize(index + 1, None);
            }
            self.slots[index] =
                Some(SlotState { model, phase: Phase::Free, requests: 0, rows: 0, due: Instant::NEVER, cost: Span::ZERO, opened: 0 });
        }
    }

    /// The slot that the next request of `model` joins: the open one, or a free one that is opened now.
    /// `deadline` is [`Instant::NEVER`] without a budget.
    pub fn place(&mut self, model: ModelNumber, rows: u32, deadline: Instant, now: Instant) -> Result<SlotId, Refused> {
        // An idle engine takes the request whatever the prediction says: a wrong one (a first batch on cold pages, a stall) is put right only by
        // batches that run.
        let idle = self.running.is_empty() && self.requests_waiting == 0;
        if deadline != Instant::NEVER && !idle {
            let ready = now + self.running_left(now) + self.waiting + self.cost(model).of(rows);
            if ready > deadline {
                return Err(Refused::TooLate(ready.since(deadline)));
            }
        }
        if let Some(open) = self.model(model).open {
            return Ok(open);
        }
        let free = self.slots.iter().position(|slot| slot.is_some_and(|slot| slot.model == model && slot.phase == Phase::Free));
        let Some(index) = free else {
            return Err(Refused::NoRoom);
        };
        let number = SlotId(index as u16);
        self.opened += 1;
        let opened = self.opened;
        *self.slot(number) = SlotState { model, phase: Phase::Open, requests: 0, rows: 0, due: Instant::NEVER, cost: Span::ZERO, opened };
        self.model(model).open = Some(number);
        Ok(number)
    }

    /// The request did not fit into its model's open slot: that slot gathers no more. Place it again.
    /// False if the slot is empty: then the request fits into none.
    pub fn seal(&mut self, slot: SlotId) -> bool {
        let state = self.slot(slot);
        assert_eq!(state.phase, Phase::Open, "only an open slot is sealed");
        if state.requests == 0 {
            return false;
        }
        state.phase = Phase::Sealed;
        let model = state.model;
        self.model(model).open = None;
        true
    }

    /// A request was written into its open slot. A higher `priority` is ordered as if its deadline were so many milliseconds earlier.
    pub fn joined(&mut self, slot: SlotId, rows: u32, deadline: Instant, priority: u8, now: Instant) {
        let model = self.slot(slot).model;
        let cost = self.cost(model).of(rows);
        let state = self.slot(slot);
        assert_eq!(state.phase, Phase::Open, "requests join open slots");
        state.requests += 1;
        state.rows += rows;
        state.cost = Span(state.cost.0 + cost.0);
        let due = deadline.min(now + DEFAULT_SLACK).before(Span::from_ms(u64::from(priority)));
        state.due = state.due.min(due);
        self.requests_waiting += 1;
        self.rows_waiting += rows;
        self.waiting = Span(self.waiting.0 + cost.0);
    }

    /// The engine can take a batch: the most urgent slot with requests in it, now running.
    pub fn take(&mut self, now: Instant) -> Option<SlotId> {
        if self.requests_waiting == 0 {
            return None;
        }
        let mut best: Option<(Instant, u64, usize)> = None;
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(slot) = slot
                && matches!(slot.phase, Phase::Open | Phase::Sealed)
                && slot.requests > 0
                && best.is_none_or(|(due, opened, _)| (slot.due, slot.opened) < (due, opened))
            {
                best = Some((slot.due, slot.opened, index));
            }
        }
        let number = SlotId(best?.2 as u16);
        let state = self.slot(number);
        let was_open = state.phase == Phase::Open;
        state.phase = Phase::Running { since: now };
        let SlotState { model, requests, rows, cost, .. } = *state;
        if was_open {
            self.model(model).open = None;
        }
        self.requests_waiting -= requests;
        self.rows_waiting -= rows;
        self.waiting = Span(self.waiting.0 - cost.0);
        self.running.push(number);
        Some(number)
    }

    /// The engine is done with a slot, well (`computed` rows) or not (`None`). It is free again.
    pub fn finished(&mut self, slot: SlotId, computed: Option<u32>, now: Instant) {
        let state = self.slot(slot);
        let Phase::Running { since } = state.phase else {
            panic!("only a running slot finishes");
        };
        state.phase = Phase::Free;
        let model = state.model;
        self.running.retain(|running| *running != slot);
        if let Some(rows) = computed {
            self.model(model).cost.observe(rows, now.since(since));
        }
    }

    /// Whether any request waits for the engine.
    pub fn has_waiting(&self) -> bool {
        self.requests_waiting > 0
    }

    /// Rows that wait for the engine.
    pub fn rows_waiting(&self) -> u32 {
        self.rows_waiting
    }

    fn cost(&self, model: ModelNumber) -> RowCost {
        self.models[usize::from(model.0)].as_ref().map_or(RowCost::default(), |model| model.cost)
    }

    /// Predicted rest of what is in the engine.
    fn running_left(&self, now: Instant) -> Span {
        let left = |slot: &SlotId| match self.slots[usize::from(slot.0)] {
            Some(SlotState { phase: Phase::Running { since }, cost, .. }) => cost.0.saturating_sub(now.since(since).0),
            _ => 0,
        };
        Span(self.running.iter().map(left).sum())
    }

    fn slot(&mut self, slot: SlotId) -> &mut SlotState {
        self.slots[usize::from(slot.0)].as_mut().expect("slot numbers come from attach")
    }

    fn model(&mut self, model: ModelNumber) -> &mut ModelState {
        self.models[usize::from(model.0)].as_mut().expect("model numbers come from attach")
    }
}
