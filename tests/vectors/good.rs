//! What a client may do.

use gavel_protocol::{Encoder, HEADER_BYTES, Header, Kind, wire};

use crate::rows::{Candidate, Context, MISSING, Rank, frame};
use crate::vector::Vector;
use crate::world::{CANDIDATES_MAX, FRAME_BYTES_MAX, IDS_MAX, World};

/// The hello that precedes other vectors has this id, which they do not use.
pub const HELLO_ID: u64 = 1;

pub fn context() -> Context {
    Context { age: [0.5, -0.25], segments: vec![7, (1 << 40) + 5], slot: 3 }
}

/// Two unlike candidates.
pub fn pair() -> Vec<Candidate> {
    vec![Candidate::new(0.25, 3, 2, &[(4, 0.5), (9, -1.25)], &[1]), Candidate::new(-0.5, 15, 7, &[], &[6, 2])]
}

/// Six candidates with bags of all lengths.
fn six() -> Vec<Candidate> {
    vec![
        Candidate::new(0.0625, 0, 0, &[], &[]),
        Candidate::new(-1.0, 15, 7, &[(15, 1.0)], &[7]),
        Candidate::new(0.75, 8, 3, &[(0, -0.125), (0, -0.125)], &[0, 0]),
        Candidate::new(0.0, 2, 5, &[(1, 2.0), (2, 0.0), (3, -0.5)], &[]),
        Candidate::new(1.0, 11, 1, &[(7, 0.25)], &[3, 5]),
        Candidate::new(-0.1875, 4, 6, &[(12, -1.0), (5, 1.5)], &[4]),
    ]
}

/// Any number of candidates, each different.
fn many(count: usize) -> Vec<Candidate> {
    let row = |i: usize| Candidate::new((i as f32 - 32.0) / 16.0, (i % 16) as u32, (i / 3 % 8) as u32, &[], &[]);
    (0..count).map(row).collect()
}

/// Candidates and a context that hold `ids` ids together.
pub fn with_ids(ids: usize) -> (Context, Vec<Candidate>) {
    let full = |i: usize| {
        let word = |k: usize| ((i + k) as u32 % 16, (k as f32 + 1.0) / 8.0);
        Candidate::new(0.5, i as u32 % 16, i as u32 % 8, &[word(0), word(1), word(2)], &[i as u32 % 8, 1])
    };
    let mut candidates: Vec<Candidate> = (0..(ids - 5) / 7).map(full).collect();
    let mut context = context();
    context.segments = Vec::new();
    // The slot is one; what is left becomes a smaller candidate and segments.
    let mut left = ids - 1 - candidates.len() * 7;
    if left > 4 {
        candidates.push(Candidate::new(0.5, 1, 1, &[], &[]));
        left -= 2;
    }
    context.segments.extend((0..left as u64).map(|id| id + 1));
    (context, candidates)
}

pub fn hello_table(client: Option<&str>, token: Option<&[u8]>, version_max: u8) -> Vec<u8> {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = wire::HelloArgs {
        client: client.map(|client| builder.create_string(client)),
        token: token.map(|token| builder.create_vector(token)),
        version_max,
    };
    let table = wire::Hello::create(&mut builder, &args);
    builder.finish_minimal(table);
    builder.finished_data().to_vec()
}

pub fn describe_frame(request_id: u64, model: &str, signature: u64) -> Vec<u8> {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = wire::DescribeArgs { model: Some(builder.create_string(model)) };
    let table = wire::Describe::create(&mut builder, &args);
    builder.finish_minimal(table);
    frame(Header { signature, ..Header::new(Kind::Describe, request_id) }, builder.finished_data())
}

pub fn vectors(world: &World) -> Vec<Vector> {
    let mut vectors = hellos(world);
    vectors.extend(describes(world));
    vectors.extend(ranks(world));
    vectors.extend(selections(world));
    vectors.extend(rules(world));
    vectors.extend(shapes(world));
    vectors.extend(others(world));
    vectors
}

fn hellos(world: &World) -> Vec<Vector> {
    let hello = |name, shows, table: &[u8]| {
        Vector::new(name, shows).without_hello().send(&frame(Header::new(Kind::Hello, HELLO_ID), table)).greeted(HELLO_ID)
    };
    let ranked = Rank::new(10, context(), pair());
    vec![
        hello("hello", "the first frame; sent before every vector that does not say otherwise", &hello_table(Some("vectors"), None, 1)),
        hello("hello_empty", "a hello that says nothing: every field has a default", &hello_table(None, None, 1)),
        hello("hello_newer", "a client of a newer version is answered with version 1", &hello_table(Some("vectors"), None, 9)),
        hello("hello_token", "a token where none is asked for", &hello_table(Some("vectors"), Some(b"secret"), 1)),
        hello("hello_longest", "name and token at their limits", &hello_table(Some(&"n".repeat(128)), Some(&[0xa5; 256]), 1)),
        hello("hello_pipelined", "requests right behind the hello", &hello_table(Some("vectors"), None, 1)).rank(world, &ranked),
    ]
}

