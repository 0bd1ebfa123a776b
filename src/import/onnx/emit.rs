//! The graph as a manifest's steps, with the tensors that they read.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use crate::model::{DType, Pool};

use super::constant::{Const, Data, Elem};
use super::error::{ImportError, problem};
use super::features::{FeatureKind, Plan, table_of};
use super::graph::Converted;
use super::ir::{Arg, IrId, Kind, Step};
use super::names::Names;
use super::rules::Rules;
use super::value::Atom;

/// A dense tensor of the bundle.
#[derive(Debug)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Elements.
    pub constant: Const,
}

/// What a bundle says, but for the selftest.
#[derive(Debug)]
pub struct Emitted {
    /// Features and tables.
    pub plan: Plan,
    /// `features`.
    pub features: Vec<Json>,
    /// `tables`.
    pub tables: Vec<Json>,
    /// `graph`.
    pub graph: Vec<Json>,
    /// `outputs`.
    pub outputs: Vec<Json>,
    /// Dense tensors.
    pub tensors: Vec<Tensor>,
    /// For each output of the bundle: output of the graph and element of it.
    pub columns: Vec<(usize, usize)>,
}

struct Writer<'a> {
    graph: &'a Converted,
    plan: Plan,
    names: Names,
    table_names: Names,
    tensor_names: Names,
    steps: Vec<Json>,
    tensors: Vec<Tensor>,
    value_of: Vec<Option<String>>,
    /// Values of whole features, by the features.
    bases: HashMap<Vec<usize>, String>,
}

/// Writes the graph. `wide`: features whose ids have 64 bits, where no rule says otherwise.
pub fn emit(graph: &Converted, rules: &Rules, wide: &[usize]) -> Result<Emitted, ImportError> {
    rules.check_outputs(&graph.outputs)?;
    let mut table_names = Names::default();
    let mut plan = super::features::plan(graph, rules, &mut table_names)?;
    for feature in wide {
        plan.features[*feature].rule.id_type.get_or_insert(json!("u64"));
    }
    let mut writer = Writer {
        graph,
        value_of: vec![None; graph.nodes.len()],
        plan,
        names: Names::default(),
        table_names,
        tensor_names: Names::default(),
        steps: Vec::new(),
        tensors: Vec::new(),
        bases: HashMap::new(),
    };
    for index in 0..graph.nodes.len() {
        if writer.plan.live[index] {
            let name = writer.node(IrId(index));
            writer.value_of[index] = Some(name);
        }
    }
    let (outputs, columns) = writer.outputs(rules)?;
    let features = writer.features();
    let tables = writer
        .plan
        .tables
        .iter()
        .map(|table| json!({"name": table.name, "tensor": format!("table:{}", table.name), "rows": table.rows(), "dim": table.dim()}))
        .collect();
    let Writer { plan, steps, tensors, .. } = writer;
    Ok(Emitted { plan, features, tables, graph: steps, outputs, tensors, columns })
}

