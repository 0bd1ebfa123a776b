//! [`FeatureRows`] from safetensors: one tensor per feature, or packed ones.

use super::error::Fault;
use super::rows::{Column, FeatureRows, Field, FieldKind};
use super::tensor_file::{TensorFile, TensorRef};

impl FeatureRows {
    /// Reads the columns of `fields` from a file; `prefix` stands before each name.
    ///
    /// Per feature a tensor of its name: dense `[rows, width]` or `[rows]` (F32), fixed ids `[rows, width]` or `[rows]` (an integer type),
    /// variable ids flat `[ids]` beside `NAME.lengths` `[rows]`, weights in `NAME.weights` parallel to the ids. Where a feature has no
    /// tensor of its name, packed ones are tried: `dense` `[rows, all dense columns]`, `sparse` `[rows, all fixed sparse columns]` in
    /// feature order, or `values` `[ids]` with `lengths` `[sparse features × rows]`, feature by feature.
    ///
    /// Also gives the names of the tensors that were not used. Errors: a feature without values, or with misshapen ones.
    pub fn from_tensors(fields: &[Field], file: &TensorFile, prefix: &str) -> Result<(FeatureRows, Vec<String>), Box<Fault>> {
        let mut reader = Reader { file, prefix, rows: None, used: Vec::new() };
        let packed = Packed::find(&mut reader, fields)?;
        let mut columns = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            columns.push(reader.column(index, field, &packed)?);
        }
        let ignored = file.names().filter(|name| !reader.used.iter().any(|used| used == name)).map(String::from).collect();
        let rows = FeatureRows::of_columns(fields.to_vec(), reader.rows.map_or(0, |(rows, _)| rows), columns);
        for row in 0..rows.rows() {
            for (index, field) in fields.iter().enumerate() {
                if let Err(problem) = field.check(&rows.cell(index, row)) {
                    let at = format!("tensor {:?}, row {row}", format!("{prefix}{}", field.name));
                    return Err(Fault::new(file.file(), at, problem, "values that the feature can carry", "Correct the inputs"));
                }
            }
        }
        Ok((rows, ignored))
    }
}

/// Tensors that hold several features.
#[derive(Default)]
struct Packed {
    /// Values [rows × total], total.
    dense: Option<(Vec<f32>, usize)>,
    /// Ids [rows × total], total.
    sparse: Option<(Vec<i64>, usize)>,
    /// Ids, and for each (feature, row), feature-major, where they start.
    jagged: Option<(Vec<i64>, Vec<usize>)>,
    /// Place of each feature: first column in `dense` or `sparse`, number in `jagged`.
    columns: Vec<usize>,
    numbers: Vec<usize>,
}

struct Reader<'a> {
    file: &'a TensorFile,
    prefix: &'a str,
    /// Number of rows, and the tensor that said so.
    rows: Option<(usize, String)>,
    used: Vec<String>,
}

