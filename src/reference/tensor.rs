//! A value of one row.

/// Elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// f32 of the graph, computed in f64.
    Float(Vec<f64>),
    /// i64 of the graph.
    Integer(Vec<i64>),
}

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// As many elements as the sizes say.
    pub data: Data,
}

impl Tensor {
    /// Of floats.
    pub fn of_floats(shape: &[usize], values: Vec<f64>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "as many elements as {shape:?} says");
        Tensor { shape: shape.to_vec(), data: Data::Float(values) }
    }

    /// Of integers.
    pub fn of_integers(shape: &[usize], values: Vec<i64>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "as many elements as {shape:?} says");
        Tensor { shape: shape.to_vec(), data: Data::Integer(values) }
    }

    /// Its floats. Panics if it holds integers: the graph's types were checked.
    pub fn floats(&self) -> &[f64] {
        match &self.data {
            Data::Float(values) => values,
            Data::Integer(_) => panic!("a float value"),
        }
    }

    /// Its integers. Panics if it holds floats: the graph's types were checked.
    pub fn integers(&self) -> &[i64] {
        match &self.data {
            Data::Integer(values) => values,
            Data::Float(_) => panic!("an integer value"),
        }
    }

    /// The integer at an index of a shape to which this one broadcasts.
    pub fn integer_at(&self, index: &[usize]) -> i64 {
        self.integers()[place(&self.shape, &broadcast_index(&self.shape, index))]
    }

    /// A tensor of `shape` whose element at each index is the element of `self` at `from(index)`, or where there is none NaN, or the
    /// least integer.
    pub fn picked_or_lost(&self, shape: &[usize], from: impl Fn(&[usize]) -> Option<Vec<usize>>) -> Tensor {
        let places: Vec<Option<usize>> = indices(shape).map(|index| from(&index).map(|index| place(&self.shape, &index))).collect();
        match &self.data {
            Data::Float(values) => {
                Tensor::of_floats(shape, places.into_iter().map(|place| place.map_or(f64::NAN, |place| values[place])).collect())
            }
            Data::Integer(values) => {
                Tensor::of_integers(shape, places.into_iter().map(|place| place.map_or(i64::MIN, |place| values[place])).collect())
            }
        }
    }

    /// A tensor of `shape` whose element at each index is the element of `self` at `from(index)`.
    pub fn picked(&self, shape: &[usize], from: impl Fn(&[usize]) -> Vec<usize>) -> Tensor {
        let places: Vec<usize> = indices(shape).map(|index| place(&self.shape, &from(&index))).collect();
        match &self.data {
            Data::Float(values) => Tensor::of_floats(shape, places.into_iter().map(|place| values[place]).collect()),
            Data::Integer(values) => Tensor::of_integers(shape, places.into_iter().map(|place| values[place]).collect()),
        }
    }

    /// The float at an index.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.floats()[place(&self.shape, index)]
    }

    /// The float at an index of a shape to which this one broadcasts: axes are matched from the last, axes of size 1 repeat.
    pub fn broadcast_at(&self, index: &[usize]) -> f64 {
        self.at(&broadcast_index(&self.shape, index))
    }
}

/// The index into `shape` behind an index into a shape to which it broadcasts.
pub fn broadcast_index(shape: &[usize], index: &[usize]) -> Vec<usize> {
    let skipped = index.len() - shape.len();
    shape.iter().zip(&index[skipped..]).map(|(size, i)| if *size == 1 { 0 } else { *i }).collect()
}

/// Position of an index in row-major order.
pub fn place(shape: &[usize], index: &[usize]) -> usize {
    assert_eq!(shape.len(), index.len());
    shape.iter().zip(index).fold(0, |place, (size, i)| {
        assert!(i < size);
        place * size + i
    })
}

/// Every index of a shape, in row-major order.
pub fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let count: usize = shape.iter().product();
    let shape = shape.to_vec();
    (0..count).map(move |mut rest| {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        index
    })
}
