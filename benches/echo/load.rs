//! A closed-loop client on one thread: each connection sends its next request when the answer is there. Good for rates and ratios; latency under
//! a given load needs an open loop (`gavel bench`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use gavel_protocol::{HEADER_BYTES, Header};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

pub struct Load {
    /// Sent again and again on every connection.
    pub request: Vec<u8>,
    /// Bytes of an answer. Those of the server differ by a few from one to the next (a time of 0 µs is left out): its headers tell.
    pub answer_bytes: usize,
    /// Sent once at the start of every connection, and the size of its answer.
    pub hello: (Vec<u8>, usize),
    pub connections: usize,
    pub time: Duration,
    /// The client never sleeps: its own wake-up is then no part of what is measured.
    pub spin: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time of the server's thread per request: what a busy machine does not distort.
    pub cpu_us: f64,
}

impl Figures {
    /// Each figure's own median.
    pub fn median(all: &[Figures]) -> Figures {
        let middle = |of: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Figures {
            per_second: middle(|f| f.per_second),
            p50_us: middle(|f| f.p50_us),
            p99_us: middle(|f| f.p99_us),
            cpu_us: middle(|f| f.cpu_us),
        }
    }
}

struct Connection {
    socket: OwnedFd,
    sent: usize,
    got: usize,
    expected: usize,
    since: Instant,
}

impl Load {
    /// Against a server that accepts by itself.
    pub fn run(&self, address: SocketAddr, thread: &str) -> Figures {
        self.run_with(address, thread, |_| {})
    }

    /// `accept` is called once all connections are on their way. `thread`: the name of the server's thread in this process.
    pub fn run_with(&self, address: SocketAddr, thread: &str, accept: impl FnOnce(usize)) -> Figures {
        let ready = epoll::create(CreateFlags::CLOEXEC).unwrap();
        let mut connections: Vec<Connection> = (0..self.connections)
            .map(|number| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                if !self.hello.0.is_empty() {
                    stream.write_all(&self.hello.0).unwrap();
                    stream.read_exact(&mut vec![0; self.hello.1]).unwrap();
                }
                stream.set_nonblocking(true).unwrap();
                let socket = OwnedFd::from(stream);
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                epoll::add(&ready, &socket, EventData::new_u64(number as u64), flags).unwrap();
                Connection { socket, sent: 0, got: 0, expected: 0, since: Instant::now() }
            })
            .collect();
        accept(self.connections);
        let request = &self.request[..];
        let framed = !self.hello.0.is_empty();
        let mut answer = vec![0u8; self.answer_bytes + SLACK_BYTES];
        let answer_bytes = self.answer_bytes;
        let warm = Instant::now() + self.time / 4;
        let end = warm + self.time;
        let mut cpu_before = None;
        let mut latencies_ns: Vec<u64> = Vec::with_capacity(1 << 20);
        let mut events = Vec::with_capacity(256);
        let timeout = Timespec { tv_sec: if self.spin { 0 } else { 5 }, tv_nsec: 0 };
        loop {
            events.clear();
            match epoll::wait(&ready, spare_capacity(&mut events), Some(&timeout)) {
                Ok(0) if !self.spin => panic!("the server stands still"),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => panic!("{error}"),
            }
            let now = Instant::now();
            if now > end {
                break;
            }
            if now > warm && cpu_before.is_none() {
                cpu_before = Some(cpu_times(thread));
            }
            for event in &events {
                connections[event.data.u64() as usize].go(request, &mut answer, (answer_bytes, framed), |since| {
                    let now = Instant::now();
                    if now > warm {
                        latencies_ns.push((now - since).as_nanos() as u64);
                    }
                });
            }
        }
        let seconds = (Instant::now() - warm).as_secs_f64();
        let cpu = cpu_used(&cpu_before.unwrap_or_default(), &cpu_times(thread));
        latencies_ns.sort_unstable();
        let quantile = |q: f64| latencies_ns.get((latencies_ns.len() as f64 * q) as usize).copied().unwrap_or(0) as f64 / 1e3;
        let requests = latencies_ns.len() as f64;
        let cpu_us = cpu.as_secs_f64() * 1e6 / requests.max(1.0);
        Figures { per_second: requests / seconds, p50_us: quantile(0.5), p99_us: quantile(0.99), cpu_us }
    }
}

/// CPU time of each thread of this process that bears the name: the server's, and helpers that inherit the name. One that is just ending (of the
/// server before) may be among them, and may be gone before it is read.
fn cpu_times(thread: &str) -> HashMap<OsString, Duration> {
    let mut times = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim_end() == thread
            && let Some(nanoseconds) = read("schedstat").split(' ').next().and_then(|text| text.parse().ok())
        {
            times.insert(task.file_name(), Duration::from_nanos(nanoseconds));
        }
    }
    times
}

/// What threads used between two readings; those that ended in between are left out.
fn cpu_used(before: &HashMap<OsString, Duration>, after: &HashMap<OsString, Duration>) -> Duration {
    after.iter().map(|(task, time)| time.saturating_sub(before.get(task).copied().unwrap_or_default())).sum()
}

impl Connection {
    fn go(&mut self, request: &[u8], answer: &mut [u8], (bytes, framed): (usize, bool), mut answered: impl FnMut(Instant)) {
        loop {
            if self.sent < request.len() {
                match send(&self.socket, &request[self.sent..], SendFlags::NOSIGNAL) {
                    Ok(bytes) => self.sent += bytes,
                    Err(Errno::AGAIN) => return,
                    Err(error) => panic!("{error}"),
                }
                continue;
            }
            // A framed answer arrives alone: there is one request in flight. Its header is seen if it lies at the buffer's start.
            match recv(&self.socket, &mut answer[..], RecvFlags::empty()) {
                Ok((0, _)) => panic!("the server closed a connection"),
                Ok((bytes, _)) => {
                    if framed && self.got == 0 {
                        let header = answer.first_chunk().expect("a header's bytes come at once");
                        self.expected = HEADER_BYTES + Header::parse(header).expect("a header").body_len as usize;
                    }
                    self.got += bytes;
                }
                Err(Errno::AGAIN) => return,
                Err(error) => panic!("{error}"),
            }
            let expected = if framed { self.expected } else { bytes };
            if self.got == expected {
                answered(self.since);
                (self.sent, self.got, self.since) = (0, 0, Instant::now());
            }
        }
    }
}

/// Answers of the server may be longer than the one that was measured by so much.
const SLACK_BYTES: usize = 64;
