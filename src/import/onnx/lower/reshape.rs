//! Ops that change the shape alone: where do the rows lie afterwards?

use super::super::error::{Checked, problem};
use super::super::nd::{Move, Nd};
use super::super::node::Node;
use super::super::value::{Batch, Row, Size, Value};
use super::Lower;
use super::fold::as_sizes;
use super::ops::{axis_of, first, input, ints_or};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

impl Lower {
    /// Reshape.
    pub fn reshape_op(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (value, target) = (first(inputs)?, input(inputs, 1)?);
        let Some(target) = as_sizes(target) else {
            return Err(problem("a shape that is computed from the inputs' values", "Export the model with fixed shapes"));
        };
        self.shaped(value, &target.data, node.flag("allowzero"))
    }

    /// The value in another shape: 0 keeps a size, -1 is what is left.
    pub fn shaped(&mut self, value: &Value, target: &[Size], allow_zero: bool) -> Checked<Value> {
        let dims = value.dims();
        let mut target = target.to_vec();
        for (at, size) in target.iter_mut().enumerate() {
            if *size == Size::fixed(0) && !allow_zero {
                *size = *dims.get(at).ok_or_else(|| problem("a size 0 that stands for an axis that is not there", INCONSISTENT))?;
            }
        }
        match value {
            Value::Const(constant) => {
                let shape = fixed_shape(&target, constant.len())?;
                Ok(Value::Const(self.move_constant(constant, &Move::Reshape(shape))?))
            }
            Value::Sizes(sizes) => {
                let shape = fixed_shape(&target, sizes.data.len())?;
                Ok(Value::Sizes(Nd { shape, data: sizes.data.clone() }))
            }
            Value::Row(row) => match row.batch {
                None => {
                    let shape = fixed_shape(&target, row.shape.iter().product())?;
                    Ok(Value::Row(self.move_row(row, &Move::Reshape(shape))?))
                }
                Some(batch) => {
                    let (batch, shape) = self.reshaped_rows(row, batch, &target)?;
                    let moved = self.move_row(row, &Move::Reshape(shape))?;
                    Ok(Value::Row(Row { batch: Some(batch), ..moved }))
                }
            },
            Value::Held(_) => Err(super::align::sizes_used()),
            Value::Absent => Err(problem("a missing input", INCONSISTENT)),
        }
    }

    /// Where the rows lie after a reshape, and the shape per row. In row-major order the elements before the rows' axis must be as many
    /// before and after; what stands around it may be merged into its axis.
    fn reshaped_rows(&self, row: &Row, batch: Batch, target: &[Size]) -> Checked<(Batch, Vec<usize>)> {
        let refused = || {
            problem(
                format!("a reshape from {} to {}, which does not keep the rows apart", show(&row.dims()), show(target)),
                "Keep the batch as an axis of its own (-1 or the input's size at axis 0)",
            )
        };
        let before: usize = row.shape[..batch.at].iter().product::<usize>() * batch.outer;
        let total: usize = row.shape.iter().product();
        let mut sizes: Vec<Option<Size>> = target.iter().map(|size| (*size != Size::fixed(-1)).then_some(*size)).collect();
        let unknown: Vec<usize> = (0..sizes.len()).filter(|at| sizes[*at].is_none()).collect();
        if unknown.len() > 1 {
            return Err(problem("a shape with two sizes -1", INCONSISTENT));
        }
        let with_rows = |sizes: &[Option<Size>]| sizes.iter().flatten().filter(|size| size.rows != 0).count();
        let fixed_product = |sizes: &[Option<Size>]| {
            sizes.iter().flatten().filter(|size| size.rows == 0).try_fold(1_usize, |product, size| {
                usize::try_from(size.fixed).ok().filter(|size| *size > 0).and_then(|size| product.checked_mul(size))
            })
        };
        if let [at] = unknown[..] {
            let product = fixed_product(&sizes).ok_or_else(refused)?;
            let rows = sizes.iter().flatten().find(|size| size.rows != 0).copied();
            let product = match rows {
                Some(rows) if rows.fixed == 0 && rows.rows > 0 => product.checked_mul(rows.rows as usize).ok_or_else(refused)?,
                Some(_) => return Err(refused()),
                None => product,
            };
            if !total.is_multiple_of(product) {
                // A fixed batch may be spelled out beside the -1.
                sizes[at] = self.fixed_rest(&sizes, total);
                if sizes[at].is_none() {
                    return Err(refused());
                }
            } else if rows.is_some() {
                sizes[at] = Some(Size::fixed((total / product) as i64));
            } else if let Some(rest) = self.fixed_rest(&sizes, total).filter(|_| self.spells_batch(&sizes, before)) {
                sizes[at] = Some(rest);
            } else {
                sizes[at] = Some(Size { rows: (total / product) as i64, fixed: 0 });
            }
        }
        let mut sizes: Vec<Size> = sizes.into_iter().flatten().collect();
        if with_rows(&sizes.iter().map(|size| Some(*size)).collect::<Vec<_>>()) == 0 {
            self.mark_fixed_batch(&mut sizes, before, total).ok_or_else(refused)?;
        }
        let ats: Vec<usize> = (0..sizes.len()).filter(|at| sizes[*at].rows != 0).collect();
        let [at] = ats[..] else { return Err(refused()) };
        let merged = usize::try_from(sizes[at].rows).map_err(|_| refused())?;
        if sizes[at].fixed != 0 || merged == 0 {
            return Err(refused());
        }
        let plain = |sizes: &[Size]| -> Checked<Vec<usize>> {
            sizes.iter().map(|size| usize::try_from(size.fixed).map_err(|_| refused())).collect()
        };
        let (left, right) = (plain(&sizes[..at])?, plain(&sizes[at + 1..])?);
        let product = |shape: &[usize]| super::super::nd::count(shape).ok_or_else(refused);
        let (left_elements, right_elements) = (product(&left)?, product(&right)?);
        if left_elements == 0 || !before.is_multiple_of(left_elements) {
            return Err(refused());
        }
        let outer = before / left_elements;
        if merged % outer != 0 || product(&[left_elements, merged, right_elements])? != total {
            return Err(refused());
        }
        let batch = Batch { at, outer, inner: merged / outer };
        let shape = [left, batch.merged(), right].concat();
        Ok((batch, shape))
    }

