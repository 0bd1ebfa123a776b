//! A linear layer's matrix while passes may still rewrite it; it is packed when the layer becomes a kernel.

use std::sync::Arc;

/// A matrix `[k][n]` (inputs, outputs), seen through strides: a tensor's numbers are borrowed, computed ones shared, parts cost nothing.
#[derive(Clone, Debug)]
pub struct LayerMatrix<'a> {
    numbers: Numbers<'a>,
    /// Inner size: inputs.
    pub k: usize,
    /// Columns: outputs.
    pub n: usize,
    /// Element (0, 0).
    first: usize,
    /// Elements from input to input, and from column to column.
    steps: [usize; 2],
}

#[derive(Clone, Debug)]
enum Numbers<'a> {
    Borrowed(&'a [f32]),
    Shared(Arc<[f32]>),
}

impl<'a> LayerMatrix<'a> {
    /// Numbers that lie as `[n][k]`: a layer's weight tensor.
    pub fn by_column(numbers: &'a [f32], k: usize, n: usize) -> LayerMatrix<'a> {
        assert_eq!(numbers.len(), k * n, "a matrix of this shape");
        LayerMatrix { numbers: Numbers::Borrowed(numbers), k, n, first: 0, steps: [1, k] }
    }

    /// Computed numbers: `element(k, n)`, called once for each.
    pub fn computed(k: usize, n: usize, mut element: impl FnMut(usize, usize) -> f32) -> LayerMatrix<'a> {
        let numbers: Arc<[f32]> = (0..k * n).map(|at| element(at % k, at / k)).collect();
        LayerMatrix { numbers: Numbers::Shared(numbers), k, n, first: 0, steps: [1, k] }
    }

    /// The element that column `n` has for input `k`.
    #[inline]
    pub fn at(&self, k: usize, n: usize) -> f32 {
        debug_assert!(k < self.k && n < self.n);
        let numbers = match &self.numbers {
            Numbers::Borrowed(numbers) => numbers,
            Numbers::Shared(numbers) => &**numbers,
        };
        numbers[self.first + k * self.steps[0] + n * self.steps[1]]
    }

    /// Inputs `first .. first + k`.
    pub fn inputs(&self, first: usize, k: usize) -> LayerMatrix<'a> {
        assert!(first + k <= self.k, "inputs of the layer");
        LayerMatrix { first: self.first + first * self.steps[0], k, ..self.clone() }
    }

    /// With inputs and columns exchanged.
    pub fn transposed(self) -> LayerMatrix<'a> {
        LayerMatrix { k: self.n, n: self.k, steps: [self.steps[1], self.steps[0]], ..self }
    }

    /// Every column times its factor.
    pub fn scaled(&self, factors: &[f64]) -> LayerMatrix<'a> {
        LayerMatrix::computed(self.k, self.n, |k, n| (f64::from(self.at(k, n)) * factors[n]) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_transposes_are_views() {
        let numbers: Vec<f32> = (0..12).map(|at| at as f32).collect();
        let matrix = LayerMatrix::by_column(&numbers, 4, 3);
        assert_eq!((matrix.at(1, 0), matrix.at(0, 1), matrix.at(3, 2)), (1.0, 4.0, 11.0));
        let part = matrix.inputs(2, 2);
        assert_eq!((part.k, part.n, part.at(0, 0), part.at(1, 2)), (2, 3, 2.0, 11.0));
        let turned = part.clone().transposed();
        assert_eq!((turned.k, turned.n, turned.at(2, 1), turned.inputs(1, 2).at(1, 1)), (3, 2, 11.0, 11.0));
        let scaled = part.scaled(&[1.0, 0.5, -2.0]);
        assert_eq!((scaled.at(0, 0), scaled.at(1, 1), scaled.at(0, 2)), (2.0, 3.5, -20.0));
    }
}
