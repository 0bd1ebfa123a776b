//! From a loaded model to one that shards serve: layout and signature for clients, a program for the engine, and the selftest that must pass.

use std::sync::Arc;
use std::time::Instant;

use gavel_protocol::{DescribedFeature, DescribedOutput, Description, Encoder, feature_flag};

use crate::batch::{Layout, SlotLimits};
use crate::config::Limits;
use crate::engine::precision::Precision;
use crate::engine::selftest::{self, Report, SelftestError};
use crate::engine::{self, EngineError, EngineKind, PrepareOptions, Prepared};
use crate::metrics::{Registry, SlotsTaken};
use crate::model::{Feature, FeatureKind, FieldKind, IdType, MissingRule, Model, NanRule, OutputKind, RangeRule, Scope};
use crate::server::shard::{Published, answer_bytes_max};

/// Why a model is not served.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The engine cannot take it.
    #[error("model {model}/{version}: {source}")]
    Engine {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
        /// Why.
        source: Box<EngineError>,
    },
    /// It does not compute what its bundle says.
    #[error("model {model}/{version}: {source}")]
    Selftest {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
        /// What came out.
        source: Box<SelftestError>,
    },
    /// Too many models.
    #[error("model {model}/{version}: {source}")]
    Slots {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
        /// How many there are.
        source: SlotsTaken,
    },
    /// Clients could not be told its layout: the frame does not fit beside other answers.
    #[error(
        "model {model}/{version}: its description takes {bytes} bytes, more than half of limits.send_bytes = {send_bytes}; raise limits.send_bytes to \
         {} or shorten the names of its features and outputs in manifest.json", bytes * 2
    )]
    Description {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
        /// Of the frame.
        bytes: usize,
        /// As configured.
        send_bytes: usize,
    },
    /// A stop was asked for before every shard served it.
    #[error("model {model}/{version}: not published, because the server stops")]
    Stopped {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
    },
    /// A shard could not make room.
    #[error("model {model}/{version}: a shard could not take it: {reason}")]
    Shard {
        /// Public name.
        model: String,
        /// Version.
        version: u64,
        /// As the shard told it.
        reason: String,
    },
}

/// Plans the model for the engine, replays its selftest there (the null engine, which computes nothing, is excused), gives it a place in the
/// metrics and encodes its description.
pub fn prepare(
    model: &Arc<Model>,
    engine: EngineKind,
    options: &PrepareOptions,
    limits: &Limits,
    registry: &Registry,
) -> Result<Published, PublishError> {
    let (name, version) = (model.name.clone(), model.version);
    let began = Instant::now();
    let prepared = engine::prepare_with(engine, model, options).map_err(|source| PublishError::Engine {
        model: name.clone(),
        version,
        source: source.into(),
    })?;
    let replay = || -> Result<Report, SelftestError> {
        let report = selftest::replay(&prepared, model)?;
        selftest::replay_large(&prepared, model, slot_limits(limits))?;
        Ok(report)
    };
    let report = match engine {
        EngineKind::Null => None,
        EngineKind::Cpu | EngineKind::Cuda => {
            Some(replay().map_err(|source| PublishError::Selftest { model: name, version, source: source.into() })?)
        }
    };
    if let Some(decided) = prepared.precision() {
        let (name, version, ms) = (&model.name, model.version, began.elapsed().as_millis() as u64);
        tracing::info!(model = name, version, ms, "{decided}; the selftest is held to a shift of {}", decided.limits.like(&decided.shift));
        if let Some(caution) = decided.caution(model) {
            tracing::warn!(model = name, version, "precision {}: {caution}", decided.precision.name());
        }
        for layer in decided.layers.iter().filter(|layer| layer.precision == Precision::F32) {
            tracing::info!(
                model = name,
                version,
                layer = layer.name,
                inputs = layer.k,
                outputs = layer.n,
                "stays in f32: {}",
                layer.reason
            );
        }
    }
    publish(model, prepared, report, limits, registry)
}

/// A prepared model, with its place in the metrics and its description.
pub(crate) fn publish(
    model: &Arc<Model>,
    prepared: Prepared,
    selftest: Option<Report>,
    limits: &Limits,
    registry: &Registry,
) -> Result<Published, PublishError> {
    let (name, version, send_bytes) = (&model.name, model.version, limits.send_bytes);
    let description = describe(model, limits);
    let frame = Encoder::new().description(0, &description).to_vec();
    if frame.len() > send_bytes / 2 {
        return Err(PublishError::Description { model: name.clone(), version, bytes: frame.len(), send_bytes });
    }
    let cells = registry
        .register(name, version, &model.digest.to_string(), description.signature)
        .map_err(|source| PublishError::Slots { model: name.clone(), version, source })?;
    Ok(Published {
        name: name.clone(),
        version,
        signature: description.signature,
        layout: Arc::new(Layout::new(&model.features, model.graph.outputs.len())),
        features: model.features.iter().map(|feature| feature.name.clone()).collect(),
        prepared,
        description: frame,
        cells,
        candidates_max: candidates_max(model, limits),
        ids_max: limits.ids_per_request,
        selftest,
        slots: limits.slots_per_model,
        slot_limits: slot_limits(limits),
    })
}

