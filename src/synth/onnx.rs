//! A recipe as ONNX, as a careful user would export it: inputs `dense` f32 [N, 13] and `ids` i64 [N, ids], output `prob` f32 [N, 1].
//!
//! Tables are f32: the numbers that the bundle's tables are read as. The columns of `ids` are the features' ids side by side, in the order of the features.

use std::io::{self, Write};
use std::path::Path;

use super::onnx_file::{Attribute, Data, Element, Graph, Initializer, Node, ValueInfo, write};
use super::shape::{Interaction, Shape};
use super::tensors::{Layer, TableNumbers, bottom, cross, layers, tables, top};
use super::{Progress, Recipe, SynthError};

/// How tables are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// One `Gather` per table, and one `ReduceSum` where rows have several ids.
    Apart,
    /// All tables are one, ids are shifted by constants, one `Gather`. Only where every feature has one id.
    Fused,
}

/// Writes the model to `file`, which does not exist yet. A model of 2 GiB or more keeps its numbers in `file` + `.data`.
/// Panics if fused tables are asked of a shape with bags.
pub fn write_onnx(recipe: &Recipe, lookups: Tables, file: &Path, progress: &mut Progress<'_>) -> Result<(), SynthError> {
    if file.exists() {
        return Err(SynthError::Exists(file.to_owned()));
    }
    let shape = &recipe.shape;
    let (layers, tables) = (layers(recipe), tables(recipe));
    let mut nodes = Nodes { nodes: vec![], constants: vec![] };
    let prob = nodes.model(shape, &tables, lookups);

    let total = shape.table_elements() * 4;
    let progress = std::cell::RefCell::new((0, progress));
    let table_data = |table: &TableNumbers, out: &mut dyn Write| {
        table.pieces(|_, values| {
            out.write_all(bytemuck::cast_slice(values))?;
            let (done, progress) = &mut *progress.borrow_mut();
            *done += size_of_val(values) as u64;
            progress(*done, total);
            Ok(())
        })
    };
    let mut initializers: Vec<Initializer<'_>> = Vec::new();
    let mut add = |name: &str, element, shape: Vec<usize>, data| initializers.push(Initializer { name: name.into(), element, shape, data });
    for (name, values) in &nodes.constants {
        let data: Data<'_> = Box::new(|out| out.write_all(bytemuck::cast_slice(values)));
        add(name, Element::I64, vec![values.len()], data);
    }
    for tensor in &layers {
        let data: Data<'_> = Box::new(|out| out.write_all(bytemuck::cast_slice(&tensor.values)));
        add(&tensor.name, Element::F32, tensor.shape.clone(), data);
    }
    match lookups {
        Tables::Apart => {
            for table in &tables {
                add(&table.name, Element::F32, vec![table.rows as usize, shape.dim], Box::new(|out| table_data(table, out)));
            }
        }
        Tables::Fused => {
            let rows = tables.iter().map(|table| table.rows as usize).sum();
            let data = |out: &mut dyn Write| -> io::Result<()> { tables.iter().try_for_each(|table| table_data(table, out)) };
            add(FUSED, Element::F32, vec![rows, shape.dim], Box::new(data));
        }
    }
    let graph = Graph {
        nodes: nodes.nodes,
        name: shape.family.name().into(),
        inputs: vec![ValueInfo::rows("dense", Element::F32, shape.dense), ValueInfo::rows("ids", Element::I64, shape.ids())],
        outputs: vec![ValueInfo::rows(&prob, Element::F32, 1)],
    };
    write(file, &graph, &initializers).map_err(SynthError::io(file))
}

/// Name of the one table.
const FUSED: &str = "tables";

/// The graph in the making.
struct Nodes {
    nodes: Vec<Node>,
    /// Integer initializers: name and values.
    constants: Vec<(String, Vec<i64>)>,
}

