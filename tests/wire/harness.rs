//! Clients and an echo shard for the cases.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gavel::units::Span;
use gavel::wire::{Cause, Close, ConnectionId, Event, SendFull, Waker, Wire, WireLimits};

pub const LIMITS: WireLimits = WireLimits { connections_max: 64, receive_bytes_max: 2 << 20, send_bytes_max: 1 << 20 };

pub fn waker() -> Waker {
    Waker::new().unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tcp,
    Unix,
}

/// A client's stream of either kind.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn finish(&self) {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }
    /// As [`Stream::finish`], where the other side may be gone already.
    pub fn finish_quietly(&self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
    /// How long a read or write waits.
    pub fn set_patience(&self, patience: Duration) {
        let patience = Some(patience);
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(patience).and(stream.set_write_timeout(patience)).unwrap(),
            Stream::Unix(stream) => stream.set_read_timeout(patience).and(stream.set_write_timeout(patience)).unwrap(),
        }
    }
    pub fn twin(&self) -> Stream {
        match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().unwrap()),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().unwrap()),
        }
    }
    /// A reset instead of an orderly end.
    pub fn reset(self) {
        if let Stream::Tcp(stream) = self {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A connected pair: the client's end and the shard's. Clients give up after ten seconds, so that a fault is a failure and not a hang.
pub fn pair(kind: Kind) -> (Stream, OwnedFd) {
    let patience = Some(Duration::from_secs(10));
    match kind {
        Kind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            client.set_read_timeout(patience).unwrap();
            client.set_write_timeout(patience).unwrap();
            (Stream::Tcp(client), server.into())
        }
        Kind::Unix => {
            let (client, server) = UnixStream::pair().unwrap();
            client.set_read_timeout(patience).unwrap();
            client.set_write_timeout(patience).unwrap();
            (Stream::Unix(client), server.into())
        }
    }
}

/// Byte `at` of a stream that is easy to check and differs from its neighbours.
pub fn pattern(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// An echo shard: answers each frame with itself. Stops reading while a client does not take its answers.
#[derive(Default)]
pub struct Echo {
    /// Frame length, where all frames are equal; 0: a length (u32, itself included) leads each frame.
    pub frame_bytes: usize,
    paused: HashMap<ConnectionId, bool>,
    finished: HashMap<ConnectionId, bool>,
    pub closed: Vec<(ConnectionId, Cause)>,
    pub received_events: usize,
    pub unsent_max: usize,
    scratch: Vec<u8>,
}

impl Echo {
    pub fn new(frame_bytes: usize) -> Echo {
        Echo { frame_bytes, scratch: Vec::with_capacity(4 << 20), closed: Vec::with_capacity(64), ..Echo::default() }
    }

    /// One turn. `wait`: at most 20 ms.
    pub fn turn<W: Wire>(&mut self, wire: &mut W, wait: bool) {
        match wait {
            true => wire.wait(Some(Span::from_ms(20))).unwrap(),
            false => wire.turn().unwrap(),
        }
        while let Some(event) = wire.next() {
            self.take(wire, event);
        }
    }

    pub fn take<W: Wire>(&mut self, wire: &mut W, event: Event) {
        match event {
            Event::Received(id) => {
                self.received_events += 1;
                self.answer(wire, id);
            }
            Event::Sent(id) => {
                if self.paused.remove(&id).is_some() {
                    self.answer(wire, id);
                    if !self.paused.contains_key(&id) {
                        wire.set_reading(id, true);
                    }
                }
            }
            Event::Finished(id) => {
                if self.paused.contains_key(&id) {
                    self.finished.insert(id, true);
                } else {
                    wire.close(id, Close::AfterSends);
                }
            }
            Event::Closed(id, cause) => {
                self.paused.remove(&id);
                self.finished.remove(&id);
                self.closed.push((id, cause));
            }
            Event::Woken => {}
        }
    }

    fn answer<W: Wire>(&mut self, wire: &mut W, id: ConnectionId) {
        loop {
            let bytes = wire.received(id);
            let frame_bytes = match self.frame_bytes {
                0 if bytes.len() < 4 => return,
                0 => u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize,
                fixed => fixed,
            };
            if bytes.is_empty() {
                return;
            }
            if bytes.len() < frame_bytes {
                wire.need(id, frame_bytes);
                return;
            }
            self.scratch.clear();
            self.scratch.extend_from_slice(&bytes[..frame_bytes]);
            match wire.send(id, &self.scratch) {
                Ok(()) => wire.consume(id, frame_bytes),
                Err(SendFull) => {
                    self.paused.insert(id, true);
                    wire.set_reading(id, false);
                    return;
                }
            }
            self.unsent_max = self.unsent_max.max(wire.unsent(id));
        }
    }

    /// Turns until `done`, at most 20 seconds.
    pub fn run_until<W: Wire>(&mut self, wire: &mut W, mut done: impl FnMut(&mut Echo, &mut W) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !done(self, wire) {
            assert!(Instant::now() < until, "the wire did not get there in 20 s");
            self.turn(wire, true);
        }
    }

    /// Turns until a client is through, and fails as it fails.
    pub fn run_for<W: Wire, T>(&mut self, wire: &mut W, client: JoinHandle<T>) -> T {
        self.run_until(wire, |_, _| client.is_finished());
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes `total` bytes of the pattern in pieces of awkward lengths.
pub fn write_pattern(stream: &mut Stream, total: usize, pieces: &[usize]) {
    let bytes: Vec<u8> = (0..total).map(pattern).collect();
    let (mut at, mut turn) = (0, 0);
    while at < total {
        let piece = pieces[turn % pieces.len()].min(total - at);
        stream.write_all(&bytes[at..at + piece]).unwrap();
        at += piece;
        turn += 1;
        if turn % 7 == 0 && piece < 4096 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Reads and checks `total` bytes of the pattern.
pub fn read_pattern(stream: &mut Stream, total: usize) {
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < total {
        let wanted = buffer.len().min(total - at);
        let count = stream.read(&mut buffer[..wanted]).unwrap();
        assert!(count > 0, "the stream ended at byte {at} of {total}");
        for (offset, &byte) in buffer[..count].iter().enumerate() {
            assert_eq!(byte, pattern(at + offset), "byte {}", at + offset);
        }
        at += count;
    }
}