    /// What -1 stands for where the sizes beside it spell out a fixed batch.
    fn fixed_rest(&self, sizes: &[Option<Size>], total: usize) -> Option<Size> {
        let all = total.checked_mul(self.fixed_batch?)?;
        let known = sizes.iter().flatten().try_fold(1_usize, |product, size| product.checked_mul(usize::try_from(size.known()?).ok()?))?;
        (known != 0 && all % known == 0).then(|| Size::fixed((all / known) as i64))
    }

    /// Whether one of the sizes, with as many elements before it as stand before the rows, is the fixed batch.
    fn spells_batch(&self, sizes: &[Option<Size>], before: usize) -> bool {
        let mut product = 1_usize;
        for size in sizes {
            let Some(size) = size.and_then(|size| size.known()).and_then(|size| usize::try_from(size).ok()) else { return false };
            if product == before && Some(size) == self.fixed_batch {
                return true;
            }
            product = product.saturating_mul(size);
        }
        false
    }

    /// Finds the rows in a shape that spells out the batch size which the inputs declare.
    fn mark_fixed_batch(&self, sizes: &mut [Size], before: usize, total: usize) -> Option<()> {
        let rows = self.fixed_batch?;
        let plain: Vec<usize> = sizes.iter().map(|size| usize::try_from(size.fixed).ok()).collect::<Option<_>>()?;
        if super::super::nd::count(&plain)? != total.checked_mul(rows)? {
            return None;
        }
        // An axis of exactly the rows first; then one into which neighbours are merged.
        for exact in [true, false] {
            let mut left = 1;
            for (at, size) in plain.iter().enumerate() {
                let Some(outer) = before.checked_div(left).filter(|outer| outer * left == before) else { break };
                let fits = if exact { outer == 1 && *size == rows } else { outer.checked_mul(rows).is_some_and(|step| size % step == 0) };
                let right: usize = plain[at + 1..].iter().product();
                if fits && left * (size / rows) * right == total {
                    sizes[at] = Size { rows: (size / rows) as i64, fixed: 0 };
                    return Some(());
                }
                left *= size;
            }
        }
        None
    }

    /// Flatten: the axes before `axis` become one, those from it on another.
    pub fn flatten(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let rank = value.rank();
        let axis = match node.int("axis", 1) {
            axis if axis == rank as i64 => rank,
            axis => axis_of(axis, rank)?,
        };
        let product = |dims: &[Size]| {
            dims.iter().try_fold(Size::fixed(1), |product, size| {
                Some(match (product.known(), size.known()) {
                    (Some(a), _) => Size { rows: size.rows.checked_mul(a)?, fixed: size.fixed.checked_mul(a)? },
                    (_, Some(b)) => Size { rows: product.rows.checked_mul(b)?, fixed: product.fixed.checked_mul(b)? },
                    _ => return None,
                })
            })
        };
        let dims = value.dims();
        let too_large = || problem("a shape that is too large", INCONSISTENT);
        let (left, right) = (product(&dims[..axis]).ok_or_else(too_large)?, product(&dims[axis..]).ok_or_else(too_large)?);
        self.shaped(value, &[left, right], true)
    }

