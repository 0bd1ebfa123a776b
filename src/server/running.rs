//! A server in this process: shards, acceptor, mailboxes; models go in, addresses come out, and it ends in bounded time.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as SystemInstant};

use crate::config::{Address, Config, Limits};
use crate::connection::Timeouts;
use crate::engine::{self, EngineKind, PrepareOptions};
use crate::metrics::Registry;
use crate::model::Model;
use crate::server::listen::{Acceptor, ListenError, Listeners, ShardIntake, bind};
use crate::server::mailbox::{MailSender, Undelivered, mailbox};
use crate::server::plan::Plan;
use crate::server::publish::{PublishError, prepare};
use crate::server::runtime::{self, ShardOptions, ShardReport, ShardState};
use crate::server::shard::{News, Published, Rollout, Shard, ShardLimits, ShardParts};
use crate::units::{Clock, Span};
use crate::wire::{UringOptions, Waker, WireLimits};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No thread, descriptor or memory.
    #[error("cannot start {what}: {source}")]
    System {
        /// What was being started.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A shard ended while starting.
    #[error("{0}")]
    Shard(String),
}

/// A running server.
pub struct Server {
    addresses: Vec<Address>,
    /// What [`Server::accept`] turns into the acceptor.
    entrance: Option<Entrance>,
    acceptor: Option<Acceptor>,
    shards: Vec<ShardHandle>,
    reports: mpsc::Receiver<ShardReport>,
    registry: Arc<Registry>,
    engine: EngineKind,
    prepare: PrepareOptions,
    config: Config,
}

/// Makes a loaded model ready for the shards; see [`Server::preparation`].
pub struct Preparation {
    engine: EngineKind,
    options: PrepareOptions,
    limits: Limits,
    registry: Arc<Registry>,
}

impl Preparation {
    /// Plans the model, replays its selftest, encodes its description. Takes as long as the model is large.
    pub fn run(&self, model: &Arc<Model>) -> Result<Published, PublishError> {
        prepare(model, self.engine, &self.options, &self.limits, &self.registry)
    }
}

/// Bound addresses and the ways from there to the shards.
struct Entrance {
    listeners: Listeners,
    intakes: Vec<ShardIntake>,
    cpus: Vec<usize>,
}

struct ShardHandle {
    thread: Option<JoinHandle<()>>,
    news: MailSender<News>,
}

/// How long a shard may take to make its ring, memory and first turn.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Letters that a shard may have unread.
const NEWS_CAPACITY: usize = 64;
const SOCKETS_CAPACITY: usize = 1024;

impl Server {
    /// Binds the addresses and starts the shards. No model is served yet: see [`Server::publish`]. Nobody is let in yet: see [`Server::accept`].
    pub fn start(config: &Config, plan: &Plan, registry: Arc<Registry>, clock: Clock) -> Result<Server, StartError> {
        let listeners = bind(&config.general.listen)?;
        let addresses = listeners.addresses();
        registry.set_io_backend(plan.io.name());
        let (sender, reports) = mpsc::channel();
        let mut shards = Vec::new();
        let mut intakes = Vec::new();
        for (number, cpu) in plan.placement.shards.iter().copied().enumerate() {
            let system = |source| StartError::System { what: format!("shard {number}"), source };
            let waker = Waker::new().map_err(system)?;
            let (news, news_end) = mailbox(NEWS_CAPACITY, waker.clone());
            let (sockets, sockets_end) = mailbox(SOCKETS_CAPACITY, waker.clone());
            let cells = registry.add_shard();
            intakes.push(ShardIntake::new(sockets, cells.reader()));
            let limits = shard_limits(config);
            let options = ShardOptions {
                shard: number,
                cpu,
                spin: Span::from_us(u64::from(config.general.spin_us)),
                clock,
                limits: WireLimits {
                    connections_max: limits.connections_max,
                    receive_bytes_max: limits.frame_bytes_max,
                    send_bytes_max: limits.send_bytes_max,
                },
                uring: UringOptions::default(),
            };
            let engine = plan.engine;
            let bell = waker.clone();
            let make = move || {
                let mut engine = engine::new_engine(engine).map_err(|error| std::io::Error::other(error.to_string()))?;
                engine.wake_with(Arc::new(move || bell.wake()));
                Ok(Shard::new(ShardParts {
                    engine,
                    sockets: sockets_end,
                    news: news_end,
                    cells,
                    clock,
                    limits,
                    server_name: concat!("gavel ", env!("CARGO_PKG_VERSION")).into(),
                }))
            };
            let thread = runtime::spawn(plan.io, options, waker, make, sender.clone()).map_err(system)?;
            shards.push(ShardHandle { thread: Some(thread), news });
        }
        drop(sender);
        let entrance = Some(Entrance { listeners, intakes, cpus: plan.placement.control.clone() });
        let (engine, prepare, config) = (plan.engine, plan.prepare.clone(), config.clone());
        let mut server = Server { addresses, entrance, acceptor: None, shards, reports, registry, engine, prepare, config };
        server.await_shards()?;
        Ok(server)
    }

    /// Lets connections in, those first that have waited since [`Server::start`]. Once models are published, so that no client is told of an unknown
    /// one; a second call does nothing.
    pub fn accept(&mut self) -> Result<(), StartError> {
        let Some(Entrance { listeners, intakes, cpus }) = self.entrance.take() else { return Ok(()) };
        let acceptor = Acceptor::start(listeners, intakes, self.config.limits.connections_per_shard, &cpus)
            .map_err(|source| StartError::System { what: "the acceptor".into(), source })?;
        self.acceptor = Some(acceptor);
        Ok(())
    }

