//! How the lines that an op works along are shared out among threads (`kernels/lines.cuh`).

use crate::engine::cpu::walk::row_major;

use crate::engine::cuda::generate::elementwise::index_expression;
use crate::engine::cuda::generate::emitter::Emitter;

/// Lines of a row: elements that an op takes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// How many.
    pub lines: usize,
    /// Elements of each.
    pub count: usize,
    /// Lanes that share one: a power of two, at most a warp.
    pub parts: usize,
    /// Whether these lanes are neighbours; otherwise those of neighbouring lines are.
    pub together: bool,
    /// First element of a line, as an expression of its number `e`.
    start: String,
    /// From there to an element, as an expression of its number `e`.
    at: String,
}

impl Lines {
    /// Lines along some axes (ascending) of rows of `shape`, for tiles of `tile` rows.
    pub fn new(shape: &[usize], axes: &[usize], tile: usize) -> Lines {
        let strides = row_major(shape);
        let of = |inside: bool| -> (Vec<usize>, Vec<usize>) {
            let chosen = (0..shape.len()).filter(|axis| axes.contains(axis) == inside);
            chosen.map(|axis| (shape[axis], strides[axis])).unzip()
        };
        let ((kept, kept_strides), (taken, taken_strides)) = (of(false), of(true));
        let (lines, count): (usize, usize) = (kept.iter().product(), taken.iter().product());
        // Where the elements behind one another are a line's, lanes share lines as far as that goes; elsewhere only as far as there are fewer
        // lines than threads.
        let innermost = (0..shape.len()).rev().find(|&axis| shape[axis] != 1);
        let together = innermost.is_none_or(|axis| axes.contains(&axis));
        let wanted = if together { WARP } else { THREADS / (lines * tile).clamp(1, THREADS) };
        let parts = wanted.min(count).clamp(1, WARP);
        Lines {
            lines,
            count,
            parts: 1 << parts.ilog2(),
            together,
            start: index_expression(&kept, &kept_strides, 0),
            at: index_expression(&taken, &taken_strides, 0),
        }
    }

    /// One lane per line.
    pub fn undivided(self) -> Lines {
        Lines { parts: 1, ..self }
    }

    fn definition(&self, name: &str) -> String {
        let Lines { lines, count, parts, together, start, at } = self;
        let function = |name: &str, expression: &str| match expression.contains('e') {
            true => format!("    DEV static int {name}(int e) {{ return {expression}; }}\n"),
            false => format!("    DEV static int {name}(int) {{ return {expression}; }}\n"),
        };
        let functions = function("start", start) + &function("at", at);
        format!("struct {name} : Lines<{lines}, {count}, {parts}, {together}> {{\n{functions}}};")
    }
}

impl Emitter<'_, '_> {
    /// Defines the task's lines; gives the name of their type.
    pub(super) fn define_lines(&mut self, lines: &Lines) -> String {
        let name = format!("Lines{}", self.number);
        self.define(&lines.definition(&name));
        name
    }
}

const WARP: usize = 32;
const THREADS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_read_neighbours() {
        let cases = [
            // Rows of neighbours: a warp each, or as much of it as there are elements.
            ((vec![100], vec![0], 16), ([1, 100, 32], true), ("0", "e")),
            ((vec![3, 7], vec![1], 16), ([3, 7, 4], true), ("e * 7", "e")),
            ((vec![3, 1], vec![1], 16), ([3, 1, 1], false), ("e", "0")),
            // Columns: a thread each where these are many.
            ((vec![40, 16], vec![0], 16), ([16, 40, 1], false), ("e", "e * 16")),
            ((vec![40, 4], vec![0], 16), ([4, 40, 4], false), ("e", "e * 4")),
            ((vec![3, 4], vec![0], 16), ([4, 3, 2], false), ("e", "e * 4")),
            ((vec![2, 5, 3], vec![0, 2], 64), ([5, 6, 4], true), ("e * 3", "e / 3 * 15 + e % 3")),
            ((vec![2, 0], vec![1], 16), ([2, 0, 1], true), ("0", "0")),
        ];
        for ((shape, axes, tile), ([lines, count, parts], together), (start, at)) in cases {
            let found = Lines::new(&shape, &axes, tile);
            assert_eq!([found.lines, found.count, found.parts], [lines, count, parts], "{shape:?} {axes:?}");
            assert_eq!(found.together, together, "{shape:?} {axes:?}");
            assert_eq!((&*found.start, &*found.at), (start, at), "{shape:?} {axes:?}");
        }
    }
}
