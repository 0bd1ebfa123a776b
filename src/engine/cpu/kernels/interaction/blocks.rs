//! Which pairs are wanted, cut into blocks and strips that kernels keep in registers.

use std::collections::HashMap;
use std::ops::Range;

/// Most vectors of one interaction: scratch memory grows with their square.
pub const VECTORS_MAX: usize = 128;

/// A plan of all pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    vectors: usize,
    pairs: usize,
    /// For kernels that compute rows side by side.
    pub blocks: Vec<Block>,
    /// For kernels that compute one row.
    pub strips: Vec<Strip>,
    /// Results in strips: (16 · strip + slot, wanted as).
    pub moves: Vec<(u32, u32)>,
    /// Results that are wanted more than once: (computed as, wanted as too).
    pub copies: Vec<(u32, u32)>,
}

/// Up to 4 × 4 pairs: vectors `a ..` with vectors `b ..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// First of the left vectors.
    pub a: usize,
    /// How many: 1 to 4.
    pub a_count: usize,
    /// First of the right vectors.
    pub b: usize,
    /// How many: 1 to 4.
    pub b_count: usize,
    /// What part of the block there is.
    pub part: Part,
    /// Where pair (a + i, b + j) goes, at `4 i + j`: [`UNWANTED`] if nowhere.
    pub out: [u32; 16],
}

/// Pairs of a block that are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every one.
    Whole,
    /// Left and right are the same vectors: j < i.
    Below,
    /// Left and right are the same vectors: j ≤ i.
    BelowAndDiagonal,
}

/// One vector with sixteen neighbouring ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strip {
    /// The one.
    pub a: usize,
    /// First of the others; those behind the last vector are padding.
    pub b: usize,
}

/// A pair that is computed, or not, because a block has it.
pub const UNWANTED: u32 = u32::MAX;

impl Blocks {
    /// Plans `pairs` of `vectors` vectors. Vectors from `split` on may be of another kind: no block mixes both on one side. `None`: too
    /// many vectors or pairs.
    pub fn new(vectors: usize, split: usize, pairs: &[[usize; 2]]) -> Option<Blocks> {
        assert!(split <= vectors && pairs.iter().flatten().all(|&vector| vector < vectors), "pairs of these vectors");
        if vectors > VECTORS_MAX || pairs.is_empty() || pairs.len() > VECTORS_MAX * VECTORS_MAX {
            return None;
        }
        let mut wanted: HashMap<(usize, usize), u32> = HashMap::new();
        let mut copies = Vec::new();
        for (at, &[a, b]) in pairs.iter().enumerate() {
            let at = at as u32;
            match wanted.entry((a.max(b), a.min(b))) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(at);
                }
                std::collections::hash_map::Entry::Occupied(entry) => copies.push((*entry.get(), at)),
            }
        }
        let place = |a: usize, b: usize| wanted.get(&(a, b)).copied().unwrap_or(UNWANTED);
        let groups: Vec<Range<usize>> = cut(0..split).chain(cut(split..vectors)).collect();
        let mut blocks = Vec::new();
        for (at, left) in groups.iter().enumerate() {
            for right in &groups[..=at] {
                let mut out = [UNWANTED; 16];
                let all = left.clone().enumerate().flat_map(|(i, a)| right.clone().enumerate().map(move |(j, b)| (4 * i + j, a, b)));
                all.filter(|&(_, a, b)| b <= a).for_each(|(slot, a, b)| out[slot] = place(a, b));
                let part = if left != right {
                    Part::Whole
                } else if left.clone().any(|a| place(a, a) != UNWANTED) {
                    Part::BelowAndDiagonal
                } else {
                    Part::Below
                };
                if out.iter().any(|&out| out != UNWANTED) {
                    blocks.push(Block { a: left.start, a_count: left.len(), b: right.start, b_count: right.len(), part, out });
                }
            }
        }
        let mut strips = Vec::new();
        let mut moves: Vec<(u32, u32)> = Vec::new();
        for a in 0..vectors {
            for b in (0..=a).step_by(16) {
                let slots = (b..=a.min(b + 15)).map(|other| place(a, other)).enumerate().filter(|&(_, to)| to != UNWANTED);
                let slots: Vec<(u32, u32)> = slots.map(|(slot, to)| (16 * strips.len() as u32 + slot as u32, to)).collect();
                if !slots.is_empty() {
                    moves.extend(slots);
                    strips.push(Strip { a, b });
                }
            }
        }
        let source: HashMap<u32, u32> = moves.iter().map(|&(from, to)| (to, from)).collect();
        moves.extend(copies.iter().map(|(first, again)| (source[first], *again)));
        Some(Blocks { vectors, pairs: pairs.len(), blocks, strips, moves, copies })
    }

    /// f32 of scratch memory that kernels ask for, whatever the level.
    pub fn scratch(&self) -> usize {
        let lanes = (self.vectors * 16 + self.pairs.next_multiple_of(16)) * 16;
        lanes.max(self.strips.len() * 16)
    }

    /// Number of vectors.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// Number of results.
    pub fn pairs(&self) -> usize {
        self.pairs
    }
}

/// Groups of four, the rest last.
fn cut(vectors: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    vectors.clone().step_by(4).map(move |first| first..vectors.end.min(first + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_place_once() {
        for (vectors, split) in [(1, 0), (2, 1), (4, 0), (5, 2), (16, 16), (17, 5), (27, 14), (33, 0), (64, 9), (128, 100)] {
            let all = (0..vectors).flat_map(|a| (0..vectors).map(move |b| [a, b]));
            let lists: [Vec<[usize; 2]>; 4] = [
                all.clone().filter(|[a, b]| b < a).collect(),
                all.clone().filter(|[a, b]| a < b).collect(),
                all.clone().filter(|[a, b]| a <= b).collect(),
                all.clone().collect(),
            ];
            for pairs in lists.into_iter().filter(|pairs| !pairs.is_empty()) {
                let blocks = Blocks::new(vectors, split, &pairs).expect("few enough");
                let mut seen = vec![None; pairs.len()];
                for block in &blocks.blocks {
                    for (slot, &out) in block.out.iter().enumerate().filter(|(_, out)| **out != UNWANTED) {
                        let (i, j) = (slot / 4, slot % 4);
                        assert!(i < block.a_count && j < block.b_count);
                        match block.part {
                            Part::Whole => assert!(block.a != block.b),
                            Part::Below => assert!(j < i),
                            Part::BelowAndDiagonal => assert!(j <= i),
                        }
                        assert_eq!(seen[out as usize].replace([block.a + i, block.b + j]), None);
                    }
                }
                let mut in_strips = vec![None; pairs.len()];
                for &(from, to) in &blocks.moves {
                    let strip = &blocks.strips[from as usize / 16];
                    assert_eq!(in_strips[to as usize].replace([strip.a, strip.b + from as usize % 16]), None);
                }
                for &(from, to) in &blocks.copies {
                    let pair = seen[from as usize].expect("computed");
                    assert_eq!(seen[to as usize].replace(pair), None);
                }
                assert_eq!(seen, in_strips);
                for (seen, mut pair) in seen.into_iter().zip(pairs) {
                    pair.sort_unstable_by(|a, b| b.cmp(a));
                    assert_eq!(seen, Some(pair));
                }
            }
        }
        assert_eq!(Blocks::new(129, 0, &[[1, 0]]), None);
    }
}
