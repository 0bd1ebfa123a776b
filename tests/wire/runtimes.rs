//! The two runtimes that turn a shard: start, serve, sleep, wake on time, stop, and report a panic. With the allocations of each.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use gavel::server::mailbox::{MailReceiver, MailSender, mailbox};
use gavel::server::preflight::IoBackend;
use gavel::server::runtime::{Reactor, ShardOptions, ShardReport, ShardState, Turn, spawn};
use gavel::units::{Clock, Instant, Span};
use gavel::wire::{UringOptions, Waker, Wire, probe};

use crate::alloc;
use crate::harness::{Echo, Kind, LIMITS, pair, waker};

enum Letter {
    Adopt(OwnedFd),
    /// Report allocations since the last report and turns so far.
    Count,
    /// Say when a moment this far away has come.
    Timer(Span),
    Panic,
    Stop,
}

struct EchoShard {
    echo: Echo,
    mail: MailReceiver<Letter>,
    counts: std::sync::mpsc::SyncSender<u64>,
    counted: u64,
    timer: Option<(Instant, Span)>,
    spinning: bool,
}

impl<W: Wire> Reactor<W> for EchoShard {
    fn turn(&mut self, wire: &mut W, now: Instant) -> Turn {
        while let Some(event) = wire.next() {
            self.echo.take(wire, event);
        }
        while let Some(letter) = self.mail.receive() {
            match letter {
                Letter::Adopt(socket) => drop(wire.adopt(socket).unwrap()),
                Letter::Count => {
                    let count = alloc::count();
                    self.counts.send(count - self.counted).unwrap();
                    self.counted = alloc::count();
                }
                Letter::Timer(span) => self.timer = Some((now + span, span)),
                Letter::Panic => panic!("as the test wished"),
                Letter::Stop => return Turn::Stop,
            }
        }
        if let Some((at, _)) = self.timer
            && now >= at
        {
            self.counts.send((now - at).0).unwrap();
            self.timer = None;
        }
        if self.spinning { Turn::Busy } else { Turn::IdleUntil(self.timer.map(|(at, _)| at)) }
    }
}

struct Shard {
    thread: JoinHandle<()>,
    mail: MailSender<Letter>,
    counts: Receiver<u64>,
    reports: Receiver<ShardReport>,
}

fn start(backend: IoBackend, spin: Span, spinning: bool) -> Shard {
    let waker: Waker = waker();
    let (mail, receiver) = mailbox(16, waker.clone());
    let (counts, counted) = std::sync::mpsc::sync_channel(16);
    let (reports, reported) = channel();
    let options = ShardOptions { shard: 3, cpu: None, spin, clock: Clock::start(), limits: LIMITS, uring: UringOptions::default() };
    let make = move || Ok(EchoShard { echo: Echo::new(0), mail: receiver, counts, counted: 0, timer: None, spinning });
    let thread = spawn(backend, options, waker, make, reports).unwrap();
    let first = reported.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(first, ShardReport { shard: 3, state: ShardState::Started }), "{first:?}");
    Shard { thread, mail, counts: counted, reports: reported }
}

impl Shard {
    fn send(&mut self, letter: Letter) {
        assert!(self.mail.send(letter).is_ok());
    }
    fn number(&self) -> u64 {
        self.counts.recv_timeout(PATIENCE).unwrap()
    }
    fn end(self) -> ShardState {
        self.thread.join().unwrap();
        self.reports.recv_timeout(PATIENCE).unwrap().state
    }
    fn ping(&mut self, messages: usize) {
        let (mut client, socket) = pair(Kind::Tcp);
        self.send(Letter::Adopt(socket));
        let mut frame = 384u32.to_le_bytes().to_vec();
        frame.resize(384, 7);
        let mut answer = [0; 384];
        for _ in 0..messages {
            client.write_all(&frame).unwrap();
            client.read_exact(&mut answer).unwrap();
        }
        assert_eq!(answer, *frame);
    }
}

fn each_backend(case: impl Fn(IoBackend)) {
    case(IoBackend::Epoll);
    match probe() {
        Ok(_) => case(IoBackend::Uring),
        Err(failure) => println!("skipped: io_uring is refused here: {failure:?}"),
    }
}

#[test]
fn a_shard_serves_asleep_and_awake_and_stops() {
    each_backend(|backend| {
        for (spin, spinning) in [(Span::ZERO, false), (Span::from_us(200), false), (Span::ZERO, true)] {
            let mut shard = start(backend, spin, spinning);
            shard.ping(200);
            shard.send(Letter::Stop);
            assert!(matches!(shard.end(), ShardState::Stopped));
        }
    });
}

#[test]
fn a_busy_shard_does_not_allocate_and_a_sleep_costs_what_is_printed() {
    each_backend(|backend| {
        for spinning in [true, false] {
            let mut shard = start(backend, Span::ZERO, spinning);
            shard.ping(500);
            shard.send(Letter::Count);
            shard.number();
            let (mut client, socket) = pair(Kind::Unix);
            shard.send(Letter::Adopt(socket));
            let mut frame = 48u32.to_le_bytes().to_vec();
            frame.resize(48, 7);
            let mut answer = [0; 48];
            for _ in 0..10_000 {
                client.write_all(&frame).unwrap();
                client.read_exact(&mut answer).unwrap();
            }
            shard.send(Letter::Count);
            let count = shard.number();
            println!("{backend}, {}: {count} allocations in 10,000 messages", if spinning { "busy" } else { "asleep and awake in turn" });
            assert!(!spinning || count == 0, "{backend}: {count} allocations");
            shard.send(Letter::Stop);
            shard.end();
        }
    });
}

#[test]
fn timers_wake_a_sleeping_shard() {
    each_backend(|backend| {
        let mut shard = start(backend, Span::ZERO, false);
        for us in [300, 5_000, 20_000, 1_000, 0] {
            shard.send(Letter::Timer(Span::from_us(us)));
            let late = Duration::from_nanos(shard.number());
            assert!(late < Duration::from_millis(300), "{backend}: a timer of {us} µs was {late:?} late");
        }
        shard.send(Letter::Stop);
        assert!(matches!(shard.end(), ShardState::Stopped));
    });
}

#[test]
fn a_panic_is_reported() {
    each_backend(|backend| {
        let mut shard = start(backend, Span::ZERO, false);
        let (_client, socket) = pair(Kind::Tcp);
        shard.send(Letter::Adopt(socket));
        shard.send(Letter::Panic);
        match shard.end() {
            ShardState::Failed(text) => assert_eq!(text, "shard 3 panicked: as the test wished"),
            other => panic!("{other:?}"),
        }
    });
}

const PATIENCE: Duration = Duration::from_secs(10);
