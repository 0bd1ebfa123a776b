//! How a request ended: scores, or one code of the protocol's table. A bounded set, so that it may be a label.

use gavel_protocol::Code;

/// `ok`, or an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome(u8);

impl Outcome {
    /// Answered with scores, in time.
    pub const OK: Outcome = Outcome(0);
    /// How many outcomes there are.
    pub const COUNT: usize = Code::ALL.len() + 1;

    /// Every outcome: `ok`, then the codes in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Outcome> {
        (0..Self::COUNT as u8).map(Outcome)
    }

    /// The label: `ok` or the code's name.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "ok",
            n => Code::ALL[usize::from(n) - 1].name(),
        }
    }

    /// Its place among [`Outcome::all`].
    #[inline]
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<Code> for Outcome {
    #[inline]
    fn from(code: Code) -> Outcome {
        Outcome(PLACE[code as usize])
    }
}

/// Place of each code, by its number.
const PLACE: [u8; NUMBER_MAX + 1] = {
    let mut place = [0; NUMBER_MAX + 1];
    let mut i = 0;
    while i < Code::ALL.len() {
        place[Code::ALL[i] as usize] = i as u8 + 1;
        i += 1;
    }
    place
};

/// Largest number in the table.
const NUMBER_MAX: usize = {
    let mut max = 0;
    let mut i = 0;
    while i < Code::ALL.len() {
        if Code::ALL[i] as usize > max {
            max = Code::ALL[i] as usize;
        }
        i += 1;
    }
    max
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_outcome_of_its_own() {
        assert_eq!(Outcome::OK.name(), "ok");
        for &code in Code::ALL {
            let outcome = Outcome::from(code);
            assert_ne!(outcome, Outcome::OK, "{code}");
            assert_eq!(outcome.name(), code.name());
        }
        assert_eq!(Outcome::all().map(Outcome::index).collect::<Vec<_>>(), (0..Outcome::COUNT).collect::<Vec<_>>());
    }
}
