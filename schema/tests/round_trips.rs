//! What an encoder writes, the views read; whatever bytes come, no view panics.

use gavel_protocol::{
    AnswerFault, Code, DescribeView, DescribedFeature, DescribedOutput, Description, DrainView, Encoder, ErrorView, FeatureKind,
    HEADER_BYTES, Header, HelloAnswerBody, HelloAnswerView, HelloView, Kind, OutputKind, RankBody, RankView, Scope, ScoresBody, ScoresView,
    Trace, feature_flag, rank_frame_bytes_max, scores_frame_bytes_max, status,
};
use proptest::prelude::*;

/// Header and body of a frame; the header's length must be the body's.
fn split(frame: &[u8]) -> (Header, &[u8]) {
    let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().expect("a frame has a header");
    let header = Header::parse(header).expect("the encoder writes sound headers");
    assert_eq!(header.body_len as usize, body.len());
    (header, body)
}

fn description() -> Description {
    Description {
        model: "ctr".to_owned(),
        model_version: 7,
        signature: 0x0123_4567_89ab_cdef,
        candidates_max: 512,
        ids_max: 100_000,
        context_id_bytes: 4,
        candidate_id_bytes: 8,
        features: vec![
            DescribedFeature { flags: feature_flag::NAN_ACCEPTED, ..DescribedFeature::new("age", FeatureKind::Dense, Scope::Context, 1) },
            DescribedFeature { rows: 1000, ..DescribedFeature::new("Straße", FeatureKind::Sparse, Scope::Context, 2) },
            DescribedFeature {
                length_max: 20,
                id_bytes: 8,
                flags: feature_flag::WEIGHTED | feature_flag::HASHED,
                ..DescribedFeature::new("seen", FeatureKind::Sparse, Scope::Candidate, 0)
            },
            DescribedFeature::new("hour", FeatureKind::Integer, Scope::Candidate, 3),
        ],
        outputs: vec![DescribedOutput { name: "click".to_owned(), kind: OutputKind::Probability }],
    }
}

#[test]
fn hello() {
    let mut encoder = Encoder::new();
    for (client, token) in [("", None), ("bidder 1.2", Some(&b"secret"[..])), ("x", Some(&[0, 255][..]))] {
        let (header, body) = split(encoder.hello(5, client, token));
        assert_eq!((header.kind, header.request_id), (Kind::Hello, 5));
        let view = HelloView::parse(body).expect("own hello");
        assert_eq!(view, HelloView { client, token: token.unwrap_or_default(), version_max: 1 });
    }
    let long = "x".repeat(129);
    for (client, token, fine) in [(&long[..128], 256, true), (&long[..], 0, false), ("", 257, false)] {
        let token = vec![1; token];
        let (_, body) = split(encoder.hello(5, client, Some(&token)));
        assert_eq!(HelloView::parse(body).err(), (!fine).then_some(Code::BodyMalformed));
    }
}

#[test]
fn hello_answer_error_drain() {
    let mut encoder = Encoder::new();
    let body = HelloAnswerBody {
        server: "gavel 0.1.0",
        version: 1,
        frame_bytes_max: 1 << 20,
        candidates_max: 4096,
        in_flight_max: 64,
        idle_timeout_ms: 60_000,
    };
    let (header, bytes) = split(encoder.hello_answer(9, &body));
    assert_eq!((header.kind, header.request_id), (Kind::HelloAnswer, 9));
    let view = HelloAnswerView::parse(bytes).expect("own answer");
    assert_eq!((view.server, view.version, view.frame_bytes_max), (body.server, 1, 1 << 20));
    assert_eq!((view.candidates_max, view.in_flight_max, view.idle_timeout_ms), (4096, 64, 60_000));

    for code in Code::ALL {
        let (header, bytes) = split(encoder.error(u64::MAX, *code, "why", 250));
        assert_eq!((header.kind, header.request_id), (Kind::Error, u64::MAX));
        let view = ErrorView::parse(bytes).expect("own error");
        assert_eq!((view.known(), view.message, view.retry_after_us), (Some(*code), "why", 250));
    }

    let (header, bytes) = split(encoder.drain(30_000));
    assert_eq!((header.kind, header.request_id), (Kind::Drain, 0));
    assert_eq!(DrainView::parse(bytes), Ok(DrainView { deadline_ms: 30_000 }));
}

