//! Writes `fuzz/seeds`: one good frame of every kind, header and body apart.

use std::fs;
use std::path::Path;

use gavel_protocol::{
    Code, DescribedFeature, DescribedOutput, Description, Encoder, FeatureKind, HEADER_BYTES, Header, HelloAnswerBody, Kind, OutputKind,
    RankBody, Scope, ScoresBody, Trace,
};

fn main() -> std::io::Result<()> {
    let description = Description {
        model: "ctr".to_owned(),
        model_version: 1,
        signature: 2,
        candidates_max: 3,
        ids_max: 4,
        context_id_bytes: 4,
        candidate_id_bytes: 8,
        features: vec![
            DescribedFeature { flags: 16, ..DescribedFeature::new("a", FeatureKind::Dense, Scope::Context, 2) },
            DescribedFeature {
                length_max: 9,
                id_bytes: 8,
                flags: 1,
                ..DescribedFeature::new("b", FeatureKind::Sparse, Scope::Candidate, 0)
            },
            DescribedFeature::new("c", FeatureKind::Integer, Scope::Candidate, 1),
        ],
        outputs: vec![DescribedOutput { name: "click".to_owned(), kind: OutputKind::Probability }],
    };
    let small = RankBody { dense: &[0; 8], ids: &[1; 8], ..RankBody::default() };
    let full = RankBody {
        context_dense: &[1; 4],
        context_ids: &[2; 8],
        context_lengths: &[3; 2],
        context_weights: &[4; 4],
        dense: &[5; 8],
        ids: &[6; 16],
        lengths: &[7; 4],
        weights: &[8; 8],
        mask: Some(&[1, 0]),
        bids: Some(&[9; 16]),
        top_k: 1,
        rank_output: 1,
        split_key: 1,
        trace: Some(Trace { trace_id: [1; 16], parent: [2; 8], flags: 1 }),
    };
    let answer =
        HelloAnswerBody { server: "gavel", version: 1, frame_bytes_max: 2, candidates_max: 3, in_flight_max: 4, idle_timeout_ms: 5 };
    let scores = ScoresBody {
        model_version: 1,
        outputs: 2,
        scores: &[0.5; 4],
        status: Some(&[0, 16]),
        winners: Some(&[1, 0]),
        context_status: 2,
        queue_us: 3,
        compute_us: 4,
        total_us: 5,
    };
    let rank = Header { signature: 2, candidates: 2, budget_us: 5000, priority: 1, ..Header::new(Kind::Rank, 7) };
    let mut encoder = Encoder::new();
    let frames = [
        ("hello", encoder.hello(1, "seed", Some(b"token")).to_vec()),
        ("hello_answer", encoder.hello_answer(1, &answer).to_vec()),
        ("describe", encoder.describe(2, "ctr").to_vec()),
        ("description", encoder.description(2, &description).to_vec()),
        ("rank_small", encoder.rank(&rank, &small).to_vec()),
        ("rank_full", encoder.rank(&rank, &full).to_vec()),
        ("scores", encoder.scores(7, 2, &scores).to_vec()),
        ("error", encoder.error(7, Code::Overloaded, "busy", 100).to_vec()),
        ("drain", encoder.drain(1000).to_vec()),
        ("cancel", encoder.cancel(7).to_vec()),
        ("ping", encoder.ping(8, b"12345678").to_vec()),
    ];
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in ["header", "body"] {
        fs::create_dir_all(seeds.join(target))?;
    }
    for (name, frame) in frames {
        let (header, body) = frame.split_at(HEADER_BYTES);
        fs::write(seeds.join("header").join(name), header)?;
        if !body.is_empty() && name != "ping" {
            fs::write(seeds.join("body").join(name), body)?;
        }
    }
    Ok(())
}
