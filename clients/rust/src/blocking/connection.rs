//! One blocking, pipelined connection.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::Address;
use crate::error::Error;
use crate::layout::Layout;
use crate::options::{Call, Options, budget_us};
use crate::receive_buffer::ReceiveBuffer;
use crate::request::Request;
use crate::scores::Scores;
use crate::session::{Outcome, Received, ServerLimits, Session};

/// How long one attempt waits for answers before it tries to write again, while the server takes no more bytes.
const WRITE_RETRY: Duration = Duration::from_millis(1);

/// One connection. [`Connection::send`] queues requests, [`Connection::recv`] takes answers in whatever order they come; or
/// [`Connection::rank`] does both for one request.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    session: Session,
    buffer: ReceiveBuffer,
    /// Answered requests that `recv` has not given out yet.
    answered: VecDeque<u64>,
    read_timeout: Option<Duration>,
}

impl Connection {
    /// Connects and says hello, within `options.connect_timeout`.
    pub fn connect(address: &Address, options: &Options) -> Result<Connection, Error> {
        let end = Instant::now() + options.connect_timeout;
        let name: Arc<str> = Arc::from(address.to_string());
        let socket = open(address, options.connect_timeout).map_err(|source| Error::io(&name, "connecting", source))?;
        let mut connection = Connection {
            socket,
            session: Session::new(name, options),
            buffer: ReceiveBuffer::new(options.answer_bytes_max),
            answered: VecDeque::new(),
            read_timeout: None,
        };
        connection.flush_until(Some(end))?;
        while connection.session.limits().is_none() {
            connection.receive(Some(end)).map_err(|error| match error {
                Error::Deadline => Error::io(connection.session.address(), "waiting for the hello's answer", ErrorKind::TimedOut.into()),
                error => error,
            })?;
        }
        Ok(connection)
    }

    /// What the server allows.
    pub fn limits(&self) -> &ServerLimits {
        const UNKNOWN: &ServerLimits =
            &ServerLimits { server: String::new(), frame_bytes_max: 0, candidates_max: 0, in_flight_max: 0, idle_timeout: None };
        self.session.limits().unwrap_or(UNKNOWN)
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// Whether the server goes away: answers still come, new requests are refused.
    pub fn is_draining(&self) -> bool {
        self.session.is_draining()
    }

    /// Queues a request and gives its id; [`Connection::flush`] or [`Connection::recv`] sends it. `call.deadline` is told to the server; how long to wait is
    /// `recv`'s to know. Errors: [`Error::Saturated`] and those of the request itself; nothing was queued then.
    pub fn send(&mut self, request: &Request<'_>, call: &Call) -> Result<u64, Error> {
        let now = Instant::now();
        let budget_us = budget_us(call.end(now), now).ok_or(Error::Deadline)?;
        self.session.rank(request, budget_us, call.priority)
    }

    /// Sends everything queued. While the server takes no bytes, answers are taken, so that neither side waits for the other.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.flush_until(None)
    }

