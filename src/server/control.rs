//! The control thread: admin HTTP on a small runtime of its own. Never on a request's way: it reads metric cells and latches, and a shard that
//! hangs is visible here because nothing here waits for a shard.

mod pages;
mod readiness;
mod stop;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

pub use readiness::{Latch, Readiness};
pub use stop::{SignalWatch, Stop, StopReceiver, StopSender, stop_channel};

use crate::config::Address;
use crate::metrics::Registry;
use crate::server::placement::pin_thread_to;
use crate::units::Span;
use pages::Pages;

/// Starts the control thread.
pub struct Control;

/// The running control thread; ends with [`ControlHandle::stop`], or when dropped.
#[derive(Debug)]
pub struct ControlHandle {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why the admin address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Not bound.
    #[error("cannot listen on the admin address {address}: {source}")]
    Bind {
        /// As configured.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// No thread or runtime.
    #[error("cannot start the control thread: {0}")]
    Thread(io::Error),
    /// A fault of ours.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Control {
    /// Binds `admin` and answers `/livez`, `/readyz` and `/metrics` from a thread of its own. A shard without a sign of life for `heartbeat`
    /// is not live. The thread keeps to `cpus`; none: anywhere. Bound when this returns.
    pub fn start(
        admin: &Address,
        registry: Arc<Registry>,
        readiness: Arc<Readiness>,
        heartbeat: Span,
        cpus: &[usize],
    ) -> Result<ControlHandle, ControlError> {
        let bind = |source| ControlError::Bind { address: admin.to_string(), source };
        let listener = TcpListener::bind(&admin.resolve().map_err(bind)?[..]).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let router = Pages::new(registry, readiness, heartbeat)?.router();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ControlError::Thread)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                result = axum::serve(listener, router).into_future() => result,
                _ = stopped => Ok(()),
            }
        };
        let cpus = cpus.to_vec();
        let thread = thread::Builder::new()
            .name("gavel-control".into())
            .spawn(move || {
                if let Err(error) = pin_thread_to(&cpus) {
                    tracing::warn!(%error, "the control thread shares the shards' CPUs");
                }
                if let Err(error) = runtime.block_on(serve) {
                    tracing::error!(%error, "admin address failed");
                }
                // Connections that a scraper keeps open end with the process, not before it.
                runtime.shutdown_timeout(Duration::from_millis(100));
            })
            .map_err(ControlError::Thread)?;
        Ok(ControlHandle { addr, stop: Some(stop), thread: Some(thread) })
    }
}

impl ControlHandle {
    /// Where it listens (the port that the system chose, if port 0 was asked for).
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends the thread and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for ControlHandle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::metrics::Outcome;
    use crate::units::Clock;

    fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).expect("connected");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into()))
    }

    #[test]
    fn health_and_metrics_over_http() {
        let registry = Registry::new(Clock::start(), 1);
        let readiness = Arc::new(Readiness::default());
        let admin = "127.0.0.1:0".parse().expect("valid");
        let control = Control::start(&admin, Arc::clone(&registry), Arc::clone(&readiness), Span::from_ms(200), &[]).expect("started");
        let addr = control.addr();

        assert_eq!(get(addr, "/readyz"), (503, "not ready\n[-] models\n[-] shards\n[-] listeners\n[+] not_draining\n".into()));
        for latch in Latch::ALL {
            readiness.set(latch, true);
        }
        assert_eq!(get(addr, "/readyz").0, 200);
        readiness.set(Latch::NotDraining, false);
        assert!(get(addr, "/readyz").1.contains("[-] not_draining"));

        assert_eq!(get(addr, "/livez").0, 200, "loading is no reason to be killed");
        let shard = registry.add_shard();
        assert_eq!(get(addr, "/livez").0, 200);
        thread::sleep(Duration::from_millis(250));
        let (status, text) = get(addr, "/livez");
        assert_eq!(status, 503);
        assert!(text.contains("[-] shard 0"), "{text}");

        let model = registry.register("m", 1, "d", 1).expect("a slot");
        shard.model(model).outcome(Outcome::OK).inc();
        let (status, text) = get(addr, "/metrics");
        assert_eq!(status, 200);
        assert!(text.contains("gavel_requests_total{model=\"m\",version=\"1\",outcome=\"ok\"} 1"), "{text}");
        assert_eq!(get(addr, "/").0, 200);
        assert_eq!(get(addr, "/nothing").0, 404);

        // A scraper that keeps its connection open does not delay the end.
        let _open = TcpStream::connect(addr).expect("connected");
        control.stop();
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn a_taken_address_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let admin = taken.local_addr().expect("an address").to_string();
        let result =
            Control::start(&admin.parse().expect("valid"), Registry::new(Clock::start(), 1), Arc::default(), Span::from_ms(1), &[]);
        let error = result.expect_err("taken").to_string();
        assert!(error.contains(&admin), "{error}");
    }
}
