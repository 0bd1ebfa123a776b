//! Sends requests, many at once, and puts the scores where they belong.
//!
//! A request that is refused because of a row, or is too large, is sent again in halves until the row stands alone: one unknown id costs one
//! row its scores, not its neighbours. What the server refuses because of its present load is sent again a little later.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gavel_client::{BuildError, Call, Client, Code, DescribedFeature, Error, FeatureKind, Layout, RequestBuilder, Row, Scope, Scores};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::columns::{Column, Inputs, MISSING, Request};
use super::outputs::{Outputs, Refused};
use crate::cli::exit::Failure;

/// Shared by all workers.
pub struct Sender {
    client: Client,
    layout: Arc<Layout>,
    inputs: Inputs,
    budget: Option<Duration>,
    /// Requests to send, the next one last.
    work: Mutex<Vec<Request>>,
}

/// What became of a request.
enum Done {
    Scored {
        rows: Range<usize>,
        scores: Vec<f32>,
        status: Vec<u8>,
    },
    Refused(Refused),
    /// The server is gone, or does not speak our protocol: no point in going on.
    Broken(Error),
}

impl Sender {
    pub fn new(client: Client, layout: Arc<Layout>, inputs: Inputs, budget: Option<Duration>) -> Sender {
        Sender { client, layout, inputs, budget, work: Mutex::new(Vec::new()) }
    }

    /// Sends all requests, so many at once; `advance` is told the rows that are done with.
    pub async fn send_all(
        self,
        mut requests: Vec<Request>,
        workers: usize,
        outputs: &mut Outputs,
        advance: &mut impl FnMut(usize),
    ) -> Result<(), Failure> {
        requests.reverse();
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = requests;
        let sender = Arc::new(self);
        let (results, mut received) = mpsc::channel(workers.max(1));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(Arc::clone(&sender).work(results.clone()));
        }
        drop(results);
        while let Some(done) = received.recv().await {
            match done {
                Done::Scored { rows, scores, status } => {
                    outputs.fill(rows.start, &scores, status);
                    advance(rows.len());
                }
                Done::Refused(refused) => {
                    advance(refused.rows);
                    outputs.refuse(refused);
                }
                Done::Broken(error) => return Err(Failure::new(error)),
            }
        }
        while let Some(joined) = tasks.join_next().await {
            joined.map_err(|error| Failure::new(format!("a worker ended early: {error}")))?;
        }
        Ok(())
    }

    /// One worker: request after request, until there is none.
    async fn work(self: Arc<Self>, results: mpsc::Sender<Done>) {
        let mut builder = RequestBuilder::new(&self.layout);
        let mut scores = Scores::default();
        while let Some(request) = self.next() {
            let done = match self.rank(&mut builder, &request, &mut scores).await {
                Ok(()) => Done::Scored {
                    status: (0..request.rows.len()).map(|row| scores.status(row) | scores.context_status).collect(),
                    scores: scores.scores().to_vec(),
                    rows: request.rows,
                },
                Err(error) if request.rows.len() > 1 && is_of_a_row(&error) => {
                    self.split(request);
                    continue;
                }
                Err(error) => refused(request, error),
            };
            if results.send(done).await.is_err() {
                return;
            }
        }
    }

    async fn rank(&self, builder: &mut RequestBuilder, request: &Request, scores: &mut Scores) -> Result<(), Error> {
        self.build(builder, request)?;
        let ready = builder.finish()?;
        let call = Call { budget: self.budget, ..Call::default() };
        let mut wait = Duration::from_millis(2);
        for _ in 0..TRIES {
            match self.client.rank_into(&ready, &call, scores).await {
                Err(Error::Refused { code: Code::Overloaded | Code::InFlightLimit, retry_after, .. }) => {
                    tokio::time::sleep(retry_after.unwrap_or(wait).min(WAIT_MAX)).await;
                    wait *= 2;
                }
                answered => return answered,
            }
        }
        self.client.rank_into(&ready, &call, scores).await
    }

    fn build(&self, builder: &mut RequestBuilder, request: &Request) -> Result<(), BuildError> {
        builder.clear();
        let features = &self.layout.description().features;
        let columns = || features.iter().zip(&self.inputs.columns);
        let mut context = builder.context();
        for (feature, column) in columns().filter(|(feature, _)| feature.scope == Scope::Context) {
            put(&mut context, feature, column, request.context)?;
        }
        for row in request.rows.clone() {
            let mut candidate = builder.add_candidate()?;
            for (feature, column) in columns().filter(|(feature, _)| feature.scope == Scope::Candidate) {
                put(&mut candidate, feature, column, row)?;
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<Request> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn split(&self, request: Request) {
        let middle = request.rows.start + request.rows.len() / 2;
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.push(Request { context: request.context, rows: middle..request.rows.end });
        work.push(Request { context: request.context, rows: request.rows.start..middle });
    }
}

/// Puts one feature of a row into a request.
fn put(into: &mut Row<'_>, feature: &DescribedFeature, column: &Column, row: usize) -> Result<(), BuildError> {
    let name = feature.name.as_str();
    match column {
        Column::Dense { width, values } => {
            into.dense_values(name, values.get(row * width..(row + 1) * width).unwrap_or_default())?;
        }
        Column::Ids { ids, weights, .. } => {
            let range = column.range(row);
            let ids = ids.get(range.clone()).unwrap_or_default();
            match feature.kind {
                FeatureKind::Integer => {
                    into.integers(name, bytemuck::cast_slice(ids))?;
                }
                _ if feature.is_weighted() => {
                    into.weighted_ids(name, ids, weights.get(range).unwrap_or_default())?;
                }
                _ => {
                    into.ids(name, ids)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether one row may be at fault, so that the others deserve an answer of their own.
fn is_of_a_row(error: &Error) -> bool {
    match error {
        Error::Build(_) | Error::TooLarge { .. } => true,
        Error::Refused { code, .. } => matches!(
            code,
            Code::CandidatesInvalid | Code::LengthTooLarge | Code::IdOutOfRange | Code::IdMissing | Code::ValueNan | Code::BlockSize
        ),
        _ => false,
    }
}

fn refused(request: Request, error: Error) -> Done {
    let code = match &error {
        Error::Refused { code, .. } => Some(code.name()),
        Error::Deadline => Some(Code::DeadlineExceeded.name()),
        Error::Build(BuildError::IdOutOfRange { .. }) => Some(Code::IdOutOfRange.name()),
        Error::Build(BuildError::MissingRefused { .. }) => Some(Code::IdMissing.name()),
        Error::Build(BuildError::NanRefused { .. }) => Some(Code::ValueNan.name()),
        Error::Build(BuildError::Length { .. } | BuildError::IdsTooMany { .. }) => Some(Code::LengthTooLarge.name()),
        Error::Build(_) | Error::RefusedUnknown { .. } | Error::TooLarge { .. } => None,
        _ => return Done::Broken(error),
    };
    Done::Refused(Refused { row: request.rows.start, rows: request.rows.len(), code, message: error.to_string() })
}

/// Tries of a request that meets a full server; with doubled waits, about two seconds.
const TRIES: usize = 10;
const WAIT_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(MISSING == gavel_client::MISSING);
