//! What clients receive, against what they may expect.

use gavel_protocol::{Code, ErrorView, HEADER_BYTES, Header, Kind, ScoresView};

use super::Simulation;
use super::clients::Expected;
use crate::connection::{Frame, next_frame};

impl Simulation<'_> {
    /// Takes the answers that clients have received.
    pub fn read(&mut self) {
        for index in 0..self.clients.len() {
            let id = self.clients[index].id;
            let Some(line) = self.wire.lines.get(id.index as usize).filter(|line| line.generation == id.generation) else {
                continue;
            };
            let bytes = line.read.clone();
            while let Frame::Whole { header, body } = next_frame(&bytes[self.clients[index].read..], 1 << 20) {
                self.clients[index].read += HEADER_BYTES + body.len();
                self.answer(index, &header, body);
            }
        }
    }

    fn answer(&mut self, client: usize, header: &Header, body: &[u8]) {
        if header.kind == Kind::Drain {
            return;
        }
        let code = (header.kind == Kind::Error).then(|| ErrorView::parse(body).expect("a good error").known().expect("a known code"));
        if let Some(code) = code {
            *self.refused.entry(code).or_default() += 1;
            if code.closes() {
                self.clients[client].lost = true;
                return;
            }
        }
        let state = &mut self.clients[client];
        let expected =
            state.expected.remove(&header.request_id).unwrap_or_else(|| panic!("answered twice or never asked: {header:?} {code:?}"));
        state.answered += 1;
        let was_cancelled = state.cancelled.contains(&header.request_id);
        match (expected, code) {
            (Expected::Kind(kind), None) => assert_eq!(header.kind, kind),
            (Expected::Refusal(expected), Some(code)) => {
                let busy = matches!(code, Code::InFlightLimit | Code::Overloaded | Code::Draining);
                assert!(code == expected || busy, "{code} instead of {expected}");
            }
            (Expected::Scores { .. }, Some(Code::Overloaded | Code::InFlightLimit | Code::Draining)) => {}
            (Expected::Scores { .. }, Some(Code::Cancelled)) => assert!(was_cancelled, "cancelled only if asked"),
            (Expected::Scores { budget_us, .. }, Some(Code::DeadlineExceeded)) => assert!(budget_us > 0, "late only with a budget"),
            (Expected::Scores { context, rows, mask, top_k, bids, sent, budget_us }, None) => {
                assert_eq!(header.kind, Kind::Scores);
                let answer = ScoresView::parse(body).expect("good scores");
                let truth = &self.world.truth[context];
                let scores: Vec<f32> = answer.scores().collect();
                let eligible = |row: usize| mask.as_ref().is_none_or(|mask| mask[row] == 1);
                if top_k == 0 {
                    assert_eq!(scores.len(), rows.len() * 2);
                    for (row, found) in scores.chunks_exact(2).enumerate() {
                        if eligible(row) {
                            assert_eq!(found, truth[rows[row]], "bit for bit");
                        } else {
                            assert!(found.iter().all(|score| score.is_nan()), "masked rows are NaN");
                        }
                    }
                } else {
                    let mut order: Vec<usize> = (0..rows.len()).filter(|row| eligible(*row)).collect();
                    let key = |row: usize| {
                        let score = f64::from(truth[rows[row]][0]);
                        bids.as_ref().map_or(score, |bids| score * bids[row] as f64)
                    };
                    order.sort_by(|a, b| key(*b).total_cmp(&(key(*a) + 0.0)).then(a.cmp(b)));
                    // −0 and +0 tie on the wire: compare keys, and indices where keys differ.
                    let winners: Vec<usize> = answer.winners().expect("winners").map(|winner| winner as usize).collect();
                    assert_eq!(winners.len(), order.len().min(top_k as usize));
                    for (place, winner) in winners.iter().enumerate() {
                        assert_eq!(key(*winner), key(order[place]), "the best in order");
                        assert_eq!(&scores[place * 2..place * 2 + 2], truth[rows[*winner]]);
                    }
                    assert!(winners.windows(2).all(|pair| key(pair[0]) > key(pair[1]) || pair[0] < pair[1]), "ties by index");
                }
                if budget_us > 0 {
                    let _ = sent;
                    assert!(answer.total_us <= budget_us, "in time or not at all: {} of {budget_us} µs", answer.total_us);
                }
                self.ok += 1;
            }
            (Expected::Scores { .. }, Some(code)) => panic!("{code} instead of scores"),
            (Expected::Kind(kind), Some(code)) => panic!("{code} instead of {kind:?}"),
            (Expected::Refusal(expected), None) => panic!("{:?} instead of {expected}", header.kind),
        }
    }
}