#[test]
fn describe() {
    let mut encoder = Encoder::new();
    let (header, body) = split(encoder.describe(1, "ctr"));
    assert_eq!((header.kind, header.signature), (Kind::Describe, 0));
    assert_eq!(DescribeView::parse(body), Ok(DescribeView { model: "ctr" }));
    let (header, body) = split(encoder.describe_signature(1, 77));
    assert_eq!((header.kind, header.signature), (Kind::Describe, 77));
    assert_eq!(DescribeView::parse(body), Ok(DescribeView { model: "" }));
    let (_, body) = split(encoder.describe(1, &"m".repeat(129)));
    assert_eq!(DescribeView::parse(body), Err(Code::BodyMalformed));

    let description = description();
    let (header, body) = split(encoder.description(3, &description));
    assert_eq!((header.kind, header.request_id, header.signature), (Kind::Description, 3, description.signature));
    assert_eq!(Description::parse(body), Ok(description));
}

#[test]
fn descriptions_of_many_features() {
    for count in [1, 39, 257, 4096] {
        let mut wide = description();
        let feature = wide.features[0].clone();
        wide.features = (0..count).map(|number| DescribedFeature { name: format!("f{number}"), ..feature.clone() }).collect();
        wide.context_id_bytes = 4;
        wide.candidate_id_bytes = 4;
        if feature.id_bytes == 8 {
            match feature.scope {
                Scope::Context => wide.context_id_bytes = 8,
                Scope::Candidate => wide.candidate_id_bytes = 8,
            }
        }
        let mut encoder = Encoder::new();
        let (_, body) = split(encoder.description(3, &wide));
        assert_eq!(Description::parse(body), Ok(wide), "{count} features");
    }
}

#[test]
fn contradictory_descriptions_are_refused() {
    type Change = fn(&mut Description);
    let changes: [Change; 8] = [
        |d| d.candidate_id_bytes = 4,
        |d| d.context_id_bytes = 8,
        |d| d.features[0].id_bytes = 4,
        |d| d.features[1].id_bytes = 0,
        |d| d.features[1].length_max = 3,
        |d| d.features[0].width = 0,
        |d| d.features[2].length_max = 65_536,
        |d| d.features.extend(vec![DescribedFeature { width: 65_535, length_max: 65_535, ..d.features[0].clone() }; 257]),
    ];
    let mut encoder = Encoder::new();
    for (case, change) in changes.iter().enumerate() {
        let mut description = description();
        change(&mut description);
        let (_, body) = split(encoder.description(3, &description));
        let found = Description::parse(body);
        assert!(matches!(found, Err(AnswerFault::Inconsistent(..))), "case {case}: {found:?}");
    }
}

#[test]
fn small_frames() {
    let mut encoder = Encoder::new();
    assert_eq!(split(encoder.cancel(4)), (Header::new(Kind::Cancel, 4), &[][..]));
    assert_eq!(split(encoder.drain_answer()), (Header::new(Kind::DrainAnswer, 0), &[][..]));
    for length in [0, 1, 64] {
        let body = vec![7; length];
        let header = Header { body_len: length as u32, ..Header::new(Kind::Ping, 4) };
        assert_eq!(split(encoder.ping(4, &body)), (header, &body[..]));
        assert_eq!(split(encoder.pong(4, &body)), (Header { kind: Kind::Pong, ..header }, &body[..]));
    }
}

