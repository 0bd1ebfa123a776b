//! The baseline: a TCP echo with plain epoll and nothing else, as one would write it in C. Reads `request_bytes`, answers `answer_bytes`.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use gavel::server::placement::pin_thread;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Of its thread.
pub const NAME: &str = "raw-echo";

pub struct RawEcho {
    thread: JoinHandle<()>,
    stopped: Arc<AtomicBool>,
}

struct Connection {
    socket: OwnedFd,
    got: usize,
    sent: usize,
    writing: bool,
}

/// Starts the echo on a thread of its own. `spin`: it never sleeps.
pub fn start(listener: TcpListener, cpu: usize, spin: bool, request_bytes: usize, answer_bytes: usize) -> RawEcho {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopped);
    let run = move || {
        pin_thread(cpu).unwrap();
        serve(&listener, spin, request_bytes, answer_bytes, &stop);
    };
    let thread = std::thread::Builder::new().name(NAME.into()).spawn(run).unwrap();
    RawEcho { thread, stopped }
}

impl RawEcho {
    pub fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn serve(listener: &TcpListener, spin: bool, request_bytes: usize, answer_bytes: usize, stop: &AtomicBool) {
    let ready = epoll::create(CreateFlags::CLOEXEC).unwrap();
    listener.set_nonblocking(true).unwrap();
    epoll::add(&ready, listener, EventData::new_u64(u64::MAX), EventFlags::IN).unwrap();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0u8; request_bytes];
    let answer = vec![0u8; answer_bytes];
    let mut events = Vec::with_capacity(256);
    // So that a stop is seen.
    let timeout = Timespec { tv_sec: 0, tv_nsec: if spin { 0 } else { 20_000_000 } };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&ready, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
        for event in &events {
            let at = event.data.u64();
            if at == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true).unwrap();
                    stream.set_nonblocking(true).unwrap();
                    let socket = OwnedFd::from(stream);
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
                    epoll::add(&ready, &socket, EventData::new_u64(connections.len() as u64), flags).unwrap();
                    connections.push(Some(Connection { socket, got: 0, sent: 0, writing: false }));
                }
                continue;
            }
            let place = &mut connections[at as usize];
            if place.as_mut().is_some_and(|connection| !connection.go(&mut buffer, &answer)) {
                *place = None;
            }
        }
    }
}

impl Connection {
    /// Reads and writes until the socket has enough. False: it is over.
    fn go(&mut self, buffer: &mut [u8], answer: &[u8]) -> bool {
        loop {
            if self.writing {
                match send(&self.socket, &answer[self.sent..], SendFlags::NOSIGNAL) {
                    Ok(bytes) => self.sent += bytes,
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
                if self.sent == answer.len() {
                    (self.writing, self.got) = (false, 0);
                }
                continue;
            }
            let missing = buffer.len() - self.got;
            match recv(&self.socket, &mut buffer[..missing], RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((bytes, _)) => self.got += bytes,
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
            if self.got == buffer.len() {
                (self.writing, self.sent) = (true, 0);
            }
        }
    }
}