/// Of every slot of a server.
pub(crate) fn slot_limits(limits: &Limits) -> SlotLimits {
    SlotLimits { contexts: limits.batch_requests, rows: limits.batch_rows, ids: limits.batch_ids }
}

/// Most candidates of a request: as configured, and no more than an answer with all outputs of the model has room for on a connection.
fn candidates_max(model: &Model, limits: &Limits) -> usize {
    let fits = |candidates: usize| answer_bytes_max(candidates, u32::MAX, model.graph.outputs.len()) <= limits.send_bytes / 2;
    let mut most = limits.candidates_per_request;
    while most > 1 && !fits(most) {
        most -= most.div_ceil(100);
    }
    most
}

/// What clients are told of a model.
pub fn describe(model: &Model, limits: &Limits) -> Description {
    let features: Vec<DescribedFeature> = model.features.iter().map(describe_feature).collect();
    let layout = Layout::new(&model.features, model.graph.outputs.len());
    Description {
        model: model.name.clone(),
        model_version: model.version,
        signature: gavel_protocol::signature(&model.name, features.iter().map(DescribedFeature::for_signature)),
        candidates_max: candidates_max(model, limits) as u32,
        ids_max: limits.ids_per_request as u32,
        context_id_bytes: layout.context.id_bytes as u8,
        candidate_id_bytes: layout.candidate.id_bytes as u8,
        features,
        outputs: model
            .graph
            .outputs
            .iter()
            .map(|output| DescribedOutput {
                name: output.name.clone(),
                kind: match output.kind {
                    OutputKind::Probability => gavel_protocol::OutputKind::Probability,
                    OutputKind::Logit => gavel_protocol::OutputKind::Logit,
                    OutputKind::Value => gavel_protocol::OutputKind::Value,
                },
            })
            .collect(),
    }
}

fn describe_feature(feature: &Feature) -> DescribedFeature {
    let mut flags = 0;
    let mut flag = |bit: u8, holds: bool| flags |= if holds { bit } else { 0 };
    let mut rows_max = 0;
    match &feature.kind {
        FeatureKind::Dense { nan, .. } => flag(feature_flag::NAN_ACCEPTED, *nan != NanRule::Error),
        FeatureKind::Sparse { rows, weighted, hash, missing, out_of_range, .. } => {
            flag(feature_flag::WEIGHTED, *weighted);
            flag(feature_flag::HASHED, hash.is_some());
            flag(feature_flag::MISSING_ACCEPTED, *missing != MissingRule::Error);
            flag(feature_flag::OUT_OF_RANGE_ACCEPTED, *out_of_range != RangeRule::Error);
            rows_max = if hash.is_some() { 0 } else { u64::from(*rows) };
        }
        FeatureKind::Integer => {}
    }
    let kind = match crate::model::Field::from(feature).kind {
        FieldKind::Dense => gavel_protocol::FeatureKind::Dense,
        FieldKind::Sparse => gavel_protocol::FeatureKind::Sparse,
        FieldKind::Integer => gavel_protocol::FeatureKind::Integer,
    };
    DescribedFeature {
        name: feature.name.clone(),
        kind,
        scope: match feature.scope {
            Scope::Context => gavel_protocol::Scope::Context,
            Scope::Candidate => gavel_protocol::Scope::Candidate,
        },
        width: feature.width,
        length_max: feature.max_len,
        id_bytes: match (kind, feature.id_type) {
            (gavel_protocol::FeatureKind::Dense, _) => 0,
            (_, IdType::U32) => 4,
            (_, IdType::U64) => 8,
        },
        flags,
        rows: rows_max,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{LoadOptions, load};
    use crate::units::Clock;

    #[test]
    fn a_description_fits_twice_into_the_send_queue() {
        let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bundles/wdl");
        let model = Arc::new(load(&bundle, &LoadOptions { name: None, version: 1 }, &mut |_| {}).expect("a golden bundle"));
        let bytes = Encoder::new().description(0, &describe(&model, &Limits::default())).len();
        for (send_bytes, fits) in [(2 * bytes, true), (2 * bytes - 1, false)] {
            let registry = Registry::new(Clock::start(), 1);
            let limits = Limits { send_bytes, ..Limits::default() };
            match prepare(&model, EngineKind::Null, &PrepareOptions::default(), &limits, &registry) {
                Ok(_) => assert!(fits, "{send_bytes}"),
                Err(error) => assert!(!fits && error.to_string().contains("raise limits.send_bytes"), "{send_bytes}: {error}"),
            }
        }
    }
}