fn describes(world: &World) -> Vec<Vector> {
    let described = |name, shows, model, signature| {
        let answer = Encoder::new().description(10, &world.description).to_vec();
        Vector::new(name, shows).send(&describe_frame(10, model, signature)).answer(&answer)
    };
    vec![
        described("describe_name", "a layout by public name", "wire_vectors", 0),
        described("describe_signature", "a layout by signature", "", world.signature()),
        described("describe_both", "where both are given, the name asks", "wire_vectors", 0x0bad_0bad),
    ]
}

fn ranks(world: &World) -> Vec<Vector> {
    let rank = |name, shows, candidates| Vector::new(name, shows).rank(world, &Rank::new(10, context(), candidates));
    let (ids_context, ids_candidates) = with_ids(IDS_MAX);
    let mut trace = [0; 25];
    for (value, byte) in (1..).zip(&mut trace) {
        *byte = value;
    }
    let wishes = Rank {
        budget_us: 60_000_000,
        priority: 200,
        split_key: 0xfedc_ba98_7654_3210,
        trace: Some(trace),
        ..Rank::new(10, context(), pair())
    };
    vec![
        rank("rank_one", "one candidate", pair()[..1].to_vec()),
        rank("rank_two", "two candidates, every block in use", pair()),
        rank("rank_six", "bags of all lengths", six()),
        rank("rank_candidates_max", "as many candidates as the description allows", many(CANDIDATES_MAX)),
        Vector::new("rank_ids_max", "as many ids as the description allows").rank(world, &Rank::new(10, ids_context, ids_candidates)),
        Vector::new("rank_bags_empty", "no id in any bag").rank(world, &Rank::new(10, Context { segments: vec![], ..context() }, many(3))),
        Vector::new("rank_bags_full", "every bag as long as it may be").rank(
            world,
            &Rank::new(
                10,
                Context { segments: vec![1, 2, 3, 4], ..context() },
                vec![
                    Candidate::new(0.5, 1, 2, &[(1, 1.0), (2, 0.5), (3, 0.25)], &[1, 2]),
                    Candidate::new(0.5, 2, 1, &[(3, -1.0), (2, -0.5), (1, -0.25)], &[2, 1]),
                ],
            ),
        ),
        Vector::new("rank_hashed_ids", "ids of a hashed feature: the whole range but all ones is legal")
            .rank(world, &Rank::new(10, Context { segments: vec![0, 1 << 63, u64::MAX - 1, u64::from(u32::MAX)], ..context() }, pair())),
        Vector::new("rank_integer_minus_one", "all ones in an integer feature is -1, not missing")
            .rank(world, &Rank::new(10, Context { slot: -1, ..context() }, pair())),
        Vector::new("rank_integer_negative", "integers are signed")
            .rank(world, &Rank::new(10, Context { slot: -1024, ..context() }, pair())),
        Vector::new("rank_output_1", "ordered by the second output")
            .rank(world, &Rank { rank_output: 1, top_k: 4, ..Rank::new(10, context(), six()) }),
        Vector::new("rank_wishes", "budget, priority, split key and trace do not change the scores").rank(world, &wishes),
        Vector::new("rank_pipelined", "two requests of different size, the answers in any order")
            .rank(world, &Rank::new(10, context(), many(40)))
            .rank(world, &Rank { top_k: 1, ..Rank::new(11, context(), pair()) }),
        Vector::new("rank_request_ids", "any number is a request id")
            .rank(world, &Rank::new(0, context(), pair()))
            .rank(world, &Rank::new(u64::MAX, context(), six())),
    ]
}

