//! What a client must not do: one vector per kind of fault, several where the faults differ.

use gavel_protocol::{Code, Encoder, HEADER_BYTES, Header, Kind};

use crate::good::{context, describe_frame, hello_table, pair, with_ids};
use crate::rows::{Body, Candidate, Context, MISSING, Rank, frame};
use crate::vector::Vector;
use crate::world::{CANDIDATES_MAX, FRAME_BYTES_MAX, IDS_MAX, World};

/// Request id of the frame at fault.
const ID: u64 = 10;

pub fn vectors(world: &World) -> Vec<Vector> {
    let mut vectors = framing(world);
    vectors.extend(order(world));
    vectors.extend(bodies(world));
    vectors.extend(tables(world));
    vectors.extend(requests(world));
    vectors.extend(blocks(world));
    vectors.extend(values(world));
    vectors
}

/// A vector of one frame that is refused.
fn refused(name: &str, code: Code, shows: &str, bytes: &[u8]) -> Vector {
    Vector::new(&format!("bad_{name}"), shows).send(bytes).refused(ID, code)
}

/// Faults of the header: the connection ends.
fn framing(world: &World) -> Vec<Vector> {
    let good = Rank::new(ID, context(), pair()).frame(world);
    let changed = |name, code, shows, at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        refused(name, code, shows, &bytes)
    };
    let nameless =
        |name: &str, shows, bytes: &[u8]| Vector::new(&format!("bad_{name}"), shows).without_hello().send(bytes).refused(0, Code::BadMagic);
    let large = |body_len| Header { body_len, ..Header::new(Kind::Ping, ID) }.to_bytes();
    let beyond = (FRAME_BYTES_MAX - HEADER_BYTES + 1) as u32;
    let mut later = good.clone();
    later[0] = b'g';
    vec![
        nameless("magic_http", "a client of another protocol", b"GET /metrics HTTP/1.1\r\nHost: gavel\r\n\r\n"),
        nameless("magic_tls", "a TLS client hello", &[0x16, 0x03, 0x01, 0x00, 0xa5, 0x01, 0x00, 0x00, 0xa1, 0x03, 0x03]),
        nameless("magic_zeros", "a header of zeros", &[0; HEADER_BYTES]),
        nameless("magic_last_byte", "told before the header is whole", b"GAV1"),
        Vector::new("bad_magic_later", "the second frame is none; a frame behind it is not looked at")
            .send(&good)
            .send(&later)
            .send(Encoder::new().ping(ID + 1, b"late"))
            .refused(0, Code::BadMagic)
            .at_once(),
        changed("version_0", Code::VersionUnsupported, "version 0", 4, 0),
        changed("version_2", Code::VersionUnsupported, "a version that does not exist yet", 4, 2),
        Vector::new("bad_version_max_0", "a hello of a client that speaks no version")
            .without_hello()
            .send(&frame(Header::new(Kind::Hello, ID), &hello_table(Some("vectors"), None, 0)))
            .refused(ID, Code::VersionUnsupported),
        changed("kind_0", Code::KindUnknown, "kind 0", 5, 0),
        changed("kind_7", Code::KindUnknown, "a kind that does not exist", 5, 7),
        changed("kind_drain", Code::KindUnknown, "a drain, which only servers send", 5, 0x06),
        changed("kind_hello_answer", Code::KindUnknown, "a hello answer, which only servers send", 5, 0x81),
        changed("kind_description", Code::KindUnknown, "a description, which only servers send", 5, 0x82),
        changed("kind_scores", Code::KindUnknown, "scores, which only servers send", 5, 0x83),
        changed("kind_pong", Code::KindUnknown, "a pong, which only servers send", 5, 0x85),
        changed("kind_error", Code::KindUnknown, "an error, which only servers send", 5, 0xff),
        changed("header_flags_low", Code::HeaderMalformed, "the lowest flag", 6, 1),
        changed("header_flags_high", Code::HeaderMalformed, "the highest flag", 7, 0x80),
        changed("header_reserved_first", Code::HeaderMalformed, "the first reserved byte behind the priority", 37, 1),
        changed("header_reserved_last", Code::HeaderMalformed, "the last reserved byte behind the priority", 39, 0xff),
        changed("header_tail_first", Code::HeaderMalformed, "the first byte of the reserved tail", 40, 1),
        changed("header_tail_last", Code::HeaderMalformed, "the last byte of the reserved tail", 47, 0x80),
        refused("frame_beyond_max", Code::FrameTooLarge, "one byte too many, told by the header alone", &large(beyond)),
        refused("frame_largest", Code::FrameTooLarge, "4 GiB, told by the header alone", &large(u32::MAX)),
        refused(
            "frame_beyond_max_whole",
            Code::FrameTooLarge,
            "one byte too many, all of them sent",
            &[&large(beyond)[..], &vec![0; beyond as usize]].concat(),
        ),
    ]
}

