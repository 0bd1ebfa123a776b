//! A body of whatever bytes, read as everything that it could be, at two alignments.
#![no_main]

use gavel_protocol::{
    DescribeView, Description, DrainView, Encoder, ErrorView, HEADER_BYTES, Header, HelloAnswerView, HelloView, Kind, RankView, ScoresView,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    read(body);
    let moved: Vec<u8> = std::iter::once(0).chain(body.iter().copied()).collect();
    read(&moved[1..]);
});

fn read(body: &[u8]) {
    if let Ok(hello) = HelloView::parse(body) {
        inside(body, hello.client.as_bytes());
        inside(body, hello.token);
    }
    if let Ok(describe) = DescribeView::parse(body) {
        inside(body, describe.model.as_bytes());
    }
    if let Ok(rank) = RankView::parse(body) {
        rank_holds(body, &rank);
    }
    if let Ok(answer) = HelloAnswerView::parse(body) {
        inside(body, answer.server.as_bytes());
    }
    if let Ok(description) = Description::parse(body) {
        let mut encoder = Encoder::new();
        let frame = encoder.description(1, &description);
        assert_eq!(Description::parse(&frame[HEADER_BYTES..]), Ok(description));
    }
    if let Ok(scores) = ScoresView::parse(body) {
        inside(body, scores.scores);
        inside(body, scores.status.unwrap_or_default());
        inside(body, scores.winners.unwrap_or_default());
        assert_eq!(scores.scores().count(), scores.rows * scores.outputs);
        assert!(scores.winners().is_none_or(|winners| winners.count() == scores.rows));
        assert!(scores.status.is_none_or(|status| status.len() == scores.rows));
    }
    if let Ok(error) = ErrorView::parse(body) {
        inside(body, error.message.as_bytes());
        let _ = error.known();
    }
    let _ = DrainView::parse(body);
}

/// No block claims bytes beyond the body, nor all together more than it has; written again it reads the same.
fn rank_holds(body: &[u8], rank: &RankView<'_>) {
    for block in [rank.context_dense, rank.context_ids, rank.context_lengths, rank.context_weights, rank.dense, rank.ids, rank.lengths] {
        inside(body, block);
    }
    inside(body, rank.weights);
    inside(body, rank.mask.unwrap_or_default());
    inside(body, rank.bids.unwrap_or_default());
    assert!(rank.block_bytes() <= body.len() + 128);
    let mut encoder = Encoder::new();
    let frame = encoder.rank(&Header::new(Kind::Rank, 1), rank);
    assert_eq!(RankView::parse(&frame[HEADER_BYTES..]).as_ref(), Ok(rank));
}

fn inside(body: &[u8], part: &[u8]) {
    let (body, part) = (body.as_ptr_range(), part.as_ptr_range());
    assert!(part.is_empty() || (body.start <= part.start && part.end <= body.end));
}
