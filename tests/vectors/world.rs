//! What all vectors agree on: the model, its description written by hand, and the limits of the server that answers.

use std::sync::Arc;

use gavel::config::Config;
use gavel::model::Model;
use gavel_protocol::{
    DescribedFeature, DescribedOutput, Description, FeatureKind, HelloAnswerBody, OutputKind, Scope, VERSION, feature_flag, signature,
};

use crate::support;

/// Small limits, so that frames at and beyond them are small too.
pub const FRAME_BYTES_MAX: usize = 4096;
pub const CANDIDATES_MAX: usize = 64;
pub const IDS_MAX: usize = 300;
/// More than all vectors that may be pipelined.
pub const IN_FLIGHT_MAX: usize = 1024;
pub const IDLE_TIMEOUT_MS: u32 = 300_000;

pub struct World {
    pub model: Arc<Model>,
    pub description: Description,
}

impl World {
    pub fn load() -> World {
        let model = support::models(|name| name == "wire_vectors").remove(0);
        World { model, description: description() }
    }

    pub fn signature(&self) -> u64 {
        self.description.signature
    }

    /// A server with the limits of the vectors.
    pub fn config() -> Config {
        let mut config = support::config();
        config.limits.frame_bytes = FRAME_BYTES_MAX;
        config.limits.candidates_per_request = CANDIDATES_MAX;
        config.limits.ids_per_request = IDS_MAX;
        config.limits.in_flight_per_connection = IN_FLIGHT_MAX;
        config.timeouts.idle_ms = IDLE_TIMEOUT_MS;
        config
    }
}

pub fn hello_answer() -> HelloAnswerBody<'static> {
    HelloAnswerBody {
        server: "gavel",
        version: VERSION,
        frame_bytes_max: FRAME_BYTES_MAX as u32,
        candidates_max: CANDIDATES_MAX as u32,
        in_flight_max: IN_FLIGHT_MAX as u32,
        idle_timeout_ms: IDLE_TIMEOUT_MS,
    }
}

fn description() -> Description {
    let output = |name: &str, kind| DescribedOutput { name: name.to_owned(), kind };
    let features = vec![
        DescribedFeature { flags: feature_flag::NAN_ACCEPTED, ..DescribedFeature::new("age", FeatureKind::Dense, Scope::Context, 2) },
        DescribedFeature {
            length_max: 4,
            id_bytes: 8,
            flags: feature_flag::HASHED,
            ..DescribedFeature::new("segments", FeatureKind::Sparse, Scope::Context, 0)
        },
        DescribedFeature::new("slot", FeatureKind::Integer, Scope::Context, 1),
        DescribedFeature::new("ctr", FeatureKind::Dense, Scope::Candidate, 1),
        DescribedFeature { rows: 16, ..DescribedFeature::new("ad", FeatureKind::Sparse, Scope::Candidate, 1) },
        DescribedFeature {
            flags: feature_flag::MISSING_ACCEPTED | feature_flag::OUT_OF_RANGE_ACCEPTED,
            rows: 8,
            ..DescribedFeature::new("advertiser", FeatureKind::Sparse, Scope::Candidate, 1)
        },
        DescribedFeature {
            length_max: 3,
            flags: feature_flag::WEIGHTED,
            rows: 16,
            ..DescribedFeature::new("words", FeatureKind::Sparse, Scope::Candidate, 0)
        },
        DescribedFeature { length_max: 2, rows: 8, ..DescribedFeature::new("seq", FeatureKind::Sparse, Scope::Candidate, 0) },
    ];
    Description {
        model: "wire_vectors".to_owned(),
        model_version: 1,
        signature: signature("wire_vectors", features.iter().map(DescribedFeature::for_signature)),
        candidates_max: CANDIDATES_MAX as u32,
        ids_max: IDS_MAX as u32,
        context_id_bytes: 8,
        candidate_id_bytes: 4,
        features,
        outputs: vec![output("score", OutputKind::Logit), output("value", OutputKind::Value)],
    }
}
