//! From a [`Snapshot`] to Prometheus' text format.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::{Candidates, Counts, Nanoseconds, Scale};
use super::outcome::Outcome;
use super::process;
use super::registry::{ModelLabel, Registry, Snapshot};
use super::shard::Rule;

/// Sums the cells of all shards when asked. Series are made per scrape, none is kept.
pub struct CellCollector(Arc<Registry>);

impl CellCollector {
    /// A collector of these cells.
    pub fn new(registry: Arc<Registry>) -> CellCollector {
        CellCollector(registry)
    }
}

impl Collector for CellCollector {
    fn desc(&self) -> Vec<&Desc> {
        // The families are consistent by construction: there is one collector, and a golden file names them.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = families(&self.0.snapshot());
        families.extend(process::families());
        families
    }
}

/// Everything in Prometheus' text format (version 0.0.4).
pub fn encode(registry: &prometheus::Registry) -> prometheus::Result<String> {
    prometheus::TextEncoder::new().encode_to_string(&registry.gather())
}

/// Content type of [`encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every family. Those of models are absent while there is no model.
fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let models = &snapshot.models;
    let mut families = vec![
        counters(
            "requests_total",
            "Requests answered, by outcome: ok, or the name of an error code.",
            models.iter().flat_map(|(label, totals)| {
                Outcome::all().map(move |outcome| (model_labels(label, Some(("outcome", outcome.name()))), totals.outcome(outcome) as f64))
            }),
        ),
        counters(
            "candidates_total",
            "Candidates of requests that were answered with scores.",
            models.iter().map(|(label, totals)| (model_labels(label, None), totals.candidates as f64)),
        ),
        histograms::<Nanoseconds>(
            "request_duration_seconds",
            "From a request's header read to its answer queued, of requests answered with scores.",
            models.iter().map(|(label, totals)| (model_labels(label, None), &totals.latency)),
        ),
        histograms::<Candidates>(
            "batch_candidates",
            "Candidates in each batch that the engine ran.",
            models.iter().map(|(label, totals)| (model_labels(label, None), &totals.batch)),
        ),
        counters(
            "engine_seconds_total",
            "Time that shards spent computing.",
            models.iter().map(|(label, totals)| (model_labels(label, None), totals.engine_ns as f64 / 1e9)),
        ),
        counters(
            "rules_fired_total",
            "Values of requests that a rule of the model replaced, left out or handed on as NaN.",
            models.iter().flat_map(|(label, totals)| {
                Rule::ALL.into_iter().zip(&totals.rules).map(|(rule, &n)| (model_labels(label, Some(("rule", rule.name()))), n as f64))
            }),
        ),
        gauges(
            "model_info",
            "The model versions that are served; always 1.",
            models.iter().map(|(label, _)| {
                let mut labels = model_labels(label, None);
                labels.insert(0, pair("digest", &label.digest));
                labels.insert(2, pair("signature", &label.signature));
                (labels, 1.0)
            }),
        ),
        counters(
            "protocol_errors_total",
            "Errors answered before a model was known, by code.",
            gavel_protocol::Code::ALL
                .iter()
                .zip(snapshot.errors.iter().skip(1))
                .map(|(code, &n)| (vec![pair("code", code.name())], n as f64)),
        ),
        counters("connections_opened_total", "Connections taken in.", one(snapshot.connections_opened)),
        counters("received_bytes_total", "Bytes received from clients.", one(snapshot.received_bytes)),
        counters("sent_bytes_total", "Bytes sent to clients.", one(snapshot.sent_bytes)),
        gauges("in_flight_requests", "Requests admitted and not yet answered.", one(snapshot.in_flight)),
        gauges("queued_candidates", "Candidates admitted that no engine has begun.", one(snapshot.queued_candidates)),
        gauges("connections", "Open connections, by shard.", shards(snapshot, |shard| shard.connections as f64)),
        counters("shard_turns_total", "Turns of the shard's loop.", shards(snapshot, |shard| shard.turns as f64)),
        counters("shard_sleeps_total", "Times the shard slept because nothing was to do.", shards(snapshot, |shard| shard.sleeps as f64)),
        counters("shard_wakes_total", "Times another thread woke the shard.", shards(snapshot, |shard| shard.wakes as f64)),
        gauges(
            "shard_heartbeat_age_seconds",
            "Since the shard's last sign of life; /livez fails where it grows.",
            shards(snapshot, |shard| shard.beat_age.0 as f64 / 1e9),
        ),
        gauges(
            "io_backend_info",
            "What the sockets run on; always 1.",
            snapshot.io_backend.into_iter().map(|backend| (vec![pair("backend", backend)], 1.0)),
        ),
        gauges("build_info", "This binary; always 1.", [(vec![pair("version", env!("CARGO_PKG_VERSION"))], 1.0)].into_iter()),
    ];
    for &(name, help, value) in &snapshot.gauges {
        families.push(if name.ends_with("_total") { counters(name, help, one(value)) } else { gauges(name, help, one(value)) });
    }
    families
}

