//! The async client.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use gavel_protocol::Code;
use tokio::task::JoinSet;

use super::link::Link;
use super::pool::Pool;
use crate::address::Address;
use crate::error::Error;
use crate::layout::Layout;
use crate::options::{Call, Options, budget_us};
use crate::request::Request;
use crate::scores::Scores;
use crate::session::{Outcome, Session};

/// How often a request is sent on another connection because its server was going away.
const MOVES_MAX: usize = 3;

/// An async client of servers that hold the same models. Cheap to clone; clones share connections. Any number of calls may be under way at once: they are
/// pipelined on the least loaded connection. Dropping a call's future cancels its request.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    options: Arc<Options>,
    layouts: Mutex<HashMap<String, Arc<Layout>>>,
    /// Dropped with the last clone: ends the connections.
    _tasks: JoinSet<()>,
}

impl Client {
    /// Connects; returns when the first connection is ready, or with [`Error::Unavailable`] after `options.connect_timeout`.
    pub async fn connect(addresses: &[Address], options: Options) -> Result<Client, Error> {
        if addresses.is_empty() {
            return Err(Error::Unavailable { addresses: String::new(), last: "no address was given".to_owned() });
        }
        let options = Arc::new(options);
        let (pool, tasks) = Pool::start(addresses, &options);
        let client = Client { inner: Arc::new(Inner { pool, options, layouts: Mutex::new(HashMap::new()), _tasks: tasks }) };
        client.link(None).await?;
        Ok(client)
    }

    /// The layout of a public name: from the server the first time, then from memory until [`Client::describe_again`].
    pub async fn describe(&self, model: &str) -> Result<Arc<Layout>, Error> {
        let known = self.layouts(|layouts| layouts.get(model).cloned());
        match known {
            Some(layout) => Ok(layout),
            None => self.describe_again(model).await,
        }
    }

    /// The layout of a public name as the server has it now: after [`Error::is_layout_unknown`].
    pub async fn describe_again(&self, model: &str) -> Result<Arc<Layout>, Error> {
        let ask = async {
            let mut moves = 0;
            loop {
                let link = self.link(None).await?;
                let pending = match Pending::submit(Arc::clone(&link), |session| session.describe(model)) {
                    Err(error) if is_taken(&error) => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    submitted => submitted?,
                };
                match pending.outcome(&mut Scores::default()).await {
                    Outcome::Description(description) => return Ok(Layout::new(*description)),
                    Outcome::Failed(error) if error.code() == Some(Code::Draining) && moves < MOVES_MAX => moves += 1,
                    Outcome::Failed(error) => return Err(error),
                    Outcome::Scores | Outcome::Pong => {
                        return Err(Error::protocol(link.session().address(), "it answered a describe with something else"));
                    }
                }
            }
        };
        let layout = tokio::time::timeout(self.inner.options.connect_timeout, ask).await.map_err(|_| Error::Deadline)??;
        self.layouts(|layouts| layouts.insert(model.to_owned(), Arc::clone(&layout)));
        Ok(layout)
    }

    /// One request and its scores.
    pub async fn rank(&self, request: &Request<'_>, call: &Call) -> Result<Scores, Error> {
        let mut scores = Scores::default();
        self.rank_into(request, call, &mut scores).await?;
        Ok(scores)
    }

    /// One request, into scores that are used again. Without a deadline it waits as long as the connection lives.
    pub async fn rank_into(&self, request: &Request<'_>, call: &Call, scores: &mut Scores) -> Result<(), Error> {
        let end = call.end(Instant::now());
        let work = async {
            let mut moves = 0;
            loop {
                let pending = self.submit(request, end, call.priority).await?;
                match pending.outcome(scores).await {
                    Outcome::Failed(error) if error.code() == Some(Code::Draining) && moves < MOVES_MAX => moves += 1,
                    Outcome::Failed(error) => {
                        self.forget_unknown(&error, request.signature());
                        return Err(error);
                    }
                    Outcome::Scores | Outcome::Description(_) | Outcome::Pong => return Ok(()),
                }
            }
        };
        match end {
            None => work.await,
            Some(end) => tokio::time::timeout_at(end.into(), work).await.unwrap_or(Err(Error::Deadline)),
        }
    }

