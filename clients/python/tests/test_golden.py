"""Stored traces of trained models through the canonicaliser: the outputs must be those that the training framework recorded. Needs no
torch."""

import gzip
import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

import gavel
from gavel.exporter import ops_elementwise, ops_layers, ops_layout, ops_lookup, ops_plumbing, ops_products, ops_recurrent, ops_reduce  # noqa: F401 (they register)
from gavel.exporter.canonical import Canonicaliser, stand_ins
from gavel.exporter.features import Assignment, live_steps
from gavel.exporter.outputs import output_columns
from gavel.exporter.trace import Node, Ref, Rows, Trace, Unknown

HERE = pathlib.Path(__file__).parent
BUNDLES = HERE.parents[2] / "tests" / "bundles"
CASES = {"deepfm": 33, "dcn": 60, "dcn_matrix": 60, "wdl": 40, "mmoe": 70, "dlrm": 40}  # name -> most steps


def size(x):
    if isinstance(x, int):
        return x
    factor, _, symbol = x.rpartition("*")
    return Rows(int(factor or 1)) if symbol.startswith("s") and symbol[1:].isdigit() else Unknown(x)


def argument(x):
    if isinstance(x, dict):
        return Ref(x["node"]) if "node" in x else x.get("const", x.get("scalar"))
    return [argument(item) for item in x] if isinstance(x, list) else x


def trace_of(stored, constants):
    nodes, inputs = [], []
    for n in stored["nodes"]:
        value = n.get("val")
        node = Node(n["name"], n["op"], module=n.get("module"))
        if isinstance(value, dict) and "shape" in value:
            node.shape, node.dtype = tuple(map(size, value["shape"])), value["dtype"]
        elif isinstance(value, dict) and "scalar" in value:
            node.size = size(value["scalar"])
        if n["op"] == "placeholder":
            node.target = stored["inputs"][n["name"]]
            node.op = "input" if node.target is None else "parameter"
            if node.target is None:
                inputs.append(n["name"])
            elif node.target not in constants:
                constants[node.target] = np.zeros(node.shape, np.int64 if "int" in node.dtype else np.float32)
        elif n["op"] == "call_function":
            arguments = [argument(x) for x in n.get("args", [])]
            node.op = n["target"]
            if "getitem" in node.op:
                node.op, node.args = "getitem", {"of": arguments[0], "index": arguments[1]}
            else:
                node.args = dict(zip(n.get("schema_args", []), arguments)) | {key: argument(x) for key, x in n.get("kwargs", {}).items()}
        nodes.append(node)
    return Trace(nodes, constants, inputs, [(name, Ref(name)) for name in stored["outputs"]])


def constants_of(case, weights):
    """The model's tensors from the bundle's, which holds some in another form."""
    out = {name: x for name, x in weights.items()}
    if "linear_model.weight.T" in out:
        out["linear_model.weight"] = out["linear_model.weight.T"].T
    for stem, shape in (("crossnet.kernels", None), ("crossnet.bias", None)):
        parts = [out[f"{stem}.{i}"] for i in range(9) if f"{stem}.{i}" in out]
        if parts:
            parts = [p.reshape(-1, 1) if stem.endswith("bias") or p.shape[0] == 1 else p for p in parts]
            out[stem] = np.stack(parts)
    if case == "dlrm":
        n = 27
        out["li"], out["lj"] = (np.asarray(x) for x in zip(*[(i, j) for i in range(n) for j in range(i)]))
    return out


@pytest.mark.parametrize("case", CASES)
def test_golden_graph(case, tmp_path):
    with gzip.open(HERE / "golden" / f"{case}.json.gz") as file:
        stored = json.load(file)
    selftest = load_file(BUNDLES / case / "selftest.safetensors")
    inputs = {key[3:]: x for key, x in selftest.items() if key.startswith("in.")}
    expected = {key[4:]: x for key, x in selftest.items() if key.startswith("out.")}
    trace = trace_of(stored, constants_of(case, load_file(BUNDLES / case / "weights.safetensors")))

    if stored["columns"]:
        matrix = np.stack([inputs[name].reshape(-1) for name in stored["columns"]], 1).astype(np.float32)
        data = {"x": matrix}
        known = [(name, "x", *span) for name, span in stored["columns"].items()]
    else:
        data = {"dense": np.stack([inputs[n] for n in stored["dense"]], 1), "sparse": np.stack([inputs[n] for n in stored["sparse"]], 1)}
        known = [(n, leaf, i, i + 1) for leaf in data for i, n in enumerate(stored[leaf])]
    leaves, start = [], 0
    for name in trace.inputs:
        x = data[name]
        leaves.append(
            SimpleNamespace(
                name=name, role="rows", data=x, start=start, columns=x.shape[1], shape=x.shape[1:], floating=x.dtype.kind == "f"
            )
        )
        start += x.shape[1]

    canonical = Canonicaliser(trace, stand_ins(trace, leaves))
    columns = output_columns(canonical, canonical.run(), [""], list(expected), None)
    assignment = Assignment(canonical, SimpleNamespace(leaves=leaves, bags={}), [c[1] for c in columns], known)
    graph, values = assignment.rewrite([c[1] for c in columns])

    bundle = gavel.Bundle(case)
    bundle.features, bundle.graph = assignment.manifest(), live_steps(graph.steps, values)
    bundle.outputs = [{"name": c[0], "value": v, "kind": c[2]} for c, v in zip(columns, values)]
    for name, (tensor, first, end) in assignment.used_tables(bundle.graph).items():
        bundle.table(name, canonical.graph.tables[tensor][first:end])
    for name, array in graph.tensors.items():
        if name not in bundle.tensors:
            bundle.tensor(name, array)
    assert {f["name"] for f in bundle.features} == set(inputs)
    assert all(output["kind"] == "probability" for output in bundle.outputs)
    assert len(bundle.graph) <= CASES[case], [step["op"] for step in bundle.graph]
    bundle.write(tmp_path / case, inputs, expected, check=1e-9)
