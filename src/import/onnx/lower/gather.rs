//! Ops that take elements by index: by constants, by ids of the request (lookups), by computed indices.

use serde_json::json;

use crate::model::{DType, Pool};

use super::super::constant::{Const, Elem};
use super::super::error::{Checked, problem};
use super::super::ir::{Arg, IrId, Kind, Step};
use super::super::nd::{Move, Nd, count};
use super::super::node::Node;
use super::super::value::{Batch, Repr, Row, Value, mixes};
use super::Lower;
use super::fold::as_sizes;
use super::ops::{axis_of, first, input, ints_or, optional};

const INCONSISTENT: &str = "Export the model again: the graph is not consistent";

/// Indices of `size` elements, negative ones counted from the end.
fn indices_of(values: &[i64], size: i64) -> Checked<Vec<usize>> {
    let place = |index: &i64| {
        let at = if *index < 0 { index.saturating_add(size) } else { *index };
        usize::try_from(at).ok().filter(|_| at < size).ok_or_else(|| problem(format!("index {index} of {size} elements"), INCONSISTENT))
    };
    values.iter().map(place).collect()
}

impl Lower {
    /// Gather.
    pub fn gather(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (data, indices) = (first(inputs)?, input(inputs, 1)?);
        let axis = axis_of(node.int("axis", 0), data.rank())?;
        match indices {
            Value::Const(constant) => {
                let values = constant.as_integers().ok_or_else(|| problem("indices that are no integers", INCONSISTENT))?;
                let Some(size) = data.dims()[axis].known() else { return Err(mixes("takes elements")) };
                let picked = self.pick(data, axis, indices_of(values, size)?, "takes elements")?;
                let mut target = data.dims();
                target.splice(axis..=axis, constant.shape.iter().map(|size| super::super::value::Size::fixed(*size as i64)));
                self.regrouped(&picked, axis, target, constant.shape.len())
            }
            Value::Row(row) => self.gather_rows(data, axis, row),
            Value::Sizes(_) | Value::Held(_) => Err(super::align::sizes_used()),
            Value::Absent => Err(problem("no indices", INCONSISTENT)),
        }
    }

    /// A picked value whose axis `axis` becomes `axes` axes, as `target` says.
    fn regrouped(&mut self, value: &Value, axis: usize, target: Vec<super::super::value::Size>, axes: usize) -> Checked<Value> {
        let Value::Row(row) = value else { return self.shaped(value, &target, true) };
        let Some(batch) = row.batch else { return self.shaped(value, &target, true) };
        let at = if batch.at > axis { batch.at + axes - 1 } else { batch.at };
        let mut shape = Vec::with_capacity(target.len() + 1);
        for (place, size) in target.iter().enumerate() {
            if place == at {
                shape.extend(batch.merged());
            } else {
                shape.push(usize::try_from(size.fixed).map_err(|_| problem("a size below 0", INCONSISTENT))?);
            }
        }
        let moved = self.move_row(row, &Move::Reshape(shape))?;
        Ok(Value::Row(Row { batch: Some(Batch { at, ..batch }), ..moved }))
    }

    /// Indices that differ from row to row.
    fn gather_rows(&mut self, data: &Value, axis: usize, indices: &Row) -> Checked<Value> {
        if let Repr::Numbers { .. } | Repr::Shape = indices.repr {
            return self.gather_numbered(data, axis, indices);
        }
        let own = match data {
            Value::Row(row) if row.batch.is_some() && indices.batch.is_some() => {
                return Err(problem(
                    "it takes elements of one row by indices of another: with Gather, every row's indices meet every row's data",
                    "Use GatherElements (torch.gather), or a constant table",
                ));
            }
            Value::Row(row) => row.own_axis(axis, "takes elements")?,
            _ => axis,
        };
        let elem = data.elem();
        // Where the rows lie in the result: the indices stand where the axis stood.
        let batch = match (data, indices.batch) {
            (_, Some(batch)) => Some(Batch { at: batch.at + axis, ..batch }),
            (Value::Row(Row { batch: Some(batch), .. }), None) => {
                let shift = if batch.at > axis { indices.shape.len() } else { 1 };
                Some(Batch { at: batch.at + shift - 1, ..*batch })
            }
            _ => None,
        };
        let (mut result, shape) = match data {
            Value::Const(table) if own == 0 && elem.is_float() && !table.shape.is_empty() => self.embedded(table, indices)?,
            _ => {
                let row = self.row(data)?;
                let (x, index) = (self.ir(&row)?, self.ir(indices)?);
                let shape = [&row.shape[..own], &indices.shape, &row.shape[own + 1..]].concat();
                let index = self.wrapped(index, row.shape[own])?;
                let step = Step {
                    op: "gather",
                    inputs: vec![("in", Arg::Value(x)), ("index", Arg::Value(index))],
                    args: vec![("axis", json!(own))],
                    ..Step::default()
                };
                (self.step(step, shape.clone(), elem.dtype())?, shape)
            }
        };
        result = self.reshaped(result, &shape)?;
        Ok(Lower::row_of(batch, elem, shape, result))
    }

