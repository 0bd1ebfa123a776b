//! From the manifest's graph to a checked [`Graph`]: names become ids, shapes, types and scopes are inferred. Needs the tensors' headers,
//! not their data: a graph that does not fit its weights is refused before the weights are read.

use std::collections::{BTreeMap, HashMap};

use crate::limits::{GRAPH_ELEMENTS_MAX, NODES_MAX, OUTPUTS_MAX, VALUE_ELEMENTS_MAX};

use super::arguments::Trees;
use super::error::{Fault, did_you_mean, unknown_name};
use super::feature::Scope;
use super::graph::{DType, Graph, Node, Output, OutputKind, ShapeBuf, Value, ValueId, ValueScope};
use super::json::{At, infinity, quote};
use super::manifest::{Manifest, Tables, choice};
use super::name::name;
use super::op::{Op, Operand};
use super::shape;
use super::tensor_file::Entry;
use super::weights::{TensorDType, TensorId};

/// The tensors of all weights files: name → file number and entry.
pub(crate) type Catalogue = BTreeMap<String, (usize, Entry)>;

/// A tensor that the graph reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorUse {
    pub name: String,
    pub dtype: TensorDType,
    pub shape: Vec<usize>,
    /// Lower bound (exclusive) of its elements, with the place that asks for it: a variance plus eps must be positive.
    pub above: Option<(f64, String)>,
    /// Whether it may hold infinities: only as a value (masks, bounds), never in a layer.
    pub infinite: bool,
}

/// A graph, and the tensors behind its [`TensorId`]s.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub graph: Graph,
    pub tensors: Vec<TensorUse>,
    /// Ensembles of trees with their places: their nodes are checked once they are read.
    pub trees: Vec<(Trees, String)>,
}

/// Reads `graph` and `outputs` of the manifest.
pub(crate) fn resolve(manifest: &Manifest, catalogue: &Catalogue) -> Result<Resolved, Box<Fault>> {
    let at = manifest.section("graph")?;
    let items = at.list(NODES_MAX)?;
    let mut builder = Builder {
        manifest,
        catalogue,
        tables: Tables::new(&manifest.tables),
        features: manifest.features.iter().enumerate().map(|(i, feature)| (feature.name.as_str(), i)).collect(),
        made: BTreeMap::new(),
        makers: HashMap::new(),
        tensor_ids: HashMap::new(),
        elements: 0,
        resolved: Resolved { graph: Graph::default(), tensors: Vec::new(), trees: Vec::new() },
    };
    for (index, item) in items.iter().enumerate() {
        let out = name(&item.object()?.required("out")?)?;
        if let Some(first) = builder.makers.insert(out.clone(), index) {
            let remedy = "Each value is made once: choose another name";
            return Err(item.fault(format!("a second value {out:?}; graph[{first}] makes one"), "a new name in \"out\"", remedy));
        }
    }
    for item in &items {
        builder.node(item)?;
    }
    builder.outputs(&manifest.section("outputs")?)?;
    Ok(builder.resolved)
}

/// Stored types that are f32 in memory: widened, or (f64) rounded at load.
const FLOATS: [(&str, TensorDType); 4] =
    [("F32", TensorDType::F32), ("F16", TensorDType::F32), ("BF16", TensorDType::F32), ("F64", TensorDType::F32)];

/// A graph under construction.
pub(super) struct Builder<'m> {
    pub(super) manifest: &'m Manifest,
    pub(super) tables: Tables<'m>,
    features: HashMap<&'m str, usize>,
    catalogue: &'m Catalogue,
    /// Values made so far.
    made: BTreeMap<String, ValueId>,
    /// Which node makes a value, for all nodes.
    makers: HashMap<String, usize>,
    tensor_ids: HashMap<String, TensorId>,
    elements: usize,
    resolved: Resolved,
}

