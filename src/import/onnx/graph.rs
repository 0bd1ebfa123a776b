//! The file as a whole: versions, inputs, initialisers, outputs.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost::Message;

use crate::limits::{NODES_MAX, ONNX_BYTES_MAX, OUTPUTS_MAX, VALUE_ELEMENTS_MAX};

use super::constant::{Const, Elem};
use super::error::{Checked, ImportError, Problem, problem};
use super::ir;
use super::lower::{Frame, Input, Lower, Scope, needed};
use super::nd::count;
use super::opsets;
use super::outputs::Column;
use super::proto;
use super::tensor::{External, constant};
use super::value::Value;

/// A graph whose ops are those of a bundle; features and tables are not decided yet.
#[derive(Debug)]
pub struct Converted {
    /// Steps.
    pub(super) nodes: Vec<ir::Node>,
    /// Inputs of the graph.
    pub(super) inputs: Vec<Input>,
    /// Outputs of the graph.
    pub(super) outputs: Vec<String>,
    /// Their columns.
    pub(super) columns: Vec<Column>,
    /// Who wrote the file.
    pub(super) producer: String,
    /// Nodes of the file by op.
    pub(super) ops: Vec<(String, usize)>,
    /// Nodes that no output needs.
    pub(super) dead: usize,
    /// Nodes computed at import.
    pub(super) folded: usize,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

impl Converted {
    /// Number of steps, for tests and fuzzing.
    pub fn steps(&self) -> usize {
        self.nodes.len()
    }
}

/// Converts the content `bytes` of `file`. `sizes`: what named axes other than the batch are; `folder`: where data files lie.
///
/// Errors: a file that is no ONNX model, a version that is not read, a node that cannot be imported.
pub fn convert(file: &Path, bytes: &[u8], sizes: &[(String, usize)], folder: Option<&Path>) -> Result<Converted, ImportError> {
    let at = |place: &str| {
        let place = place.to_owned();
        move |problem: Problem| ImportError::File { file: file.to_owned(), place, problem }
    };
    if bytes.len() as u64 > ONNX_BYTES_MAX {
        let remedy = "Save the weights as external data (onnx.save with save_as_external_data=True)";
        return Err(at("file")(problem(format!("{} bytes, at most {ONNX_BYTES_MAX}", bytes.len()), remedy)));
    }
    let model = proto::Model::decode(bytes)
        .map_err(|error| at("file")(problem(format!("not an ONNX model ({error})"), "Give the .onnx file that an exporter wrote")))?;
    let Some(graph) = model.graph else {
        return Err(at("file")(problem("no graph in it", "Give the .onnx file that an exporter wrote")));
    };
    let mut notes = Vec::new();
    let kept = kept_outputs(&graph.output, &mut notes);
    let outputs: Vec<String> = kept.iter().map(|at| graph.output[*at].name.clone()).collect();
    let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let live = needed(&graph.node, wanted.iter().copied());
    let nodes = graph.node.iter().zip(&live).filter(|(_, live)| **live).map(|(node, _)| node);
    let opset = opsets::check(&model.opset_import, nodes, &model.producer_name).map_err(at("opset"))?;
    for function in model.functions.iter().filter(|function| !function.opset_import.is_empty()) {
        opsets::check(&function.opset_import, function.node.iter(), &model.producer_name)
            .map_err(at(&format!("function {:?}", function.name)))?;
    }
    if graph.node.len() > NODES_MAX {
        return Err(at("graph")(problem(format!("{} nodes, at most {NODES_MAX}", graph.node.len()), "Export a smaller graph")));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(at("graph")(problem("sparse initialisers", "Export dense weights")));
    }
    let mut external = External::new(folder.map(Path::to_owned));
    let mut constants: Vec<(String, Const)> = Vec::with_capacity(graph.initializer.len());
    let mut elements = 0_usize;
    // Only what is read is loaded: strings of an unused label map do no harm.
    for tensor in graph.initializer {
        let name = tensor.name.clone();
        match constant(tensor, &name, &mut external) {
            Ok(value) => {
                elements = elements.saturating_add(value.len());
                constants.push((name, value));
            }
            // Its reader is refused, by name, if there is one that an output needs.
            Err(problem) if problem.what == "strings" => {}
            Err(problem) => return Err(at(&format!("initializer {name:?}"))(problem)),
        }
    }
    let known: HashSet<&str> = constants.iter().map(|(name, _)| name.as_str()).collect();
    let mut inputs = Vec::new();
    let mut fixed_batch = None;
    for input in graph.input.iter().filter(|input| !known.contains(input.name.as_str())) {
        let (read, batch) = read_input(input, sizes).map_err(at(&format!("input {:?}", input.name)))?;
        if let (Some(rows), Some(other)) = (batch, fixed_batch)
            && rows != other
        {
            let what = format!("a first axis of {rows}, where another input has {other}");
            let remedy = "Axis 0 of every input must be the batch: export with dynamic_shapes (or dynamic_axes) for it";
            return Err(at(&format!("input {:?}", input.name))(problem(what, remedy)));
        }
        fixed_batch = batch.or(fixed_batch);
        inputs.push(read);
    }
    if inputs.is_empty() {
        return Err(at("graph")(problem("no inputs", "A model without inputs has nothing to rank")));
    }
    let mut lower = Lower::new(inputs, fixed_batch, model.functions, elements, external);
    lower.opset = opset;
    lower.notes = notes;
    if let Some(rows) = fixed_batch {
        lower.notes.push(format!("the file was exported for a batch of {rows}: its first axis is taken to be the batch, of any size"));
    }
    let mut scope = Scope::default();
    for (name, value) in constants {
        scope.set(&name, Value::Const(value));
    }
    for index in 0..lower.inputs.len() {
        let name = lower.inputs[index].name.clone();
        let value = lower.input(index).map_err(at(&format!("input {name:?}")))?;
        scope.set(&name, value);
    }
    let caller = HashMap::new();
    let frame = Frame { caller: &caller, depth: 0 };
    let dead = lower.run(&graph.node, &wanted, &mut scope, frame).map_err(|mut fault| {
        if let Some(rows) = fixed_batch {
            let hint = format!(
                ". The file was exported for a batch of {rows}: with a dynamic one (dynamic_shapes, dynamic_axes) the rows can be told \
                 apart"
            );
            fault.problem.remedy.push_str(&hint);
        }
        ImportError::Node { file: file.to_owned(), node: fault.node, op: fault.op, problem: fault.problem }
    })?;
    let mut columns = Vec::new();
    for (output, name) in wanted.iter().enumerate() {
        let complain = at(&format!("output {name:?}"));
        let value = scope.get(name).cloned().ok_or_else(|| complain(problem("no node makes it", "Export the model again")))?;
        lower.start(name);
        columns.extend(lower.columns(output, name, &value).map_err(at(&format!("output {name:?}")))?);
    }
    if columns.is_empty() || columns.len() > OUTPUTS_MAX {
        let what = format!("{} numbers per row, expected 1 to {OUTPUTS_MAX}", columns.len());
        return Err(at("outputs")(problem(what, "Export the scores alone")));
    }
    let mut ops: Vec<(String, usize)> = lower.ops.drain().collect();
    ops.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    let Lower { nodes, inputs, folded, notes, .. } = lower;
    let mut nodes = nodes;
    let ids: Vec<ir::IrId> = columns.iter().map(|column| column.id).collect();
    ir::pool_lookups(&mut nodes, &ids);
    Ok(Converted { nodes, inputs, outputs, columns, producer, ops, dead, folded, notes })
}

/// An input, and the batch size that it declares if that is a number.
fn read_input(input: &proto::ValueInfo, sizes: &[(String, usize)]) -> Checked<(Input, Option<usize>)> {
    let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let tensor = tensor.ok_or_else(|| problem("it is no tensor", "Sequences, maps and optional inputs cannot be imported"))?;
    let elem = Elem::of(i64::from(tensor.elem_type))?;
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.as_slice()).unwrap_or_default();
    let Some((batch, rest)) = shape.split_first() else {
        return Err(problem("it has no axes", "Give every input the batch as axis 0: export with dynamic_shapes (or dynamic_axes) for it"));
    };
    let mut own = Vec::with_capacity(rest.len());
    for (axis, dim) in rest.iter().enumerate() {
        let named = dim.dim_param.as_deref().and_then(|name| sizes.iter().find(|(known, _)| known == name));
        let size = match (dim.dim_value, named) {
            (_, Some((_, size))) => Some(*size),
            (Some(value), None) => usize::try_from(value).ok(),
            (None, None) => None,
        };
        let size = size.filter(|size| *size > 0).ok_or_else(|| {
            let name = dim.dim_param.clone().unwrap_or_else(|| "?".into());
            let remedy = format!("Give it a size (--dim {name}=50), or export with a fixed one: gavel's shapes are fixed per row");
            problem(format!("axis {} has no fixed size ({name})", axis + 1), remedy)
        })?;
        own.push(size);
    }
    if count(&own).is_none_or(|elements| elements > VALUE_ELEMENTS_MAX) {
        return Err(problem(format!("shape {own:?} per row"), format!("An input may have {VALUE_ELEMENTS_MAX} elements per row")));
    }
    let rows = batch.dim_value.and_then(|rows| usize::try_from(rows).ok()).filter(|rows| *rows > 0);
    Ok((Input { name: input.name.clone(), elem, shape: own }, rows))
}

/// The outputs that are scores: labels and strings are left out where there are scores beside them.
fn kept_outputs(outputs: &[proto::ValueInfo], notes: &mut Vec<String>) -> Vec<usize> {
    let is_score = |output: &proto::ValueInfo| match output.r#type.as_ref() {
        Some(proto::Type { tensor_type: Some(tensor), .. }) => matches!(tensor.elem_type, 0 | 1 | 10 | 11 | 16),
        _ => true,
    };
    let scores: Vec<usize> = (0..outputs.len()).filter(|at| is_score(&outputs[*at])).collect();
    if scores.is_empty() {
        return (0..outputs.len()).collect();
    }
    for (_, output) in outputs.iter().enumerate().filter(|(at, _)| !scores.contains(at)) {
        notes.push(format!("output {:?} is a label, no score: left out", output.name));
    }
    scores
}
