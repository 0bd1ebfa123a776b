//! Which function makes which op.

use super::super::constant::Elem;
use super::super::error::{Checked, problem};
use super::super::node::Node;
use super::super::value::{Held, Value};
use super::Lower;

/// The first input.
pub fn first(inputs: &[Value]) -> Checked<&Value> {
    input(inputs, 0)
}

/// The input of that number.
pub fn input(inputs: &[Value], at: usize) -> Checked<&Value> {
    inputs.get(at).filter(|value| value.is_there()).ok_or_else(|| problem(format!("no input {at}"), "Export the model again"))
}

/// The input of that number, if it is given.
pub fn optional(inputs: &[Value], at: usize) -> Option<&Value> {
    inputs.get(at).filter(|value| value.is_there())
}

/// An axis of `rank`, negative ones counted from the end.
pub fn axis_of(axis: i64, rank: usize) -> Checked<usize> {
    let index = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    index
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index < rank)
        .ok_or_else(|| problem(format!("axis {axis} of a value of {rank} axes"), "Export the model again: the graph is not consistent"))
}

/// The integers of an input that must be known.
pub fn known(value: &Value, what: &str) -> Checked<Vec<i64>> {
    match value {
        Value::Const(constant) => constant
            .as_integers()
            .map(<[i64]>::to_vec)
            .ok_or_else(|| problem(format!("{what} that are no integers"), "Export the model again")),
        Value::Sizes(_) => Err(super::align::sizes_used()),
        _ => Err(problem(format!("{what} that are computed from the inputs"), format!("Export the model with fixed {what}"))),
    }
}

/// Integers given as an attribute (older opsets) or as an input.
pub fn ints_or(node: &Node<'_>, name: &str, inputs: &[Value], at: usize) -> Checked<Option<Vec<i64>>> {
    match (node.ints(name), optional(inputs, at)) {
        (Some(values), _) => Ok(Some(values.to_vec())),
        (None, Some(value)) => known(value, name).map(Some),
        (None, None) => Ok(None),
    }
}

