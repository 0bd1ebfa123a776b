//! A pool of blocking connections for many threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gavel_protocol::Code;

use super::connection::Connection;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::layout::Layout;
use crate::options::{Call, Options};
use crate::request::Request;
use crate::scores::Scores;

/// How often a request is sent to another connection because its server was going away or had closed an idle connection.
const MOVES_MAX: usize = 3;

/// A pool of connections: each call takes one for itself, so as many calls run at once as there are connections
/// (`options.connections` per address); further ones wait. For many requests in flight per connection see [`Connection`].
#[derive(Debug)]
pub struct Client {
    addresses: Vec<Address>,
    options: Options,
    pool: Mutex<Pool>,
    freed: Condvar,
    layouts: Mutex<HashMap<String, Arc<Layout>>>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<(usize, Connection)>,
    /// Connections per address, idle or in use.
    open: Vec<usize>,
    hosts: Vec<Host>,
}

/// When an address may be tried again.
#[derive(Debug)]
struct Host {
    backoff: Backoff,
    not_before: Option<Instant>,
    last: Option<Error>,
}

/// A connection on loan; given back when dropped, unless it is of no further use.
struct Loan<'c> {
    client: &'c Client,
    host: usize,
    connection: Option<Connection>,
    /// It served a call before.
    used: bool,
}

impl Client {
    /// A client of servers that hold the same models. Connects to one of them at once, so that a wrong address is found early; to others when needed.
    pub fn connect(addresses: &[Address], options: Options) -> Result<Client, Error> {
        if addresses.is_empty() {
            return Err(Error::Unavailable { addresses: String::new(), last: "no address was given".to_owned() });
        }
        let hosts = addresses
            .iter()
            .map(|_| Host { backoff: Backoff::new(options.backoff_min, options.backoff_max), not_before: None, last: None })
            .collect();
        let client = Client {
            addresses: addresses.to_vec(),
            pool: Mutex::new(Pool { idle: Vec::new(), open: vec![0; addresses.len()], hosts }),
            freed: Condvar::new(),
            layouts: Mutex::new(HashMap::new()),
            next: AtomicUsize::new(0),
            options,
        };
        drop(client.loan(Some(Instant::now() + client.options.connect_timeout))?);
        Ok(client)
    }

    /// The layout of a public name: from the server the first time, then from memory until [`Client::describe_again`].
    pub fn describe(&self, model: &str) -> Result<Arc<Layout>, Error> {
        if let Some(layout) = lock(&self.layouts).get(model) {
            return Ok(Arc::clone(layout));
        }
        self.describe_again(model)
    }

    /// The layout of a public name as the server has it now: after [`Error::is_layout_unknown`].
    pub fn describe_again(&self, model: &str) -> Result<Arc<Layout>, Error> {
        let end = Some(Instant::now() + self.options.connect_timeout);
        let layout = self.with_connection(end, |connection| connection.describe(model, end))?;
        lock(&self.layouts).insert(model.to_owned(), Arc::clone(&layout));
        Ok(layout)
    }

    /// One request and its scores.
    pub fn rank(&self, request: &Request<'_>, call: &Call) -> Result<Scores, Error> {
        let mut scores = Scores::default();
        self.rank_into(request, call, &mut scores)?;
        Ok(scores)
    }

    /// One request, into scores that are used again.
    pub fn rank_into(&self, request: &Request<'_>, call: &Call, scores: &mut Scores) -> Result<(), Error> {
        let end = call.end(Instant::now());
        let call = Call { deadline: end, budget: None, ..*call };
        self.with_connection(end, |connection| connection.rank(request, &call, scores)).inspect_err(|error| {
            if error.is_layout_unknown() {
                lock(&self.layouts).retain(|_, layout| layout.signature() != request.signature());
            }
        })
    }

    fn with_connection<T>(&self, end: Option<Instant>, mut work: impl FnMut(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut moves = 0;
        loop {
            let mut loan = self.loan(end)?;
            let Some(connection) = loan.connection.as_mut() else { continue };
            let result = work(connection);
            let draining = result.as_ref().err().and_then(Error::code) == Some(Code::Draining);
            let keep = connection.has_room() && !draining;
            let moved_on = match &result {
                Err(_) if draining => true,
                // The server had closed the idle connection; the request was never seen, or its answer is lost: asking again does no harm.
                Err(Error::Closed { .. } | Error::Io { .. }) => loan.used,
                _ => false,
            };
            loan.used = true;
            if !keep {
                loan.discard();
            }
            if !moved_on || moves == MOVES_MAX {
                return result;
            }
            moves += 1;
        }
    }

    /// An idle connection, or a new one where there may be one more, or waits.
    fn loan(&self, end: Option<Instant>) -> Result<Loan<'_>, Error> {
        let end = end.unwrap_or_else(|| Instant::now() + self.options.connect_timeout);
        let mut pool = lock(&self.pool);
        loop {
            if let Some((host, connection)) = pool.idle.pop() {
                return Ok(Loan { client: self, host, connection: Some(connection), used: true });
            }
            let now = Instant::now();
            if now >= end {
                return Err(self.unavailable(&pool));
            }
            if let Some(host) = self.next_host(&pool, now) {
                pool.open[host] += 1;
                drop(pool);
                let attempt = Connection::connect(&self.addresses[host], &self.options);
                pool = lock(&self.pool);
                let state = &mut pool.hosts[host];
                match attempt {
                    Ok(connection) => {
                        state.backoff.reset();
                        state.not_before = None;
                        return Ok(Loan { client: self, host, connection: Some(connection), used: false });
                    }
                    Err(error) => {
                        state.not_before = Some(Instant::now() + state.backoff.wait());
                        state.last = Some(error);
                        pool.open[host] -= 1;
                        continue;
                    }
                }
            }
            let retry = pool.hosts.iter().filter_map(|host| host.not_before).filter(|at| *at > now).min();
            let wait = retry.map_or(end, |retry| retry.min(end)).saturating_duration_since(now);
            pool = self.freed.wait_timeout(pool, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The address with the fewest connections that may be tried now; equal ones in turn.
    fn next_host(&self, pool: &Pool, now: Instant) -> Option<usize> {
        let hosts = self.addresses.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..hosts)
            .map(|step| (first + step) % hosts)
            .filter(|host| pool.open[*host] < self.options.connections.max(1))
            .filter(|host| pool.hosts[*host].not_before.is_none_or(|at| at <= now))
            .min_by_key(|host| pool.open[*host])
    }

    fn unavailable(&self, pool: &Pool) -> Error {
        let last = pool.hosts.iter().find_map(|host| host.last.as_ref());
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        Error::Unavailable {
            addresses: addresses.join(", "),
            last: last.map_or_else(|| "all connections were busy".to_owned(), Error::to_string),
        }
    }
}

impl Loan<'_> {
    /// The connection is of no further use.
    fn discard(&mut self) {
        self.connection = None;
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut pool = lock(&self.client.pool);
        match self.connection.take() {
            Some(connection) => pool.idle.push((self.host, connection)),
            None => pool.open[self.host] -= 1,
        }
        drop(pool);
        self.client.freed.notify_one();
    }
}

/// What the mutexes guard is whole between any two statements that can panic, so a poisoned one is fine.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
