"""Models in text form, their outputs by onnxruntime, and the files of both."""

import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, parser
from safetensors.numpy import save_file

warnings.filterwarnings("ignore")
ROWS = 7
# The families below draw from it one after the other; later ones bring numbers of their own, so that the files before them stay as they are.
random = np.random.default_rng(17)


def f(*shape, scale=1.0):
    return (random.standard_normal(shape) * scale).astype(np.float32)


def ints(high, *shape):
    return random.integers(0, high, shape).astype(np.int64)


def model(nodes, inputs, outputs, weights, opset=17, ml=None, functions=(), batch="N", types=None, domains=()):
    """A model of nodes in the text form of onnx.parser; `inputs`: name -> array with rows first."""
    of_type = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64, np.dtype(np.int32): TensorProto.INT32,
               np.dtype(np.float64): TensorProto.DOUBLE, np.dtype(np.bool_): TensorProto.BOOL, np.dtype(np.uint8): TensorProto.UINT8}
    value = lambda name, array: helper.make_tensor_value_info(name, of_type[array.dtype], [batch, *array.shape[1:]])
    out_type = lambda name: helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None)
    nodes = [parser.parse_node(line.strip()) for line in nodes.strip().splitlines()] if isinstance(nodes, str) else nodes
    for node in nodes:
        node.input[:] = ["" if name == "none" else name for name in node.input]
    graph = helper.make_graph(nodes, "fixture", [value(*item) for item in inputs.items()], [out_type(name) for name in outputs],
                              [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()])
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    imports += [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10 if opset > 20 else 8,
                             producer_name="make_onnx_fixtures")


def run(made, inputs, outputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Fusions would compute products of quantised weights in integers.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(list(outputs), inputs)
    rows = len(next(iter(inputs.values())))
    return {name: np.asarray(result, dtype=np.float64).reshape(rows, -1) for name, result in zip(outputs, results)}


class Fixtures:
    def __init__(self, out):
        self.ok, self.refused, self.engine = out / "ok", out / "refused", out / "engine"
        for folder in (self.ok, self.refused, self.engine):
            folder.mkdir(parents=True, exist_ok=True)

    def take(self, name, nodes, inputs, outputs, weights=None, labels=(), **options):
        types = {label: TensorProto.INT64 for label in labels}
        made = model(nodes, inputs, [*outputs, *labels], weights or {}, types=types, **options)
        expected = run(made, inputs, outputs)
        assert all(np.isfinite(array).all() for array in expected.values()), name
        onnx.save(made, self.ok / f"{name}.onnx")
        save_file({**{key: np.ascontiguousarray(array) for key, array in inputs.items()}, **expected}, self.ok / f"{name}.safetensors")

    def keep(self, name, made, inputs, outputs, trained):
        """A file that an exporter wrote, if it computes what the trainer computes."""
        expected = run(made, inputs, outputs)
        np.testing.assert_allclose(expected[outputs[0]], trained.reshape(len(trained), -1), rtol=1e-5, atol=1e-6, err_msg=name)
        onnx.save(made, self.ok / f"{name}.onnx")
        save_file({**{key: np.ascontiguousarray(array) for key, array in inputs.items()}, **expected}, self.ok / f"{name}.safetensors")

    def refuse(self, name, nodes, inputs, outputs, weights=None, **options):
        onnx.save(model(nodes, inputs, outputs, weights or {}, **options), self.refused / f"{name}.onnx")