impl<'a> Reader<'a> {
    /// The tensor `prefix` + `name`, marked as used.
    fn tensor(&mut self, name: &str) -> Option<TensorRef<'a>> {
        let tensor = self.file.tensor(&format!("{}{name}", self.prefix))?;
        self.used.push(tensor.name().into());
        Some(tensor)
    }

    /// All tensors must agree on the number of rows.
    fn rows(&mut self, tensor: &TensorRef<'_>, rows: usize) -> Result<usize, Box<Fault>> {
        let (known, name) = self.rows.get_or_insert_with(|| (rows, tensor.name().into()));
        if *known == rows {
            return Ok(rows);
        }
        Err(tensor.fault(format!("{rows} rows"), format!("{known}, as tensor {name:?}"), "Every tensor holds the same rows"))
    }

    /// Checks [rows, width] or, for width 1, [rows].
    fn matrix(&mut self, tensor: &TensorRef<'_>, width: usize) -> Result<usize, Box<Fault>> {
        match tensor.shape() {
            [rows, columns] if *columns == width => self.rows(tensor, *rows),
            [rows] if width == 1 => self.rows(tensor, *rows),
            shape => Err(tensor.fault(format!("shape {shape:?}"), format!("[rows, {width}]"), "Reshape the tensor before saving it")),
        }
    }

    fn vector(tensor: &TensorRef<'_>) -> Result<usize, Box<Fault>> {
        match tensor.shape() {
            [len] => Ok(*len),
            shape => Err(tensor.fault(format!("shape {shape:?}"), "one axis", "Reshape the tensor before saving it")),
        }
    }

    fn column(&mut self, index: usize, field: &Field, packed: &Packed) -> Result<Column, Box<Fault>> {
        let width = field.width as usize;
        if let Some(tensor) = self.tensor(&field.name) {
            if field.kind == FieldKind::Dense {
                self.matrix(&tensor, width)?;
                return Ok(Column::Dense(tensor.f32s()?));
            }
            let ids = tensor.i64s()?;
            let starts = if width == 0 {
                Reader::vector(&tensor)?;
                self.lengths(field, &tensor, ids.len())?
            } else {
                let rows = self.matrix(&tensor, width)?;
                (0..=rows).map(|row| row * width).collect()
            };
            return Ok(Column::Ids { weights: self.weights(field, ids.len())?, ids, starts });
        }
        let place = packed.columns[index];
        match field.kind {
            FieldKind::Dense => {
                if let Some((values, total)) = &packed.dense {
                    return Ok(Column::Dense(values.chunks_exact(*total).flat_map(|row| &row[place..place + width]).copied().collect()));
                }
            }
            FieldKind::Sparse if !field.weighted => {
                if let Some((ids, total)) = packed.sparse.as_ref().filter(|_| width != 0) {
                    let ids: Vec<i64> = ids.chunks_exact(*total).flat_map(|row| &row[place..place + width]).copied().collect();
                    let starts = (0..=ids.len() / width).map(|row| row * width).collect();
                    return Ok(Column::Ids { ids, starts, weights: Vec::new() });
                }
                if let (Some((ids, starts)), Some((rows, _))) = (&packed.jagged, &self.rows) {
                    let starts = &starts[packed.numbers[index] * rows..][..rows + 1];
                    let ids = ids[starts[0]..starts[*rows]].to_vec();
                    return Ok(Column::Ids { ids, starts: starts.iter().map(|start| start - starts[0]).collect(), weights: Vec::new() });
                }
            }
            FieldKind::Sparse | FieldKind::Integer => {}
        }
        let name = format!("{}{}", self.prefix, field.name);
        let expected = match field.kind {
            FieldKind::Dense => format!("F32 [rows, {width}]"),
            _ if width == 0 => "I64 [ids], beside a tensor of that name + \".lengths\"".into(),
            _ => format!("I64 [rows, {width}]"),
        };
        let missing =
            Fault::new(self.file.file(), "", format!("no tensor {name:?}"), expected, "Every feature of the model needs its values");
        Err(missing)
    }

    /// `NAME.lengths` as starts.
    fn lengths(&mut self, field: &Field, ids: &TensorRef<'_>, count: usize) -> Result<Vec<usize>, Box<Fault>> {
        let Some(tensor) = self.tensor(&format!("{}.lengths", field.name)) else {
            let remedy = "A variable-length feature is flat ids and lengths";
            return Err(ids.fault("no tensor of its lengths", format!("{:?}", format!("{}.lengths", ids.name())), remedy));
        };
        let rows = Reader::vector(&tensor)?;
        self.rows(&tensor, rows)?;
        starts(&tensor, count)
    }

    /// `NAME.weights` of a weighted feature.
    fn weights(&mut self, field: &Field, ids: usize) -> Result<Vec<f32>, Box<Fault>> {
        if !field.weighted {
            return Ok(Vec::new());
        }
        let name = format!("{}.weights", field.name);
        let Some(tensor) = self.tensor(&name) else {
            let missing = format!("no tensor {:?}", format!("{}{name}", self.prefix));
            return Err(Fault::new(self.file.file(), "", missing, "F32, parallel to the ids", "The feature is weighted"));
        };
        let weights = tensor.f32s()?;
        if weights.len() != ids {
            return Err(tensor.fault(format!("{} weights", weights.len()), format!("{ids}, one per id"), "Ids and weights run parallel"));
        }
        Ok(weights)
    }
}