fn selections(world: &World) -> Vec<Vector> {
    let bids = [40, 2_000_000, -3, 0, i64::MAX, i64::MIN];
    let bidding = || six().into_iter().zip(bids).map(|(candidate, bid)| candidate.bid(bid)).collect::<Vec<_>>();
    let masked = |hidden: &[usize]| {
        let hide = |(index, candidate): (usize, Candidate)| if hidden.contains(&index) { candidate.masked() } else { candidate };
        six().into_iter().enumerate().map(hide).collect::<Vec<_>>()
    };
    let rank =
        |name, shows, top_k, candidates| Vector::new(name, shows).rank(world, &Rank { top_k, ..Rank::new(10, context(), candidates) });
    let tied = |bid| [0, 1, 0, 1].map(|index: usize| Candidate { bid, ..pair()[index].clone() }).to_vec();
    let mut masked_bids = bidding();
    masked_bids[4] = masked_bids[4].clone().masked();
    let mut all_masked_bids = bidding();
    all_masked_bids.iter_mut().for_each(|candidate| candidate.eligible = false);
    let explicit = {
        let rank = Rank::new(10, context(), six());
        let mut body = rank.body();
        body.mask = Some(vec![1; 6]);
        Vector::new("mask_all_eligible", "a mask of ones says what no mask says")
            .send(&frame(rank.header(world.signature()), &body.table()))
            .answer(&rank.answer(world))
    };
    let unexamined = {
        // What a masked row holds is not looked at: NaN, ids beyond every table, missing ids, a NaN weight.
        let mut rank = Rank::new(10, context(), six());
        rank.candidates[1] = Candidate::new(f32::NAN, 16, MISSING, &[(MISSING, f32::NAN)], &[8, MISSING]).masked();
        Vector::new("mask_values_unexamined", "masked rows take their place in the blocks; their values are not examined")
            .send(&rank.frame(world))
            .answer(&rank.answer(world))
    };
    vec![
        rank("mask_some", "masked rows are NaN with status 1", 0, masked(&[0, 3])),
        rank("mask_none_eligible", "no row is computed", 0, masked(&[0, 1, 2, 3, 4, 5])),
        explicit,
        unexamined,
        rank("top_k", "the best three by score", 3, six()),
        rank("top_k_one", "the best one", 1, six()),
        rank("top_k_beyond", "fewer winners than asked for: fewer are there", 100, six()),
        rank("top_k_largest", "the largest number that fits the field", u32::MAX, six()),
        rank("top_k_mask", "winners are eligible", 5, masked(&[1, 2])),
        rank("top_k_mask_all", "no winner: the vector of winners is there and empty", 2, masked(&[0, 1, 2, 3, 4, 5])),
        rank("top_k_ties", "equal scores: the lower index first", 3, tied(None)),
        rank("bids_top_k", "ordered by score times bid: negative, zero and the largest bids", 6, bidding()),
        rank("bids_ties", "equal products: the lower index first", 4, tied(Some(7))),
        rank("bids_zero", "zero bids make all products equal", 2, six().into_iter().map(|candidate| candidate.bid(0)).collect()),
        rank("bids_mask", "a masked row keeps its place in the bids", 3, masked_bids),
        rank("bids_mask_all", "bids, but nobody eligible", 3, all_masked_bids),
        rank("bids_without_top_k", "bids without top_k change nothing", 0, bidding()),
    ]
}

fn rules(world: &World) -> Vec<Vector> {
    let nan = Context { age: [f32::NAN, 0.25], ..context() };
    let with_advertiser = |advertiser| Candidate { advertiser, ..pair()[0].clone() };
    let rank = |name, shows, context, candidates| Vector::new(name, shows).rank(world, &Rank::new(10, context, candidates));
    let ruled = || vec![pair()[1].clone(), with_advertiser(MISSING), with_advertiser(8), with_advertiser(MISSING - 1)];
    let infinite = || {
        let mut rows = six();
        rows[1].ctr = f32::INFINITY;
        rows[3].ctr = f32::NEG_INFINITY;
        rows[4].words[0].1 = f32::INFINITY;
        rows
    };
    vec![
        rank("rule_missing", "a missing id is replaced: status 4", context(), vec![pair()[0].clone(), with_advertiser(MISSING)]),
        rank("rule_range", "an id out of range is replaced: status 2", context(), vec![with_advertiser(8), pair()[1].clone()]),
        rank("rule_nan", "a NaN of the context is replaced: context status 8", nan.clone(), pair()),
        rank("rule_all", "all rules at once, row by row", nan.clone(), ruled()),
        Vector::new("rule_all_top_k", "status bytes follow the winners").rank(world, &Rank { top_k: 3, ..Rank::new(10, nan, ruled()) }),
        rank("not_finite", "infinite inputs: scores that are not finite have status 16", context(), infinite()),
        Vector::new("not_finite_top_k", "infinite scores are ordered, NaN comes last")
            .rank(world, &Rank { top_k: 6, ..Rank::new(10, context(), infinite()) }),
    ]
}

