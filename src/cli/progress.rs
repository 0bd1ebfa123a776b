//! Progress of long work: a bar where stderr is a terminal, a line now and then where it is not.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in binary multiples.
    Bytes,
    /// Things with a name: `rows`, `requests`.
    Count(&'static str),
}

/// One piece of work under way. Ends with [`Progress::finish`]; dropped without it, the bar disappears.
#[derive(Debug)]
pub struct Progress {
    what: String,
    unit: Unit,
    total: u64,
    done: u64,
    started: Instant,
    show: Show,
}

#[derive(Debug)]
enum Show {
    Bar(ProgressBar),
    Lines { last: Instant, tenth: u64 },
    Nothing,
}

impl Progress {
    /// Shows work of `total` units; 0 = not known.
    pub fn new(what: impl Into<String>, total: u64, unit: Unit) -> Progress {
        Progress::shown(what.into(), total, unit, stderr().is_terminal())
    }

    /// Shows nothing: for tests and for `--quiet`.
    pub fn hidden() -> Progress {
        Progress { what: String::new(), unit: Unit::Bytes, total: 0, done: 0, started: Instant::now(), show: Show::Nothing }
    }

    fn shown(what: String, total: u64, unit: Unit, terminal: bool) -> Progress {
        let started = Instant::now();
        let show = if terminal {
            let bar = ProgressBar::with_draw_target((total > 0).then_some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style(unit, total));
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            Show::Bar(bar)
        } else {
            Show::Lines { last: started, tenth: 0 }
        };
        Progress { what, unit, total, done: 0, started, show }
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        match &mut self.show {
            Show::Bar(bar) => bar.set_position(done),
            Show::Lines { last, tenth } => {
                if let Some(line) = line(&self.what, self.unit, done, self.total, last, tenth) {
                    eprintln!("{line}");
                }
            }
            Show::Nothing => {}
        }
    }

    /// So much more is done.
    pub fn advance(&mut self, more: u64) {
        self.set(self.done + more);
    }

    /// Replaces what is said about the work.
    pub fn describe(&mut self, what: impl Into<String>) {
        self.what = what.into();
        if let Show::Bar(bar) = &self.show {
            bar.set_message(self.what.clone());
        }
    }

    /// The work is done, and something else will say so.
    pub fn clear(self) {
        if let Show::Bar(bar) = self.show {
            bar.finish_and_clear();
        }
    }

    /// The work is done: says how long it took.
    pub fn finish(self) {
        let line = format!("{}: {} in {:.1} s", self.what, amount(self.unit, self.done), self.started.elapsed().as_secs_f64());
        match self.show {
            Show::Bar(bar) => {
                bar.finish_and_clear();
                eprintln!("{line}");
            }
            Show::Lines { .. } => eprintln!("{line}"),
            Show::Nothing => {}
        }
    }
}

fn style(unit: Unit, total: u64) -> ProgressStyle {
    let template = match (unit, total) {
        (Unit::Bytes, 0) => "{spinner} {msg}: {bytes}".into(),
        (Unit::Bytes, _) => "{msg}: [{bar:30}] {bytes} of {total_bytes}, {eta} left".into(),
        (Unit::Count(name), 0) => format!("{{spinner}} {{msg}}: {{pos}} {name}"),
        (Unit::Count(name), _) => format!("{{msg}}: [{{bar:30}}] {{pos}} of {{len}} {name}, {{eta}} left"),
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// A line at every tenth, if the last line is old enough.
fn line(what: &str, unit: Unit, done: u64, total: u64, last: &mut Instant, tenth: &mut u64) -> Option<String> {
    let now = Instant::now();
    let reached = (u128::from(done) * 10).checked_div(u128::from(total)).unwrap_or_default() as u64;
    if now.duration_since(*last) < LINE_EVERY || (total > 0 && reached <= *tenth) {
        return None;
    }
    (*last, *tenth) = (now, reached);
    Some(if total > 0 {
        format!("{what}: {} of {}", amount(unit, done), amount(unit, total))
    } else {
        format!("{what}: {}", amount(unit, done))
    })
}

fn amount(unit: Unit, n: u64) -> String {
    match unit {
        Unit::Bytes => indicatif::BinaryBytes(n).to_string(),
        Unit::Count(name) => format!("{n} {name}"),
    }
}

/// Lines are for logs: few.
const LINE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few() {
        let start = Instant::now();
        let old = start.checked_sub(LINE_EVERY * 2).expect("an uptime of seconds");
        let rows = Unit::Count("rows");
        for (done, total, last, tenth, expected) in [
            (50, 100, old, 4, Some("work: 50 rows of 100 rows")),
            (50, 100, start, 4, None),
            (50, 100, old, 5, None),
            (50, 0, old, 0, Some("work: 50 rows")),
            (u64::MAX, u64::MAX, old, 0, Some("work: 18446744073709551615 rows of 18446744073709551615 rows")),
        ] {
            let (mut last, mut tenth) = (last, tenth);
            assert_eq!(line("work", rows, done, total, &mut last, &mut tenth).as_deref(), expected, "{done} of {total}");
        }
    }

    #[test]
    fn every_style_is_valid() {
        for unit in [Unit::Bytes, Unit::Count("rows")] {
            for total in [0, 10] {
                let mut progress = Progress::shown("work".into(), total, unit, true);
                progress.advance(3);
                progress.describe("more work");
                progress.set(10);
                if total > 0 { progress.finish() } else { progress.clear() }
            }
        }
    }
}