    /// Squeeze.
    pub fn squeeze(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let dims = value.dims();
        let axes: Vec<usize> = match ints_or(node, "axes", inputs, 1)? {
            Some(axes) => axes.into_iter().map(|axis| axis_of(axis, dims.len())).collect::<Checked<_>>()?,
            None => (0..dims.len()).filter(|axis| dims[*axis] == Size::fixed(1)).collect(),
        };
        if let Some(axis) = axes.iter().find(|axis| dims[**axis] != Size::fixed(1)) {
            if dims[*axis].rows != 0 {
                return Err(super::super::value::mixes("removes an axis"));
            }
            return Err(problem(format!("axis {axis} of {} is not 1", show(&dims)), INCONSISTENT));
        }
        let target: Vec<Size> = (0..dims.len()).filter(|axis| !axes.contains(axis)).map(|axis| dims[axis]).collect();
        self.edited(value, target, |at| at - axes.iter().filter(|axis| **axis < at).count())
    }

    /// Unsqueeze.
    pub fn unsqueeze(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let axes = ints_or(node, "axes", inputs, 1)?.ok_or_else(|| problem("no axes", INCONSISTENT))?;
        let rank = value.rank() + axes.len();
        let axes: Vec<usize> = axes.into_iter().map(|axis| axis_of(axis, rank)).collect::<Checked<_>>()?;
        self.unsqueezed(value, &axes)
    }

    /// Axes of size 1 at places of the result.
    pub fn unsqueezed(&mut self, value: &Value, axes: &[usize]) -> Checked<Value> {
        let dims = value.dims();
        let rank = dims.len() + axes.len();
        let mut old = dims.into_iter();
        let mut places = Vec::new();
        let mut target = Vec::with_capacity(rank);
        for axis in 0..rank {
            if axes.contains(&axis) {
                target.push(Size::fixed(1));
            } else {
                places.push(axis);
                target.push(old.next().ok_or_else(|| problem("an axis given twice", INCONSISTENT))?);
            }
        }
        self.edited(value, target, |at| places.get(at).copied().unwrap_or(at))
    }

    /// A value that gained or lost axes of size 1: `moved` says where the rows' axis went.
    fn edited(&mut self, value: &Value, target: Vec<Size>, moved: impl Fn(usize) -> usize) -> Checked<Value> {
        let Value::Row(Row { batch: Some(batch), .. }) = value else { return self.shaped(value, &target, true) };
        let Value::Row(row) = value else { return self.shaped(value, &target, true) };
        let at = moved(batch.at);
        let mut shape: Vec<usize> = Vec::with_capacity(target.len());
        for (axis, size) in target.iter().enumerate() {
            if axis == at {
                shape.extend(batch.merged());
            } else {
                shape.push(usize::try_from(size.fixed).map_err(|_| problem("a size below 0", INCONSISTENT))?);
            }
        }
        let moved = self.move_row(row, &Move::Reshape(shape))?;
        Ok(Value::Row(Row { batch: Some(Batch { at, ..*batch }), ..moved }))
    }
}

/// Sizes as a person writes them.
pub fn show(dims: &[Size]) -> String {
    let texts: Vec<String> = dims
        .iter()
        .map(|size| match (size.rows, size.fixed) {
            (0, fixed) => fixed.to_string(),
            (1, 0) => "N".into(),
            (rows, 0) => format!("{rows}N"),
            (rows, fixed) => format!("{rows}N{fixed:+}"),
        })
        .collect();
    format!("[{}]", texts.join(", "))
}

/// A shape for `elements` elements that none of the rows touches.
fn fixed_shape(target: &[Size], elements: usize) -> Checked<Vec<usize>> {
    let wrong = || problem(format!("a reshape of {elements} constant elements to {}", show(target)), "Export the model with fixed shapes");
    let mut known = 1_usize;
    for size in target.iter().filter(|size| **size != Size::fixed(-1)) {
        let size = size.known().and_then(|size| usize::try_from(size).ok()).ok_or_else(wrong)?;
        known = known.checked_mul(size).ok_or_else(wrong)?;
    }
    let unknown = target.iter().filter(|size| **size == Size::fixed(-1)).count();
    let fits = match unknown {
        0 => known == elements,
        1 => known != 0 && elements.is_multiple_of(known),
        _ => false,
    };
    if !fits {
        return Err(wrong());
    }
    Ok(target.iter().map(|size| if *size == Size::fixed(-1) { elements / known } else { size.fixed as usize }).collect())
}
