//! The request builder: blocks as PROTOCOL.md wants them, and every mistake under its own name.

mod fake;

use std::sync::Arc;

use gavel_client::{
    BuildError, DescribedFeature, Description, FeatureKind, Layout, MISSING, RankBody, Request, RequestBuilder, Scope, feature_flag,
};

fn layout() -> Arc<Layout> {
    Layout::new(fake::description())
}

#[test]
fn blocks_in_signature_order_whatever_the_order_of_calls() {
    let layout = layout();
    let mut builder = RequestBuilder::new(&layout);
    for round in 0..3 {
        builder.clear();
        builder.context().id("user", MISSING).expect("accepted");
        builder
            .add_candidate()
            .and_then(|mut row| {
                row.weighted_ids("words", &[10, 11], &[0.5, 2.0])?.dense("price", 9.0)?.id("ad", 1)?.id("ad", 7)?;
                row.eligible(true)?.bid(5)?;
                Ok(())
            })
            .expect("a good row");
        let words = layout.feature("words").expect("there");
        builder
            .add_candidate()
            .and_then(|mut row| {
                row.id("ad", 8)?.dense("price", f32::INFINITY)?.weighted_ids(words, &[999], &[-1.0])?.bid(-1)?.eligible(false)?;
                Ok(())
            })
            .expect("a good row");
        builder
            .add_candidate()
            .and_then(|mut row| row.dense("price", 1.0)?.id("ad", 99)?.bid(i64::MAX).map(|_| ()))
            .expect("words may be absent");
        builder.top_k(2).split_key(6).rank_output("click").expect("an output");
        let request = builder.finish().expect("a good request");
        assert_eq!((request.signature(), request.candidates()), (fake::SIGNATURE, 3), "round {round}");
        let ids = [7_u32, 10, 11, 8, 999, 99];
        let expected = RankBody {
            context_ids: &[0xff; 8],
            dense: bytemuck::cast_slice(&[9.0, f32::INFINITY, 1.0]),
            ids: bytemuck::cast_slice(&ids),
            lengths: bytemuck::cast_slice(&[2_u16, 1, 0]),
            weights: bytemuck::cast_slice(&[0.5_f32, 2.0, -1.0]),
            mask: Some(&[1, 0, 1]),
            bids: Some(bytemuck::cast_slice(&[5, -1, i64::MAX])),
            top_k: 2,
            split_key: 6,
            ..RankBody::default()
        };
        assert_eq!(*request.body(), expected);
        assert!(Request::from_blocks(&layout, 3, expected).is_ok());
        // Finishing twice, or going on, changes nothing of what was there.
        assert_eq!(*builder.finish().expect("again").body(), expected);
    }
    builder.clear_candidates();
    builder.add_candidate().and_then(|mut row| row.dense("price", 1.0)?.id("ad", 1).map(|_| ())).expect("a good row");
    let request = builder.finish().expect("the context was kept");
    assert_eq!((request.body().context_ids, request.body().mask, request.body().bids), (&[0xff; 8][..], None, None));
}

#[test]
fn integers_keep_their_sign() {
    let integer = |name: &str, width, id_bytes| DescribedFeature {
        name: name.to_owned(),
        kind: FeatureKind::Integer,
        scope: Scope::Candidate,
        width,
        length_max: width,
        id_bytes,
        flags: 0,
        rows: 0,
    };
    for (id_bytes, low) in [(4_u8, i64::from(i32::MIN)), (8, i64::MIN)] {
        let description = Description {
            features: vec![integer("a", 2, id_bytes), integer("b", 1, 4)],
            candidate_id_bytes: id_bytes,
            context_id_bytes: 4,
            ..fake::description()
        };
        let layout = Layout::new(description);
        let mut builder = RequestBuilder::new(&layout);
        let mut row = builder.add_candidate().expect("first");
        row.integers("a", &[-1, low]).expect("fits").integer("b", 3).expect("fits");
        if id_bytes == 4 {
            assert!(matches!(row.integer("b", i64::from(i32::MAX) + 1), Err(BuildError::TooWide { .. })));
        }
        let request = builder.finish().expect("good");
        let expected: Vec<u8> = match id_bytes {
            4 => bytemuck::cast_slice(&[-1_i32, i32::MIN, 3]).to_vec(),
            _ => bytemuck::cast_slice(&[-1_i64, i64::MIN, 3]).to_vec(),
        };
        assert_eq!(request.body().ids, expected);
    }
}

