//! When two answers are the same: the rule of PROTOCOL.md, section 10.

use gavel_protocol::{Description, DrainView, ErrorView, HelloAnswerView, Kind, ScoresView};

use crate::vector::split;

/// What differs, if anything.
pub fn difference(expected: &[u8], found: &[u8]) -> Option<String> {
    let (Some((expected_header, expected)), Some((header, body))) = (split(expected), split(found)) else {
        return Some(format!("no frame: {found:02x?}"));
    };
    let heads = [expected_header, header].map(|header| (header.kind, header.request_id, header.signature));
    if (header.budget_us, header.candidates, header.priority) != (0, 0, 0) {
        return Some(format!("a header with fields that answers do not have: {header:?}"));
    }
    if heads[0] != heads[1] {
        let why = ErrorView::parse(body).map(|error| format!(" ({})", error.message)).unwrap_or_default();
        return Some(format!("expected {:?}, found {:?}{why}", heads[0], heads[1]));
    }
    let (expected, found) = match header.kind {
        Kind::HelloAnswer => (hello(expected), hello(body)),
        Kind::Description => (description(expected), description(body)),
        Kind::Scores => (scores(expected), scores(body)),
        Kind::Error => (error(expected), error(body)),
        Kind::Drain => (drain(expected), drain(body)),
        _ => (format!("{expected:02x?}"), format!("{body:02x?}")),
    };
    (expected != found).then(|| format!("{} {}: expected {expected}, found {found}", header.request_id, header.kind as u8))
}

fn hello(body: &[u8]) -> String {
    let limits =
        |view: HelloAnswerView<'_>| (view.version, view.frame_bytes_max, view.candidates_max, view.in_flight_max, view.idle_timeout_ms);
    format!("{:?}", HelloAnswerView::parse(body).map(limits))
}

fn description(body: &[u8]) -> String {
    format!("{:?}", Description::parse(body))
}

fn error(body: &[u8]) -> String {
    format!("{:?}", ErrorView::parse(body).map(|view| view.code))
}

fn drain(body: &[u8]) -> String {
    format!("{:?}", DrainView::parse(body))
}

fn scores(body: &[u8]) -> String {
    let told = |view: ScoresView<'_>| {
        // Bit for bit, but every NaN is the same.
        let scores: Vec<String> =
            view.scores().map(|score| if score.is_nan() { "NaN".to_owned() } else { format!("{score}={:08x}", score.to_bits()) }).collect();
        let status = view.status.map_or(vec![0; view.rows], <[u8]>::to_vec);
        let winners = view.winners().map(Iterator::collect::<Vec<u32>>);
        (view.model_version, view.outputs, scores, status, winners, view.context_status)
    };
    format!("{:?}", ScoresView::parse(body).map(told))
}