impl Nodes {
    fn model(&mut self, shape: &Shape, tables: &[TableNumbers], lookups: Tables) -> String {
        let x = self.layers("dense", &bottom(shape), true);
        let one = self.constant("axis", &[1]);
        // Every vector is [N, 1, dim], so that one Concat makes [N, vectors, dim].
        let mut vectors = vec![self.node("Unsqueeze", &[&x, &one], "bottom.vector", &[])];
        match lookups {
            Tables::Apart => vectors.extend(self.apart(shape, tables, &one)),
            Tables::Fused => vectors.push(self.fused(shape, tables)),
        }
        let vectors: Vec<&str> = vectors.iter().map(String::as_str).collect();
        let vectors = self.node("Concat", &vectors, "vectors", &[Attribute::int("axis", 1)]);
        let x = match shape.interaction {
            Interaction::Dot => {
                let count = shape.vectors() as i64;
                let turned = self.node("Transpose", &[&vectors], "vectors.turned", &[Attribute::ints("perm", &[0, 2, 1])]);
                let dots = self.node("MatMul", &[&vectors, &turned], "dots", &[]);
                let flat = self.constant("dots.shape", &[0, count * count]);
                let flat = self.node("Reshape", &[&dots, &flat], "dots.flat", &[]);
                let pairs: Vec<i64> = shape.pairs().into_iter().map(|place| place as i64).collect();
                let pairs = self.constant("pairs.places", &pairs);
                let pairs = self.node("Gather", &[&flat, &pairs], "pairs", &[Attribute::int("axis", 1)]);
                self.node("Concat", &[&x, &pairs], "interaction", &[Attribute::int("axis", 1)])
            }
            Interaction::Cross { .. } => {
                let flat = self.constant("x0.shape", &[0, shape.top_in() as i64]);
                let x0 = self.node("Reshape", &[&vectors, &flat], "x0", &[]);
                let mut x = x0.clone();
                for (i, [v, w]) in cross(shape).iter().enumerate() {
                    let low = self.linear(&x, v);
                    let high = self.linear(&low, w);
                    let product = self.node("Mul", &[&x0, &high], &format!("cross.{i}.product"), &[]);
                    x = self.node("Add", &[&product, &x], &format!("cross.{i}"), &[]);
                }
                x
            }
        };
        let logit = self.layers(&x, &top(shape), false);
        self.node("Sigmoid", &[&logit], "prob", &[])
    }

    /// [N, 1, dim] of each table.
    fn apart(&mut self, shape: &Shape, tables: &[TableNumbers], one: &str) -> Vec<String> {
        let widths: Vec<i64> = shape.hots.iter().map(|hot| *hot as i64).collect();
        let widths = self.constant("ids.widths", &widths);
        let outputs = tables.iter().map(|table| format!("{}.ids", table.name)).collect();
        self.nodes.push(Node {
            inputs: vec!["ids".into(), widths],
            outputs,
            name: "ids.split".into(),
            op_type: "Split".into(),
            attributes: vec![Attribute::int("axis", 1)],
        });
        let row = |(table, hot): (&TableNumbers, &usize)| {
            let rows = self.node("Gather", &[&table.name, &format!("{}.ids", table.name)], &format!("{}.rows", table.name), &[]);
            if *hot == 1 {
                return rows;
            }
            self.node("ReduceSum", &[&rows, one], &format!("{}.sum", table.name), &[Attribute::int("keepdims", 1)])
        };
        tables.iter().zip(&shape.hots).map(row).collect()
    }

    /// [N, tables, dim] out of the one table.
    fn fused(&mut self, shape: &Shape, tables: &[TableNumbers]) -> String {
        assert!(shape.hots.iter().all(|hot| *hot == 1), "one id a feature");
        let first_rows: Vec<i64> = tables
            .iter()
            .scan(0, |next, table| {
                let first = *next;
                *next += i64::from(table.rows);
                Some(first)
            })
            .collect();
        let first_rows = self.constant("tables.first_rows", &first_rows);
        let ids = self.node("Add", &["ids", &first_rows], "ids.shifted", &[]);
        self.node("Gather", &[FUSED, &ids], "embedded", &[])
    }

    fn layers(&mut self, x: &str, layers: &[Layer], relu_last: bool) -> String {
        let mut x = x.to_string();
        for (i, layer) in layers.iter().enumerate() {
            x = self.linear(&x, layer);
            if relu_last || i + 1 < layers.len() {
                x = self.node("Relu", &[&x], &format!("{}.relu", layer.name), &[]);
            }
        }
        x
    }

    fn linear(&mut self, x: &str, layer: &Layer) -> String {
        let (weight, bias) = (format!("{}.weight", layer.name), format!("{}.bias", layer.name));
        let inputs = if layer.bias { vec![x, &weight, &bias] } else { vec![x, &weight] };
        self.node("Gemm", &inputs, &layer.name, &[Attribute::int("transB", 1)])
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], out: &str, attributes: &[Attribute]) -> String {
        self.nodes.push(Node {
            inputs: inputs.iter().map(|name| (*name).to_string()).collect(),
            outputs: vec![out.into()],
            name: out.into(),
            op_type: op_type.into(),
            attributes: attributes.into(),
        });
        out.into()
    }

    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        self.constants.push((name.into(), values.into()));
        name.into()
    }
}