#[test]
fn mistakes_have_names() {
    type Mistake = fn(&mut RequestBuilder) -> Result<(), BuildError>;
    let cases: [(&str, Mistake); 19] = [
        ("model ctr has no feature \"nope\"", |b| b.context().id("nope", 1).map(drop)),
        ("feature ad does not belong to the context", |b| b.context().id("ad", 1).map(drop)),
        ("feature user does not belong to candidate 0", |b| b.add_candidate()?.id("user", 1).map(drop)),
        ("feature ad is sparse, it cannot hold dense values", |b| b.add_candidate()?.dense("ad", 1.0).map(drop)),
        ("feature price is dense, it cannot hold ids", |b| b.add_candidate()?.id("price", 1).map(drop)),
        ("feature ad is sparse, it cannot hold integers", |b| b.add_candidate()?.integer("ad", 1).map(drop)),
        ("feature ad of candidate 0: 2 values, it takes 1", |b| b.add_candidate()?.ids("ad", &[1, 2]).map(drop)),
        ("feature words of candidate 0: 5 values, it takes at most 4", |b| {
            b.add_candidate()?.weighted_ids("words", &[1; 5], &[1.0; 5]).map(drop)
        }),
        ("feature words of candidate 0: 2 ids and 1 weights; each id needs one", |b| {
            b.add_candidate()?.weighted_ids("words", &[1; 2], &[1.0]).map(drop)
        }),
        ("feature ad of candidate 0: 1 ids and 1 weights; it takes none", |b| {
            b.add_candidate()?.weighted_ids("ad", &[1], &[1.0]).map(drop)
        }),
        ("feature ad of candidate 0: id 100 is not below its 100 rows", |b| b.add_candidate()?.id("ad", 100).map(drop)),
        ("feature ad of candidate 0: 4294967295 does not fit an element of 4 bytes", |b| {
            b.add_candidate()?.id("ad", u64::from(u32::MAX)).map(drop)
        }),
        ("feature ad of candidate 0: the model accepts no missing id here", |b| b.add_candidate()?.missing("ad").map(drop)),
        ("feature price of candidate 0: the model accepts no NaN here", |b| b.add_candidate()?.dense("price", f32::NAN).map(drop)),
        ("feature ad of candidate 0 was not set, and the model accepts no missing value there", |b| {
            b.add_candidate()?.dense("price", 1.0)?;
            b.add_candidate().map(drop)
        }),
        ("the request has no candidates", |b| b.finish().map(drop)),
        ("65 candidates, the model takes at most 64 per request", |b| {
            for _ in 0..65 {
                b.add_candidate()?.id("ad", 1)?.dense("price", 1.0)?;
            }
            b.finish().map(drop)
        }),
        ("candidate 1 has no bid, others have; bid for all or for none", |b| {
            b.add_candidate()?.id("ad", 1)?.dense("price", 1.0)?.bid(1)?;
            b.add_candidate()?.id("ad", 1)?.dense("price", 1.0)?;
            b.finish().map(drop)
        }),
        ("only candidates can be masked or bid for", |b| b.context().bid(1).map(drop)),
    ];
    for (message, mistake) in cases {
        let mut builder = RequestBuilder::new(&layout());
        let error = mistake(&mut builder).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
    let mut builder = RequestBuilder::new(&layout());
    for _ in 0..64 {
        builder
            .add_candidate()
            .and_then(|mut row| row.id("ad", 1)?.dense("price", 1.0)?.weighted_ids("words", &[1; 4], &[1.0; 4]).map(drop))
            .expect("good rows");
    }
    let error = builder.finish().expect_err("too many ids").to_string();
    assert!(error.starts_with("321 ids in all rows together, the model takes at most 300"), "{error}");
}

#[test]
fn a_failed_close_can_be_mended() {
    let mut builder = RequestBuilder::new(&layout());
    builder.add_candidate().and_then(|mut row| row.dense("price", 1.0).map(drop)).expect("half a row");
    assert!(matches!(builder.finish(), Err(BuildError::NotSet { .. })));
    builder.last_candidate().expect("still open").id("ad", 3).expect("good");
    assert_eq!(builder.finish().expect("whole now").body().ids, 3_u32.to_le_bytes());
    assert!(builder.last_candidate().is_none());
}

#[test]
fn handles_belong_to_their_layout() {
    let other = Layout::new(Description { signature: 1, ..fake::description() });
    let handle = other.feature("ad").expect("there");
    let mut builder = RequestBuilder::new(&layout());
    let mut row = builder.add_candidate().expect("first");
    assert_eq!(row.id(handle, 1).map(drop), Err(BuildError::ForeignHandle));
}

#[test]
fn ready_made_blocks_are_measured() {
    let layout = layout();
    let blocks = fake::Blocks::new(&[1.0, 2.0]);
    let good = blocks.body();
    let lengths = [1_u8, 0, 0, 0];
    let long = [5_u8, 0, 0, 0];
    let cases: [(&str, u32, RankBody<'_>); 12] = [
        ("", 2, good),
        ("the request has no candidates", 0, good),
        ("65 candidates, the model takes at most 64 per request", 65, good),
        ("block dense has 8 bytes, layout, rows and lengths demand 12", 3, good),
        ("block context_ids has 0 bytes, layout, rows and lengths demand 8", 2, RankBody { context_ids: &[], ..good }),
        ("block ids has 8 bytes, layout, rows and lengths demand 12", 2, RankBody { lengths: &lengths, ..good }),
        ("block weights has 4 bytes, layout, rows and lengths demand 0", 2, RankBody { weights: &[0; 4], ..good }),
        ("feature words of candidate 0: 5 values, it takes at most 4", 2, RankBody { lengths: &long, ..good }),
        ("block mask has 1 bytes, layout, rows and lengths demand 2", 2, RankBody { mask: Some(&[1]), ..good }),
        ("block bids has 2 bytes, layout, rows and lengths demand 16", 2, RankBody { bids: Some(&[1, 1]), ..good }),
        ("model ctr has no output \"1\"", 2, RankBody { rank_output: 1, ..good }),
        ("block context_dense has 4 bytes, layout, rows and lengths demand 0", 2, RankBody { context_dense: &[0; 4], ..good }),
    ];
    for (message, candidates, body) in cases {
        let got = Request::from_blocks(&layout, candidates, body).err().map(|error| error.to_string());
        assert_eq!(got.unwrap_or_default(), message);
    }
}

#[test]
fn flags_of_the_description_decide() {
    let mut description = fake::description();
    description.features[1].flags = feature_flag::OUT_OF_RANGE_ACCEPTED | feature_flag::MISSING_ACCEPTED;
    description.features[2].flags = feature_flag::NAN_ACCEPTED;
    let layout = Layout::new(description);
    let mut builder = RequestBuilder::new(&layout);
    builder.add_candidate().and_then(|mut row| row.id("ad", 100)?.dense("price", f32::NAN).map(drop)).expect("accepted");
    builder.add_candidate().expect("nothing set").bid(0).expect("a candidate");
    builder.last_candidate().expect("open").missing("ad").expect("accepted").missing("words").expect("none");
    let error = builder.finish().expect_err("the first has no bid");
    assert!(matches!(error, BuildError::BidMissing { .. }));
    builder.clear();
    builder.add_candidate().expect("nothing set");
    let request = builder.finish().expect("all may be absent");
    assert_eq!((request.body().ids, request.body().lengths), (&[0xff; 4][..], &[0, 0][..]));
    assert!(request.body().dense == f32::NAN.to_le_bytes());
}