impl Lower {
    /// The values of a node of the default domain.
    pub fn standard(&mut self, node: &Node<'_>, inputs: &[Value]) -> Checked<Vec<Value>> {
        if let Some(value) = self.fold(node, inputs)? {
            self.folded += 1;
            return Ok(vec![value]);
        }
        let one = |value: Checked<Value>| value.map(|value| vec![value]);
        match node.proto.op_type.as_str() {
            "Abs" | "Exp" | "Log" | "Sqrt" | "Tanh" | "Erf" | "Floor" | "Sign" | "Sin" | "Cos" | "Tan" | "Softplus" | "Relu"
            | "Sigmoid" | "Neg" | "Reciprocal" | "Ceil" | "Round" | "Softsign" | "LeakyRelu" | "ThresholdedRelu" | "Elu" | "Selu"
            | "Celu" | "HardSigmoid" | "HardSwish" | "Mish" | "Gelu" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh"
            | "Atanh" => one(self.unary_op(node, inputs)),
            "Add" | "Sum" => one(self.fold_op(node, "add", inputs)),
            "Sub" => one(self.fold_op(node, "sub", inputs)),
            "Mul" => one(self.fold_op(node, "mul", inputs)),
            "Div" => one(self.fold_op(node, "div", inputs)),
            "Pow" => one(self.fold_op(node, "pow", inputs)),
            "Mod" => one(self.fold_op(node, "mod", inputs)),
            "Min" => one(self.fold_op(node, "min", inputs)),
            "Max" => one(self.fold_op(node, "max", inputs)),
            "Mean" => {
                let sum = self.fold_op(node, "add", inputs)?;
                let count = inputs.len() as f64;
                one(self.each(&sum, |lower, x| lower.with("mul", x, 1.0 / count)))
            }
            "PRelu" => one(self.prelu_op(inputs)),
            "Clip" => one(self.clip(node, inputs)),
            "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => one(self.compare_op(node, inputs)),
            "And" | "Or" | "Xor" => one(self.logic_op(node, inputs)),
            "Not" => one(self.not(inputs)),
            "Where" => one(self.where_op(inputs)),
            "IsNaN" => one(self.is_nan(inputs)),
            "IsInf" => one(self.is_inf(node, inputs)),
            "Identity" => Ok(vec![first(inputs)?.clone()]),
            "Dropout" => self.dropout(node, inputs),
            "Cast" => one(self.cast_op(inputs, Elem::of(node.int("to", 1))?)),
            "CastLike" => one(self.cast_op(inputs, input(inputs, 1)?.elem())),
            "Constant" => one(self.constant_op(node)),
            "ConstantOfShape" => one(self.constant_of_shape(node, inputs)),
            "Range" => one(self.range(inputs)),
            "Shape" => one(self.shape_op(node, inputs)),
            "Size" => one(self.size_op(inputs)),
            "EyeLike" => one(self.eye_like(node, inputs)),
            "NonZero" => one(self.non_zero(inputs)),
            "Reshape" => one(self.reshape_op(node, inputs)),
            "Flatten" => one(self.flatten(node, inputs)),
            "Squeeze" => one(self.squeeze(node, inputs)),
            "Unsqueeze" => one(self.unsqueeze(node, inputs)),
            "Expand" => one(self.expand(inputs)),
            "Tile" => one(self.tile(inputs)),
            "Transpose" => one(self.transpose(node, inputs)),
            "Concat" => one(self.concat_op(node, inputs)),
            "Slice" => one(self.slice_op(node, inputs)),
            "Split" => self.split(node, inputs),
            "Pad" => one(self.pad(node, inputs)),
            "DepthToSpace" => one(self.depth_to_space(node, inputs)),
            "SpaceToDepth" => one(self.space_to_depth(node, inputs)),
            "Trilu" => one(self.trilu(node, inputs)),
            "Gather" => one(self.gather(node, inputs)),
            "GatherElements" => one(self.gather_elements(node, inputs)),
            "GatherND" => one(self.gather_nd(node, inputs)),
            "OneHot" => one(self.one_hot(node, inputs)),
            "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare"
            | "ReduceLogSum" | "ReduceLogSumExp" => one(self.reduce_op(node, inputs)),
            "Softmax" | "LogSoftmax" => one(self.softmax_op(node, inputs)),
            "CumSum" => one(self.cumsum(node, inputs)),
            "TopK" => self.topk(node, inputs),
            "ArgMax" | "ArgMin" => one(self.arg_max(node, inputs)),
            "MatMul" => one(self.matmul_op(inputs)),
            "Gemm" => one(self.gemm(node, inputs)),
            "Einsum" => one(self.einsum(node, inputs)),
            "Conv" => one(self.conv(node, inputs)),
            "MaxPool" | "AveragePool" => self.pool(node, inputs),
            "GlobalAveragePool" | "GlobalMaxPool" => one(self.global_pool(node, inputs)),
            "BatchNormalization" => self.batch_normalization(node, inputs),
            "LayerNormalization" => self.layer_normalization(node, inputs),
            "RMSNormalization" => one(self.rms_normalization(node, inputs)),
            "Attention" => self.attention(node, inputs),
            "InstanceNormalization" => one(self.instance_normalization(node, inputs)),
            "GroupNormalization" => one(self.group_normalization(node, inputs)),
            "LpNormalization" => one(self.lp_normalization(node, inputs)),
            "MeanVarianceNormalization" => one(self.mean_variance_normalization(node, inputs)),
            "GRU" => self.gru(node, inputs),
            "LSTM" | "RNN" => self.unrolled(node, inputs),
            "ScatterElements" => one(self.scatter_elements(node, inputs)),
            "SequenceEmpty" => Ok(vec![Value::Held(Held::Empty)]),
            "DequantizeLinear" => one(self.dequantize(node, inputs)),
            "QuantizeLinear" => one(self.quantize(node, inputs)),
            other => Err(unsupported(other)),
        }
    }
}

/// Ops that have no place in a bundle's graph, each with its way out.
fn unsupported(op: &str) -> super::super::error::Problem {
    let remedy = match op {
        "Loop" | "SequenceEmpty" | "SequenceInsert" | "ConcatFromSequence" | "SequenceAt" | "SequenceConstruct" | "SplitToSequence"
        | "SequenceMap" => {
            "nn.EmbeddingBag exports as Loop: use the Python exporter (gavel.export), which keeps bags, or export the model with \
             nn.Embedding and a sum over the ids"
        }
        "Scan" => "Unroll the recurrence, use GRU or LSTM, or use the Python exporter (gavel.export)",
        "Resize" | "Upsample" => {
            "Interpolate before the model, repeat elements (Tile, repeat_interleave), or multiply by a constant matrix of weights"
        }
        "If" => "The condition depends on the inputs: compute both branches and choose with Where",
        "StringNormalizer" | "StringConcat" | "StringSplit" | "RegexFullMatch" | "TfIdfVectorizer" => "Map strings to ids before the model",
        "ScatterND" | "Scatter" => {
            "Writing by index is not in a bundle's graph: build the value with Concat or Where, or write with ScatterElements \
             (torch.scatter) along one axis. (index_add exports wrongly in the TorchScript exporter: use the Python exporter)"
        }
        "Unique" | "Compress" => "The number of elements depends on the values: gavel's shapes are fixed per row",
        "RandomNormal" | "RandomUniform" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" | "Multinomial" => {
            "A score must not be random: export the model in evaluation mode (model.eval())"
        }
        "DynamicQuantizeLinear" | "MatMulInteger" | "QLinearMatMul" | "QLinearConv" | "ConvInteger" => {
            "Export the float model: the server quantises dense layers itself (--precision int8)"
        }
        _ => "Express it with other ops (docs/import.md lists those that are taken), or use the Python exporter (gavel.export)",
    };
    problem("this op cannot be imported", remedy)
}