    /// Computed indices: ONNX counts negative ones from the end.
    pub fn wrapped(&mut self, index: IrId, size: usize) -> Checked<IrId> {
        let never_negative = |lower: &Lower| match &lower.nodes[index.0].kind {
            Kind::Step(step) => matches!(step.op, "argtopk"),
            _ => false,
        };
        if never_negative(self) {
            return Ok(index);
        }
        let negative = self.compare("lt", Arg::Value(index), Arg::Number(0.0))?;
        let from_end = self.with("add", index, size as f64)?;
        self.select(negative, Arg::Value(from_end), Arg::Value(index))
    }

    /// Rows of a constant table by ids.
    fn embedded(&mut self, table: &Const, ids: &Row) -> Checked<(IrId, Vec<usize>)> {
        let (rows, rest) = (table.shape[0], table.shape[1..].to_vec());
        let dim = count(&rest).filter(|dim| *dim > 0 && rows > 0);
        let dim = dim.ok_or_else(|| problem(format!("a table of shape {:?}", table.shape), INCONSISTENT))?;
        let shape = [&ids.shape[..], &rest].concat();
        let matrix = table.reshaped(vec![rows, dim]);
        let made = [&ids.shape[..], &[dim]].concat();
        let id = match &ids.repr {
            Repr::Atoms { atoms, integer: true } => {
                let kind = Kind::Embed { table: matrix, atoms: atoms.clone(), ids: ids.shape.clone(), pool: Pool::None };
                self.push(kind, made, DType::F32)?
            }
            _ => {
                let index = self.ir(ids)?;
                let index = self.cast(index, DType::I64)?;
                let index = self.wrapped(index, rows)?;
                let step = Step { op: "embedding", inputs: vec![("in", Arg::Value(index))], table: Some(matrix), ..Step::default() };
                self.step(step, made, DType::F32)?
            }
        };
        Ok((id, shape))
    }

    /// GatherElements: take_along_axis.
    pub fn gather_elements(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (data, indices) = (first(inputs)?, input(inputs, 1)?);
        let axis = axis_of(node.int("axis", 0), data.rank())?;
        if indices.rank() != data.rank() {
            return Err(problem("indices of another rank than the data", INCONSISTENT));
        }
        let (data_row, index_row) = (self.row(data)?, self.row(indices)?);
        if let (Some(a), Some(b)) = (data_row.batch, index_row.batch)
            && a != b
        {
            return Err(mixes("takes elements"));
        }
        let batch = data_row.batch.or(index_row.batch);
        let strip = |lower: &mut Lower, row: &Row| -> Checked<Row> {
            match (row.batch, batch) {
                (None, Some(batch)) => lower.spread(row, batch),
                _ => Ok(row.clone()),
            }
        };
        let (data_row, index_row) = (strip(self, &data_row)?, strip(self, &index_row)?);
        let own = data_row.own_axis(axis, "takes elements")?;
        // ONNX lets the indices cover a part of the other axes only.
        let mut data_row = data_row;
        for other in 0..data_row.shape.len() {
            let (have, want) = (data_row.shape[other], index_row.shape[other]);
            if other != own && want < have {
                data_row = self.move_row(&data_row, &Move::Pick(other, (0..want).collect()))?;
            } else if other != own && want > have {
                return Err(problem("more indices than data along another axis", INCONSISTENT));
            }
        }
        let (x, index) = (self.ir(&data_row)?, self.ir(&index_row)?);
        let index = self.wrapped(index, data_row.shape[own])?;
        let shape = index_row.shape.clone();
        let step = Step {
            op: "take_along",
            inputs: vec![("in", Arg::Value(x)), ("index", Arg::Value(index))],
            args: vec![("axis", json!(own))],
            ..Step::default()
        };
        let id = self.step(step, shape.clone(), data_row.dtype())?;
        Ok(Lower::row_of(batch, data_row.elem, shape, id))
    }

