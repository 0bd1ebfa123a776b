//! Answers that no bytes of a client alone provoke, for decoders.

use gavel_protocol::{Code, Encoder, wire};

use crate::rows::frame;
use crate::vector::{Fate, Vector, error};

pub fn vectors() -> Vec<Vector> {
    let answers = [
        (Code::Unauthorized, 1, "a token is asked for, and the hello's was wrong"),
        (Code::DeadlineExceeded, 10, "the budget was spent"),
        (Code::Cancelled, 10, "the client gave the request up"),
        (Code::Draining, 10, "the server takes no new requests"),
        (Code::InFlightLimit, 10, "too many unanswered frames"),
        (Code::ConnectionLimit, 0, "too many connections: comes before any frame"),
        (Code::Internal, 10, "the server broke a promise to itself"),
        (Code::EngineFailed, 10, "the engine broke"),
    ];
    let fate = |code: Code| if code.closes() { Fate::Closed } else { Fate::Open };
    let mut vectors: Vec<Vector> = answers
        .into_iter()
        .map(|(code, request_id, shows)| {
            Vector::answer_alone(&format!("answer_{}", code.name()), shows, &error(request_id, code), fate(code))
        })
        .collect();
    let mut encoder = Encoder::new();
    let overloaded = encoder.error(10, Code::Overloaded, Code::Overloaded.name(), 0).to_vec();
    vectors.push(Vector::answer_alone("answer_overloaded", "no room; when there will be is not known", &overloaded, Fate::Open));
    let later = encoder.error(10, Code::Overloaded, Code::Overloaded.name(), 1_500).to_vec();
    vectors.push(Vector::answer_alone("answer_overloaded_retry", "no room; a retry may succeed in 1500 µs", &later, Fate::Open));
    vectors.push(Vector::answer_alone(
        "answer_code_unknown",
        "a code of a newer server is fatal to the request alone",
        &unknown_code(),
        Fate::Open,
    ));
    vectors.push(Vector::answer_alone("answer_drain", "the server goes away in 10 s", encoder.drain(10_000), Fate::Open));
    vectors.push(Vector::answer_alone("answer_drain_now", "the server goes away at once", encoder.drain(0), Fate::Open));
    vectors
}

fn unknown_code() -> Vec<u8> {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = wire::ErrorArgs { code: 9999, message: Some(builder.create_string("from_the_future")), retry_after_us: 0 };
    let table = wire::Error::create(&mut builder, &args);
    builder.finish_minimal(table);
    frame(gavel_protocol::Header::new(gavel_protocol::Kind::Error, 10), builder.finished_data())
}
