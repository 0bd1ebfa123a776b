//! The protocol's golden vectors, from a client's side: every recorded answer is understood, and the builder makes the blocks of every rendered
//! request. `schema/PROTOCOL.md`, section 10.

mod fake;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake::Server;
use gavel_client::blocking::Connection;
use gavel_client::{Call, Code, Description, Error, FeatureKind, Layout, MISSING, Options, Request, RequestBuilder, Row, Scores, Trace};
use gavel_protocol::{DrainView, ErrorView, HEADER_BYTES, Header, HelloAnswerView, Kind, RankView, ScoresView};
use serde_json::Value;

struct Frame {
    header: Header,
    bytes: Vec<u8>,
}

impl Frame {
    fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

struct Vector {
    name: String,
    /// What a client sends, where that is frames.
    sent: Vec<Frame>,
    answers: Vec<Frame>,
    entry: Value,
}

impl Vector {
    fn rendered(&self, request_id: u64) -> Option<&Value> {
        self.entry["requests"].as_array()?.iter().find(|request| unsigned(&request["request_id"]) == request_id)
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schema/vectors")
}

fn vectors() -> (Value, Vec<Vector>) {
    let index = std::fs::read(folder().join("index.json")).expect("the index");
    let mut index: Value = serde_json::from_slice(&index).expect("JSON");
    let entries = index["vectors"].take();
    let read = |entry: &Value, key: &str| match entry[key].as_str() {
        Some(file) => frames(&std::fs::read(folder().join(file)).expect("a file of the index")),
        None => Vec::new(),
    };
    let vectors = entries.as_array().expect("a list").iter().map(|entry| Vector {
        name: entry["name"].as_str().expect("a name").to_owned(),
        sent: read(entry, "send"),
        answers: read(entry, "answer"),
        entry: entry.clone(),
    });
    let vectors = vectors.collect();
    (index, vectors)
}

/// The whole frames that bytes begin with.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(Ok(header)) = bytes.first_chunk().map(Header::parse) {
        let Some((frame, rest)) = bytes.split_at_checked(HEADER_BYTES + header.body_len as usize) else { break };
        frames.push(Frame { header, bytes: frame.to_vec() });
        bytes = rest;
    }
    frames
}

fn unsigned(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).expect("an unsigned integer")
}

fn signed(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).expect("an integer")
}

fn float(value: &Value) -> f32 {
    match value.as_str() {
        None => value.as_f64().expect("a number") as f32,
        Some("NaN") => f32::NAN,
        Some("Infinity") => f32::INFINITY,
        Some("-Infinity") => f32::NEG_INFINITY,
        Some(other) => panic!("{other} is no number"),
    }
}

fn id(value: &Value) -> u64 {
    if value.is_null() { MISSING } else { unsigned(value) }
}

fn layout(vectors: &[Vector]) -> Arc<Layout> {
    let described = vectors.iter().find(|vector| vector.name == "describe_name").expect("a description");
    Layout::new(Description::parse(described.answers[0].body()).expect("a sound description"))
}