    /// GatherND with constant indices, or with batch_dims = 1 by indices of each row: elements of the axes behind the rows, laid flat.
    pub fn gather_nd(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let (data, indices) = (first(inputs)?, input(inputs, 1)?);
        if let (Value::Row(data), Value::Row(indices), 1) = (data, indices, node.int("batch_dims", 0)) {
            return self.gather_by_row(data, indices);
        }
        let Some(indices) = indices.constant().and_then(Const::integer_nd) else {
            let remedy =
                "Use torch.gather (GatherElements) along one axis, x[arange(batch), i] for an element of each row, or constant indices";
            return Err(problem("indices that are computed", remedy));
        };
        let skip = usize::try_from(node.int("batch_dims", 0)).map_err(|_| problem("batch_dims below 0", INCONSISTENT))?;
        let Some((depth, lead)) = indices.shape.split_last() else { return Err(problem("indices without axes", INCONSISTENT)) };
        let dims = data.dims();
        if skip != 0 || *depth == 0 || *depth > dims.len() {
            let remedy = "Move the rows behind the indexed axes (Transpose), as exporters do for x[:, i, j]";
            return Err(problem(format!("batch_dims {skip} with indices of {depth} axes"), remedy));
        }
        let sizes: Option<Vec<usize>> =
            dims[..*depth].iter().map(|size| size.known().and_then(|size| usize::try_from(size).ok())).collect();
        let Some(sizes) = sizes else { return Err(mixes("takes elements")) };
        // The indexed axes become one, whose elements are picked.
        let total = count(&sizes).ok_or_else(|| problem("a shape that is too large", INCONSISTENT))?;
        let mut places = Vec::with_capacity(indices.data.len() / depth);
        for index in indices.data.chunks(*depth) {
            let mut place = 0;
            for (at, size) in index.iter().zip(&sizes) {
                place = place * size + indices_of(&[*at], *size as i64)?[0];
            }
            places.push(place);
        }
        let flat = [vec![super::super::value::Size::fixed(total as i64)], dims[*depth..].to_vec()].concat();
        let merged = self.shaped(data, &flat, true)?;
        let picked = self.pick(&merged, 0, places, "takes elements")?;
        let lead_sizes: Vec<_> = lead.iter().map(|size| super::super::value::Size::fixed(*size as i64)).collect();
        let target = [lead_sizes, dims[*depth..].to_vec()].concat();
        self.regrouped(&picked, 0, target, lead.len())
    }

    /// OneHot; negative indices count from the end, others outside give the off value.
    pub fn one_hot(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let fixed = |at: usize| {
            input(inputs, at)?
                .constant()
                .cloned()
                .ok_or_else(|| problem("a depth or values that are computed", "Export the model with a fixed number of classes"))
        };
        let (depth, values) = (fixed(1)?, fixed(2)?);
        let depth = depth.number().filter(|depth| *depth >= 1.0 && *depth <= 1e6);
        let (Some(depth), 2) = (depth.map(|depth| depth as usize), values.len()) else {
            return Err(problem("a depth that is no number, or not two values", INCONSISTENT));
        };
        let axis = axis_of(node.int("axis", -1), first(inputs)?.rank() + 1)?;
        if let Value::Const(constant) = first(inputs)? {
            return self.one_hot_constant(constant, depth, &values, axis).map(Value::Const);
        }
        let row = self.row(first(inputs)?)?;
        let index = self.ir(&row)?;
        let index = self.cast(index, DType::I64)?;
        let index = self.wrapped(index, depth)?;
        let shape = [&row.shape[..], &[depth]].concat();
        let args = vec![("depth", json!(depth)), ("on", super::steps::number(values.at(1))), ("off", super::steps::number(values.at(0)))];
        let mut id = self.map("one_hot", index, args, shape.clone(), DType::F32)?;
        id = self.cast(id, values.elem.dtype())?;
        let value = Lower::row_of(row.batch, values.elem, shape, id);
        let rank = row.rank() + 1;
        let mut perm: Vec<usize> = (0..rank - 1).collect();
        perm.insert(axis, rank - 1);
        self.permuted(&value, &perm)
    }

