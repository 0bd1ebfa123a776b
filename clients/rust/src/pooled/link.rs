//! One connection of the async client: a session behind a short lock, and the task that moves its bytes.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::stream::Stream;
use crate::address::Address;
use crate::error::Error;
use crate::options::Options;
use crate::receive_buffer::ReceiveBuffer;
use crate::session::{Received, Session};

/// A connection that calls share.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    session: Mutex<Session>,
    /// Bytes wait to be sent.
    queued: Notify,
    /// Requests without an answer, for choosing the least loaded link without its lock.
    load: AtomicUsize,
}

/// Why [`Link::run`] returned.
#[derive(Debug)]
pub(crate) enum End {
    /// The server goes away; run again to get the answers that are due.
    Draining,
    /// The connection is over and every call on it was answered with this.
    Lost(Error),
}

impl Link {
    /// Connects and says hello, within `options.connect_timeout`.
    pub async fn connect(address: &Address, options: &Options) -> Result<(Arc<Link>, ReceiveBuffer), Error> {
        let name: Arc<str> = Arc::from(address.to_string());
        let late = |doing| Error::io(&name, doing, ErrorKind::TimedOut.into());
        let end = Instant::now() + options.connect_timeout;
        let stream = timeout(options.connect_timeout, Stream::connect(address))
            .await
            .map_err(|_| late("connecting"))?
            .map_err(|error| Error::io(&name, "connecting", error))?;
        let link = Arc::new(Link {
            stream,
            session: Mutex::new(Session::new(Arc::clone(&name), options)),
            queued: Notify::new(),
            load: AtomicUsize::new(0),
        });
        let mut buffer = ReceiveBuffer::new(options.answer_bytes_max);
        let hello = async {
            while link.session().limits().is_none() {
                link.turn(&mut buffer, None, &|| {}).await?;
            }
            Ok::<(), Error>(())
        };
        tokio::time::timeout_at(end, hello).await.map_err(|_| late("waiting for the hello's answer"))??;
        Ok((link, buffer))
    }

    pub fn session(&self) -> MutexGuard<'_, Session> {
        // A session is whole between any two of its methods, so a poisoned lock is fine.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// After requests were queued or given up. An idle connection writes at once; a busy one leaves it to its task, which joins what many calls queue.
    pub fn submitted(&self, session: &mut Session) {
        let load = session.in_flight();
        self.load.store(load, Ordering::Relaxed);
        if load <= 1 && self.write(session).is_ok() && session.outgoing().is_empty() {
            return;
        }
        self.queued.notify_one();
    }

    /// Moves bytes until the connection ends or the server drains. `freed` is called when there may be room for a request again.
    pub async fn run(&self, buffer: &mut ReceiveBuffer, freed: &(dyn Fn() + Sync)) -> End {
        let idle =
            self.session().limits().and_then(|limits| limits.idle_timeout).map(|timeout| (timeout / 2).max(Duration::from_millis(1)));
        let was_draining = self.session().is_draining();
        loop {
            match self.turn(buffer, idle, freed).await {
                Err(error) => return End::Lost(self.lose(error)),
                Ok(()) if self.session().is_draining() && !was_draining => return End::Draining,
                Ok(()) => {}
            }
        }
    }

    /// Fails every call on the connection.
    pub fn lose(&self, error: Error) -> Error {
        let wakers = self.session().fail(error.clone());
        self.load.store(0, Ordering::Relaxed);
        wakers.into_iter().for_each(std::task::Waker::wake);
        error
    }

    /// Waits until something can be done, and does it.
    async fn turn(&self, buffer: &mut ReceiveBuffer, idle: Option<Duration>, freed: &(dyn Fn() + Sync)) -> Result<(), Error> {
        let unsent = {
            let mut session = self.session();
            self.write(&mut session)?;
            !session.outgoing().is_empty()
        };
        let idle_at = Instant::now() + idle.unwrap_or(Duration::from_secs(3600));
        tokio::select! {
            ready = self.stream.readable() => {
                ready.map_err(|error| self.io("reading", error))?;
                self.read(buffer, freed)
            }
            ready = self.stream.writable(), if unsent => ready.map_err(|error| self.io("writing", error)),
            () = self.queued.notified() => Ok(()),
            () = sleep_until(idle_at), if idle.is_some() => {
                self.session().keep_alive();
                Ok(())
            }
        }
    }

    fn write(&self, session: &mut Session) -> Result<(), Error> {
        while !session.outgoing().is_empty() {
            match self.stream.try_write(session.outgoing()) {
                Ok(bytes) => session.advance(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(session.address(), "writing", error)),
            }
        }
        Ok(())
    }

    /// Takes what has come: one read, and every whole frame of it.
    fn read(&self, buffer: &mut ReceiveBuffer, freed: &(dyn Fn() + Sync)) -> Result<(), Error> {
        let address = Arc::clone(self.session().address());
        match self.stream.try_read(buffer.spare()) {
            Ok(0) => return Err(Error::Closed { address }),
            Ok(bytes) => buffer.filled(bytes),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(self.io("reading", error)),
        }
        while let Some((header, body)) = buffer.frame(&address)? {
            let received = {
                let mut session = self.session();
                let received = session.receive(&header, body)?;
                self.load.store(session.in_flight(), Ordering::Relaxed);
                received
            };
            if let Received::Answered(_, Some(waker)) = received {
                waker.wake();
            }
            freed();
        }
        Ok(())
    }

    fn io(&self, doing: &'static str, error: std::io::Error) -> Error {
        Error::io(self.session().address(), doing, error)
    }
}