impl Writer<'_> {
    fn push(&mut self, label: &str, op: &str, args: Vec<(&str, Json)>) -> String {
        let out = self.names.fresh(label);
        let mut step = Map::new();
        step.insert("op".into(), json!(op));
        for (key, value) in args {
            step.insert(key.into(), value);
        }
        step.insert("out".into(), json!(out));
        self.steps.push(Json::Object(step));
        out
    }

    fn value(&self, id: IrId) -> Json {
        json!(self.value_of[id.0])
    }

    fn node(&mut self, id: IrId) -> String {
        let node = self.graph.nodes[id.0].clone();
        let label = node.label.to_string();
        match &node.kind {
            Kind::Const(constant) => {
                let tensor = self.tensor(constant);
                self.push(&label, "const", vec![("tensor", json!(tensor))])
            }
            Kind::Source { atoms, integer, elem } => {
                let value = self.source(&label, atoms, *integer, node.dtype, &node.shape);
                let wide = atoms.iter().filter_map(|atom| self.plan.place(atom)).any(|(feature, _)| self.plan.features[feature].is_wide());
                if wide && node.dtype == DType::I64 { self.around(&label, value, *elem) } else { value }
            }
            Kind::Embed { table, atoms, ids, pool } => {
                if self.plan.lookups[id.0] {
                    self.lookup(&label, table, atoms, ids, *pool, &node.shape)
                } else {
                    self.embedding(&label, table, atoms, ids, *pool, &node.shape)
                }
            }
            Kind::Step(step) => self.step(&label, step),
        }
    }

    /// Integers of 64 bits as a narrower type holds them.
    fn around(&mut self, label: &str, value: String, elem: Elem) -> String {
        let Some((bits, signed)) = elem.narrow() else { return value };
        let half = if signed { 1_i64 << (bits - 1) } else { 0 };
        let shifted = self.push(label, "add", vec![("a", json!(value)), ("b", json!(half))]);
        let wrapped = self.push(label, "mod", vec![("a", json!(shifted)), ("b", json!(1_i64 << bits))]);
        self.push(label, "sub", vec![("a", json!(wrapped)), ("b", json!(half))])
    }

    fn step(&mut self, label: &str, step: &Step) -> String {
        let mut args = Vec::new();
        for (key, arg) in &step.inputs {
            let json = match arg {
                Arg::Value(id) => self.value(*id),
                Arg::List(ids) => Json::Array(ids.iter().map(|id| self.value(*id)).collect()),
                Arg::Number(number) => super::lower::number(*number),
            };
            args.push((*key, json));
        }
        for (key, constant) in &step.tensors {
            let name = self.tensor(constant);
            args.push((*key, json!(name)));
        }
        if let Some(table) = &step.table {
            let id = self.plan.table(&mut self.table_names, table, 0, table.shape[0]);
            args.push(("table", json!(self.plan.tables[id].name)));
        }
        args.extend(step.args.iter().map(|(key, value)| (*key, value.clone())));
        self.push(label, step.op, args)
    }

    /// The name of a tensor, which is added if it is new.
    fn tensor(&mut self, constant: &Const) -> String {
        if let Some(known) = self.tensors.iter().find(|known| known.constant.is_same(constant)) {
            return known.name.clone();
        }
        let name = self.tensor_names.fresh(&constant.name);
        self.tensors.push(Tensor { name: name.clone(), constant: constant.clone() });
        name
    }

    /// Elements of inputs as numbers.
    fn source(&mut self, label: &str, atoms: &[Atom], integer: bool, dtype: DType, shape: &[usize]) -> String {
        let places: Vec<(usize, usize)> = atoms.iter().filter_map(|atom| self.plan.place(atom)).collect();
        let mut order: Vec<usize> = Vec::new();
        for (feature, _) in &places {
            if order.last() != Some(feature) && !order.contains(feature) {
                order.push(*feature);
            }
        }
        let (mut value, mut is_integer) = self.base(&order);
        let mut starts = HashMap::new();
        let mut width = 0;
        for feature in &order {
            starts.insert(*feature, width);
            width += self.plan.features[*feature].width();
        }
        let wanted: Vec<usize> = places.iter().map(|(feature, at)| starts[feature] + at).collect();
        let contiguous = wanted.windows(2).all(|pair| pair[1] == pair[0] + 1);
        if wanted.len() != width || !contiguous {
            value = if contiguous {
                let args =
                    vec![("in", json!(value)), ("axis", json!(0)), ("start", json!(wanted[0])), ("end", json!(wanted[0] + wanted.len()))];
                self.push(label, "slice", args)
            } else {
                self.push(label, "gather_const", vec![("in", json!(value)), ("axis", json!(0)), ("indices", json!(wanted))])
            };
        }
        if shape != [wanted.len()] {
            value = self.push(label, "reshape", vec![("in", json!(value)), ("shape", json!(shape))]);
        }
        if integer && !is_integer {
            value = self.push(label, "cast", vec![("in", json!(value)), ("to", json!("i64"))]);
            is_integer = true;
        }
        if atoms.iter().any(|atom| atom.offset != 0) {
            let offsets: Vec<i64> = atoms.iter().map(|atom| atom.offset).collect();
            let operand = if offsets.iter().all(|offset| *offset == offsets[0]) {
                json!(offsets[0])
            } else {
                let nd = super::nd::Nd { shape: shape.to_vec(), data: offsets };
                let tensor = self.tensor(&Const::integers(&format!("{label}.offsets"), Elem::I64, nd));
                json!(self.push(label, "const", vec![("tensor", json!(tensor))]))
            };
            value = self.push(label, "add", vec![("a", json!(value)), ("b", operand)]);
        }
        if is_integer != (dtype == DType::I64) {
            let to = if dtype == DType::I64 { "i64" } else { "f32" };
            value = self.push(label, "cast", vec![("in", json!(value)), ("to", json!(to))]);
        }
        value
    }

    /// Whole features side by side, and whether they are integers.
    fn base(&mut self, order: &[usize]) -> (String, bool) {
        let is_dense = |feature: &usize| self.plan.features[*feature].kind == FeatureKind::Dense;
        let (dense, integer) = (order.iter().all(is_dense), !order.iter().any(is_dense));
        if let Some(known) = self.bases.get(order) {
            return (known.clone(), integer);
        }
        let names: Vec<String> = order.iter().map(|feature| self.plan.features[*feature].name.clone()).collect();
        let label = names[0].clone();
        let value = if dense {
            self.push(&label, "dense", vec![("features", json!(names))])
        } else if let [feature] = names.as_slice() {
            self.push(&label, "integer", vec![("feature", json!(feature))])
        } else {
            let mut parts = Vec::new();
            for feature in order {
                let (part, part_integer) = self.base(&[*feature]);
                parts.push(if part_integer && !integer {
                    self.push(&label, "cast", vec![("in", json!(part)), ("to", json!("f32"))])
                } else {
                    part
                });
            }
            self.push(&label, "concat", vec![("in", json!(parts)), ("axis", json!(0))])
        };
        self.bases.insert(order.to_vec(), value.clone());
        (value, integer)
    }

    /// Rows by the request's own ids.
    fn lookup(&mut self, label: &str, table: &Const, atoms: &[Atom], ids: &[usize], pool: Pool, shape: &[usize]) -> String {
        // Runs of columns that are whole features.
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while at < atoms.len() {
            let (Some((feature, 0)), Some(table)) = (self.plan.place(&atoms[at]), table_of(&self.plan, table, &atoms[at])) else {
                unreachable!("a lookup's columns begin features, and its tables were planned");
            };
            runs.push((feature, table));
            at += self.plan.features[feature].width();
        }
        let widths: Vec<usize> = runs.iter().map(|run| self.plan.features[run.0].width()).collect();
        let dim = table.shape[1];
        let pooled = pool != Pool::None;
        if let [run] = runs[..] {
            let word = match (pool, widths[0]) {
                (Pool::Mean, _) => "mean",
                (Pool::None, 2..) => "none",
                _ => "sum",
            };
            let value = self.lookup_one(label, run, word);
            let made = if !pooled && widths[0] > 1 { vec![widths[0], dim] } else { vec![dim] };
            return self.shaped(label, value, &made, shape);
        }
        let value = if widths.iter().all(|width| *width == 1) {
            let features: Vec<&str> = runs.iter().map(|run| self.plan.features[run.0].name.as_str()).collect();
            let tables: Vec<&str> = runs.iter().map(|run| self.plan.tables[run.1].name.as_str()).collect();
            let args = vec![("features", json!(features)), ("tables", json!(tables)), ("pool", json!("sum"))];
            self.push(label, "lookup", args)
        } else {
            let mut parts = Vec::new();
            for (run, width) in runs.into_iter().zip(widths) {
                let several = width > 1;
                let part = self.lookup_one(label, run, if several { "none" } else { "sum" });
                parts.push(if several { part } else { self.push(label, "reshape", vec![("in", json!(part)), ("shape", json!([1, dim]))]) });
            }
            self.push(label, "concat", vec![("in", json!(parts)), ("axis", json!(0))])
        };
        if pooled {
            let op = if pool == Pool::Mean { "reduce_mean" } else { "reduce_sum" };
            let value = self.push(label, op, vec![("in", json!(value)), ("axes", json!([0]))]);
            return self.shaped(label, value, &[dim], shape);
        }
        let elements: usize = ids.iter().product();
        self.shaped(label, value, &[elements, dim], shape)
    }

    fn lookup_one(&mut self, label: &str, (feature, table): (usize, usize), pool: &str) -> String {
        let mut args = vec![("feature", json!(self.plan.features[feature].name))];
        if self.plan.features[feature].kind != (FeatureKind::Sparse { table }) {
            args.push(("table", json!(self.plan.tables[table].name)));
        }
        args.push(("pool", json!(pool)));
        self.push(label, "lookup", args)
    }

    fn shaped(&mut self, label: &str, value: String, from: &[usize], to: &[usize]) -> String {
        if from == to { value } else { self.push(label, "reshape", vec![("in", json!(value)), ("shape", json!(to))]) }
    }

    /// Rows by ids that are numbers of the graph.
    fn embedding(&mut self, label: &str, table: &Const, atoms: &[Atom], ids: &[usize], pool: Pool, shape: &[usize]) -> String {
        let mut index = self.source(label, atoms, true, DType::I64, ids);
        if atoms.iter().any(|atom| atom.offset < 0) {
            // ONNX counts negative indices from the end.
            let negative = self.push(label, "compare", vec![("a", json!(index)), ("b", json!(0)), ("cmp", json!("lt"))]);
            let from_end = self.push(label, "add", vec![("a", json!(index)), ("b", json!(table.shape[0]))]);
            index = self.push(label, "where", vec![("cond", json!(negative)), ("a", json!(from_end)), ("b", json!(index))]);
        }
        let id = self.plan.table(&mut self.table_names, table, 0, table.shape[0]);
        let name = self.plan.tables[id].name.clone();
        let value = self.push(label, "embedding", vec![("in", json!(index)), ("table", json!(name))]);
        let op = match pool {
            Pool::Sum => "reduce_sum",
            Pool::Mean => "reduce_mean",
            _ => return value,
        };
        let value = self.push(label, op, vec![("in", json!(value)), ("axes", json!([0]))]);
        self.shaped(label, value, &[table.shape[1]], shape)
    }

    fn features(&self) -> Vec<Json> {
        let mut list = Vec::new();
        for feature in &self.plan.features {
            let mut json = Map::new();
            json.insert("name".into(), json!(feature.name));
            let kind = match feature.kind {
                FeatureKind::Dense => "dense",
                FeatureKind::Integer => "integer",
                FeatureKind::Sparse { .. } => "sparse",
            };
            json.insert("kind".into(), json!(kind));
            json.insert("scope".into(), feature.rule.scope.clone().unwrap_or(json!("candidate")));
            if feature.width() != 1 {
                json.insert("width".into(), json!(feature.width()));
            }
            if let FeatureKind::Sparse { table } = feature.kind {
                json.insert("table".into(), json!(self.plan.tables[table].name));
            }
            let rule = &feature.rule;
            for (key, value) in [
                ("hash", &rule.hash),
                ("padding", &rule.padding),
                ("missing", &rule.missing),
                ("out_of_range", &rule.out_of_range),
                ("id_type", &rule.id_type),
                ("transform", &rule.transform),
                ("nan", &rule.nan),
            ] {
                if let Some(value) = value {
                    json.insert(key.into(), value.clone());
                }
            }
            list.push(Json::Object(json));
        }
        list
    }

    #[allow(clippy::type_complexity)]
    fn outputs(&self, rules: &Rules) -> Result<(Vec<Json>, Vec<(usize, usize)>), ImportError> {
        let mut names = Names::default();
        let (mut list, mut columns) = (Vec::new(), Vec::new());
        for column in &self.graph.columns {
            let key = &self.graph.outputs[column.output];
            let rule = rules.output(key);
            let siblings = self.graph.columns.iter().filter(|other| other.output == column.output).count();
            let given = match rule {
                Some(rule) if rule.names.as_ref().is_some_and(|names| names.len() != siblings) || (rule.name.is_some() && siblings > 1) => {
                    let what = format!("names that do not fit the {siblings} numbers of the output");
                    return Err(
                        rules.fault(&format!("outputs.{key:?}"), problem(what, "Give names, one per number; or name, for a single one"))
                    );
                }
                Some(rule) => rule.name.clone().or_else(|| rule.names.as_ref()?.get(column.element).cloned()),
                None => None,
            };
            let name = names.fresh(given.as_deref().unwrap_or(&column.name));
            if given.is_some_and(|given| given != name) {
                let what = format!("a name that is taken or not plain: {name:?} would be used");
                return Err(rules.fault(&format!("outputs.{key:?}"), problem(what, "Use letters, digits and _-.:/@+#=, each name once")));
            }
            let kind = rule.and_then(|rule| rule.kind.clone()).unwrap_or_else(|| json!(column.kind));
            list.push(json!({"name": name, "value": self.value(column.id), "kind": kind}));
            columns.push((column.output, column.element));
        }
        Ok((list, columns))
    }
}

impl Tensor {
    /// Its elements as a file holds them: f64 is rounded.
    pub fn data(&self) -> std::borrow::Cow<'_, Data> {
        match &*self.constant.data {
            Data::F64(_) => std::borrow::Cow::Owned(Data::F32(self.constant.to_f32())),
            other => std::borrow::Cow::Borrowed(other),
        }
    }
}
