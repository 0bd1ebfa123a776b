//! Versions of ONNX that are read.

use std::ops::RangeInclusive;

use super::error::{Checked, problem};
use super::proto;

/// Of ai.onnx, and of ai.onnx.ml. What 23 to 25 changed of the ops that are read is which types they take.
const OPSETS: RangeInclusive<i64> = 13..=25;
const ML_OPSETS: RangeInclusive<i64> = 1..=5;

/// Older versions of ai.onnx down to this are read where every op has said since then what it says today.
const OPSET_OLD: i64 = 7;

/// From which version below 13 on an op is read. What came later as an input was an attribute before.
const SINCE: &[(&[&str], i64)] = &[
    (
        &[
            "Abs",
            "Acos",
            "Add",
            "And",
            "ArgMax",
            "ArgMin",
            "Asin",
            "Atan",
            "AveragePool",
            "Cast",
            "Ceil",
            "Clip",
            "Concat",
            "Constant",
            "Conv",
            "Cos",
            "DepthToSpace",
            "Div",
            "Dropout",
            "Elu",
            "Equal",
            "Exp",
            "Flatten",
            "Floor",
            "GRU",
            "Gather",
            "Gemm",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "Greater",
            "HardSigmoid",
            "Identity",
            "If",
            "InstanceNormalization",
            "LSTM",
            "LeakyRelu",
            "Less",
            "Log",
            "LogSoftmax",
            "LpNormalization",
            "MatMul",
            "MaxPool",
            "Mul",
            "Neg",
            "Not",
            "Or",
            "PRelu",
            "Pad",
            "Pow",
            "RNN",
            "Reciprocal",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
            "Relu",
            "Reshape",
            "Selu",
            "Shape",
            "Sigmoid",
            "Sin",
            "Size",
            "Slice",
            "Softmax",
            "Softplus",
            "Softsign",
            "SpaceToDepth",
            "Split",
            "Sqrt",
            "Squeeze",
            "Sub",
            "Tan",
            "Tanh",
            "Tile",
            "Transpose",
            "Unsqueeze",
            "Xor",
        ],
        7,
    ),
    (&["Expand", "Max", "Mean", "Min", "Sum"], 8),
    (
        &[
            "Acosh",
            "Asinh",
            "Atanh",
            "BatchNormalization",
            "ConstantOfShape",
            "Cosh",
            "Erf",
            "EyeLike",
            "IsNaN",
            "MeanVarianceNormalization",
            "NonZero",
            "OneHot",
            "Sign",
            "Sinh",
            "Where",
        ],
        9,
    ),
    (&["DequantizeLinear", "IsInf", "Mod", "QuantizeLinear", "ThresholdedRelu", "TopK"], 10),
    (&["CumSum", "GatherElements", "GatherND", "Range", "Round", "ScatterElements"], 11),
    (&["Celu", "Einsum", "GreaterOrEqual", "LessOrEqual"], 12),
];

/// Checks the versions that a graph or a function names; only `nodes` count, those that some output needs. Gives that of ai.onnx.
pub fn check<'a>(opsets: &[proto::OpsetId], nodes: impl Iterator<Item = &'a proto::Node>, producer: &str) -> Checked<i64> {
    let mut own = Vec::new();
    nodes.for_each(|node| collect(node, &mut own));
    let mut version = None;
    for id in opsets {
        let (range, what) = match id.domain.as_str() {
            "" | "ai.onnx" => (OPSETS, "ai.onnx"),
            "ai.onnx.ml" => (ML_OPSETS, "ai.onnx.ml"),
            _ => {
                version = version.or(Some(*OPSETS.start()));
                continue;
            }
        };
        if what == "ai.onnx" {
            version = Some(id.version);
            // Some converters leave the version out where no op of the domain is used.
            if own.is_empty() {
                continue;
            }
            if (OPSET_OLD..*OPSETS.start()).contains(&id.version) {
                let Some(op) = own.iter().find(|op| since(op).is_none_or(|since| since > id.version)) else { continue };
                let what = format!("version {} of {what}, of which {op} is not read; {} to {} are", id.version, range.start(), range.end());
                return Err(problem(what, remedy(producer)));
            }
        } else {
            version = version.or(Some(*OPSETS.start()));
        }
        if !range.contains(&id.version) {
            let start = if what == "ai.onnx" { OPSET_OLD } else { *range.start() };
            return Err(problem(format!("version {} of {what}; {start} to {} are read", id.version, range.end()), remedy(producer)));
        }
    }
    version.ok_or_else(|| problem("no version of ai.onnx", "Give the .onnx file that an exporter wrote"))
}

/// Converters of tree models choose the version by themselves.
fn remedy(producer: &str) -> String {
    let convert = "onnx.version_converter.convert_version(onnx.load(FILE), 20)";
    match producer.contains("OnnxMLTools") {
        true => format!("Convert the file: {convert}"),
        false => format!("Export with opset_version=20, or convert the file: {convert}"),
    }
}

fn since(op: &str) -> Option<i64> {
    SINCE.iter().find(|(ops, _)| ops.contains(&op)).map(|(_, since)| *since)
}

/// The ops of ai.onnx of a node and of its branches and bodies.
fn collect<'a>(node: &'a proto::Node, ops: &mut Vec<&'a str>) {
    if matches!(node.domain.as_str(), "" | "ai.onnx") {
        ops.push(&node.op_type);
    }
    let graphs = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
    graphs.flat_map(|graph| &graph.node).for_each(|node| collect(node, ops));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, domain: &str) -> proto::Node {
        proto::Node { op_type: op.into(), domain: domain.into(), ..proto::Node::default() }
    }

    #[test]
    fn versions_and_ops() {
        let id = |domain: &str, version| proto::OpsetId { domain: domain.into(), version };
        let cases: [(&[proto::OpsetId], &[proto::Node], Option<i64>); 9] = [
            (&[id("", 17)], &[node("Gelu", "")], Some(17)),
            (&[id("", 25)], &[node("Add", "")], Some(25)),
            (&[id("", 26)], &[node("Add", "")], None),
            (&[id("", 9)], &[node("Add", ""), node("ArgMax", "")], Some(9)),
            (&[id("", 9)], &[node("CumSum", "")], None),
            (&[id("", 6)], &[node("Add", "")], None),
            (&[id("", 1), id("ai.onnx.ml", 3)], &[node("Scaler", "ai.onnx.ml")], Some(1)),
            (&[id("ai.onnx.ml", 9)], &[node("Scaler", "ai.onnx.ml")], None),
            (&[], &[], None),
        ];
        for (opsets, nodes, expected) in cases {
            assert_eq!(check(opsets, nodes.iter(), "torch").ok(), expected, "{opsets:?} {nodes:?}");
        }
        let fault = check(&[id("", 6)], [node("Add", "")].iter(), "OnnxMLTools 1.14").expect_err("too old");
        assert!(fault.remedy.starts_with("Convert the file"), "{fault}");
    }
}