type Labels = Vec<LabelPair>;

fn counters(name: &str, help: &str, series: impl Iterator<Item = (Labels, f64)>) -> MetricFamily {
    let metrics = series.map(|(labels, value)| {
        let mut metric = Metric::from_label(labels);
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn gauges(name: &str, help: &str, series: impl Iterator<Item = (Labels, f64)>) -> MetricFamily {
    let metrics = series.map(|(labels, value)| {
        let mut metric = Metric::from_label(labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn histograms<'a, S: Scale>(name: &str, help: &str, series: impl Iterator<Item = (Labels, &'a Counts)>) -> MetricFamily {
    let metrics = series.map(|(labels, counts)| {
        let buckets = counts.buckets::<S>().into_iter().map(|(edge, cumulative)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(edge);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.count());
        histogram.set_sample_sum(counts.sum::<S>());
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(histogram);
        metric
    });
    family(name, help, MetricType::HISTOGRAM, metrics.collect())
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("gavel_{name}"));
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn model_labels(label: &ModelLabel, more: Option<(&str, &str)>) -> Labels {
    let mut labels = vec![pair("model", &label.model), pair("version", &label.version)];
    labels.extend(more.map(|(name, value)| pair(name, value)));
    labels
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

fn one(value: u64) -> impl Iterator<Item = (Labels, f64)> {
    [(Vec::new(), value as f64)].into_iter()
}

fn shards(snapshot: &Snapshot, read: impl Fn(&super::registry::ShardTotals) -> f64) -> impl Iterator<Item = (Labels, f64)> {
    snapshot.shards.iter().enumerate().map(move |(index, shard)| (vec![pair("shard", &index.to_string())], read(shard)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Clock;

    fn text() -> String {
        let cells = Registry::new(Clock::start(), 2);
        let shard = cells.add_shard();
        let model = cells.register("dlrm", 1, "sha256:00", 0x0123_4567_89ab_cdef).expect("a free slot");
        cells.set_io_backend("epoll");
        cells.add_source("log_lines_dropped_total", "Log lines dropped because the writer could not keep up.", || 2);
        shard.model(model).outcome(Outcome::OK).add(3);
        for ns in [60_000, 70_000, 90_000] {
            shard.model(model).latency.observe(ns);
        }
        shard.model(model).batch.observe(3);
        let registry = prometheus::Registry::new();
        registry.register(Box::new(CellCollector::new(cells))).expect("no clash");
        encode(&registry).expect("valid families")
    }

    /// Names, types and label names are what dashboards and alerts are written against: a change here is a change for every operator.
    #[test]
    fn names_are_pinned() {
        let text = text();
        let mut found = String::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            let sample = text.lines().find(|sample| sample.starts_with(name) && !sample.starts_with('#')).unwrap_or_default();
            let labels = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let labels: Vec<&str> = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name).collect();
            found.push_str(&format!("{line} {{{}}}\n", labels.join(",")));
        }
        let golden = include_str!("golden_names.txt");
        assert_eq!(found, golden, "metric names changed; if on purpose, write this to src/metrics/golden_names.txt:\n{found}");
    }

    #[test]
    fn every_name_is_documented() {
        let page = include_str!("../../docs/operations.md");
        for line in include_str!("golden_names.txt").lines() {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
        }
    }

    #[test]
    fn values_and_buckets_are_exact() {
        let text = text();
        for line in [
            r#"gavel_requests_total{model="dlrm",version="1",outcome="ok"} 3"#,
            r#"gavel_requests_total{model="dlrm",version="1",outcome="overloaded"} 0"#,
            r#"gavel_request_duration_seconds_bucket{model="dlrm",version="1",le="0.00005"} 0"#,
            r#"gavel_request_duration_seconds_bucket{model="dlrm",version="1",le="0.000075"} 2"#,
            r#"gavel_request_duration_seconds_bucket{model="dlrm",version="1",le="0.0001"} 3"#,
            r#"gavel_request_duration_seconds_bucket{model="dlrm",version="1",le="+Inf"} 3"#,
            r#"gavel_request_duration_seconds_sum{model="dlrm",version="1"} 0.00022"#,
            r#"gavel_batch_candidates_bucket{model="dlrm",version="1",le="2"} 0"#,
            r#"gavel_batch_candidates_bucket{model="dlrm",version="1",le="4"} 1"#,
            r#"gavel_io_backend_info{backend="epoll"} 1"#,
            "gavel_log_lines_dropped_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
        }
    }
}
