//! The demo's client: a few threads, each with one pipelined connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gavel_client::blocking::Connection;
use gavel_client::{Address, BuildError, Call, FeatureHandle, Layout, Options, RankBody, Request, RequestBuilder, Scores};
use hdrhistogram::Histogram;

use super::impressions::{Impression, Item, Log};
use super::report::Place;
use crate::cli::exit::Failure;
use crate::model::Model;

/// Requests that each connection has unanswered.
pub const IN_FLIGHT: usize = 8;

/// What all impressions gave.
pub struct Outcome {
    /// Requests answered with scores.
    pub requests: u64,
    /// Candidates scored.
    pub candidates: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Request queued to answer read.
    pub latency_ns: Histogram<u64>,
    /// The clicked ones, in the log's order.
    pub clicked: Vec<Ranked>,
    /// Connections used.
    pub connections: usize,
}

/// An impression whose item was clicked.
pub struct Ranked {
    /// Its index in the log.
    pub impression: usize,
    /// Where the clicked item came.
    pub place: Place,
    /// The clicked item's score.
    pub score: f32,
    /// The best items and their scores.
    pub best: Vec<(u32, f32)>,
}

/// Feature handles of the model, looked up once.
struct Features {
    context: Vec<FeatureHandle>,
    affinity_total: FeatureHandle,
    item: Vec<FeatureHandle>,
    item_feature_0: FeatureHandle,
    affinity_shown: FeatureHandle,
}

impl Features {
    fn find(layout: &Layout, impression: &Impression, item: &Item) -> Result<Features, BuildError> {
        let handles = |names: &[(&str, u32)]| names.iter().map(|(name, _)| layout.feature(name)).collect::<Result<Vec<_>, _>>();
        Ok(Features {
            context: handles(&impression.context.ids)?,
            affinity_total: layout.feature("affinity_total")?,
            item: handles(&item.ids)?,
            item_feature_0: layout.feature("item_feature_0")?,
            affinity_shown: layout.feature("affinity_shown")?,
        })
    }

    /// One impression as a request: the user once, every item of its catalogue.
    fn write(&self, builder: &mut RequestBuilder, impression: &Impression, catalog: &[Item]) -> Result<(), BuildError> {
        builder.clear();
        let mut row = builder.context();
        for (handle, (_, id)) in self.context.iter().zip(impression.context.ids) {
            row.id(*handle, u64::from(id))?;
        }
        row.dense(self.affinity_total, impression.context.affinity_total)?;
        for item in catalog {
            let mut row = builder.add_candidate()?;
            for (handle, (_, id)) in self.item.iter().zip(item.ids) {
                row.id(*handle, u64::from(id))?;
            }
            row.dense(self.item_feature_0, item.item_feature_0)?.dense(self.affinity_shown, impression.affinity(item.number))?;
        }
        Ok(())
    }
}

/// The selftest's rows, one request each, through the socket: the largest difference from the recorded float64 outputs.
pub fn golden(connection: &mut Connection, layout: &Layout, model: &Model) -> Result<f64, Failure> {
    let (rows, expected) = (&model.selftest.inputs, &model.selftest.expected);
    let mut scores = Scores::default();
    let mut worst = 0f64;
    for row in 0..rows.rows() {
        let (context, candidate) = (rows.encode_context(row), rows.encode_candidates(&[row]));
        let body = RankBody {
            context_dense: &context.dense,
            context_ids: &context.ids,
            context_lengths: &context.lengths,
            context_weights: &context.weights,
            dense: &candidate.dense,
            ids: &candidate.ids,
            lengths: &candidate.lengths,
            weights: &candidate.weights,
            ..RankBody::default()
        };
        let request = Request::from_blocks(layout, 1, body).map_err(Failure::new)?;
        connection.rank(&request, &Call::default(), &mut scores).map_err(Failure::new)?;
        for (found, expected) in scores.row(0).iter().zip(expected) {
            worst = worst.max((f64::from(*found) - expected[row]).abs());
        }
    }
    Ok(worst)
}