    /// Where it listens; port 0 has become a real one.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Prepares a model, replays its selftest, and returns when every shard serves it.
    pub fn publish(&mut self, model: &Arc<Model>) -> Result<Arc<Published>, PublishError> {
        self.distribute(self.preparation().run(model)?, &mut || false)
    }

    /// The part of [`Server::publish`] that takes long and needs no shard, for another thread.
    pub fn preparation(&self) -> Preparation {
        Preparation {
            engine: self.engine,
            options: self.prepare.clone(),
            limits: self.config.limits.clone(),
            registry: Arc::clone(&self.registry),
        }
    }

    /// Returns when every shard serves a prepared model, when a shard fails, or soon after `stopped` says so.
    pub fn distribute(&mut self, published: Published, stopped: &mut dyn FnMut() -> bool) -> Result<Arc<Published>, PublishError> {
        let published = Arc::new(published);
        let rollout = Arc::new(Rollout::default());
        let (name, version) = (&published.name, published.version);
        let failed = |reason: &str| PublishError::Shard { model: name.clone(), version, reason: reason.into() };
        let given_up = |failure: Option<String>, stopped: bool| match failure {
            Some(reason) => Err(failed(&reason)),
            None if stopped => Err(PublishError::Stopped { model: name.clone(), version }),
            None => Ok(()),
        };
        for shard in &mut self.shards {
            let mut letter = News::Publish(Arc::clone(&published), Arc::clone(&rollout));
            loop {
                match shard.news.send(letter) {
                    Ok(()) => break,
                    Err((Undelivered::Gone, _)) => return Err(failed("its thread is gone")),
                    Err((Undelivered::Full, back)) => letter = back,
                }
                given_up(failure(&self.reports), stopped())?;
                std::thread::sleep(POLL);
            }
        }
        while rollout.done() < self.shards.len() {
            if let Some(reason) = rollout.failed() {
                return Err(failed(reason));
            }
            given_up(failure(&self.reports), stopped())?;
            std::thread::sleep(POLL);
        }
        Ok(published)
    }

    /// The reason of a shard that has died, or of a GPU that is lost, if one is. Such a server cannot go on.
    pub fn failure(&self) -> Option<String> {
        failure(&self.reports).or_else(|| self.device_fault().map(str::to_owned))
    }

    /// Why the GPU is lost, if it is: that was logged when it happened.
    pub fn device_fault(&self) -> Option<&str> {
        self.prepare.device.as_ref().and_then(|device| device.fault())
    }

    /// Stops accepting, tells clients, finishes what is in flight, waits for the shards. Bounded by the configured drain time, plus a moment for
    /// threads to end. False: a shard did not end well or in time.
    pub fn drain(mut self) -> bool {
        drop(self.entrance.take());
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        let limit = Duration::from_millis(u64::from(self.config.timeouts.drain_ms));
        let until = SystemInstant::now() + limit + THREAD_END;
        for shard in &mut self.shards {
            let mut letter = News::Drain(limit.into());
            // A shard that hangs reads no letters: it is left behind below.
            while let Err((Undelivered::Full, back)) = shard.news.send(letter) {
                letter = back;
                if SystemInstant::now() >= until {
                    break;
                }
                std::thread::sleep(POLL);
            }
        }
        let mut well = true;
        let mut left = self.shards.len();
        while left > 0 {
            match self.reports.recv_timeout(until.saturating_duration_since(SystemInstant::now())) {
                Ok(ShardReport { state: ShardState::Started, .. }) => {}
                Ok(ShardReport { state: ShardState::Stopped, .. }) => left -= 1,
                Ok(ShardReport { state: ShardState::Failed(reason), .. }) => {
                    tracing::error!(reason, "a shard failed while draining");
                    well = false;
                    left -= 1;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::error!(shards = left, "shards did not end in time");
                    return false;
                }
            }
        }
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take() {
                well &= thread.join().is_ok();
            }
        }
        well
    }

    fn await_shards(&mut self) -> Result<(), StartError> {
        let mut waiting = self.shards.len();
        while waiting > 0 {
            match self.reports.recv_timeout(START_PATIENCE) {
                Ok(ShardReport { state: ShardState::Started, .. }) => waiting -= 1,
                Ok(ShardReport { state: ShardState::Failed(reason), .. }) => return Err(StartError::Shard(reason)),
                Ok(ShardReport { shard, state: ShardState::Stopped }) => {
                    return Err(StartError::Shard(format!("shard {shard} ended at once")));
                }
                Err(_) => return Err(StartError::Shard(format!("{waiting} shards gave no sign of life for {START_PATIENCE:?}"))),
            }
        }
        Ok(())
    }
}

/// The reason of the first shard that reports its death.
fn failure(reports: &mpsc::Receiver<ShardReport>) -> Option<String> {
    reports.try_iter().find_map(|report| match report.state {
        ShardState::Failed(reason) => Some(reason),
        ShardState::Started | ShardState::Stopped => None,
    })
}

/// Between two looks at a latch or mailbox on the control path.
const POLL: Duration = Duration::from_micros(200);
/// What a shard may take to end after its drain is over.
const THREAD_END: Duration = Duration::from_secs(5);

fn shard_limits(config: &Config) -> ShardLimits {
    let ms = |ms: u32| Span::from_ms(u64::from(ms));
    ShardLimits {
        connections_max: config.limits.connections_per_shard,
        connection_in_flight_max: config.limits.in_flight_per_connection,
        in_flight_max: config.limits.in_flight_per_shard,
        frame_bytes_max: config.limits.frame_bytes,
        send_bytes_max: config.limits.send_bytes,
        timeouts: Timeouts {
            hello: ms(config.timeouts.hello_ms),
            idle: ms(config.timeouts.idle_ms),
            receive: ms(config.timeouts.receive_ms),
            send: ms(config.timeouts.send_ms),
        },
    }
}