impl Builder<'_> {
    /// A value made so far.
    pub(super) fn value(&self, id: ValueId) -> &Value {
        self.resolved.graph.value(id)
    }

    /// The value that is named here.
    pub(super) fn input(&self, at: &At<'_>) -> Result<ValueId, Box<Fault>> {
        let text = at.text()?;
        if let Some(id) = self.made.get(text) {
            return Ok(*id);
        }
        if let Some(index) = self.makers.get(text) {
            let found = format!("value {text:?} is made by graph[{index}], which is not before this entry");
            let remedy = "Put the entries in the order of execution; a value cannot depend on itself";
            return Err(at.fault(found, "a value made by an earlier entry", remedy));
        }
        let remedy = did_you_mean(text, self.made.keys().map(String::as_str));
        Err(at.fault(format!("no value {}", quote(text)), "the \"out\" of an earlier entry", remedy.unwrap_or_else(unknown_name)))
    }

    /// An f32 value.
    pub(super) fn float(&self, at: &At<'_>) -> Result<ValueId, Box<Fault>> {
        let id = self.input(at)?;
        match self.value(id).dtype {
            DType::F32 => Ok(id),
            DType::I64 => {
                let found = format!("value {:?} is i64", self.value(id).name);
                Err(at.fault(found, "an f32 value", "Put {\"op\": \"cast\", \"to\": \"f32\"} before it"))
            }
        }
    }

    /// An f32 value or a number.
    pub(super) fn operand(&self, at: &At<'_>) -> Result<Operand, Box<Fault>> {
        match self.any_operand(at)? {
            Operand::Value(_) => self.float(at).map(Operand::Value),
            Operand::Scalar(number) => scalar(at, number).map(Operand::Scalar),
        }
    }

    /// A value of either type, or a number.
    pub(super) fn any_operand(&self, at: &At<'_>) -> Result<Operand, Box<Fault>> {
        match at.text() {
            Ok(text) if infinity(text).is_none() => self.input(at).map(Operand::Value),
            _ => at.number_or_infinity().map(Operand::Scalar).map_err(|_| at.wrong("the name of a value, or a number")),
        }
    }

    /// A value of integers: indices, lengths, truth values.
    pub(super) fn integers(&self, at: &At<'_>) -> Result<ValueId, Box<Fault>> {
        let id = self.input(at)?;
        match self.value(id).dtype {
            DType::I64 => Ok(id),
            DType::F32 => {
                let found = format!("value {:?} is f32", self.value(id).name);
                Err(at.fault(found, "an i64 value", "Put {\"op\": \"cast\", \"to\": \"i64\"} before it, or compare it"))
            }
        }
    }

    /// The f32 tensor that is named here.
    pub(super) fn tensor(&mut self, at: &At<'_>) -> Result<TensorId, Box<Fault>> {
        let id = self.tensor_of_type(at, &FLOATS)?;
        self.resolved.tensors[id.0 as usize].infinite = false;
        Ok(id)
    }

    /// The tensor that is named here, of either type. Floats may be infinite.
    pub(super) fn any_tensor(&mut self, at: &At<'_>) -> Result<TensorId, Box<Fault>> {
        let [f32, f16, bf16, f64] = FLOATS;
        self.tensor_of_type(at, &[f32, f16, bf16, f64, ("I64", TensorDType::I64)])
    }

    /// The i64 tensor that is named here.
    pub(super) fn integer_tensor(&mut self, at: &At<'_>) -> Result<TensorId, Box<Fault>> {
        self.tensor_of_type(at, &[("I64", TensorDType::I64)])
    }

    /// The nodes of these trees must be in order.
    pub(super) fn require_order(&mut self, trees: Trees, at: &At<'_>) {
        self.resolved.trees.push((trees, at.path.clone()));
    }

    fn tensor_of_type(&mut self, at: &At<'_>, accepted: &[(&str, TensorDType)]) -> Result<TensorId, Box<Fault>> {
        let text = at.text()?;
        let Some((_, entry)) = self.catalogue.get(text) else {
            let remedy = did_you_mean(text, self.catalogue.keys().map(String::as_str));
            return Err(at.fault(
                format!("no tensor {}", quote(text)),
                "the name of a tensor in a weights file",
                remedy.unwrap_or_else(unknown_name),
            ));
        };
        let Some((_, dtype)) = accepted.iter().find(|(name, _)| *name == entry.dtype.0) else {
            let names: Vec<&str> = accepted.iter().map(|(name, _)| *name).collect();
            let found = format!("tensor {} is {}", quote(text), entry.dtype.0);
            let expected = match names.as_slice() {
                [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
                _ => names.join(", "),
            };
            return Err(at.fault(found, expected, "Convert the tensor before saving it"));
        };
        if let Some(id) = self.tensor_ids.get(text) {
            return Ok(*id);
        }
        if entry.shape.contains(&0) {
            return Err(at.fault(
                format!("tensor {} has shape {:?}", quote(text), entry.shape),
                "at least one element",
                "Check the export of this layer",
            ));
        }
        let id = TensorId(self.resolved.tensors.len() as u32);
        self.resolved.tensors.push(TensorUse { name: text.into(), dtype: *dtype, shape: entry.shape.clone(), above: None, infinite: true });
        self.tensor_ids.insert(text.into(), id);
        Ok(id)
    }

    /// What is known of a tensor.
    pub(super) fn tensor_use(&self, id: TensorId) -> &TensorUse {
        &self.resolved.tensors[id.0 as usize]
    }

    /// The elements of this tensor must be above `bound`.
    pub(super) fn require_above(&mut self, id: TensorId, bound: f64, at: &At<'_>) {
        let above = &mut self.resolved.tensors[id.0 as usize].above;
        if above.as_ref().is_none_or(|(known, _)| bound > *known) {
            *above = Some((bound, at.path.clone()));
        }
    }

    /// An f32 tensor that must have this shape.
    pub(super) fn tensor_of(&mut self, at: &At<'_>, shape: &[usize]) -> Result<TensorId, Box<Fault>> {
        let id = self.tensor(at)?;
        let found = &self.tensor_use(id).shape;
        if found == shape {
            return Ok(id);
        }
        Err(at.fault(
            format!("tensor {} has shape {found:?}", quote(at.text()?)),
            format!("{shape:?}"),
            "Check the layer that it belongs to",
        ))
    }

    /// The feature that is named here.
    pub(super) fn feature(&self, at: &At<'_>) -> Result<usize, Box<Fault>> {
        let text = at.text()?;
        self.features.get(text).copied().ok_or_else(|| {
            let names = self.manifest.features.iter().map(|feature| feature.name.as_str());
            let remedy = did_you_mean(text, names).unwrap_or_else(unknown_name);
            at.fault(format!("no feature {}", quote(text)), "the name of an entry of features", remedy)
        })
    }

    fn scope(&self, op: &Op) -> ValueScope {
        let of_feature = |index: &usize| match self.manifest.features[*index].scope {
            Scope::Context => ValueScope::Context,
            Scope::Candidate => ValueScope::Candidate,
        };
        let features = match op {
            Op::Dense { features } => features.as_slice(),
            Op::Integer { feature } | Op::Length { feature } | Op::Lookup { feature, .. } => std::slice::from_ref(feature),
            _ => &[],
        };
        let inputs = op.inputs();
        let inputs = inputs.iter().map(|id| self.value(*id).scope);
        features.iter().map(of_feature).chain(inputs).max().unwrap_or(ValueScope::Constant)
    }

    /// Adds a node that makes the value `name`.
    pub(super) fn push(&mut self, at: &At<'_>, name: String, op: Op, shape: ShapeBuf, dtype: DType) -> Result<ValueId, Box<Fault>> {
        let elements = shape::elements(&shape).unwrap_or(usize::MAX);
        let remedy = "Shapes are per row, without the batch";
        if elements == 0 || elements > VALUE_ELEMENTS_MAX {
            return Err(at.fault(
                format!("value {name:?} of shape {shape:?}"),
                format!("1 to {VALUE_ELEMENTS_MAX} elements per row"),
                remedy,
            ));
        }
        self.elements += elements;
        if self.elements > GRAPH_ELEMENTS_MAX {
            let found = format!("{} elements in the values so far", self.elements);
            return Err(at.fault(found, format!("at most {GRAPH_ELEMENTS_MAX} per row"), remedy));
        }
        let scope = self.scope(&op);
        let graph = &mut self.resolved.graph;
        let out = ValueId(graph.values.len() as u32);
        graph.values.push(Value { name: name.clone(), shape, dtype, scope });
        graph.nodes.push(Node { out, op });
        self.made.insert(name, out);
        Ok(out)
    }

    fn outputs(&mut self, at: &At<'_>) -> Result<(), Box<Fault>> {
        let items = at.list(OUTPUTS_MAX)?;
        if items.is_empty() {
            return Err(at.fault("no output", "at least one", "Name the value that ranks"));
        }
        let kinds = [("probability", OutputKind::Probability), ("logit", OutputKind::Logit), ("value", OutputKind::Value)];
        for item in &items {
            let object = item.object()?;
            let name = name(&object.required("name")?)?;
            let value_at = object.required("value")?;
            let kind = choice(&object.required("kind")?, &kinds)?;
            object.finish()?;
            if self.resolved.graph.outputs.iter().any(|output| output.name == name) {
                return Err(item.fault(format!("a second output {name:?}"), "each name once", "Rename one of the two"));
            }
            let value = self.float(&value_at)?;
            let shape = &self.value(value).shape;
            if !matches!(shape.as_slice(), [] | [1]) {
                let remedy = "Slice or reduce it: an output is one score per candidate";
                return Err(value_at.fault(format!("value of shape {shape:?}"), "[] or [1]", remedy));
            }
            self.resolved.graph.outputs.push(Output { name, kind, value });
        }
        Ok(())
    }
}

/// A number that f32 holds, rounded to it; an infinity was written as such.
pub(super) fn scalar(at: &At<'_>, number: f64) -> Result<f64, Box<Fault>> {
    if (number as f32).is_finite() || number.is_infinite() { Ok(number) } else { Err(at.wrong("a number that f32 holds")) }
}