#[test]
fn scores_fit_their_bound() {
    let mut encoder = Encoder::new();
    for rows in [0, 1, 2, 3, 7, 64, 85, 163] {
        for outputs in [1, 2, 3, 8] {
            let scores: Vec<f32> = (0..rows * outputs).map(|i| i as f32 * 0.5).collect();
            let status = vec![status::NAN; rows];
            let winners: Vec<u32> = (0..rows as u32).rev().collect();
            for (status, winners) in [(None, None), (Some(&status[..]), Some(&winners[..]))] {
                let body = ScoresBody {
                    model_version: u64::MAX,
                    outputs: outputs as u16,
                    scores: &scores,
                    status,
                    winners,
                    context_status: status::MISSING,
                    queue_us: 1,
                    compute_us: 2,
                    total_us: u32::MAX,
                };
                let frame = encoder.scores(8, 9, &body);
                assert!(frame.len() <= scores_frame_bytes_max(rows, outputs), "{rows} rows, {outputs} outputs: {}", frame.len());
                let (header, bytes) = split(frame);
                assert_eq!((header.kind, header.request_id, header.signature), (Kind::Scores, 8, 9));
                let view = ScoresView::parse(bytes).expect("own scores");
                assert_eq!((view.rows, view.outputs, view.model_version), (rows, outputs, u64::MAX));
                assert!(view.scores().eq(scores.iter().copied()));
                assert_eq!(view.status, status);
                assert_eq!(view.winners().map(|w| w.collect::<Vec<_>>()), winners.map(<[u32]>::to_vec));
                assert_eq!((view.context_status, view.queue_us, view.compute_us, view.total_us), (status::MISSING, 1, 2, u32::MAX));
            }
        }
    }
}

#[test]
fn scores_that_contradict_themselves_are_refused() {
    let good = ScoresBody {
        model_version: 1,
        outputs: 2,
        scores: &[0.0; 6],
        status: Some(&[0; 3]),
        winners: Some(&[0, 1, 2]),
        context_status: 0,
        queue_us: 0,
        compute_us: 0,
        total_us: 0,
    };
    let cases = [
        ("none", good, true),
        ("no outputs", ScoresBody { outputs: 0, ..good }, false),
        ("half a row", ScoresBody { outputs: 4, ..good }, false),
        ("a status too many", ScoresBody { status: Some(&[0; 4]), ..good }, false),
        ("a winner too few", ScoresBody { winners: Some(&[0, 1]), ..good }, false),
    ];
    let mut encoder = Encoder::new();
    for (case, body, fine) in cases {
        let (_, bytes) = split(encoder.scores(1, 1, &body));
        assert_eq!(ScoresView::parse(bytes).is_ok(), fine, "{case}");
    }
}

#[test]
fn a_trace_has_25_bytes() {
    for length in [0, 24, 25, 26] {
        let bytes = vec![3; length];
        assert_eq!(Trace::from_bytes(&bytes).is_some(), length == 25);
    }
}

#[test]
fn blocks_cannot_overlap() {
    // A table of 14 offsets that all point to one large vector would claim many times the body.
    let mut encoder = Encoder::new();
    let frame = encoder.rank(&Header::new(Kind::Rank, 1), &RankBody { context_dense: &[1; 4], dense: &[2; 4000], ..RankBody::default() });
    let mut body = frame[HEADER_BYTES..].to_vec();
    assert!(RankView::parse(&body).is_ok());
    // The offset that points to `dense` (the one whose target holds 4000) is repeated for `context_dense` (target holds 4).
    let word = |body: &[u8], at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]) as usize;
    let target = |body: &[u8], at: usize| at.checked_add(word(body, at)).filter(|to| to + 4 <= body.len()).map(|to| word(body, to));
    let offsets: Vec<usize> = (0..body.len() - 4).step_by(4).collect();
    let dense = *offsets.iter().find(|at| target(&body, **at) == Some(4000)).expect("an offset to dense");
    let context = *offsets.iter().find(|at| target(&body, **at) == Some(4)).expect("an offset to context_dense");
    let same_target = (dense + word(&body, dense) - context) as u32;
    body[context..context + 4].copy_from_slice(&same_target.to_le_bytes());
    assert_eq!(RankView::parse(&body), Err(Code::BodyMalformed));
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