    /// Of indices that are known: exporters compute repeats of axes so.
    fn one_hot_constant(&mut self, indices: &Const, depth: usize, values: &Const, axis: usize) -> Checked<Const> {
        self.folded += 1;
        self.spend(indices.len().saturating_mul(depth))?;
        let is_on = |index: f64, at: usize| (if index < 0.0 { index + depth as f64 } else { index }) == at as f64;
        let places: Vec<usize> = (0..indices.len())
            .flat_map(|i| (0..depth).map(move |at| (i, at)))
            .map(|(i, at)| usize::from(is_on(indices.at(i), at)))
            .collect();
        let made = values.picked([&indices.shape[..], &[depth]].concat(), &places);
        let rank = made.shape.len();
        let mut perm: Vec<usize> = (0..rank - 1).collect();
        perm.insert(axis, rank - 1);
        Ok(Const { name: self.label.clone(), ..made.moved(&Move::Transpose(perm)) })
    }

    /// Pad: constant, edge, reflect or wrap; negative pads take away.
    pub fn pad(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?.clone();
        let rank = value.rank();
        let pads = match ints_or(node, "pads", inputs, 1) {
            Ok(pads) => pads.ok_or_else(|| problem("no pads", INCONSISTENT))?,
            Err(fault) => {
                as_sizes(input(inputs, 1)?).and_then(|sizes| sizes.data.into_iter().map(|size| size.known()).collect()).ok_or(fault)?
            }
        };
        let axes: Vec<usize> = match optional(inputs, 3) {
            Some(axes) => super::ops::known(axes, "axes")?.into_iter().map(|axis| axis_of(axis, rank)).collect::<Checked<_>>()?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return Err(problem(format!("{} pads for {} axes", pads.len(), axes.len()), INCONSISTENT));
        }
        let mode = node.text("mode", "constant");
        let with = match optional(inputs, 2) {
            Some(value) => {
                value.constant().and_then(Const::number).ok_or_else(|| problem("a padding value that is computed", "Use a constant"))?
            }
            None => node.float("value", 0.0),
        };
        let mut value = value;
        for (i, axis) in axes.iter().enumerate() {
            let (before, after) = (pads[i], pads[axes.len() + i]);
            if before == 0 && after == 0 {
                continue;
            }
            let Some(size) = value.dims()[*axis].known() else { return Err(mixes("pads")) };
            let len = size.checked_add(before).and_then(|len| len.checked_add(after)).filter(|len| *len > 0 && *len <= 1 << 20);
            let len = len.ok_or_else(|| problem(format!("{size} elements padded by {before} and {after}"), INCONSISTENT))?;
            let place = |at: i64| -> Option<usize> {
                let at = at - before;
                let inside = (0..size).contains(&at);
                let place = match mode {
                    _ if inside => at,
                    "edge" => at.clamp(0, size - 1),
                    "wrap" => at.rem_euclid(size),
                    "reflect" if size > 1 => {
                        let turn = at.rem_euclid(2 * (size - 1));
                        turn.min(2 * (size - 1) - turn)
                    }
                    _ => return None,
                };
                Some(place as usize)
            };
            let places: Vec<Option<usize>> = (0..len).map(place).collect();
            if let Some(all) = places.iter().copied().collect::<Option<Vec<usize>>>() {
                value = self.pick(&value, *axis, all, "pads")?;
                continue;
            }
            if mode != "constant" {
                return Err(problem(format!("padding of mode {mode:?}"), "Use constant, edge, reflect or wrap"));
            }
            // What is left of the value, between two constants.
            let kept = self.pick(&value, *axis, places.iter().copied().flatten().collect(), "pads")?;
            value = self.padded(&kept, *axis, before.max(0) as usize, after.max(0) as usize, with)?;
        }
        Ok(value)
    }

    fn padded(&mut self, value: &Value, axis: usize, before: usize, after: usize, with: f64) -> Checked<Value> {
        if let Value::Const(constant) = value {
            let part = |size: usize| {
                let mut shape = constant.shape.clone();
                shape[axis] = size;
                let data = vec![with; shape.iter().product()];
                Nd { shape, data }
            };
            let own = Nd { shape: constant.shape.clone(), data: constant.to_f64() };
            let Nd { shape, data } = Nd::concat(&[part(before), own, part(after)], axis);
            self.spend(data.len())?;
            return Ok(self.made(constant.elem, shape, data));
        }
        let row = self.row(value)?;
        let own = row.own_axis(axis, "pads")?;
        let x = self.ir(&row)?;
        let mut shape = row.shape.clone();
        if row.dtype() == DType::F32 {
            let rank = shape.len();
            let mut pads = vec![0; 2 * rank];
            (pads[own], pads[rank + own]) = (before, after);
            shape[own] += before + after;
            let mut args = vec![("pads", json!(pads))];
            if with != 0.0 {
                args.push(("value", super::steps::number(with)));
            }
            let id = self.map("pad", x, args, shape, DType::F32)?;
            return Ok(self.like(&row, row.elem, id));
        }
        let mut parts = Vec::new();
        for (size, is_value) in [(before, false), (0, true), (after, false)] {
            if is_value {
                parts.push(x);
            } else if size > 0 {
                shape[own] = size;
                parts.push(self.fill(with, &shape, Elem::I64)?);
            }
        }
        let id = self.concat(&parts, own)?;
        Ok(self.like(&row, row.elem, id))
    }

