//! A wire of plain memory: both ends of every connection.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::units::Span;
use crate::wire::{Cause, Close, ConnectionId, Event, SendFull, Wire};

/// Both ends of every connection, in memory.
pub struct MemoryWire {
    pub lines: Vec<Line>,
    pub events: VecDeque<Event>,
    pub send_bytes_max: usize,
}

#[derive(Default)]
pub struct Line {
    pub generation: u32,
    pub open: bool,
    /// Written by the client, not yet seen by the shard.
    pub on_the_way: VecDeque<u8>,
    pub client_finished: bool,
    pub told_finished: bool,
    /// Seen by the shard, not consumed.
    pub inbound: Vec<u8>,
    pub reading: bool,
    /// Queued by the shard.
    pub outbound: VecDeque<u8>,
    /// The client reads.
    pub drains: bool,
    /// What the client has read.
    pub read: Vec<u8>,
    pub closing: Option<Close>,
    /// The client vanished.
    pub aborted: bool,
}

impl MemoryWire {
    pub fn connect(&mut self) -> ConnectionId {
        let index = self.lines.iter().position(|line| !line.open && line.closing.is_none()).unwrap_or_else(|| {
            self.lines.push(Line::default());
            self.lines.len() - 1
        });
        let generation = self.lines[index].generation + 1;
        self.lines[index] = Line { generation, open: true, reading: true, drains: true, ..Line::default() };
        ConnectionId { index: index as u32, generation }
    }

    pub fn line(&mut self, id: ConnectionId) -> Option<&mut Line> {
        self.lines.get_mut(id.index as usize).filter(|line| line.open && line.generation == id.generation)
    }

    /// Moves some bytes on every line, in pieces that `pick` chooses.
    pub fn move_bytes(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for (index, line) in self.lines.iter_mut().enumerate().filter(|(_, line)| line.open) {
            let id = ConnectionId { index: index as u32, generation: line.generation };
            if line.aborted {
                line.open = false;
                self.events.push_back(Event::Closed(id, Cause::Error(104)));
                continue;
            }
            if line.drains && !line.outbound.is_empty() {
                let count = pick(line.outbound.len()).max(1);
                line.read.extend(line.outbound.drain(..count));
                if line.outbound.is_empty() {
                    self.events.push_back(Event::Sent(id));
                }
            }
            match line.closing {
                Some(Close::Now) => {
                    line.open = false;
                    line.closing = None;
                    self.events.push_back(Event::Closed(id, Cause::Local));
                    continue;
                }
                Some(Close::AfterSends) => {
                    if line.outbound.is_empty() {
                        line.open = false;
                        line.closing = None;
                        self.events.push_back(Event::Closed(id, Cause::Local));
                    }
                    continue;
                }
                None => {}
            }
            if line.reading && !line.on_the_way.is_empty() {
                let count = pick(line.on_the_way.len());
                if count > 0 {
                    line.inbound.extend(line.on_the_way.drain(..count));
                    self.events.push_back(Event::Received(id));
                }
            }
            if line.reading && line.client_finished && line.on_the_way.is_empty() && !line.told_finished {
                line.told_finished = true;
                self.events.push_back(Event::Finished(id));
            }
        }
    }
}

impl Wire for MemoryWire {
    fn adopt(&mut self, _: OwnedFd) -> std::io::Result<ConnectionId> {
        unreachable!("the simulation hands connections over itself")
    }
    fn turn(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn received(&self, id: ConnectionId) -> &[u8] {
        match self.lines.get(id.index as usize) {
            Some(line) if line.open && line.generation == id.generation => &line.inbound,
            _ => &[],
        }
    }
    fn consume(&mut self, id: ConnectionId, bytes: usize) {
        if let Some(line) = self.line(id) {
            line.inbound.drain(..bytes);
        }
    }
    fn need(&mut self, _: ConnectionId, _: usize) {}
    fn set_reading(&mut self, id: ConnectionId, reading: bool) {
        if let Some(line) = self.line(id) {
            line.reading = reading;
        }
    }
    fn send(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<(), SendFull> {
        let max = self.send_bytes_max;
        match self.line(id) {
            Some(line) if line.closing.is_none() => {
                if line.outbound.len() + bytes.len() > max {
                    return Err(SendFull);
                }
                line.outbound.extend(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }
    fn unsent(&self, id: ConnectionId) -> usize {
        self.lines.get(id.index as usize).map_or(0, |line| line.outbound.len())
    }
    fn close(&mut self, id: ConnectionId, how: Close) {
        if let Some(line) = self.line(id) {
            line.closing = Some(how);
        }
    }
    fn is_busy(&self) -> bool {
        !self.events.is_empty()
    }
    fn wait(&mut self, _: Option<Span>) -> std::io::Result<()> {
        unreachable!("the simulation never sleeps")
    }
    fn connections(&self) -> usize {
        self.lines.iter().filter(|line| line.open).count()
    }
}