/// Sound frames of unusual shape.
fn shapes(world: &World) -> Vec<Vector> {
    let rank = Rank::new(10, context(), pair());
    let header = rank.header(world.signature());
    let answer = rank.answer(world);
    let sent = |name, shows, body: &[u8]| Vector::new(name, shows).send(&frame(header, body)).answer(&answer);
    let empty = Rank::new(10, Context { segments: vec![], ..context() }, many(3));
    let mut empty_body = empty.body();
    empty_body.empty_blocks = true;
    let table = rank.body().table();
    let mut longest = table.clone();
    longest.resize(FRAME_BYTES_MAX - HEADER_BYTES, 0);
    let ping = |id, body: &[u8]| frame(Header::new(Kind::Ping, id), body);
    let pong = |id, body: &[u8]| Encoder::new().pong(id, body).to_vec();
    vec![
        sent("shape_unknown_field", "a field of a newer schema is skipped", &with_unknown_field(&table)),
        sent("shape_bytes_behind", "bytes behind the table are ignored", &[&table[..], &[0xee; 3]].concat()),
        sent("shape_frame_bytes_max", "a frame as large as the hello's answer allows", &longest),
        Vector::new("shape_empty_blocks", "a block of size 0 may be there as an empty vector")
            .send(&frame(empty.header(world.signature()), &empty_body.table()))
            .answer(&empty.answer(world)),
        Vector::new("shape_unaligned", "frames begin at any offset of the stream")
            .send(&ping(10, b"1"))
            .answer(&pong(10, b"1"))
            .rank(world, &Rank::new(11, context(), pair()))
            .send(&ping(12, b"333"))
            .answer(&pong(12, b"333"))
            .rank(world, &Rank::new(13, context(), six())),
    ]
}

/// The table with one field more in its vtable, which points at the table's first bytes.
fn with_unknown_field(table: &[u8]) -> Vec<u8> {
    let u32_at = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(table[at..at + 2].try_into().unwrap());
    let root = u32_at(0) as usize;
    let vtable = (root as i64 - i64::from(u32_at(root) as i32)) as usize;
    let vtable_bytes = usize::from(u16_at(vtable));
    // All fields of Rank and two more; a copy of the vtable goes behind everything, where room is.
    let fields = 14;
    let mut longer = table[vtable..vtable + vtable_bytes].to_vec();
    longer.resize(4 + 2 * fields, 0);
    longer.extend_from_slice(&4_u16.to_le_bytes());
    longer.extend_from_slice(&0_u16.to_le_bytes());
    let bytes = longer.len() as u16;
    longer[..2].copy_from_slice(&bytes.to_le_bytes());
    let mut body = table.to_vec();
    body.resize(table.len().next_multiple_of(2), 0);
    let place = body.len();
    body[root..root + 4].copy_from_slice(&((root as i64 - place as i64) as i32).to_le_bytes());
    body.extend_from_slice(&longer);
    body
}

fn others(world: &World) -> Vec<Vector> {
    let ping = |id, body: &[u8]| frame(Header::new(Kind::Ping, id), body);
    let pong = |id, body: &[u8]| Encoder::new().pong(id, body).to_vec();
    let bytes: Vec<u8> = (0..64).collect();
    let unused = Header { budget_us: 1, signature: 2, candidates: 3, priority: 4, ..Header::new(Kind::Ping, 10) };
    let cut = Rank::new(11, context(), pair()).frame(world);
    vec![
        Vector::new("ping", "an empty ping").send(&ping(10, &[])).answer(&pong(10, &[])),
        Vector::new("ping_longest", "64 bytes come back").send(&ping(10, &bytes)).answer(&pong(10, &bytes)),
        Vector::new("ping_unused_fields", "header fields that a kind does not use are ignored")
            .send(&frame(unused, b"ping"))
            .answer(&pong(10, b"ping")),
        Vector::new("cancel_unknown", "a cancel for nothing is not answered")
            .send(Encoder::new().cancel(77))
            .send(&ping(78, b"on"))
            .answer(&pong(78, b"on")),
        Vector::new("drain_answer", "no more requests are promised: the server closes when nothing is in flight")
            .rank(world, &Rank::new(10, context(), pair()))
            .send(Encoder::new().drain_answer())
            .closed(),
        Vector::new("half_close", "a client that sends no more gets the answers of what is in flight")
            .rank(world, &Rank::new(10, context(), six()))
            .rank(world, &Rank::new(11, context(), pair()))
            .half_close(),
        Vector::new("half_close_idle", "a client that leaves after its hello").half_close(),
        Vector::new("half_close_silent", "a client that leaves without a byte").without_hello().half_close(),
        Vector::new("half_close_in_header", "a frame that ends in its header is not answered, the ones before it are")
            .rank(world, &Rank::new(10, context(), pair()))
            .send(&cut[..HEADER_BYTES - 1])
            .half_close(),
        Vector::new("half_close_in_body", "a frame that ends in its body is not answered").send(&cut[..cut.len() - 1]).half_close(),
    ]
}