proptest! {
    #[test]
    fn rank(
        blocks in proptest::collection::vec(bytes(300), 8),
        mask in proptest::option::of(bytes(20)),
        bids in proptest::option::of(bytes(80)),
        (top_k, rank_output, split_key) in any::<(u32, u16, u64)>(),
        trace in proptest::option::of(any::<(u128, u64, u8)>()),
        (request_id, signature, candidates, priority, budget_us) in any::<(u64, u64, u32, u8, u32)>(),
        shift in 0_usize..8,
    ) {
        let body = RankBody {
            context_dense: &blocks[0],
            context_ids: &blocks[1],
            context_lengths: &blocks[2],
            context_weights: &blocks[3],
            dense: &blocks[4],
            ids: &blocks[5],
            lengths: &blocks[6],
            weights: &blocks[7],
            mask: mask.as_deref(),
            bids: bids.as_deref(),
            top_k,
            rank_output,
            split_key,
            trace: trace.map(|(id, parent, flags)| Trace { trace_id: id.to_le_bytes(), parent: parent.to_le_bytes(), flags }),
        };
        let header = Header { signature, candidates, priority, budget_us, ..Header::new(Kind::Rank, request_id) };
        let mut encoder = Encoder::new();
        let frame = encoder.rank(&header, &body);
        prop_assert!(frame.len() <= rank_frame_bytes_max(body.block_bytes()));
        // A body may lie anywhere in memory.
        let mut moved = vec![0; shift];
        moved.extend_from_slice(frame);
        let (got, bytes) = split(&moved[shift..]);
        prop_assert_eq!(got, Header { body_len: bytes.len() as u32, ..header });
        prop_assert_eq!(RankView::parse(bytes), Ok(body));
    }

    #[test]
    fn random_bodies_never_panic(body in bytes(400)) {
        read_all(&body);
    }

    #[test]
    fn damaged_bodies_never_panic(which in 0_usize..8, at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
        let mut encoder = Encoder::new();
        let frame = match which {
            0 => encoder.hello(1, "client", Some(b"token")),
            1 => encoder.describe(1, "model"),
            2 => encoder.rank(&Header::new(Kind::Rank, 1), &RankBody { dense: &[1; 40], ids: &[2; 80], mask: Some(&[1; 10]), top_k: 3, ..RankBody::default() }),
            3 => encoder.hello_answer(1, &HelloAnswerBody { server: "s", version: 1, frame_bytes_max: 1, candidates_max: 1, in_flight_max: 1, idle_timeout_ms: 1 }),
            4 => encoder.description(1, &description()),
            5 => encoder.scores(1, 1, &ScoresBody {
                model_version: 1, outputs: 1, scores: &[0.5; 10], status: Some(&[0; 10]), winners: Some(&[1; 10]), context_status: 0, queue_us: 1, compute_us: 1, total_us: 1,
            }),
            6 => encoder.error(1, Code::Internal, "message", 5),
            _ => encoder.drain(5),
        };
        let mut body = frame[HEADER_BYTES..].to_vec();
        let at = at.index(body.len());
        body[at] = value;
        read_all(&body);
        read_all(&body[..cut.index(body.len() + 1)]);
    }

    #[test]
    fn random_headers_never_panic(bytes in proptest::array::uniform32(any::<u8>()), more in proptest::array::uniform16(any::<u8>())) {
        let mut header = [0; HEADER_BYTES];
        header[..32].copy_from_slice(&bytes);
        header[32..].copy_from_slice(&more);
        prop_assert!(Header::parse(&header).is_err());
    }
}

/// Reads a body as everything it could be, to the last value.
fn read_all(body: &[u8]) {
    let _ = HelloView::parse(body);
    let _ = DescribeView::parse(body);
    if let Ok(view) = RankView::parse(body) {
        assert!(view.block_bytes() <= body.len() + 128);
    }
    let _ = HelloAnswerView::parse(body);
    if let Ok(description) = Description::parse(body) {
        assert!(description.features.len() <= body.len());
    }
    if let Ok(view) = ScoresView::parse(body) {
        assert_eq!(view.scores().len(), view.rows * view.outputs);
        assert!(view.winners().is_none_or(|winners| winners.len() == view.rows));
    }
    if let Ok(view) = ErrorView::parse(body) {
        let _ = view.known();
    }
    let _ = DrainView::parse(body);
}