    /// Sends a request without waiting for its scores: for callers that send at given moments. The future that is returned borrows nothing; it knows no
    /// deadline of its own (the server does), and a request that is refused because its server goes away is not moved.
    pub async fn send(&self, request: &Request<'_>, call: &Call) -> Result<Pending, Error> {
        self.submit(request, call.end(Instant::now()), call.priority).await
    }

    async fn submit(&self, request: &Request<'_>, end: Option<Instant>, priority: u8) -> Result<Pending, Error> {
        loop {
            let link = self.link(end).await?;
            let submitted = Pending::submit(link, |session| {
                let budget_us = budget_us(end, Instant::now()).ok_or(Error::Deadline)?;
                session.rank(request, budget_us, priority)
            });
            match submitted {
                // The connection ended, or another call took its last room, since it was picked.
                Err(error) if is_taken(&error) => tokio::task::yield_now().await,
                submitted => return submitted,
            }
        }
    }

    async fn link(&self, end: Option<Instant>) -> Result<Arc<Link>, Error> {
        let pool = &self.inner.pool;
        match end {
            Some(end) => tokio::time::timeout_at(end.into(), pool.pick())
                .await
                .map_err(|_| if pool.has_link() { Error::Deadline } else { pool.unavailable() }),
            None => tokio::time::timeout(self.inner.options.connect_timeout, pool.pick()).await.map_err(|_| pool.unavailable()),
        }
    }

    fn forget_unknown(&self, error: &Error, signature: u64) {
        if error.is_layout_unknown() {
            self.layouts(|layouts| layouts.retain(|_, layout| layout.signature() != signature));
        }
    }

    fn layouts<T>(&self, work: impl FnOnce(&mut HashMap<String, Arc<Layout>>) -> T) -> T {
        work(&mut self.inner.layouts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The connection cannot take a request just now; another may.
fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Saturated { .. } | Error::Closed { .. } | Error::Io { .. })
}

/// A request under way. Resolves to its scores; dropped, it cancels the request.
#[derive(Debug)]
#[must_use = "dropping it cancels the request"]
pub struct Pending {
    link: Arc<Link>,
    id: u64,
    scores: Scores,
    done: bool,
}

impl Pending {
    fn submit(link: Arc<Link>, queue: impl FnOnce(&mut Session) -> Result<u64, Error>) -> Result<Pending, Error> {
        let id = {
            let mut session = link.session();
            let id = queue(&mut session)?;
            link.submitted(&mut session);
            id
        };
        Ok(Pending { link, id, scores: Scores::default(), done: false })
    }

    /// Waits, and exchanges `scores` for the answer's.
    async fn outcome(mut self, scores: &mut Scores) -> Outcome {
        std::future::poll_fn(|context| self.poll_outcome(scores, context)).await
    }

    fn poll_outcome(&mut self, scores: &mut Scores, context: &mut Context<'_>) -> Poll<Outcome> {
        let polled = self.link.session().poll(self.id, scores, Some(context.waker()));
        self.done |= polled.is_ready();
        polled
    }
}

impl Future for Pending {
    type Output = Result<Scores, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Scores, Error>> {
        let mut scores = std::mem::take(&mut self.scores);
        match self.poll_outcome(&mut scores, context) {
            Poll::Pending => {
                self.scores = scores;
                Poll::Pending
            }
            Poll::Ready(Outcome::Failed(error)) => Poll::Ready(Err(error)),
            Poll::Ready(_) => Poll::Ready(Ok(scores)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut session = self.link.session();
        if session.abandon(self.id) {
            self.link.submitted(&mut session);
        }
    }
}
