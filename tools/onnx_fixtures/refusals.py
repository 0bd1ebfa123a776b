"""Files that cannot be imported."""

import numpy as np
import onnx
from onnx import TensorProto, helper, parser

from .build import ROWS, f, ints, model


def refusals(to):
    x, ids = {"x": f(ROWS, 4)}, {"ids": ints(5, ROWS, 4)}
    to.refuse("lstm", "t = Transpose<perm=[1, 0, 2]>(x3)\ny, h = LSTM<hidden_size=2, clip=0.5>(t, w, r)\nz = Squeeze(h, i)", {"x3": f(ROWS, 2, 3)}, ["z"], {"w": f(1, 8, 3), "r": f(1, 8, 2), "i": np.int64([0])})
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["s", "s"], ["s2"])], "body",
                             [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                              helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
                             [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("s2", TensorProto.FLOAT, None)])
    to.refuse("loop", [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body, name="bags")], x, ["y"], {"n": np.int64(3), "t": np.bool_(True)})
    branch = lambda op: helper.make_graph([helper.make_node(op, ["x"], ["out"])], op, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    nodes = [parser.parse_node("m = ReduceMax<keepdims=0>(c)"), parser.parse_node("b = Greater(m, z)")]
    nodes.append(helper.make_node("If", ["b"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")))
    to.refuse("if_of_inputs", nodes[1:], {**x, "m": f(ROWS)}, ["y"], {"z": np.float32(0)})
    cases = {
        "mean_over_rows": ("y = ReduceMean<axes=[0], keepdims=1>(x)\nz = Sub(x, y)", x, ["z"], {}),
        "sum_of_everything": ("y = ReduceSum<keepdims=0>(x)\nz = Sub(x, y)", x, ["z"], {}),
        "softmax_over_rows": ("y = Softmax<axis=0>(x)", x, ["y"], {}),
        "first_row": ("y = Gather<axis=0>(x, i)\nz = Sub(x, y)", x, ["z"], {"i": np.int64(0)}),
        "slice_of_rows": ("y = Slice(x, a, b)\nz = ReduceSum<keepdims=0>(y, b)", x, ["z"], {"a": np.int64([0]), "b": np.int64([1])}),
        "concat_of_rows": ("y = Concat<axis=0>(x, x)", x, ["y"], {}),
        "gram_matrix": ("t = Transpose<perm=[1, 0]>(x)\ny = MatMul(x, t)", x, ["y"], {}),
        "outer_of_rows": ("s = ReduceSum<keepdims=0>(x, o)\nc = Unsqueeze(s, o)\ny = Mul(s, c)", x, ["y"], {"o": np.int64([1])}),
        "mixing_reshape": ("y = Reshape(x, r)", x, ["y"], {"r": np.int64([2, -1])}),
        "batch_statistics": ("y, m, v = BatchNormalization<training_mode=1>(x, a, a, a, b)", x, ["y"], {"a": f(4), "b": np.abs(f(4))}),
        "number_of_rows": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nc = Cast<to=1>(n)\ny = Div(x, c)", x, ["y"], {"i": np.int64(0)}),
        "range_over_rows": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nr = Range(i, n, o)\nc = Cast<to=1>(r)\ny = Mul(c, c)", x, ["y"],
                            {"i": np.int64(0), "o": np.int64(1)}),
        "cumsum_over_rows": ("y = CumSum(x, i)", x, ["y"], {"i": np.int64(0)}),
        "gather_of_rows": ("y = GatherElements<axis=0>(x, k)", {**x, "k": ints(ROWS, ROWS, 4)}, ["y"], {}),
        "row_by_row_gather": ("y = Gather<axis=1>(x, k)", {**x, "k": ints(4, ROWS)}, ["y"], {}),
        "dropout_in_training": ("y = Dropout(x, r, t)", x, ["y"], {"r": np.float32(0.5), "t": np.bool_(True)}),
        "random_numbers": ("r = RandomNormalLike(x)\ny = Add(x, r)", x, ["y"], {}),
        "scatter": ("y = ScatterElements<axis=1>(x, k, x)", {**x, "k": ints(4, ROWS, 4)}, ["y"], {}),
        "constant_output": ("y = Add(w, w)\nz = Identity(x)", x, ["y", "z"], {"w": f(3)}),
        "vector_output": ("y = MatMul(x, w)", x, ["y"], {"w": f(4, 65)}),
        "transposed_output": ("y = Transpose<perm=[1, 0]>(x)", x, ["y"], {}),
        "division_by_zero": ("k = Div(ids, zero)\ny = Cast<to=1>(k)", ids, ["y"], {"zero": np.int64(0)}),
        "pairs_of_rows": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nr = Range(i, n, o)\nu = Unsqueeze(r, c)\np = Concat<axis=1>(u, u)\ny = GatherND(x, p)", x,
                          ["y"], {"i": np.int64(0), "o": np.int64(1), "c": np.int64([1])}),
        "rows_as_ids": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nr = Range(i, n, o)\ny = Gather(w, r)", x, ["y"],
                        {"i": np.int64(0), "o": np.int64(1), "w": np.float32([[1, 2], [3, 4]])}),
        "neighbours": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nr = Range(i, n, o)\nm = Mul(r, three)\nk = Add(m, ids)\nf = Reshape(x, flat)\ny = Gather(f, k)",
                       {**x, "ids": np.zeros(ROWS, np.int64)}, ["y"],
                       {"i": np.int64(0), "o": np.int64(1), "three": np.int64(3), "flat": np.int64([-1])}),
        "old_softmax": ("y = Softmax(x3)\nz = Flatten(y)", {"x3": np.ones((ROWS, 2, 3), np.float32)}, ["z"], {}),
    }
    for name, (nodes, inputs, outputs, weights) in cases.items():
        to.refuse(name, nodes, inputs, outputs, weights, opset=11 if name == "old_softmax" else 17)
    to.refuse("old_opset", "y = Relu(x)", x, ["y"], opset=6)
    to.refuse("old_op", "y = CumSum(x, i)", x, ["y"], {"i": np.int64(1)}, opset=10)
    to.refuse("unknown_domain", [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", name="fused")], x, ["y"], {"w": f(4, 2)},
              domains=["com.microsoft"])
    made = model("y = Relu(x)", x, ["y"], {})
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(made, to.refused / "dynamic_axis.onnx")
    made = model("y = Relu(x)", x, ["y"], {})
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    onnx.save(made, to.refused / "strings.onnx")
    made = model("y = MatMul(x, w)", x, ["y"], {"w": f(4, 2)})
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], location="../../Cargo.toml", offset=0, length=32)
    made.graph.initializer[0].ClearField("raw_data")
    (to.refused / "outside_folder.onnx").write_bytes(made.SerializeToString())
