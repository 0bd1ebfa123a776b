//! A vector: bytes that a client sends, frames that the server must answer, and the connection's fate.

use gavel_protocol::{Code, Encoder, ErrorView, HEADER_BYTES, Header, Kind};
use serde_json::{Map, Value, json};

use crate::rows::{Rank, number};
use crate::world::{self, World};

/// What becomes of the connection once everything is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Closed,
}

#[derive(Clone, Debug)]
pub struct Vector {
    pub name: String,
    pub shows: String,
    /// The vector `hello` is sent before it.
    pub hello: bool,
    /// None: an answer alone, for clients to decode.
    pub send: Option<Vec<u8>>,
    /// The client closes its sending side behind the last byte.
    pub half_close: bool,
    /// Holds only if the server gets everything at once.
    pub at_once: bool,
    /// In the order of request ids.
    pub answers: Vec<Vec<u8>>,
    pub fate: Fate,
    /// The rank requests that a client's builder can make.
    pub requests: Vec<Value>,
}

impl Vector {
    /// Nothing sent, nothing answered, still open.
    pub fn new(name: &str, shows: &str) -> Vector {
        Vector {
            name: name.to_owned(),
            shows: shows.to_owned(),
            hello: true,
            send: Some(Vec::new()),
            half_close: false,
            at_once: false,
            answers: Vec::new(),
            fate: Fate::Open,
            requests: Vec::new(),
        }
    }

    /// An answer without a request.
    pub fn answer_alone(name: &str, shows: &str, answer: &[u8], fate: Fate) -> Vector {
        Vector { send: None, answers: vec![answer.to_vec()], fate, ..Vector::new(name, shows) }
    }

    pub fn without_hello(self) -> Vector {
        Vector { hello: false, ..self }
    }

    pub fn send(mut self, bytes: &[u8]) -> Vector {
        self.send.as_mut().unwrap().extend_from_slice(bytes);
        self
    }

    pub fn answer(mut self, frame: &[u8]) -> Vector {
        self.answers.push(frame.to_vec());
        self
    }

    /// A request in both forms, and its answer.
    pub fn rank(mut self, world: &World, rank: &Rank) -> Vector {
        self.requests.push(rank.rendered(world));
        self.send(&rank.frame(world)).answer(&rank.answer(world))
    }

    /// Answered with an error, which may close.
    pub fn refused(mut self, request_id: u64, code: Code) -> Vector {
        assert_eq!(self.fate, Fate::Open, "{}: nothing is answered behind an error that closes", self.name);
        if code.closes() {
            self.fate = Fate::Closed;
        }
        self.answer(&error(request_id, code))
    }

    /// The first good hello of a vector that is sent without the standard one.
    pub fn greeted(self, request_id: u64) -> Vector {
        self.answer(Encoder::new().hello_answer(request_id, &world::hello_answer()))
    }

    pub fn closed(self) -> Vector {
        Vector { fate: Fate::Closed, ..self }
    }

    pub fn half_close(self) -> Vector {
        Vector { half_close: true, fate: Fate::Closed, ..self }
    }

    pub fn at_once(self) -> Vector {
        Vector { at_once: true, ..self }
    }

    pub fn send_file(&self) -> Option<(String, &[u8])> {
        self.send.as_ref().map(|bytes| (format!("{}.send.bin", self.name), &bytes[..]))
    }

    pub fn answer_file(&self) -> Option<(String, Vec<u8>)> {
        (!self.answers.is_empty()).then(|| (format!("{}.answer.bin", self.name), self.answers.concat()))
    }

    /// Its entry in the index, without the requests.
    pub fn entry(&self) -> Map<String, Value> {
        let mut entry = Map::new();
        let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
        put("name", json!(self.name));
        put("shows", json!(self.shows));
        put("direction", json!(if self.send.is_some() { "request" } else { "answer" }));
        if let Some((file, _)) = self.send_file() {
            put("send", json!(file));
            put("hello", json!(self.hello));
        }
        if self.half_close {
            put("half_close", json!(true));
        }
        if self.at_once {
            put("at_once", json!(true));
        }
        if let Some((file, _)) = self.answer_file() {
            put("answer", json!(file));
        }
        let answers = self.answers.iter().map(|frame| {
            let (header, body) = split(frame).expect("a frame of ours");
            let mut answer = Map::new();
            answer.insert("request_id".to_owned(), number(header.request_id));
            answer.insert("kind".to_owned(), json!(kind_name(header.kind)));
            if header.kind == Kind::Error {
                let code = ErrorView::parse(body).expect("an error of ours").code;
                answer.insert("code".to_owned(), json!(code));
                answer.insert("code_name".to_owned(), json!(Code::from_u16(code).map(Code::name)));
            }
            Value::Object(answer)
        });
        put("answers", answers.collect());
        put("connection", json!(if self.fate == Fate::Open { "open" } else { "closed" }));
        entry
    }
}

/// An error as the server words it.
pub fn error(request_id: u64, code: Code) -> Vec<u8> {
    Encoder::new().error(request_id, code, code.name(), 0).to_vec()
}

/// Header and body of a whole frame.
pub fn split(frame: &[u8]) -> Option<(Header, &[u8])> {
    let (header, rest) = frame.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::parse(header).ok()?;
    Some((header, rest.get(..header.body_len as usize)?))
}

/// Whole frames, and whether nothing else is there.
pub fn frames(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((_, body)) = split(bytes) {
        let (frame, rest) = bytes.split_at(HEADER_BYTES + body.len());
        frames.push(frame);
        bytes = rest;
    }
    (frames, bytes.is_empty())
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Hello => "hello",
        Kind::Describe => "describe",
        Kind::Rank => "rank",
        Kind::Cancel => "cancel",
        Kind::Ping => "ping",
        Kind::Drain => "drain",
        Kind::HelloAnswer => "hello_answer",
        Kind::Description => "description",
        Kind::Scores => "scores",
        Kind::Pong => "pong",
        Kind::DrainAnswer => "drain_answer",
        Kind::Error => "error",
    }
}