/// Sound frames at the wrong time.
fn order(world: &World) -> Vec<Vector> {
    let rank = Rank::new(ID, context(), pair());
    let hello = |id, version| frame(Header::new(Kind::Hello, id), &hello_table(Some("vectors"), None, version));
    let early = |name, shows, bytes: &[u8]| refused(name, Code::HelloRequired, shows, bytes).without_hello();
    vec![
        early("hello_missing_rank", "a rank before the hello", &rank.frame(world)),
        early("hello_missing_describe", "a describe before the hello", &describe_frame(ID, "wire_vectors", 0)),
        early("hello_missing_ping", "a ping before the hello", Encoder::new().ping(ID, b"early")),
        early("hello_missing_cancel", "a cancel before the hello", Encoder::new().cancel(ID)),
        early("hello_missing_drain_answer", "a drain answer before the hello", &frame(Header::new(Kind::DrainAnswer, ID), &[])),
        refused("hello_twice", Code::HelloRequired, "a second hello", &hello(ID, 1)),
        Vector::new("bad_hello_refused_pipelined", "what lies behind a refused hello is not answered")
            .without_hello()
            .send(&hello(ID, 0))
            .send(&Rank::new(ID + 1, context(), pair()).frame(world))
            .refused(ID, Code::VersionUnsupported),
        Vector::new("bad_hello_malformed_pipelined", "behind a malformed hello a hello is still due")
            .without_hello()
            .send(&frame(Header::new(Kind::Hello, ID), &[]))
            .send(Encoder::new().ping(ID + 1, b"early"))
            .refused(ID, Code::BodyMalformed)
            .refused(ID + 1, Code::HelloRequired),
        twice("request_id_in_flight", "a rank with the id of a rank in flight", &rank.frame(world), &rank.frame(world)),
        twice("request_id_in_flight_ping", "a ping with the id of a rank in flight", &rank.frame(world), Encoder::new().ping(ID, b"same")),
        twice(
            "request_id_in_flight_describe",
            "a describe with the id of a rank in flight",
            &rank.frame(world),
            &describe_frame(ID, "wire_vectors", 0),
        ),
    ]
}

/// Two frames with the same id. If the first is answered before the second comes, both are good: they must come at once.
fn twice(name: &str, shows: &str, first: &[u8], second: &[u8]) -> Vector {
    Vector::new(&format!("bad_{name}"), shows).send(first).send(second).refused(ID, Code::BadRequest).at_once()
}

/// Bodies that are not what their kind demands.
fn bodies(world: &World) -> Vec<Vector> {
    let malformed = |name: &str, shows, bytes: &[u8]| refused(name, Code::BodyMalformed, shows, bytes);
    // A hello is still due: the good one behind it is answered.
    let hello = |name: &str, shows, body: &[u8]| {
        let good = frame(Header::new(Kind::Hello, ID + 1), &hello_table(Some("vectors"), None, 1));
        Vector::new(&format!("bad_hello_{name}"), shows)
            .without_hello()
            .send(&frame(Header::new(Kind::Hello, ID), body))
            .send(&good)
            .refused(ID, Code::BodyMalformed)
            .greeted(ID + 1)
    };
    let mut not_text = hello_table(Some("vectors"), None, 1);
    let place = not_text.windows(7).position(|window| window == b"vectors").unwrap();
    not_text[place] = 0xff;
    let rank = Rank::new(ID, context(), pair()).header(world.signature());
    vec![
        hello("empty", "a hello without a body", &[]),
        hello("garbage", "a hello that is no table", &[0xff; 64]),
        hello("name_long", "a name of 129 bytes", &hello_table(Some(&"n".repeat(129)), None, 1)),
        hello("token_long", "a token of 257 bytes", &hello_table(Some("vectors"), Some(&[7; 257]), 1)),
        hello("name_not_text", "a name that is not UTF-8", &not_text),
        malformed("describe_empty", "a describe without a body", &frame(Header::new(Kind::Describe, ID), &[])),
        malformed("describe_garbage", "a describe that is no table", &frame(Header::new(Kind::Describe, ID), &[0xff; 16])),
        malformed("describe_name_long", "a name of 129 bytes", &describe_frame(ID, &"n".repeat(129), 0)),
        malformed("rank_empty", "a rank without a body", &frame(rank, &[])),
        malformed("rank_one_byte", "a rank with a body of one byte", &frame(rank, &[4])),
        malformed("rank_garbage", "a rank that is no table", &frame(rank, &[0xa5; 200])),
        malformed("cancel_body", "a cancel with a body", &frame(Header::new(Kind::Cancel, ID), &[0])),
        malformed(
            "drain_answer_body",
            "a drain answer with a body: the connection goes on",
            &frame(Header::new(Kind::DrainAnswer, ID), &[0; 4]),
        ),
        malformed("ping_long", "a ping of 65 bytes", &frame(Header::new(Kind::Ping, ID), &[1; 65])),
    ]
}

