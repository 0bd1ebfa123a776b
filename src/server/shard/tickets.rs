//! The requests in flight on a shard.
//!
//! A ticket lives from admission until its batch is done, also when the answer went out earlier (cancelled, expired) or the client is gone:
//! the segment in the slot bears its number. What ends earlier is its life on the connection: [`Tickets::settle`] takes it off the id index
//! and the connection's list, exactly once.

use std::collections::HashMap;

use crate::connection::{Connection, NO_TICKET};
use crate::units::{Instant, ModelNumber, SlotId};
use crate::wire::ConnectionId;

/// One request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Who asked.
    pub connection: ConnectionId,
    /// The client's number for it.
    pub request_id: u64,
    /// Index of the model on the shard.
    pub model: ModelNumber,
    /// Where its rows are.
    pub slot: SlotId,
    /// Its segment in the slot.
    pub segment: u32,
    /// Header read.
    pub arrived: Instant,
    /// [`Instant::NEVER`] without a budget.
    pub deadline: Instant,
    /// N of the request, masked ones included.
    pub candidates: u32,
    /// 0 = all rows.
    pub top_k: u32,
    /// The output that orders.
    pub rank_output: u16,
    /// Order by score times bid.
    pub has_bids: bool,
    /// Reserved on the connection for the answer.
    pub answer_bytes: usize,
    /// Still owes an answer.
    pub live: bool,
    next: u32,
    previous: u32,
}

/// What a new ticket starts with.
pub struct NewTicket {
    /// See [`Ticket`].
    pub connection: ConnectionId,
    /// See [`Ticket`].
    pub request_id: u64,
    /// See [`Ticket`].
    pub model: ModelNumber,
    /// See [`Ticket`].
    pub slot: SlotId,
    /// See [`Ticket`].
    pub arrived: Instant,
    /// See [`Ticket`].
    pub deadline: Instant,
    /// See [`Ticket`].
    pub candidates: u32,
    /// See [`Ticket`].
    pub top_k: u32,
    /// See [`Ticket`].
    pub rank_output: u16,
    /// See [`Ticket`].
    pub has_bids: bool,
    /// See [`Ticket`].
    pub answer_bytes: usize,
}

/// All tickets of a shard; memory for `capacity` of them is taken at start.
pub struct Tickets {
    tickets: Vec<Ticket>,
    free: Vec<u32>,
    /// Live ones by connection and request id.
    index: HashMap<(u32, u64), u32>,
    capacity: usize,
}

impl Tickets {
    /// Room for `capacity` requests.
    pub fn new(capacity: usize) -> Tickets {
        // Twice the room: a table that is never more than half full of entries and graves rehashes in place.
        Tickets {
            tickets: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            index: HashMap::with_capacity(capacity * 2),
            capacity,
        }
    }

    /// Whether there is room for another.
    pub fn has_room(&self) -> bool {
        self.tickets.len() < self.capacity || !self.free.is_empty()
    }

    /// Tickets out, live or not.
    pub fn len(&self) -> usize {
        self.tickets.len() - self.free.len()
    }

    /// Whether none is out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ticket behind a number.
    pub fn get(&self, number: u32) -> &Ticket {
        &self.tickets[number as usize]
    }

    /// The live ticket of a connection with this request id.
    pub fn find(&self, connection: ConnectionId, request_id: u64) -> Option<u32> {
        self.index.get(&(connection.index, request_id)).copied()
    }

    /// A new ticket, at the head of its connection's list. The caller has asked [`Tickets::has_room`] and [`Tickets::find`].
    pub fn open(&mut self, new: NewTicket, connection: &mut Connection) -> u32 {
        let ticket = Ticket {
            connection: new.connection,
            request_id: new.request_id,
            model: new.model,
            slot: new.slot,
            segment: 0,
            arrived: new.arrived,
            deadline: new.deadline,
            candidates: new.candidates,
            top_k: new.top_k,
            rank_output: new.rank_output,
            has_bids: new.has_bids,
            answer_bytes: new.answer_bytes,
            live: true,
            next: connection.first_ticket,
            previous: NO_TICKET,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.tickets[number as usize] = ticket;
                number
            }
            None => {
                assert!(self.tickets.len() < self.capacity, "the caller asks for room first");
                self.tickets.push(ticket);
                (self.tickets.len() - 1) as u32
            }
        };
        if connection.first_ticket != NO_TICKET {
            self.tickets[connection.first_ticket as usize].previous = number;
        }
        connection.first_ticket = number;
        connection.taken(new.answer_bytes);
        self.index.insert((new.connection.index, new.request_id), number);
        number
    }

    /// Where its rows are, known after the commit.
    pub fn set_segment(&mut self, number: u32, segment: u32) {
        self.tickets[number as usize].segment = segment;
    }

    /// The request is answered, or nobody waits for the answer any more. The number stays taken until [`Tickets::release`].
    pub fn settle(&mut self, number: u32, connection: &mut Connection) {
        let Ticket { next, previous, request_id, answer_bytes, live, connection: id, .. } = self.tickets[number as usize];
        assert!(live, "a request is settled once");
        self.tickets[number as usize].live = false;
        if next != NO_TICKET {
            self.tickets[next as usize].previous = previous;
        }
        if previous == NO_TICKET {
            connection.first_ticket = next;
        } else {
            self.tickets[previous as usize].next = next;
        }
        self.index.remove(&(id.index, request_id));
        connection.answered(answer_bytes);
    }

    /// Its batch is done: the number may be used again. It was settled before.
    pub fn release(&mut self, number: u32) {
        assert!(!self.tickets[number as usize].live, "released after it was settled");
        self.free.push(number);
    }
}
