//! How it ends: for one client that has finished sending, and for all when the server drains.

use super::clients::Client;
use super::{LIMITS, News, Simulation, Turn};
use crate::units::Span;
use crate::wire::Wire;

impl Simulation<'_> {
    /// Runs until a half-closed client has every answer and the connection is gone.
    pub fn settle_half_closed(&mut self, client: Client) {
        if let Some(line) = self.wire.line(client.id) {
            line.drains = true;
        }
        let index = self.clients.len();
        let id = client.id;
        self.clients.push(client);
        for _ in 0..20_000 {
            if self.wire.line(id).is_none() {
                break;
            }
            self.pass(Span::from_us(20));
            self.turn();
        }
        assert!(self.wire.line(id).is_none(), "a half-closed connection ends once all is answered");
        self.read();
        let client = self.clients.remove(index);
        assert!(client.lost || client.expected.is_empty(), "a half-closed client gets every answer");
    }

    /// After all that, a request with a fair budget is served on a new connection.
    fn still_serves(&mut self) {
        let room = (0..8_000).find(|_| {
            self.pass(Span::from_us(500));
            self.turn();
            self.wire.connections() < LIMITS.connections_max
        });
        if room.is_none() {
            return;
        }
        self.connect();
        let client = self.clients.len() - 1;
        let ok = self.ok;
        for _ in 0..5 {
            self.rank(client, None);
            for _ in 0..2_000 {
                self.turn();
            }
        }
        assert!(self.ok > ok, "the server still ranks");
    }

    /// Everybody reads again; the drain ends it all.
    pub fn finish(&mut self) {
        for line in &mut self.wire.lines {
            line.drains = true;
        }
        for _ in 0..400 {
            self.pass(Span::from_us(50));
            self.turn();
        }
        self.still_serves();
        assert!(self.news.send(News::Drain(Span::from_ms(3_000))).is_ok());
        let mut stopped = false;
        for _ in 0..20_000 {
            self.pass(Span::from_us(500));
            if self.turn() == Turn::Stop {
                stopped = true;
                break;
            }
        }
        assert!(stopped, "a drain ends in bounded time");
        self.read();
        for client in &self.clients {
            assert!(client.lost || client.expected.is_empty(), "unanswered: {:?}", client.expected.keys());
        }
        assert!(self.shard.is_empty(), "tickets, slots and connections are given back");
    }
}