/// Ranks every impression over `connections` connections, a thread each. `progress` is told how many are done.
pub fn run(
    address: &Address,
    layout: &Arc<Layout>,
    log: &Log,
    connections: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Outcome, Failure> {
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let began = Instant::now();
    let parts: Vec<Result<Part, Failure>> = std::thread::scope(|scope| {
        let work = || Worker::new(address, layout, log)?.run(&next, &done);
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            progress(done.load(Ordering::Relaxed));
            std::thread::sleep(Duration::from_millis(20));
        }
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(Failure::new("a client thread panicked")))).collect()
    });
    let elapsed = began.elapsed();
    progress(done.load(Ordering::Relaxed));
    let mut outcome = Outcome { requests: 0, candidates: 0, elapsed, latency_ns: histogram()?, clicked: Vec::new(), connections };
    for part in parts {
        let part = part?;
        outcome.requests += part.requests;
        outcome.candidates += part.candidates;
        outcome.latency_ns.add(&part.latency_ns).map_err(|error| Failure::new(format!("latencies cannot be merged: {error}")))?;
        outcome.clicked.extend(part.clicked);
    }
    outcome.clicked.sort_by_key(|ranked| ranked.impression);
    Ok(outcome)
}

/// What one connection gave.
struct Part {
    requests: u64,
    candidates: u64,
    latency_ns: Histogram<u64>,
    clicked: Vec<Ranked>,
}

struct Worker<'a> {
    log: &'a Log,
    connection: Connection,
    features: Features,
    builder: RequestBuilder,
    scores: Scores,
    /// By request id: which impression, and when it was queued.
    in_flight: HashMap<u64, (usize, Instant)>,
    part: Part,
}

impl<'a> Worker<'a> {
    fn new(address: &Address, layout: &Arc<Layout>, log: &'a Log) -> Result<Worker<'a>, Failure> {
        let item = log.catalogs.first().and_then(|catalog| catalog.first());
        let (Some(impression), Some(item)) = (log.impressions.first(), item) else {
            return Err(Failure::new("the log has no impressions"));
        };
        Ok(Worker {
            log,
            connection: Connection::connect(address, &Options::default()).map_err(Failure::new)?,
            features: Features::find(layout, impression, item).map_err(Failure::new)?,
            builder: RequestBuilder::new(layout),
            scores: Scores::default(),
            in_flight: HashMap::with_capacity(IN_FLIGHT),
            part: Part { requests: 0, candidates: 0, latency_ns: histogram()?, clicked: Vec::new() },
        })
    }

    /// Takes impressions until there are none left, and all their answers.
    fn run(mut self, next: &AtomicUsize, done: &AtomicU64) -> Result<Part, Failure> {
        loop {
            while self.in_flight.len() < IN_FLIGHT {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= self.log.impressions.len() {
                    break;
                }
                self.send(index)?;
            }
            if self.in_flight.is_empty() {
                return Ok(self.part);
            }
            self.receive()?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&mut self, index: usize) -> Result<(), Failure> {
        let impression = &self.log.impressions[index];
        self.features.write(&mut self.builder, impression, &self.log.catalogs[impression.catalog]).map_err(Failure::new)?;
        let request = self.builder.finish().map_err(Failure::new)?;
        let queued = Instant::now();
        let id = self.connection.send(&request, &Call::default()).map_err(Failure::new)?;
        self.in_flight.insert(id, (index, queued));
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let (id, answer) = self.connection.recv(&mut self.scores, None).map_err(Failure::new)?;
        let Some((index, queued)) = self.in_flight.remove(&id) else {
            return Err(Failure::new(format!("an answer to request {id}, which is not in flight")));
        };
        answer.map_err(|error| Failure::new(format!("impression {index}: {error}")))?;
        self.part.latency_ns.saturating_record(u64::try_from(queued.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let impression = &self.log.impressions[index];
        let catalog = &self.log.catalogs[impression.catalog];
        let scores = self.scores.scores();
        if scores.len() != catalog.len() {
            return Err(Failure::new(format!("impression {index}: {} scores for {} candidates", scores.len(), catalog.len())));
        }
        self.part.requests += 1;
        self.part.candidates += scores.len() as u64;
        let shown = catalog.iter().position(|item| item.number == impression.shown);
        if let (true, Some(shown)) = (impression.clicked, shown) {
            let mut order: Vec<usize> = (0..catalog.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            self.part.clicked.push(Ranked {
                impression: index,
                place: Place::new(scores, shown),
                score: scores[shown],
                best: order.iter().take(3).map(|item| (catalog[*item].number, scores[*item])).collect(),
            });
        }
        Ok(())
    }
}

/// Three digits, up to a minute.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(|error| Failure::new(format!("histogram: {error}")))
}