    fn flush_until(&mut self, end: Option<Instant>) -> Result<(), Error> {
        while !self.session.outgoing().is_empty() {
            match self.socket.send_with_flags(self.session.outgoing(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(bytes) => self.session.advance(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if end.is_some_and(|end| now >= end) {
                        return Err(Error::Deadline);
                    }
                    match self.receive(Some(now + WRITE_RETRY)) {
                        Ok(()) | Err(Error::Deadline) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(self.fail("writing", error)),
            }
        }
        Ok(())
    }

    /// Sends everything queued and waits for the next answer, at most until `deadline`: its id, and what became of it; its scores are in `scores`.
    /// Outer errors: [`Error::Deadline`] (everything stays in flight), or the connection is lost. Waiting with nothing in flight is refused as `Closed`.
    pub fn recv(&mut self, scores: &mut Scores, deadline: Option<Instant>) -> Result<(u64, Result<(), Error>), Error> {
        self.flush_until(deadline)?;
        loop {
            if let Some(id) = self.answered.pop_front() {
                match self.session.poll(id, scores, None) {
                    Poll::Ready(Outcome::Failed(error)) => return Ok((id, Err(error))),
                    Poll::Ready(_) => return Ok((id, Ok(()))),
                    Poll::Pending => continue,
                }
            }
            if self.session.in_flight() == 0 {
                return Err(Error::Closed { address: Arc::clone(self.session.address()) });
            }
            self.receive(deadline)?;
        }
    }

    /// One request and its scores. Answers to requests that were sent before stay for `recv`. At the call's deadline the request is cancelled.
    pub fn rank(&mut self, request: &Request<'_>, call: &Call, scores: &mut Scores) -> Result<(), Error> {
        let end = call.end(Instant::now());
        let id = loop {
            let budget_us = budget_us(end, Instant::now()).ok_or(Error::Deadline)?;
            match self.session.rank(request, budget_us, call.priority) {
                // Room comes with the answers to what was sent before.
                Err(Error::Saturated { in_flight }) if in_flight > 0 => {
                    self.flush_until(end)?;
                    self.receive(end)?;
                }
                queued => break queued?,
            }
        };
        match self.wait(id, end, scores)? {
            Outcome::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The layout of a public name, at most until `deadline`.
    pub fn describe(&mut self, model: &str, deadline: Option<Instant>) -> Result<Arc<Layout>, Error> {
        let id = self.session.describe(model)?;
        match self.wait(id, deadline, &mut Scores::default())? {
            Outcome::Description(description) => Ok(Layout::new(*description)),
            Outcome::Failed(error) => Err(error),
            Outcome::Scores | Outcome::Pong => Err(Error::protocol(self.session.address(), "a describe was answered with something else")),
        }
    }

    /// A round trip, at most until `deadline`.
    pub fn ping(&mut self, deadline: Option<Instant>) -> Result<(), Error> {
        let id = self.session.ping()?;
        match self.wait(id, deadline, &mut Scores::default())? {
            Outcome::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives up a request: no answer will be received for it.
    pub fn cancel(&mut self, id: u64) -> Result<(), Error> {
        self.give_up(id);
        self.flush()
    }

    fn give_up(&mut self, id: u64) {
        self.answered.retain(|answered| *answered != id);
        self.session.abandon(id);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.session.has_room()
    }

    /// Waits for one request; other answers are kept.
    fn wait(&mut self, id: u64, end: Option<Instant>, scores: &mut Scores) -> Result<Outcome, Error> {
        let mut flushed = self.flush_until(end);
        loop {
            if let Poll::Ready(outcome) = self.session.poll(id, scores, None) {
                self.answered.retain(|answered| *answered != id);
                return Ok(outcome);
            }
            if let Err(error) = std::mem::replace(&mut flushed, Ok(())).and_then(|()| self.receive(end)) {
                if matches!(error, Error::Deadline) {
                    self.give_up(id);
                    // Whether the cancel leaves or not, this call is over.
                    let _ = self.flush_until(end);
                }
                return Err(error);
            }
        }
    }

    /// Takes what comes, at least one read, at most until `end`.
    fn receive(&mut self, end: Option<Instant>) -> Result<(), Error> {
        let timeout = match end {
            None => None,
            Some(end) => Some(end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(Error::Deadline)?),
        };
        if timeout != self.read_timeout {
            // The kernel counts in µs, and zero would mean for ever.
            let least = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
            self.socket.set_read_timeout(least).map_err(|error| Error::io(self.session.address(), "setting a timeout", error))?;
            self.read_timeout = timeout;
        }
        let bytes = loop {
            match (&self.socket).read(self.buffer.spare()) {
                Ok(bytes) => break bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(Error::Deadline),
                Err(error) => return Err(self.fail("reading", error)),
            }
        };
        if bytes == 0 {
            return Err(self.lose(Error::Closed { address: Arc::clone(self.session.address()) }));
        }
        self.buffer.filled(bytes);
        loop {
            let received = match self.buffer.frame(self.session.address()) {
                Ok(Some((header, body))) => self.session.receive(&header, body),
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            match received {
                Ok(Received::Answered(id, _)) => self.answered.push_back(id),
                Ok(_) => {}
                Err(error) => return Err(self.lose(error)),
            }
        }
    }

    fn fail(&mut self, doing: &'static str, error: io::Error) -> Error {
        self.lose(Error::io(self.session.address(), doing, error))
    }

    fn lose(&mut self, error: Error) -> Error {
        self.session.fail(error.clone());
        error
    }
}

fn open(address: &Address, timeout: Duration) -> io::Result<Socket> {
    match address {
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket)
        }
        Address::Tcp(text) => {
            let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
            for resolved in text.to_socket_addrs()? {
                let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, None)?;
                socket.set_tcp_nodelay(true)?;
                socket.set_keepalive(true)?;
                match socket.connect_timeout(&resolved.into(), timeout) {
                    Ok(()) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}
