//! A rank request on its way into a slot: every check, in the order of their cost, then one copy.

use gavel_protocol::{Code, Header, RankView};

use super::Shard;
use super::answer::answer_bytes_max;
use super::tickets::NewTicket;
use crate::batch::{Blocks, Fault, FaultKind, Need, Request, admit, measure};
use crate::engine::Engine;
use crate::scheduler::{Refused, Scheduler};
use crate::units::{Instant, ModelNumber, SlotId, Span};
use crate::wire::ConnectionId;

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The wire's code.
    pub code: Code,
    /// The model, once it is known.
    pub model: Option<ModelNumber>,
    /// The feature at fault.
    pub feature: Option<u16>,
    /// When a retry may succeed; 0 = unknown.
    pub retry_after_us: u32,
}

impl Refusal {
    /// Before the model is known.
    pub const fn early(code: Code) -> Refusal {
        Refusal { code, model: None, feature: None, retry_after_us: 0 }
    }
    const fn of(code: Code, model: ModelNumber) -> Refusal {
        Refusal { code, model: Some(model), feature: None, retry_after_us: 0 }
    }
}

/// The wire's code for a fault in the rows.
const fn code_of(kind: FaultKind) -> Code {
    match kind {
        FaultKind::BlockSize => Code::BlockSize,
        FaultKind::LengthTooLarge => Code::LengthTooLarge,
        FaultKind::IdOutOfRange => Code::IdOutOfRange,
        FaultKind::IdMissing => Code::IdMissing,
        FaultKind::ValueNan => Code::ValueNan,
        FaultKind::MaskInvalid => Code::MaskInvalid,
        FaultKind::BidsInvalid => Code::BidsInvalid,
    }
}

impl Shard {
    /// Takes a rank request in whose id is not in flight, or says why not. `arrived` is when its header was read; `unsent` what the
    /// connection has not yet taken.
    pub(super) fn admit(
        &mut self,
        id: ConnectionId,
        header: &Header,
        body: &[u8],
        arrived: Instant,
        now: Instant,
        unsent: usize,
    ) -> Result<(), Refusal> {
        let Some(model) = self.models.by_signature(header.signature) else {
            return Err(Refusal::early(Code::SignatureUnknown));
        };
        let refuse = |code| Err(Refusal::of(code, model));
        if self.draining.is_some() {
            return refuse(Code::Draining);
        }
        // Borrowed, not cloned: a reference count would be a cache line that all shards write.
        let served = &*self.models.get(model).published;
        let candidates = header.candidates as usize;
        if candidates == 0 || candidates > served.candidates_max {
            return refuse(Code::CandidatesInvalid);
        }
        let Some(Some((_, connection))) = self.connections.get_mut(id.index as usize) else {
            return refuse(Code::Internal);
        };
        if connection.in_flight as usize >= self.limits.connection_in_flight_max {
            return refuse(Code::InFlightLimit);
        }
        if !self.tickets.has_room() {
            return refuse(Code::Overloaded);
        }
        let deadline = match header.budget_us {
            0 => Instant::NEVER,
            budget => arrived + Span::from_us(u64::from(budget)),
        };
        if now >= deadline {
            return refuse(Code::DeadlineExceeded);
        }

        let view = RankView::parse(body).map_err(|code| Refusal::of(code, model))?;
        if usize::from(view.rank_output) >= served.layout.outputs {
            return refuse(Code::OutputUnknown);
        }
        let answer_bytes = answer_bytes_max(candidates, view.top_k, served.layout.outputs);
        if connection.reserved_bytes + unsent + answer_bytes > self.limits.send_bytes_max / 2 {
            return refuse(Code::InFlightLimit);
        }
        let request = Request {
            context: Blocks {
                dense: view.context_dense,
                ids: view.context_ids,
                lengths: view.context_lengths,
                weights: view.context_weights,
            },
            candidate: Blocks { dense: view.dense, ids: view.ids, lengths: view.lengths, weights: view.weights },
            candidates,
            mask: view.mask,
            bids: view.bids,
        };
        let at_fault = |fault: Fault| Refusal { feature: fault.feature, ..Refusal::of(code_of(fault.kind), model) };
        let need = measure(&served.layout, &request).map_err(at_fault)?;
        let ids = view.context_ids.len() / served.layout.context.id_bytes + view.ids.len() / served.layout.candidate.id_bytes;
        if ids > served.ids_max {
            return refuse(Code::LengthTooLarge);
        }

        let slot = place(&mut self.scheduler, self.engine.as_mut(), model, need, deadline, now)?;
        let draft = self.engine.slot(slot).reserve(need).map_err(|_| Refusal::of(Code::Overloaded, model))?;
        let counts = admit(&served.layout, &request, draft).map_err(at_fault)?;
        let ticket = NewTicket {
            connection: id,
            request_id: header.request_id,
            model,
            slot,
            arrived,
            deadline,
            candidates: header.candidates,
            top_k: view.top_k,
            rank_output: view.rank_output,
            has_bids: view.bids.is_some(),
            answer_bytes,
        };
        let number = self.tickets.open(ticket, connection);
        let segment = self.engine.slot(slot).commit(number, counts);
        self.tickets.set_segment(number, segment as u32);
        self.scheduler.joined(slot, counts.rows as u32, deadline, header.priority, now);
        Ok(())
    }
}

/// A slot with room for `need`: the model's open one, or, when that is full, the next.
fn place(
    scheduler: &mut Scheduler,
    engine: &mut dyn Engine,
    model: ModelNumber,
    need: Need,
    deadline: Instant,
    now: Instant,
) -> Result<SlotId, Refusal> {
    loop {
        let slot = match scheduler.place(model, need.rows as u32, deadline, now) {
            Ok(slot) => slot,
            Err(Refused::NoRoom) => return Err(Refusal::of(Code::Overloaded, model)),
            Err(Refused::TooLate(by)) => return Err(Refusal { retry_after_us: by.as_us(), ..Refusal::of(Code::Overloaded, model) }),
        };
        if engine.slot(slot).has_room(need) {
            return Ok(slot);
        }
        if !scheduler.seal(slot) {
            // Not even an empty slot has room: the request has more ids than one may have.
            return Err(Refusal::of(Code::LengthTooLarge, model));
        }
    }
}