/// Damaged tables: each says something about bytes that are not there.
fn tables(world: &World) -> Vec<Vector> {
    // Bags of some length, so that what overlapping vectors claim is far beyond what the body holds.
    let candidates = (0..12).map(|i| Candidate::new(0.5, i, i % 8, &[(i, 1.0), (1, 0.5), (2, 0.25)], &[1, 2])).collect();
    let rank = Rank::new(ID, context(), candidates);
    let table = rank.body().table();
    let damaged = |name: &str, shows: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut table = table.clone();
        damage(&mut table);
        assert_ne!(table, rank.body().table(), "{name}");
        refused(&format!("table_{name}"), Code::BodyMalformed, shows, &frame(rank.header(world.signature()), &table))
    };
    let root = u32_at(&table, 0) as usize;
    let vtable = (root as i64 - i64::from(u32_at(&table, root) as i32)) as usize;
    // Where the table holds the offset of a block; the numbers of the fields are the schema's order.
    let field = |number: usize| root + usize::from(u16::from_le_bytes([table[vtable + 4 + 2 * number], table[vtable + 5 + 2 * number]]));
    let (ids, lengths) = (field(5), field(6));
    let vector = |field: usize| field + u32_at(&table, field) as usize;
    let mut vectors = vec![
        damaged("root_beyond", "the root's offset leads out of the body", &|t| put(t, 0, u32::MAX)),
        damaged("root_at_end", "the root lies on the last byte", &|t| put(t, 0, table.len() as u32 - 1)),
        damaged("vtable_before", "the vtable would lie before the body", &|t| put(t, root, i32::MAX as u32)),
        damaged("vtable_behind", "the vtable would lie behind the body", &|t| put(t, root, i32::MIN as u32)),
        damaged("vtable_odd", "a vtable of an odd number of bytes", &|t| t[vtable] |= 1),
        damaged("vtable_long", "a vtable longer than the body", &|t| t[vtable..vtable + 2].fill(0xfe)),
        damaged("field_beyond", "a field beyond the table", &|t| t[vtable + 4 + 2 * 5..][..2].copy_from_slice(&0xfffc_u16.to_le_bytes())),
        damaged("vector_beyond", "a block beyond the body", &|t| put(t, ids, u32::MAX - 3)),
        damaged("vector_at_end", "a block whose length is cut off", &|t| put(t, ids, (table.len() - ids) as u32 - 2)),
        damaged("vector_long", "a block longer than the body", &|t| put(t, vector(ids), table.len() as u32)),
        damaged("vector_longest", "a block of 4 GiB", &|t| put(t, vector(lengths), u32::MAX)),
        damaged("overlap", "blocks that share their bytes claim more than the body holds", &|t| {
            let ids = vector(ids);
            for number in [0, 1, 2, 4, 6, 7] {
                let at = field(number);
                put(t, at, (ids - at) as u32);
            }
        }),
    ];
    for keep in [4, root, root + 4, ids + 4, table.len() / 2, table.len() - 1] {
        let name = format!("cut_{keep:04}");
        let what = format!("a table of {} bytes cut to {keep}", table.len());
        vectors.push(damaged(&name, &what, &|t| t.truncate(keep)));
    }
    vectors
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A good request with a fault in header or body.
fn faulty(world: &World, name: &str, code: Code, shows: &str, fault: impl FnOnce(&mut Header, &mut Body)) -> Vector {
    let rank = Rank::new(ID, context(), pair());
    let (mut header, mut body) = (rank.header(world.signature()), rank.body());
    fault(&mut header, &mut body);
    refused(name, code, shows, &frame(header, &body.table()))
}

