//! News from the control thread, timers, and how connections end.

use super::frames::keep;
use super::{Drain, News, Shard};
use crate::connection::{Expired, Phase};
use crate::units::{Instant, Span};
use crate::wire::{Close, ConnectionId, Wire};

impl Shard {
    pub(super) fn hear(&mut self, wire: &mut impl Wire, news: News, now: Instant) {
        match news {
            News::Publish(published, rollout) => {
                let outputs = published.layout.outputs;
                let candidates = published.candidates_max;
                match self.models.publish(published, self.engine.as_mut()) {
                    Ok(number) => {
                        let slots = self.models.get(number).slots.clone();
                        self.scheduler.attach(number, slots);
                        self.answers.reserve(candidates, outputs);
                        let description = self.models.get(number).published.description.len();
                        self.reply.reserve(description.saturating_sub(self.reply.len()));
                        rollout.pass();
                    }
                    Err(error) => rollout.fail(error.to_string()),
                }
            }
            News::Drain(limit) => {
                let drain = Drain { since: now, deadline: now + limit };
                self.draining = Some(drain);
                for index in 0..self.connections.len() {
                    if let Some((id, connection)) = self.connections[index]
                        && connection.phase != Phase::AwaitsHello
                    {
                        self.tell_drain(wire, id, drain, now);
                    }
                }
            }
        }
    }

    pub(super) fn tell_drain(&mut self, wire: &mut impl Wire, id: ConnectionId, drain: Drain, now: Instant) {
        let left_ms = drain.deadline.since(now).as_us() / 1_000;
        keep(&mut self.reply, self.answers.encoder.drain(left_ms));
        self.send_reply(wire, id);
    }

    /// Timers of all connections, the drain, the heartbeat.
    pub(super) fn tick(&mut self, wire: &mut impl Wire, now: Instant) {
        self.ticked = now;
        self.cells.beat(now);
        for index in 0..self.connections.len() {
            let Some((id, connection)) = &mut self.connections[index] else {
                continue;
            };
            let id = *id;
            connection.patience.unsent(wire.unsent(id), now);
            if let Some(expired) = connection.expired(&self.limits.timeouts, now) {
                let how = if matches!(expired, Expired::Idle | Expired::Hello) { Close::AfterSends } else { Close::Now };
                connection.phase = Phase::Closing(now);
                wire.close(id, how);
                continue;
            }
            if let Some(drain) = self.draining {
                let linger = Span(DRAIN_LINGER.0.min(drain.deadline.since(drain.since).0 / 2));
                if now >= drain.deadline {
                    wire.close(id, Close::Now);
                } else if connection.in_flight == 0 && !connection.is_closing() && now.since(drain.since) >= linger {
                    self.close_after_sends(wire, id, now);
                }
            }
        }
    }

    /// Ends a connection after what is queued on it; requests still in flight are given up.
    pub(super) fn close_after_sends(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        self.give_up_all(id);
        if let Some(connection) = self.connection(id) {
            connection.phase = Phase::Closing(now);
            wire.close(id, Close::AfterSends);
        }
    }

    /// Closes a connection whose client sends no more and has every answer.
    pub(super) fn end_if_over(&mut self, wire: &mut impl Wire, id: ConnectionId, now: Instant) {
        if self.connection(id).is_some_and(|connection| connection.is_over() && !connection.held && !connection.queued) {
            self.close_after_sends(wire, id, now);
        }
    }
}

/// After a drain was told, a silent client keeps its connection so long at least: its requests may be on the way.
const DRAIN_LINGER: Span = Span::from_ms(1_000);