fn fill(mut row: Row<'_>, layout: &Layout, values: &Value) {
    for feature in &layout.description().features {
        let Some(values) = values[&feature.name].as_array() else { continue };
        let name = feature.name.as_str();
        let done = match feature.kind {
            FeatureKind::Dense => row.dense_values(name, &values.iter().map(float).collect::<Vec<_>>()),
            FeatureKind::Integer => row.integers(name, &values.iter().map(signed).collect::<Vec<_>>()),
            FeatureKind::Sparse if feature.is_weighted() => {
                let (ids, weights): (Vec<u64>, Vec<f32>) = values.iter().map(|pair| (id(&pair[0]), float(&pair[1]))).unzip();
                row.weighted_ids(name, &ids, &weights)
            }
            FeatureKind::Sparse => row.ids(name, &values.iter().map(id).collect::<Vec<_>>()),
        };
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The builder with everything that the rendering says.
fn build(builder: &mut RequestBuilder, request: &Value) {
    let layout = Arc::clone(builder.layout());
    builder.clear();
    fill(builder.context(), &layout, &request["context"]);
    for candidate in request["candidates"].as_array().expect("a list") {
        fill(builder.add_candidate().expect("the one before is whole"), &layout, candidate);
        let mut row = builder.last_candidate().expect("just added");
        if let Some(eligible) = candidate["eligible"].as_bool() {
            row.eligible(eligible).expect("a candidate");
        }
        if !candidate["bid"].is_null() {
            row.bid(signed(&candidate["bid"])).expect("a candidate");
        }
    }
    builder.top_k(unsigned(&request["top_k"]) as u32).split_key(unsigned(&request["split_key"]));
    builder.rank_output(request["rank_output"].as_str().expect("a name")).expect("an output");
    if let Some(hex) = request["trace"].as_str() {
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        builder.trace(Trace::from_bytes(&bytes).expect("25 bytes"));
    }
}

/// A fake that answers each frame, the hello too, with the bytes at the front of a queue, and keeps what it was sent.
struct Recorder {
    server: Server,
    replies: Arc<Mutex<VecDeque<Vec<u8>>>>,
    received: Arc<Mutex<Vec<Frame>>>,
    hello: Vec<u8>,
}

impl Recorder {
    fn start(vectors: &[Vector]) -> Recorder {
        let replies = Arc::new(Mutex::new(VecDeque::<Vec<u8>>::new()));
        let received = Arc::new(Mutex::new(Vec::new()));
        let (queue, record) = (Arc::clone(&replies), Arc::clone(&received));
        let server = Server::start(move |_, peer| {
            while let Some((header, body)) = peer.next() {
                record.lock().expect("no panic").push(Frame { header, bytes: [&header.to_bytes()[..], &body].concat() });
                let Some(reply) = queue.lock().expect("no panic").pop_front() else { return };
                // Recorded ids become the client's; id 0 is about the connection.
                for frame in frames(&reply) {
                    let mut bytes = frame.bytes;
                    if !matches!((frame.header.kind, frame.header.request_id), (Kind::Drain, _) | (Kind::Error, 0)) {
                        bytes[16..24].copy_from_slice(&header.request_id.to_le_bytes());
                    }
                    peer.write(&bytes);
                }
            }
        });
        let hello = vectors.iter().find(|vector| vector.name == "hello").expect("the standard hello").answers[0].bytes.clone();
        Recorder { server, replies, received, hello }
    }

    /// A connection on which the requests are answered with these bytes, in order, and which ends then.
    fn connect(&self, replies: impl IntoIterator<Item = Vec<u8>>) -> Connection {
        self.try_connect(std::iter::once(self.hello.clone()).chain(replies)).expect("the recorded hello answer is taken")
    }

    fn try_connect(&self, replies: impl IntoIterator<Item = Vec<u8>>) -> Result<Connection, Error> {
        *self.replies.lock().expect("no panic") = replies.into_iter().collect();
        self.received.lock().expect("no panic").clear();
        Connection::connect(&self.server.address, &Options { connect_timeout: PATIENCE, ..Options::default() })
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

#[test]
fn index_and_files_agree() {
    let (index, vectors) = vectors();
    let layout = layout(&vectors);
    assert_eq!(index["protocol"], 1);
    assert_eq!(index["model"]["signature"], format!("{:#018x}", layout.signature()));
    assert!(vectors.len() > 200);
    for Vector { name, answers, entry, .. } in &vectors {
        let listed = entry["answers"].as_array().expect("a list");
        assert_eq!(listed.len(), answers.len(), "{name}");
        for (listed, frame) in listed.iter().zip(answers) {
            assert_eq!(unsigned(&listed["request_id"]), frame.header.request_id, "{name}");
            let kind = match frame.header.kind {
                Kind::HelloAnswer => {
                    let view = HelloAnswerView::parse(frame.body()).expect("sound");
                    assert_eq!(index["server"]["frame_bytes_max"], view.frame_bytes_max, "{name}");
                    "hello_answer"
                }
                Kind::Description => {
                    assert_eq!(Description::parse(frame.body()).as_ref(), Ok(layout.description()), "{name}");
                    "description"
                }
                Kind::Scores => {
                    assert!(ScoresView::parse(frame.body()).is_ok(), "{name}");
                    "scores"
                }
                Kind::Pong => "pong",
                Kind::Drain => {
                    assert!(DrainView::parse(frame.body()).is_ok(), "{name}");
                    "drain"
                }
                Kind::Error => {
                    let view = ErrorView::parse(frame.body()).expect("sound");
                    assert_eq!(listed["code"], view.code, "{name}");
                    assert_eq!(listed["code_name"].as_str(), view.known().map(Code::name), "{name}");
                    "error"
                }
                other => panic!("{name}: {other:?} is no answer of a server"),
            };
            assert_eq!(listed["kind"], kind, "{name}");
        }
    }
}

#[test]
fn requests_are_built_and_scores_understood() {
    let (_, vectors) = vectors();
    let layout = layout(&vectors);
    let recorder = Recorder::start(&vectors);
    let mut builder = RequestBuilder::new(&layout);
    let (mut built, mut understood) = (0, 0);
    for vector in &vectors {
        let name = &vector.name;
        let ranks: HashMap<u64, &Frame> =
            vector.sent.iter().filter(|frame| frame.header.kind == Kind::Rank).map(|frame| (frame.header.request_id, frame)).collect();
        for answer in vector.answers.iter().filter(|frame| frame.header.kind == Kind::Scores) {
            let recorded = ranks[&answer.header.request_id];
            let body = RankView::parse(recorded.body()).expect("a sound rank");
            let rendered = vector.rendered(answer.header.request_id);
            let request = match rendered {
                None => Request::from_blocks(&layout, recorded.header.candidates, body).expect("sound blocks"),
                Some(rendered) => {
                    build(&mut builder, rendered);
                    let request = builder.finish().unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_eq!(*request.body(), body, "{name}: the builder's blocks");
                    built += 1;
                    request
                }
            };
            let Header { budget_us, priority, signature, candidates, .. } = recorded.header;
            let call = Call { budget: (budget_us > 0).then(|| Duration::from_micros(u64::from(budget_us))), priority, deadline: None };
            let mut connection = recorder.connect([answer.bytes.clone()]);
            let mut scores = Scores::default();
            let id = connection.send(&request, &call).expect("sent");
            let (answered, outcome) = connection.recv(&mut scores, soon()).unwrap_or_else(|error| panic!("{name}: {error}"));
            outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answered, id, "{name}");

            let received = recorder.received.lock().expect("no panic");
            let sent = received.last().expect("the rank");
            assert_eq!(RankView::parse(sent.body()), Ok(body), "{name}: what was sent");
            let heads = (sent.header.signature, sent.header.candidates, sent.header.priority, sent.header.budget_us > 0);
            assert_eq!(heads, (signature, candidates, priority, budget_us > 0), "{name}");

            let view = ScoresView::parse(answer.body()).expect("sound");
            let bits = |scores: &mut dyn Iterator<Item = f32>| scores.map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(&mut scores.scores().iter().copied()), bits(&mut view.scores()), "{name}");
            assert_eq!((scores.rows(), scores.outputs(), scores.model_version), (view.rows, view.outputs, view.model_version), "{name}");
            assert_eq!(scores.winners().map(<[u32]>::to_vec), view.winners().map(Iterator::collect), "{name}");
            assert_eq!(scores.context_status, view.context_status, "{name}");
            let status: Vec<u8> = (0..scores.rows()).map(|row| scores.status(row)).collect();
            assert_eq!(status, view.status.map_or(vec![0; view.rows], <[u8]>::to_vec), "{name}");
            understood += 1;
        }
    }
    println!("{built} requests built, {understood} scores understood");
    assert!(built >= 40 && understood > built);
}

#[test]
fn errors_are_understood() {
    let (_, vectors) = vectors();
    let layout = layout(&vectors);
    let recorder = Recorder::start(&vectors);
    let ranked = vectors.iter().find(|vector| vector.name == "rank_two").expect("a rank");
    let mut builder = RequestBuilder::new(&layout);
    build(&mut builder, ranked.rendered(ranked.sent[0].header.request_id).expect("rendered"));
    let request = builder.finish().expect("good");
    let check = |name: &str, error: &Error, view: &ErrorView<'_>| match error {
        Error::Refused { code, message, retry_after } => {
            let retry_us = retry_after.map_or(0, |after| after.as_micros());
            assert_eq!((*code as u16, message.as_str(), retry_us), (view.code, view.message, u128::from(view.retry_after_us)), "{name}");
            assert_eq!(error.may_retry(), code.retry(), "{name}");
        }
        Error::RefusedUnknown { number, .. } => assert!(*number == view.code && view.known().is_none(), "{name}"),
        other => panic!("{name}: {other}"),
    };
    let mut codes = std::collections::BTreeSet::new();
    for Vector { name, answers, .. } in &vectors {
        for answer in answers.iter().filter(|frame| frame.header.kind == Kind::Error) {
            let view = ErrorView::parse(answer.body()).expect("sound");
            codes.insert(view.code);
            let mut connection = recorder.connect([answer.bytes.clone()]);
            connection.send(&request, &Call::default()).expect("sent");
            match connection.recv(&mut Scores::default(), soon()) {
                Ok((_, Ok(()))) => panic!("{name}: an error was taken for scores"),
                Ok((_, Err(error))) | Err(error) => check(name, &error, &view),
            }
            // The same as the answer to a hello.
            if view.known().is_some_and(Code::closes) {
                let refused = recorder.try_connect([answer.bytes.clone()]).err().unwrap_or_else(|| panic!("{name}: connected"));
                check(name, &refused, &view);
            }
        }
    }
    assert!(Code::ALL.iter().all(|code| codes.contains(&(*code as u16))), "every code: {codes:?}");
}

#[test]
fn other_answers_are_understood() {
    let (_, vectors) = vectors();
    let layout = layout(&vectors);
    let recorder = Recorder::start(&vectors);
    let ranked = vectors.iter().find(|vector| vector.name == "rank_two").expect("a rank");
    let mut kinds = HashMap::new();
    for Vector { name, answers, .. } in &vectors {
        for answer in answers {
            *kinds.entry(answer.header.kind).or_insert(0) += 1;
            match answer.header.kind {
                Kind::HelloAnswer => {
                    let connection = recorder.try_connect([answer.bytes.clone()]).unwrap_or_else(|error| panic!("{name}: {error}"));
                    let view = HelloAnswerView::parse(answer.body()).expect("sound");
                    let limits = connection.limits();
                    assert_eq!(
                        (limits.server.as_str(), limits.frame_bytes_max, limits.candidates_max, limits.in_flight_max),
                        (view.server, view.frame_bytes_max as usize, view.candidates_max, view.in_flight_max as usize),
                        "{name}"
                    );
                }
                Kind::Description => {
                    let mut connection = recorder.connect([answer.bytes.clone()]);
                    let described = connection.describe("wire_vectors", soon()).unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_eq!(described.description(), layout.description(), "{name}");
                }
                Kind::Pong => {
                    let mut connection = recorder.connect([answer.bytes.clone()]);
                    connection.ping(soon()).unwrap_or_else(|error| panic!("{name}: {error}"));
                }
                Kind::Drain => {
                    // What is in flight is still answered; nothing new may be sent.
                    let mut connection = recorder.connect([[answer.bytes.clone(), ranked.answers[0].bytes.clone()].concat()]);
                    let body = RankView::parse(ranked.sent[0].body()).expect("sound");
                    let request = Request::from_blocks(&layout, ranked.sent[0].header.candidates, body).expect("sound");
                    connection.send(&request, &Call::default()).expect("sent");
                    let (_, outcome) = connection.recv(&mut Scores::default(), soon()).unwrap_or_else(|error| panic!("{name}: {error}"));
                    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!(connection.is_draining(), "{name}");
                    assert!(connection.send(&request, &Call::default()).is_err(), "{name}");
                }
                _ => {}
            }
        }
    }
    assert_eq!(kinds.len(), 6, "every kind that a server sends: {kinds:?}");
}
