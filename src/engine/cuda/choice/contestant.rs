//! Ways on trial, and which of them is taken.

use std::time::Duration;

use crate::engine::cuda::calls::Call;
use crate::engine::cuda::program::{Launch, WideLayer};

use super::agreement::{Difference, Rounding};
use super::{Choice, LayerChoice, Matmuls, WayFound};

/// A way that is tried.
pub struct Contestant {
    /// As reports name it.
    pub name: &'static str,
    /// Which of the layer's ways; `None` for the judge, and for what is none.
    pub way: Option<usize>,
    /// What it leaves out, if it is no way but a yardstick, which is timed alone.
    pub leaves_out: Option<&'static str>,
    /// What is launched.
    pub call: Call,
    /// What it rounds of each column's bias.
    pub biases: Vec<f32>,
    /// From the judge's results, once it was run.
    pub difference: Option<Difference>,
    /// Why it is out of question.
    pub refused: Option<String>,
    /// Of each turn.
    pub times: Vec<Duration>,
}

impl Contestant {
    /// Not tried yet.
    pub fn new(name: &'static str, way: Option<usize>, call: Call) -> Contestant {
        Contestant { name, way, leaves_out: None, call, biases: vec![], difference: None, refused: None, times: vec![] }
    }

    /// Puts it out of question.
    pub fn refuse(&mut self, kernel: &str, layer: &WideLayer, reason: String) {
        tracing::warn!(kernel, "layer {} is not computed by {}: {reason}", layer.name, self.name);
        self.refused = Some(reason);
    }

    fn can_serve(&self) -> bool {
        self.refused.is_none() && self.leaves_out.is_none()
    }

    /// Compares what it left in the layer's memory with what the judge did; refuses it if rounding does not explain the difference.
    pub fn judge(&mut self, kernel: &str, layer: &WideLayer, expected: &[Vec<f32>], found: &[Vec<f32>]) {
        let compared = layer.outs.iter().zip(expected.iter().zip(found)).map(|(out, (expected, found))| {
            let rounding = Rounding { k: layer.k, is_bf16: out.is_bf16, has_tail: layer.has_tail };
            Difference::largest(rounding, &layer.lengths, &self.biases, expected, found)
        });
        let Some(difference) = compared.max_by(|a, b| a.share.total_cmp(&b.share)) else {
            return self.refuse(kernel, layer, "it leaves nothing that could be compared".into());
        };
        self.difference = Some(difference);
        let Difference { share, at: (row, column), numbers: (expected, found) } = difference;
        if share > 1.0 {
            let reason = format!("row {row}, column {column} is {found} instead of {expected}, {share:.1} times what rounding explains");
            self.refuse(kernel, layer, reason);
        }
    }

    fn median(&self) -> Option<Duration> {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    fn found(&self, layer: &WideLayer, rows: usize, taken: bool) -> WayFound {
        let seconds = self.median().map(|time| time.as_secs_f64());
        WayFound {
            name: self.name,
            microseconds: seconds.map(|seconds| seconds * 1e6),
            teraflops: seconds.map(|seconds| 2.0 * (rows * layer.k * layer.n) as f64 / seconds.max(1e-9) / 1e12),
            difference: self.difference.map(|difference| difference.share),
            refused: self.refused.clone().or_else(|| self.leaves_out.map(|what| format!("yardstick: leaves out {what}"))),
            taken,
        }
    }
}

/// The fastest of those that agree (of those of the preferred name, if there are any); of a library's proposals the fastest alone is told.
pub fn decide(
    launch: &Launch,
    layer: &WideLayer,
    rows: usize,
    contestants: Vec<Contestant>,
    prefer: Option<&str>,
) -> (Choice, LayerChoice) {
    let time = |contestant: &Contestant| (prefer != Some(contestant.name), contestant.median().unwrap_or(Duration::MAX));
    let fastest = contestants.iter().enumerate().filter(|(_, contestant)| contestant.can_serve());
    // At equal times the first, which is the judge.
    let fastest = fastest.min_by_key(|(_, contestant)| time(contestant)).map_or(0, |(at, _)| at);
    let mut ways: Vec<WayFound> = Vec::new();
    for (at, contestant) in contestants.iter().enumerate() {
        let found = contestant.found(layer, rows, at == fastest);
        match ways.iter_mut().find(|way| way.name == found.name) {
            Some(known) if found.microseconds.is_some_and(|time| known.microseconds.is_none_or(|known| time < known)) => *known = found,
            Some(_) => {}
            None => ways.push(found),
        }
    }
    let told = LayerChoice { kernel: launch.kernel.clone(), layer: layer.name.clone(), k: layer.k, n: layer.n, rows, ways };
    let taken = contestants.into_iter().nth(fastest).expect("the judge, if no other");
    let matmuls = match taken.call {
        Call::Product { matmul, .. } => Some(Matmuls::new(&launch.kernel, &layer.name, matmul)),
        Call::Kernel { .. } => None,
    };
    (Choice { way: taken.way, matmuls }, told)
}
