//! What the admin address answers.

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::readiness::{Latch, Readiness};
use crate::metrics::{self, CellCollector, Registry};
use crate::units::Span;

/// What the pages read.
#[derive(Clone)]
pub(super) struct Pages {
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    prometheus: prometheus::Registry,
    heartbeat: Span,
}

impl Pages {
    pub(super) fn new(registry: Arc<Registry>, readiness: Arc<Readiness>, heartbeat: Span) -> prometheus::Result<Pages> {
        let prometheus = prometheus::Registry::new();
        prometheus.register(Box::new(CellCollector::new(Arc::clone(&registry))))?;
        Ok(Pages { registry, readiness, prometheus, heartbeat })
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/", get(|| async { INDEX }))
            .route("/livez", get(|State(pages): State<Pages>| async move { pages.livez() }))
            .route("/readyz", get(|State(pages): State<Pages>| async move { pages.readyz() }))
            .route("/metrics", get(|State(pages): State<Pages>| async move { pages.metrics() }))
            .with_state(self)
    }

    /// 200 while every shard gives signs of life, else 503. Not live before there is a shard is no fault: the models may be loading.
    fn livez(&self) -> Response {
        let ages = self.registry.beat_ages();
        let live = ages.iter().all(|&age| age < self.heartbeat);
        let mut text = String::from(if live { "live\n" } else { "not live\n" });
        for (shard, age) in ages.into_iter().enumerate() {
            let mark = if age < self.heartbeat { "+" } else { "-" };
            let _ = writeln!(text, "[{mark}] shard {shard}: last sign of life {} ms ago", age.0 / 1_000_000);
        }
        answer(live, text)
    }

    /// 200 when every latch holds, else 503 and the missing ones.
    fn readyz(&self) -> Response {
        let ready = self.readiness.is_ready();
        let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
        for latch in Latch::ALL {
            let _ = writeln!(text, "[{}] {}", if self.readiness.holds(latch) { "+" } else { "-" }, latch.name());
        }
        answer(ready, text)
    }

    fn metrics(&self) -> Response {
        match metrics::encode(&self.prometheus) {
            Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    }
}

fn answer(good: bool, text: String) -> Response {
    (if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

const INDEX: &str = "\
gavel: admin address

/livez    every shard gives signs of life
/readyz   requests may be sent
/metrics  for Prometheus
";
