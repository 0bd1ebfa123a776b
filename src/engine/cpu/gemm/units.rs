//! Units of work: a layer cut into pieces of about [`UNIT_NS`].

/// Which part of a layer a unit of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Next panel, counted through all blocks of k.
    pub panel: usize,
    /// Next row of the tile within that panel.
    pub row: usize,
}

/// What decides how a layer on a tile is cut.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// Panels of the layer, through all blocks of k.
    pub panels: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// Multiply-adds of a row of the tile over a panel, at least one.
    pub macs_per_row: usize,
    /// Most rows that a micro-kernel takes at once.
    pub most: usize,
    /// Multiply-adds per nanosecond to expect.
    pub macs_per_ns: usize,
}

/// Some rows of some panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Panels from the unit's on.
    pub panels: usize,
    /// Rows from the unit's on.
    pub rows: usize,
    /// Multiply-adds.
    pub macs: usize,
    /// Where the next unit starts, if there is one.
    pub next: Option<Unit>,
}

impl Units {
    /// What the unit that starts here takes: whole panels where all rows of one fit, otherwise one panel over some rows, in whole micro-kernels
    /// where that is possible.
    pub fn piece(&self, unit: Unit) -> Piece {
        let budget = UNIT_NS * self.macs_per_ns;
        let piece = |panels: usize, rows: usize, next: Unit| Piece {
            panels,
            rows,
            macs: self.macs_per_row * rows * panels,
            next: (next.panel < self.panels).then_some(next),
        };
        if unit.row == 0 && self.macs_per_row * self.rows <= budget {
            let panels = (budget / (self.macs_per_row * self.rows)).min(self.panels - unit.panel);
            return piece(panels, self.rows, Unit { panel: unit.panel + panels, row: 0 });
        }
        let rows = budget / self.macs_per_row;
        let rows = if rows > self.most { rows - rows % self.most } else { self.most.min(rows.max(1)) };
        let rows = rows.min(self.rows - unit.row);
        let is_panel_done = unit.row + rows == self.rows;
        let next = if is_panel_done { Unit { panel: unit.panel + 1, row: 0 } } else { Unit { row: unit.row + rows, ..unit } };
        piece(1, rows, next)
    }
}

/// Length of a unit of work to aim at: long against the overhead of a unit, short against a step's 200 µs.
pub const UNIT_NS: usize = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_take_every_row_of_every_panel_once() {
        for (panels, rows, macs_per_row, most) in
            [(1, 1, 1, 6), (7, 64, 200, 14), (3, 64, 400_000, 4), (5, 13, 30_000, 6), (2, 9, 5_000_000, 1)]
        {
            let units = Units { panels, rows, macs_per_row, most, macs_per_ns: 24 };
            let (mut next, mut taken) = (Some(Unit { panel: 0, row: 0 }), vec![0; panels * rows]);
            while let Some(unit) = next {
                let piece = units.piece(unit);
                assert!(
                    piece.panels > 0 && piece.rows > 0 && piece.macs == macs_per_row * piece.rows * piece.panels,
                    "{units:?} {unit:?} {piece:?}"
                );
                for panel in unit.panel..unit.panel + piece.panels {
                    taken[panel * rows + unit.row..][..piece.rows].iter_mut().for_each(|times| *times += 1);
                }
                next = piece.next;
            }
            assert_eq!(taken, vec![1; panels * rows], "{units:?}");
        }
    }
}
