"""Functions, branches, types, fixed batches, data files."""

import numpy as np
import onnx
from onnx import TensorProto, helper, parser
from safetensors.numpy import save_file

from .build import ROWS, f, ints, model, random, run


def structure(to):
    function = parser.parse_function("""<opset_import: ["" : 17], domain: "local"> gate <alpha: float = 2.0> (x, w) => (y) {
        k = Constant<value_float: float = @alpha>()
        h = MatMul(x, w)
        s = Sigmoid(h)
        y = Mul(s, k)
    }""")
    outer = parser.parse_function("""<opset_import: ["" : 17, "local" : 1], domain: "local"> twice (x, w) => (z) {
        y = local.gate<alpha = 3.0>(x, w)
        z = local.gate(y, w)
    }""")
    nodes = [parser.parse_node(line) for line in ["a = local.twice(x, w)", "b = local.gate<alpha = 0.5>(x, w)", "s = Shape(x)", "k = Gather<axis=0>(s, one)",
                                                   "c = Equal(k, three)"]]
    branch = lambda op: helper.make_graph([helper.make_node(op, ["b"], ["out"])], op, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    nodes.append(helper.make_node("If", ["c"], ["d"], then_branch=branch("Tanh"), else_branch=branch("Exp")))
    to.take("functions", nodes, {"x": f(ROWS, 3)}, ["a", "d"], {"w": f(3, 3), "one": np.int64(1), "three": np.int64(3)}, functions=[function, outer],
            domains=["local"])
    to.take("quantised_weights", """
        w = DequantizeLinear<axis=1>(q, s, z)
        y = MatMul(x, w)
        q2 = QuantizeLinear(f2, s0, z0)
        w2 = DequantizeLinear(q2, s0, z0)
        z2 = MatMul(x, w2)""",
            {"x": f(ROWS, 4)}, ["y", "z2"],
            {"q": random.integers(-128, 128, (4, 2)).astype(np.int8), "s": np.float32([0.02, 0.05]), "z": np.int8([3, -7]), "f2": f(4, 2),
             "s0": np.float32(0.03), "z0": np.uint8(100)})
    half = f(3, 4).astype(np.float16)
    to.take("types", """
        wf = Cast<to=1>(half)
        y = Gemm<transB=1>(x, wf)
        d = Cast<to=1>(xd)
        b = Cast<to=1>(flag)
        i = Cast<to=1>(count)
        t = Cast<to=6>(x)
        tf = Cast<to=1>(t)
        nz = Cast<to=9>(count)
        nf = CastLike(nz, x)""",
            {"x": f(ROWS, 4, scale=3), "xd": f(ROWS, 2).astype(np.float64), "flag": ints(2, ROWS, 1) > 0, "count": ints(5, ROWS, 2).astype(np.int32)},
            ["y", "d", "b", "i", "tf", "nf"], {"half": half})
    x = f(ROWS, 2, 3)
    made = model("""
        r = Reshape(x, r16)
        y = MatMul(r, w)
        back = Reshape(r, r123)
        s = ReduceSum<keepdims=0>(back, two)
        e = Expand(c, r12)
        z = Concat<axis=1>(s, e)""", {"x": x}, ["y", "z"],
                 {"r16": np.int64([1, 6]), "w": f(6, 2), "r123": np.int64([1, 2, 3]), "two": np.int64([2]), "c": f(1, 1), "r12": np.int64([1, 2])}, batch=1)
    expected = [run(made, {"x": x[i:i + 1]}, ["y", "z"]) for i in range(ROWS)]
    onnx.save(made, to.ok / "fixed_batch.onnx")
    save_file({"x": x, **{name: np.concatenate([row[name] for row in expected]) for name in ("y", "z")}}, to.ok / "fixed_batch.safetensors")
    inputs = {"x": f(ROWS, 4)}
    made = model("y = MatMul(x, w)", inputs, ["y"], {"w": f(4, 300)[:, :3].copy()})
    expected = run(made, inputs, ["y"])
    (to.ok / "external_data.bin").unlink(missing_ok=True)
    onnx.save(made, to.ok / "external_data.onnx", save_as_external_data=True, location="external_data.bin", size_threshold=0)
    save_file({**inputs, **expected}, to.ok / "external_data.safetensors")
