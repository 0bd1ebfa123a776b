//! Where clicked items ranked, against chance.

/// Place of one clicked item among the candidates of its request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Candidates with a higher score.
    pub above: usize,
    /// Other candidates with the same score.
    pub equal: usize,
    /// Candidates.
    pub of: usize,
}

impl Place {
    /// The place of candidate `chosen`.
    pub fn new(scores: &[f32], chosen: usize) -> Place {
        let score = scores[chosen];
        let above = scores.iter().filter(|other| **other > score).count();
        let equal = scores.iter().filter(|other| **other == score).count() - 1;
        Place { above, equal, of: scores.len() }
    }

    /// Share of the other candidates that rank below it, ties counted half: 0.5 on average by chance, 1 at the top.
    pub fn share_below(&self) -> f64 {
        let others = self.of.saturating_sub(1);
        if others == 0 {
            return 0.5;
        }
        let below = others - self.above - self.equal;
        (below as f64 + self.equal as f64 / 2.0) / others as f64
    }
}

/// Mean share below, with a 95 % interval (normal approximation of the mean).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Clicks.
    pub count: usize,
    /// Mean of [`Place::share_below`].
    pub mean: f64,
    /// Half of the interval's width.
    pub margin: f64,
}

impl Summary {
    /// Over all clicks; `None` for fewer than two.
    pub fn of(places: &[Place]) -> Option<Summary> {
        if places.len() < 2 {
            return None;
        }
        let count = places.len() as f64;
        let mean = places.iter().map(Place::share_below).sum::<f64>() / count;
        let variance = places.iter().map(|place| (place.share_below() - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some(Summary { count: places.len(), mean, margin: 1.96 * (variance / count).sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(Place::new(&[0.1, 0.9, 0.5], 1).share_below(), 1.0);
        assert_eq!(Place::new(&[0.1, 0.9, 0.5], 0).share_below(), 0.0);
        assert_eq!(Place::new(&[0.5, 0.5, 0.5], 0).share_below(), 0.5);
        assert_eq!(Place::new(&[0.5], 0).share_below(), 0.5);
        let places: Vec<Place> = (0..5).map(|chosen| Place::new(&[0.0, 1.0, 2.0, 3.0, 4.0], chosen)).collect();
        let summary = Summary::of(&places).expect("five clicks");
        assert_eq!((summary.count, summary.mean), (5, 0.5), "every place once is chance");
        assert!((summary.margin - 1.96 * (0.15625f64 / 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of(&places[..1]), None);
    }
}