/// Requests for what is not there, or in numbers that are not allowed.
fn requests(world: &World) -> Vec<Vector> {
    use Code::{BidsInvalid, CandidatesInvalid, MaskInvalid, OutputUnknown, SignatureUnknown, TraceInvalid};
    let beyond = (0..=CANDIDATES_MAX).map(|i| Candidate::new(0.5, i as u32 % 16, 1, &[], &[])).collect();
    let bad = |name, code, shows, fault: &dyn Fn(&mut Header, &mut Body)| faulty(world, name, code, shows, fault);
    vec![
        bad("signature_zero", SignatureUnknown, "a rank without a signature", &|header, _| header.signature = 0),
        bad("signature_wrong", SignatureUnknown, "a layout that no model has", &|header, _| header.signature ^= 1),
        refused("describe_signature_wrong", SignatureUnknown, "a describe of a layout that no model has", &describe_frame(ID, "", 0x0bad)),
        refused(
            "describe_model_unknown",
            Code::ModelUnknown,
            "a describe of a name that no model has",
            &describe_frame(ID, "wire_vector", 0),
        ),
        refused(
            "describe_name_longest",
            Code::ModelUnknown,
            "128 bytes are a name, though of no model",
            &describe_frame(ID, &"n".repeat(128), 0),
        ),
        refused("describe_nothing", Code::ModelUnknown, "a describe with neither name nor signature", &describe_frame(ID, "", 0)),
        refused(
            "describe_both_name_unknown",
            Code::ModelUnknown,
            "where both are given the name asks, also in vain",
            &describe_frame(ID, "nobody", world.signature()),
        ),
        bad("candidates_zero", CandidatesInvalid, "no candidates, no blocks", &|header, body| {
            header.candidates = 0;
            let context = Rank::new(ID, context(), vec![]).body();
            *body = context;
        }),
        refused("candidates_beyond", CandidatesInvalid, "one candidate too many", &Rank::new(ID, context(), beyond).frame(world)),
        bad("candidates_largest", CandidatesInvalid, "2^32 - 1 candidates, blocks for two", &|header, _| header.candidates = u32::MAX),
        bad("mask_short", MaskInvalid, "a mask of one byte for two candidates", &|_, body| body.mask = Some(vec![1])),
        bad("mask_long", MaskInvalid, "a mask of three bytes for two candidates", &|_, body| body.mask = Some(vec![1; 3])),
        bad("mask_empty", MaskInvalid, "a mask that is there and empty", &|_, body| body.mask = Some(vec![])),
        bad("mask_byte_2", MaskInvalid, "a byte that is neither 0 nor 1", &|_, body| body.mask = Some(vec![1, 2])),
        bad("mask_byte_255", MaskInvalid, "another byte that is neither 0 nor 1", &|_, body| body.mask = Some(vec![255, 0])),
        bad("bids_short", BidsInvalid, "one bid for two candidates", &|_, body| body.bids = Some(vec![1; 8])),
        bad("bids_long", BidsInvalid, "three bids for two candidates", &|_, body| body.bids = Some(vec![1; 24])),
        bad("bids_odd", BidsInvalid, "a bid cut short", &|_, body| body.bids = Some(vec![1; 15])),
        bad("bids_empty", BidsInvalid, "bids that are there and empty", &|_, body| body.bids = Some(vec![])),
        bad("output_2", OutputUnknown, "the third of two outputs", &|_, body| body.rank_output = 2),
        bad("output_largest", OutputUnknown, "the largest number of the field, together with top_k", &|_, body| {
            body.rank_output = u16::MAX;
            body.top_k = 1;
        }),
        bad("trace_short", TraceInvalid, "a trace of 24 bytes", &|_, body| body.trace = Some(vec![1; 24])),
        bad("trace_long", TraceInvalid, "a trace of 26 bytes", &|_, body| body.trace = Some(vec![1; 26])),
        bad("trace_empty", TraceInvalid, "a trace that is there and empty", &|_, body| body.trace = Some(vec![])),
    ]
}

