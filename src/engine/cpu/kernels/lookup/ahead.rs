//! Asking for rows of tables ahead of time.
//!
//! Each id is a random read of a table that is larger than the caches, so what counts is how many are under way. The CPU looks ahead by
//! itself, but only as far as its window of instructions: two or three rows of 512 bytes while they are summed. A cursor that runs a number of
//! ids before the sums fills what is left (`docs/performance.md` has the gain). Tables that fit in the core's own cache need none.

use crate::engine::cpu::tile::Tile;

use super::part::{Group, Part};

/// A cursor over all ids of a group and tile, some ids ahead of the work.
pub struct Ahead<'a> {
    group: &'a Group,
    tile: &'a Tile<'a>,
    row: usize,
    parts: std::slice::Iter<'a, Part>,
    part: Option<&'a Part>,
    ids: std::slice::Iter<'a, u32>,
}

impl<'a> Ahead<'a> {
    /// Asks for the first ids.
    #[inline(always)]
    pub fn new(group: &'a Group, tile: &'a Tile) -> Ahead<'a> {
        let ids = group.ids_ahead();
        let row = if ids > 0 { 0 } else { tile.rows };
        let mut ahead = Ahead { group, tile, row, parts: group.parts().iter(), part: None, ids: [].iter() };
        (0..ids).for_each(|_| ahead.next());
        ahead
    }

    /// Asks for the next id's row, if there is a next one: to be called once per id that is worked on.
    #[inline(always)]
    pub fn next(&mut self) {
        loop {
            if let (Some(part), Some(&id)) = (self.part, self.ids.next()) {
                return part.prefetch(id);
            }
            if self.row == self.tile.rows {
                return;
            }
            self.part = self.parts.next();
            match self.part {
                Some(part) => self.ids = self.group.bag(part, self.tile, self.row).ids.iter(),
                None => {
                    self.row += 1;
                    self.parts = self.group.parts().iter();
                }
            }
        }
    }
}
