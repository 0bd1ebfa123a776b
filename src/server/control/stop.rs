//! How the server is told to stop: a signal, or a fault of a part of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{SigId, low_level};

/// Why to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The operator asked for it: drain, then exit 0.
    Signal(&'static str),
    /// A part of the server cannot go on: exit 1.
    Fault(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Signal(name) => f.write_str(name),
            Stop::Fault(reason) => f.write_str(reason),
        }
    }
}

/// Asks for a stop; for every part of the server that may have to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopSender(SyncSender<Stop>);

impl StopSender {
    /// Asks main to stop. Later requests than the first few are dropped: one is enough.
    pub fn stop(&self, stop: Stop) {
        let _ = self.0.try_send(stop);
    }
}

/// What main waits for.
#[derive(Debug)]
pub struct StopReceiver(Receiver<Stop>);

impl StopReceiver {
    /// Waits until somebody asks for a stop.
    pub fn wait(&self) -> Stop {
        self.0.recv().unwrap_or_else(|_| Stop::Fault("nobody is left to ask for a stop".into()))
    }

    /// Waits at most so long.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Stop> {
        match self.0.recv_timeout(timeout) {
            Ok(stop) => Some(stop),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.wait()),
        }
    }
}

/// A pair of ends.
pub fn stop_channel() -> (StopSender, StopReceiver) {
    let (sender, receiver) = mpsc::sync_channel(8);
    (StopSender(sender), StopReceiver(receiver))
}

/// Delivers SIGTERM and SIGINT while it lives.
#[derive(Debug)]
pub struct SignalWatch {
    signals: Handle,
    flags: Vec<SigId>,
}

impl SignalWatch {
    /// The first signal asks for a stop; the second ends the process at once, with 128 + its number, whatever hangs.
    pub fn start(sender: StopSender) -> io::Result<SignalWatch> {
        let seen = Arc::new(AtomicBool::new(false));
        let mut signals = Signals::new(SIGNALS)?;
        let mut watch = SignalWatch { signals: signals.handle(), flags: Vec::new() };
        for signal in SIGNALS {
            // In this order: the second signal finds the flag that the first one set.
            watch.flags.push(flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&seen))?);
            watch.flags.push(flag::register(signal, Arc::clone(&seen))?);
        }
        thread::Builder::new().name("gavel-signals".into()).spawn(move || {
            for signal in &mut signals {
                sender.stop(Stop::Signal(if signal == SIGTERM { "SIGTERM" } else { "SIGINT" }));
            }
        })?;
        Ok(watch)
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.signals.close();
        for flag in self.flags.drain(..) {
            low_level::unregister(flag);
        }
    }
}

const SIGNALS: [i32; 2] = [SIGTERM, SIGINT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let (sender, receiver) = stop_channel();
        assert_eq!(receiver.wait_timeout(Duration::from_millis(1)), None);
        for n in 0..100 {
            sender.clone().stop(Stop::Fault(format!("shard {n}")));
        }
        assert_eq!(receiver.wait(), Stop::Fault("shard 0".into()));
        drop(sender);
        while receiver.wait_timeout(Duration::ZERO) != Some(Stop::Fault("nobody is left to ask for a stop".into())) {}
    }

    #[test]
    fn a_signal_arrives() {
        let (sender, receiver) = stop_channel();
        let watch = SignalWatch::start(sender).expect("handlers");
        low_level::raise(SIGINT).expect("raised");
        assert_eq!(receiver.wait_timeout(Duration::from_secs(10)), Some(Stop::Signal("SIGINT")));
        drop(watch);
        let (sender, receiver) = stop_channel();
        let _again = SignalWatch::start(sender).expect("handlers");
        low_level::raise(SIGINT).expect("raised: a first signal again, or this process would be gone");
        assert_eq!(receiver.wait_timeout(Duration::from_secs(10)), Some(Stop::Signal("SIGINT")));
    }
}
