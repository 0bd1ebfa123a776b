//! The same echo as a shard: a reactor on one of the wires, under the runtime that turns it.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use gavel::server::mailbox::{MailReceiver, MailSender, mailbox};
use gavel::server::preflight::IoBackend;
use gavel::server::runtime::{Reactor, ShardOptions, ShardReport, ShardState, Turn, spawn};
use gavel::units::{Clock, Instant, Span};
use gavel::wire::{Close, Event, UringOptions, Waker, Wire, WireLimits};

/// Of its thread.
pub const NAME: &str = "shard-0";

pub struct Shard {
    thread: JoinHandle<()>,
    mail: MailSender<Option<OwnedFd>>,
    _reports: Receiver<ShardReport>,
}

struct Echo {
    mail: MailReceiver<Option<OwnedFd>>,
    request_bytes: usize,
    answer: Vec<u8>,
}

pub fn start(backend: IoBackend, cpu: usize, spin: Span, request_bytes: usize, answer_bytes: usize) -> Shard {
    let waker = Waker::new().unwrap();
    let (mail, receiver) = mailbox(64, waker.clone());
    let (sender, reports) = channel();
    let limits = WireLimits { connections_max: 64, receive_bytes_max: 1 << 20, send_bytes_max: 1 << 20 };
    let options = ShardOptions { shard: 0, cpu: Some(cpu), spin, clock: Clock::start(), limits, uring: UringOptions::default() };
    let make = move || Ok(Echo { mail: receiver, request_bytes, answer: vec![0; answer_bytes] });
    let thread = spawn(backend, options, waker, make, sender).unwrap();
    assert!(matches!(reports.recv().unwrap().state, ShardState::Started));
    Shard { thread, mail, _reports: reports }
}

impl Shard {
    /// Accepts one connection and hands it over.
    pub fn adopt(&mut self, listener: &TcpListener) {
        let (socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        self.mail.send(Some(socket.into())).map_err(|(why, _)| io::Error::other(format!("{why:?}"))).unwrap();
    }

    pub fn stop(mut self) {
        self.mail.send(None).map_err(|(why, _)| io::Error::other(format!("{why:?}"))).unwrap();
        self.thread.join().unwrap();
    }
}

impl<W: Wire> Reactor<W> for Echo {
    fn turn(&mut self, wire: &mut W, _: Instant) -> Turn {
        let mut busy = false;
        while let Some(event) = wire.next() {
            busy = true;
            match event {
                Event::Received(id) => {
                    while wire.received(id).len() >= self.request_bytes {
                        wire.consume(id, self.request_bytes);
                        wire.send(id, &self.answer).unwrap();
                    }
                    if !wire.received(id).is_empty() {
                        wire.need(id, self.request_bytes);
                    }
                }
                Event::Finished(id) => wire.close(id, Close::AfterSends),
                Event::Sent(_) | Event::Closed(..) | Event::Woken => {}
            }
        }
        while let Some(letter) = self.mail.receive() {
            busy = true;
            match letter {
                Some(socket) => drop(wire.adopt(socket).unwrap()),
                None => return Turn::Stop,
            }
        }
        if busy { Turn::Busy } else { Turn::IdleUntil(None) }
    }
}