/// Every block, too short and too long.
fn blocks(world: &World) -> Vec<Vector> {
    type Block = fn(&mut Body) -> &mut Vec<u8>;
    let all: [(&str, usize, Block); 8] = [
        ("context_dense", 4, |body| &mut body.context_dense),
        ("context_ids", 8, |body| &mut body.context_ids),
        ("context_lengths", 2, |body| &mut body.context_lengths),
        ("context_weights", 4, |body| &mut body.context_weights),
        ("dense", 4, |body| &mut body.dense),
        ("ids", 4, |body| &mut body.ids),
        ("lengths", 2, |body| &mut body.lengths),
        ("weights", 4, |body| &mut body.weights),
    ];
    let mut vectors = Vec::new();
    for (name, element, block) in all {
        let bad = |how: &str, shows: String, change: &dyn Fn(&mut Vec<u8>)| {
            faulty(world, &format!("block_{name}_{how}"), Code::BlockSize, &shows, |_, body| change(block(body)))
        };
        if block(&mut Rank::new(ID, context(), pair()).body()).len() > element {
            vectors.push(bad("short", format!("{name} one element too short"), &|bytes| bytes.truncate(bytes.len() - element)));
            vectors.push(bad("absent", format!("{name} left out"), &Vec::clear));
        }
        vectors.push(bad("long", format!("{name} one element too long"), &|bytes| bytes.resize(bytes.len() + element, 0)));
        vectors.push(bad("odd", format!("{name} one byte too long"), &|bytes| bytes.push(0)));
    }
    let fewer = |_: &mut Header, body: &mut Body| body.lengths[0] -= 1;
    vectors.push(faulty(world, "block_lengths_less", Code::BlockSize, "lengths that leave ids and weights over", fewer));
    let more = |_: &mut Header, body: &mut Body| body.lengths[0] += 1;
    vectors.push(faulty(world, "block_lengths_more", Code::BlockSize, "lengths that want more ids and weights than there are", more));
    let narrow = |_: &mut Header, body: &mut Body| body.context_ids = body.context_ids.chunks(8).flat_map(|id| id[..4].to_vec()).collect();
    vectors.push(faulty(world, "block_context_ids_narrow", Code::BlockSize, "u32 where one feature of the scope wants u64", narrow));
    let other = |header: &mut Header, _: &mut Body| header.candidates = 3;
    vectors.push(faulty(world, "block_candidates_more", Code::BlockSize, "blocks of two candidates, a header that says three", other));
    vectors
}

/// Lengths, ids and numbers that the model does not take.
fn values(world: &World) -> Vec<Vector> {
    use Code::{IdMissing, IdOutOfRange, LengthTooLarge, ValueNan};
    let first = |change: &dyn Fn(&mut Candidate)| {
        let mut candidates = pair();
        change(&mut candidates[0]);
        Rank::new(ID, context(), candidates)
    };
    let last = |change: &dyn Fn(&mut Candidate)| {
        let mut candidates = pair();
        change(&mut candidates[1]);
        Rank::new(ID, context(), candidates)
    };
    let bad = |name, code, shows, rank: Rank| refused(name, code, shows, &rank.frame(world));
    let segments = |segments: Vec<u64>| Rank::new(ID, Context { segments, ..context() }, pair());
    let (ids_context, ids_candidates) = with_ids(IDS_MAX + 1);
    vec![
        bad("length_context", LengthTooLarge, "five ids in a bag of four", segments(vec![1, 2, 3, 4, 5])),
        bad("length_weighted", LengthTooLarge, "four ids in a bag of three", first(&|one| one.words = vec![(1, 1.0); 4])),
        bad("length_last", LengthTooLarge, "three ids in a bag of two, in the last row", last(&|one| one.seq = vec![1, 2, 3])),
        bad("length_masked", LengthTooLarge, "lengths of masked rows are checked too", {
            first(&|one| {
                one.seq = vec![1, 2, 3];
                one.eligible = false;
            })
        }),
        bad("ids_beyond", LengthTooLarge, "one id more than a request may have", Rank::new(ID, ids_context, ids_candidates)),
        bad("id_at_rows", IdOutOfRange, "an id that equals the rows of its table", first(&|one| one.ad = 16)),
        bad("id_largest", IdOutOfRange, "the largest id that is not missing", last(&|one| one.ad = MISSING - 1)),
        bad("id_in_weighted_bag", IdOutOfRange, "an id out of range in a weighted bag", first(&|one| one.words[1].0 = 16)),
        bad("id_in_last_bag", IdOutOfRange, "the last id of the request", last(&|one| one.seq[1] = 8)),
        bad("id_missing", IdMissing, "a missing id", first(&|one| one.ad = MISSING)),
        bad("id_missing_weighted_bag", IdMissing, "a missing id in a weighted bag", first(&|one| one.words[0].0 = MISSING)),
        bad("id_missing_bag", IdMissing, "a missing id in the last bag", last(&|one| one.seq[1] = MISSING)),
        bad("id_missing_context", IdMissing, "a missing id in a hashed feature", segments(vec![7, u64::MAX])),
        bad("nan_dense", ValueNan, "NaN in a dense feature without a rule", last(&|one| one.ctr = f32::NAN)),
        bad("nan_dense_negative", ValueNan, "every NaN is one", first(&|one| one.ctr = f32::from_bits(0xff80_0001))),
        bad("nan_weight", ValueNan, "NaN as a weight", first(&|one| one.words[1].1 = f32::NAN)),
    ]
}