/// Lengths as [n + 1] starts that end at `count`.
fn starts(lengths: &TensorRef<'_>, count: usize) -> Result<Vec<usize>, Box<Fault>> {
    let mut starts = vec![0];
    let mut end = 0_usize;
    for (i, length) in lengths.i64s()?.into_iter().enumerate() {
        let next = usize::try_from(length).ok().and_then(|length| end.checked_add(length)).filter(|end| *end <= count);
        end = next.ok_or_else(|| {
            lengths.fault(
                format!("element {i} is {length}"),
                format!("lengths from 0 whose sum is {count}"),
                "Ids and lengths belong together",
            )
        })?;
        starts.push(end);
    }
    if end != count {
        return Err(lengths.fault(
            format!("lengths whose sum is {end}"),
            format!("{count}, the number of ids"),
            "Ids and lengths belong together",
        ));
    }
    Ok(starts)
}

impl Packed {
    /// Looks for packed tensors that some feature needs.
    fn find(reader: &mut Reader<'_>, fields: &[Field]) -> Result<Packed, Box<Fault>> {
        let mut packed = Packed::default();
        let (mut dense, mut sparse, mut numbers) = (0, 0, 0);
        for field in fields {
            let width = field.width as usize;
            packed.columns.push(if field.kind == FieldKind::Dense { dense } else { sparse });
            packed.numbers.push(numbers);
            match field.kind {
                FieldKind::Dense => dense += width,
                FieldKind::Sparse => {
                    sparse += width;
                    numbers += 1;
                }
                FieldKind::Integer => {}
            }
        }
        let named = |name: &str| fields.iter().any(|field| field.name == name);
        let lacks = |kind| fields.iter().any(|f| f.kind == kind && reader.file.tensor(&format!("{}{}", reader.prefix, f.name)).is_none());
        let (lacks_dense, lacks_sparse) = (lacks(FieldKind::Dense), lacks(FieldKind::Sparse));
        if lacks_dense
            && !named("dense")
            && let Some(tensor) = reader.tensor("dense")
        {
            reader.matrix(&tensor, dense)?;
            packed.dense = Some((tensor.f32s()?, dense));
        }
        if lacks_sparse
            && sparse > 0
            && !named("sparse")
            && let Some(tensor) = reader.tensor("sparse")
        {
            reader.matrix(&tensor, sparse)?;
            packed.sparse = Some((tensor.i64s()?, sparse));
        }
        if lacks_sparse
            && !named("values")
            && !named("lengths")
            && let (Some(values), Some(lengths)) = (reader.tensor("values"), reader.tensor("lengths"))
        {
            Reader::vector(&values)?;
            let count = Reader::vector(&lengths)?;
            if count % numbers != 0 {
                return Err(lengths.fault(
                    format!("{count} lengths"),
                    format!("rows x {numbers}, the number of sparse features"),
                    "Lengths are feature-major, over all sparse features",
                ));
            }
            reader.rows(&lengths, count / numbers)?;
            let ids = values.i64s()?;
            let starts = starts(&lengths, ids.len())?;
            packed.jagged = Some((ids, starts));
        }
        Ok(packed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Cell, IdType, Scope};

    fn field(name: &str, kind: FieldKind, width: u32, max_len: u32) -> Field {
        Field { name: name.into(), kind, scope: Scope::Candidate, width, max_len, id_type: IdType::U32, weighted: false }
    }

    fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> TensorFile {
        let mut header = serde_json::Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, dtype, shape, bytes) in tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            header.insert((*name).into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend(bytes);
        }
        let header = serde_json::to_string(&header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        TensorFile::parse("in.safetensors".as_ref(), bytes).unwrap()
    }

    fn i64s(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn packed_columns_map_in_feature_order() {
        let fields = [
            field("d", FieldKind::Dense, 2, 2),
            field("a", FieldKind::Sparse, 1, 1),
            field("e", FieldKind::Dense, 1, 1),
            field("b", FieldKind::Sparse, 2, 2),
        ];
        let file = file(&[
            ("dense", "F32", &[2, 3], f32s(&[1., 2., 3., 4., 5., 6.])),
            ("sparse", "I64", &[2, 3], i64s(&[1, 2, 3, 4, 5, 6])),
            ("label", "I64", &[2], i64s(&[0, 1])),
        ]);
        let (rows, ignored) = FeatureRows::from_tensors(&fields, &file, "").unwrap();
        assert_eq!(ignored, ["label"]);
        assert_eq!(rows.cell(0, 1), Cell::Dense(&[4., 5.]));
        assert_eq!(rows.cell(2, 1), Cell::Dense(&[6.]));
        assert_eq!(rows.cell(1, 0), Cell::Ids { ids: &[1], weights: &[] });
        assert_eq!(rows.cell(3, 1), Cell::Ids { ids: &[5, 6], weights: &[] });
    }

    #[test]
    fn jagged_values_are_feature_major() {
        let fields = [field("a", FieldKind::Sparse, 0, 3), field("b", FieldKind::Sparse, 1, 1)];
        let file = file(&[("values", "I64", &[5], i64s(&[1, 2, 3, 8, 9])), ("lengths", "I64", &[4], i64s(&[0, 3, 1, 1]))]);
        let (rows, _) = FeatureRows::from_tensors(&fields, &file, "").unwrap();
        assert_eq!(rows.rows(), 2);
        assert_eq!(rows.cell(0, 0), Cell::Ids { ids: &[], weights: &[] });
        assert_eq!(rows.cell(0, 1), Cell::Ids { ids: &[1, 2, 3], weights: &[] });
        assert_eq!(rows.cell(1, 1), Cell::Ids { ids: &[9], weights: &[] });
        assert_eq!(rows.subset(&[1, 1]).cell(0, 1), Cell::Ids { ids: &[1, 2, 3], weights: &[] });
    }

    #[test]
    fn misshapen_inputs_are_named() {
        let dense = [field("d", FieldKind::Dense, 2, 2)];
        let bag = [field("b", FieldKind::Sparse, 0, 1)];
        let two = [field("d", FieldKind::Dense, 1, 1), field("a", FieldKind::Integer, 1, 1)];
        let cases = [
            (&dense[..], file(&[]), "in.safetensors: no tensor \"d\"; expected F32 [rows, 2]. Every feature of the model needs its values"),
            (
                &dense,
                file(&[("d", "F32", &[4], f32s(&[0.; 4]))]),
                "in.safetensors: tensor \"d\": shape [4]; expected [rows, 2]. Reshape the tensor before saving it",
            ),
            (
                &bag,
                file(&[("b", "I64", &[1], i64s(&[1]))]),
                "in.safetensors: tensor \"b\": no tensor of its lengths; expected \"b.lengths\". A variable-length feature is flat ids and lengths",
            ),
            (
                &bag,
                file(&[("b", "I64", &[2], i64s(&[1, 2])), ("b.lengths", "I64", &[1], i64s(&[2]))]),
                "in.safetensors: tensor \"b\", row 0: 2 ids, expected at most 1; expected values that the feature can carry. Correct the inputs",
            ),
            (
                &bag,
                file(&[("b", "I64", &[1], i64s(&[1])), ("b.lengths", "I64", &[2], i64s(&[-1, 2]))]),
                "in.safetensors: tensor \"b.lengths\": element 0 is -1; expected lengths from 0 whose sum is 1. Ids and lengths belong together",
            ),
            (
                &two,
                file(&[("d", "F32", &[2], f32s(&[0.; 2])), ("a", "I64", &[1], i64s(&[1]))]),
                "in.safetensors: tensor \"a\": 1 rows; expected 2, as tensor \"d\". Every tensor holds the same rows",
            ),
        ];
        for (fields, file, message) in cases {
            assert_eq!(FeatureRows::from_tensors(fields, &file, "").unwrap_err().to_string(), message);
        }
    }
}
