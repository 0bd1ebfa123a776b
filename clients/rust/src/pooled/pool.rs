//! The connections of an async client, and the tasks that keep them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::link::{End, Link};
use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::options::Options;

/// One entry per connection that there should be: `options.connections` per address.
#[derive(Debug)]
pub(crate) struct Pool {
    addresses: Vec<Address>,
    entries: RwLock<Vec<Option<Arc<Link>>>>,
    /// The last failure to connect or of a connection.
    last: RwLock<Option<Error>>,
    /// A link came, or a request was answered.
    changed: Notify,
    /// Calls that wait for a link.
    waiting: AtomicUsize,
    next: AtomicUsize,
}

impl Pool {
    /// Starts the tasks on the present runtime; they end when the returned set is dropped.
    pub fn start(addresses: &[Address], options: &Arc<Options>) -> (Arc<Pool>, JoinSet<()>) {
        let per_address = options.connections.max(1);
        let pool = Arc::new(Pool {
            addresses: addresses.to_vec(),
            entries: RwLock::new(vec![None; addresses.len() * per_address]),
            last: RwLock::new(None),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        // Neighbouring entries are of different addresses: the first few requests already spread.
        for entry in 0..addresses.len() * per_address {
            tasks.spawn(keep(Arc::clone(&pool), entry, Arc::clone(options)));
        }
        (pool, tasks)
    }

    /// The least loaded link with room; waits for one. Never returns if none ever comes: the caller bounds it.
    pub async fn pick(&self) -> Arc<Link> {
        if let Some(link) = self.least_loaded() {
            return link;
        }
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(link) = self.least_loaded() {
                return link;
            }
            changed.await;
        }
    }

    /// Whether a server is connected, busy or not.
    pub fn has_link(&self) -> bool {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).iter().any(Option::is_some)
    }

    /// Why there is no link.
    pub fn unavailable(&self) -> Error {
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        Error::Unavailable {
            addresses: addresses.join(", "),
            last: last.as_ref().map_or_else(|| "all connections were busy, or none answered in time".to_owned(), Error::to_string),
        }
    }

    fn least_loaded(&self) -> Option<Arc<Link>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = entries.len();
        // Equal ones in turn.
        let links = (0..count).filter_map(|step| entries[(first.wrapping_add(step)) % count].as_ref());
        let best = links.clone().min_by_key(|link| link.load())?;
        if best.session().has_room() {
            return Some(Arc::clone(best));
        }
        links.filter(|link| link.session().has_room()).min_by_key(|link| link.load()).map(Arc::clone)
    }

    fn set(&self, entry: usize, link: Option<Arc<Link>>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)[entry] = link;
        self.changed.notify_waiters();
    }

    fn remember(&self, error: Option<Error>) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    fn freed(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }
}

/// Counts a call that waits, also when its future is dropped.
struct Waiting<'p>(&'p AtomicUsize);

impl<'p> Waiting<'p> {
    fn new(count: &'p AtomicUsize) -> Waiting<'p> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Fails the calls of a link whose task ends for whatever reason, the client's end included.
struct Guard(Arc<Link>);

impl Drop for Guard {
    fn drop(&mut self) {
        let address = Arc::clone(self.0.session().address());
        self.0.lose(Error::Closed { address });
    }
}

/// Keeps one connection: connects, moves its bytes, connects again.
async fn keep(pool: Arc<Pool>, entry: usize, options: Arc<Options>) {
    let address = pool.addresses[entry % pool.addresses.len()].clone();
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    // Connections whose server is going away, until they have their last answers.
    let mut leaving = JoinSet::new();
    loop {
        while leaving.try_join_next().is_some() {}
        match Link::connect(&address, &options).await {
            Ok((link, mut buffer)) => {
                let guard = Guard(Arc::clone(&link));
                let began = Instant::now();
                pool.remember(None);
                pool.set(entry, Some(Arc::clone(&link)));
                let end = link.run(&mut buffer, &|| pool.freed()).await;
                pool.set(entry, None);
                match end {
                    End::Draining => {
                        leaving.spawn(async move {
                            let _guard = guard;
                            link.run(&mut buffer, &|| {}).await;
                        });
                    }
                    End::Lost(error) => pool.remember(Some(error)),
                }
                // A connection that served for a while starts the waits anew; a server that ends it right after its hello is not hammered.
                if began.elapsed() >= options.backoff_max {
                    backoff.reset();
                }
            }
            Err(error) => pool.remember(Some(error)),
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}