    /// Trilu: what lies outside the triangle becomes 0.
    pub fn trilu(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let k = match optional(inputs, 1) {
            Some(k) => k.constant().and_then(Const::number).ok_or_else(|| problem("a diagonal that is computed", "Use a constant"))? as i64,
            None => 0,
        };
        let upper = node.int("upper", 1) != 0;
        let dims = value.dims();
        let [.., rows, columns] = dims[..] else { return Err(problem("a value without two axes", INCONSISTENT)) };
        let (Some(rows), Some(columns)) = (rows.known(), columns.known()) else { return Err(mixes("takes a triangle")) };
        self.spend(rows.saturating_mul(columns) as usize)?;
        let inside = |i: i64, j: i64| if upper { j - i >= k } else { j - i <= k };
        let mask: Vec<f64> = (0..rows).flat_map(|i| (0..columns).map(move |j| f64::from(inside(i, j)))).collect();
        let mask_shape = vec![rows as usize, columns as usize];
        if let Value::Const(constant) = value {
            let block = mask.len();
            self.spend(constant.len())?;
            let data = constant.to_f64().into_iter().enumerate().map(|(i, x)| if mask[i % block] != 0.0 { x } else { 0.0 }).collect();
            return Ok(self.made(constant.elem, constant.shape.clone(), data));
        }
        let mask = self.made(Elem::Bool, mask_shape, mask);
        let zero = self.made(value.elem(), vec![], vec![0.0]);
        self.where_op(&[mask, value.clone(), zero])
    }

    /// DepthToSpace.
    pub fn depth_to_space(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let (n, c, h, w) = image(value)?;
        let b = block(node)?;
        if c % (b * b) != 0 {
            return Err(problem(format!("{c} channels in blocks of {b}"), INCONSISTENT));
        }
        let f = super::super::value::Size::fixed;
        let (apart, perm) = match node.text("mode", "DCR") {
            "CRD" => ([n, f(c / (b * b)), f(b), f(b), f(h), f(w)], [0, 1, 4, 2, 5, 3]),
            _ => ([n, f(b), f(b), f(c / (b * b)), f(h), f(w)], [0, 3, 4, 1, 5, 2]),
        };
        let value = self.shaped(value, &apart, true)?;
        let value = self.permuted(&value, &perm)?;
        self.shaped(&value, &[n, f(c / (b * b)), f(h * b), f(w * b)], true)
    }

    /// SpaceToDepth.
    pub fn space_to_depth(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Value> {
        let value = first(inputs)?;
        let (n, c, h, w) = image(value)?;
        let b = block(node)?;
        if h % b != 0 || w % b != 0 {
            return Err(problem(format!("an image of {h} x {w} in blocks of {b}"), INCONSISTENT));
        }
        let f = super::super::value::Size::fixed;
        let value = self.shaped(value, &[n, f(c), f(h / b), f(b), f(w / b), f(b)], true)?;
        let value = self.permuted(&value, &[0, 3, 5, 1, 2, 4])?;
        self.shaped(&value, &[n, f(c * b * b), f(h / b), f(w / b)], true)
    }
}

fn block(node: &Node<'_>) -> Checked<i64> {
    Some(node.int("blocksize", 0)).filter(|b| (1..=1 << 10).contains(b)).ok_or_else(|| problem("no blocksize", INCONSISTENT))
}

fn image(value: &Value) -> Checked<(super::super::value::Size, i64, i64, i64)> {
    let [n, c, h, w] = value.dims()[..] else { return Err(problem("a value that is not [N, C, H, W]", INCONSISTENT)) };
    match (c.known(), h.known(), w.known()) {
        (Some(c), Some(h), Some(w)) => Ok((n, c, h, w)),
        _ => Err(mixes("moves elements")),
    }
}
