#!/usr/bin/env python3
"""Makes the bundles in tests/bundles from reference cases of trained models.

    python3 tools/make_bundles.py --golden DIR --out tests/bundles

Needs numpy and safetensors, no PyTorch: each family's graph is written by hand below, as docs/bundle.md describes it, and reads the case's
weights by name. Every bundle is evaluated here in float64, by a small numpy interpreter of the graph, and refused unless it reproduces
the case's stored float64 outputs. Each case becomes NAME (all features of the candidate) and NAME_scoped (some of the context).
`wire_vectors` is made from nothing: a tiny model whose scores are exact in f32.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np
from safetensors.numpy import load_file, save

# Largest difference to the stored float64 outputs. torchrec rounds pooled vectors to f32, also in its float64 run: one rounding of
# a sum of a few ids, seen through the model, stays below 1e-7; everything else is the same arithmetic in another order.
EXACT, ROUNDED_POOLS = 1e-9, 1e-7

CRITEO_CONTEXT = {f"I{i}" for i in range(1, 14)} | {f"C{i}" for i in range(1, 14)}
OPEN_BANDIT_CONTEXT = {f"user_feature_{i}" for i in range(4)} | {"campaign", "policy", "position", "hour", "affinity_total"}
ADULT_CONTEXT = {"race", "gender", "native-country", "age"}


class Bundle:
    """A manifest under construction, with the tensors that it names."""

    def __init__(self, name, description):
        self.name, self.description = name, description
        self.features, self.tables, self.graph, self.outputs = [], [], [], []
        self.tensors = {}
        self.brain_floats = set()  # names of tensors that are bf16, as u16: numpy has no such type

    def dense(self, name, width=1, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "dense", "scope": scope} | ({"width": width} if width != 1 else {}) | rules)

    def integer(self, name, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "integer", "scope": scope} | rules)

    def sparse(self, name, table, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "sparse", "scope": scope, "table": table} | rules)

    def table(self, name, tensor, values):
        """A table whose rows are the tensor's."""
        self.tensors[tensor] = np.ascontiguousarray(values, dtype=np.float32)
        rows, dim = values.shape
        self.tables.append({"name": name, "tensor": tensor, "rows": rows, "dim": dim})

    def tensor(self, name, values):
        self.tensors[name] = np.ascontiguousarray(values, dtype=np.float32)
        return name

    def op(self, op, out, **arguments):
        """Adds a step. `in` is a word of Python: it is given as `in_`."""
        self.graph.append({"op": op} | {key.rstrip("_"): value for key, value in arguments.items()} | {"out": out})
        return out

    def mlp(self, out, x, layers, last_relu=True):
        """linear, relu, linear, relu, .. with (weight, bias) names."""
        for i, (weight, bias) in enumerate(layers):
            bias = {"bias": bias} if bias else {}
            x = self.op("linear", f"{out}.{i}", in_=x, weight=weight, **bias)
            if last_relu or i + 1 < len(layers):
                x = self.op("relu", f"{out}.{i}.relu", in_=x)
        return x

    def output(self, name, value, kind="probability"):
        self.outputs.append({"name": name, "value": value, "kind": kind})

    def write(self, folder, inputs, expected, atol):
        """Writes manifest, weights and selftest.

        `inputs`: name -> array, or (flat ids, lengths[, weights]); `expected`: name -> f64 [rows].
        """
        folder.mkdir(parents=True, exist_ok=True)
        selftest = {}
        for name, value in inputs.items():
            if isinstance(value, tuple):
                selftest[f"in.{name}"] = value[0].astype(np.int64)
                selftest[f"in.{name}.lengths"] = value[1].astype(np.int64)
                if len(value) > 2:
                    selftest[f"in.{name}.weights"] = value[2].astype(np.float32)
            else:
                selftest[f"in.{name}"] = np.ascontiguousarray(value)
        for name, value in expected.items():
            selftest[f"out.{name}"] = np.ascontiguousarray(value, dtype=np.float64).reshape(-1)

        def file(name, tensors):
            content = with_brain_floats(save(tensors), self.brain_floats & tensors.keys())
            (folder / name).write_bytes(content)
            return {"file": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        manifest = {
            "format": "gavel/1",
            "name": self.name,
            "description": self.description,
            "weights": [file("weights.safetensors", self.tensors)],
            "tables": self.tables,
            "features": self.features,
            "graph": self.graph,
            "outputs": self.outputs,
            "selftest": file("selftest.safetensors", selftest) | {"atol": atol},
        }
        (folder / "manifest.json").write_text(text(manifest))


def with_brain_floats(content, names):
    """A safetensors file in which the tensors of these names, written as U16, are BF16."""
    if not names:
        return content
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for name in names:
        header[name]["dtype"] = "BF16"
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def text(manifest):
    """One line per entry of a list: long manifests stay readable, and a diff shows what changed."""
    lines = []
    for key, value in manifest.items():
        if isinstance(value, list):
            value = "[\n" + ",\n".join("    " + json.dumps(item) for item in value) + "\n  ]"
        else:
            value = json.dumps(value)
        lines.append(f"  {json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


# A numpy interpreter of the graph, batched over rows, float64. Only what the graphs below use.


def evaluate(bundle, inputs):
    values, tensors = {}, {name: value.astype(np.float64) for name, value in bundle.tensors.items()}
    tables = {table["name"]: tensors[table["tensor"]] for table in bundle.tables}
    features = {feature["name"]: feature for feature in bundle.features}
    rows = max(len(value[1]) if isinstance(value, tuple) else len(value) for value in inputs.values())

    def bags(name):
        value = inputs[name]
        if isinstance(value, tuple):
            ids, lengths = value[0], value[1]
            weights = value[2] if len(value) > 2 else np.ones(len(ids))
            ends = np.cumsum(lengths)
            return [(ids[e - n : e], weights[e - n : e].astype(np.float64)) for e, n in zip(ends, lengths)]
        return [(row, np.ones(len(row))) for row in np.asarray(value).reshape(rows, -1)]

    def rows_of(feature, ids):
        """Ids as rows of the feature's table: the hash of `segments` in wire_vectors."""
        hash_ = feature.get("hash")
        return [hash_["add"] + fnv1a64(int(i)) % hash_["mod"] for i in ids] if hash_ else ids

    def lookup(name, pool=None, table=None):
        feature = features[name]
        table = tables[table or feature["table"]]
        pool = pool or feature.get("pool", "sum")
        out = []
        for ids, weights in bags(name):
            found = table[np.asarray(rows_of(feature, ids), dtype=np.int64)]
            if pool == "none":
                padded = np.zeros((feature.get("max_len", feature.get("width", 1)), table.shape[1]))
                padded[: len(found)] = found
                out.append(padded)
            elif pool == "sum":
                out.append((weights[:, None] * found).sum(0))
            else:
                raise ValueError(pool)
        return np.stack(out)

    def get(x):
        return values[x] if isinstance(x, str) else np.float64(x)

    def aligned(a, b):
        """Per-row shapes broadcast from the right: a constant has no row axis of its own here, so all values carry one."""
        a, b = get(a), get(b)
        rank = max(np.ndim(a), np.ndim(b))
        return [x if np.ndim(x) == 0 else x.reshape(x.shape[:1] + (1,) * (rank - x.ndim) + x.shape[1:]) for x in (a, b)]

    def axis(x, written):
        return written if written < 0 else written + 1

    for node in bundle.graph:
        op, x = node["op"], node.get("in")
        if op == "dense":
            v = np.concatenate([np.asarray(inputs[f], dtype=np.float64).reshape(rows, -1) for f in node["features"]], 1)
        elif op == "integer":
            v = np.asarray(inputs[node["feature"]]).reshape(rows, -1)
        elif op == "length":
            v = np.array([len(ids) for ids, _ in bags(node["feature"])])
        elif op == "lookup":
            if "feature" in node:
                v = lookup(node["feature"], node.get("pool"), node.get("table"))
            else:
                of_table = node.get("tables", [None] * len(node["features"]))
                v = np.stack([lookup(f, node.get("pool"), t) for f, t in zip(node["features"], of_table)], 1)
        elif op == "const":
            v = np.broadcast_to(tensors[node["tensor"]], (rows,) + tensors[node["tensor"]].shape)
        elif op == "linear":
            v = get(x) @ tensors[node["weight"]].T + (tensors[node["bias"]] if "bias" in node else 0)
        elif op == "matmul":
            a, b = get(node["a"]), get(node["b"])
            v = (a[:, None] if a.ndim == 2 else a) @ (b.swapaxes(-1, -2) if node.get("transpose_b") else b)
            v = v[:, 0] if a.ndim == 2 else v
        elif op in ("add", "sub", "mul", "pow"):
            a, b = aligned(node["a"], node["b"])
            v = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "pow": np.power}[op](a, b)
        elif op == "relu":
            v = np.maximum(get(x), 0)
        elif op == "sigmoid":
            v = 1 / (1 + np.exp(-get(x)))
        elif op == "softmax":
            e = np.exp(get(x) - get(x).max(axis(x, node["axis"]), keepdims=True))
            v = e / e.sum(axis(x, node["axis"]), keepdims=True)
        elif op == "batch_norm":
            v = (get(x) - tensors[node["mean"]]) / np.sqrt(tensors[node["var"]] + node["eps"])
            v = v * tensors[node["weight"]] + tensors[node["bias"]]
        elif op == "reduce_sum":
            v = get(x).sum(tuple(axis(x, a) for a in node["axes"]), keepdims=node.get("keep", False))
        elif op == "concat":
            v = np.concatenate([get(i) for i in x], axis(x, node["axis"]))
        elif op == "slice":
            v = np.take(get(x), np.arange(get(x).shape[axis(x, node["axis"])])[node["start"] : node["end"]], axis(x, node["axis"]))
        elif op == "reshape":
            v = get(x).reshape([rows] + node["shape"])
        elif op == "gather_const":
            v = np.take(get(x), node["indices"], axis(x, node["axis"]))
        elif op == "cast":
            v = get(x).astype({"f32": np.float64, "i64": np.int64}[node["to"]])
        else:
            raise ValueError(f"op {op}")
        values[node["out"]] = v
    return {output["name"]: values[output["value"]].reshape(rows) for output in bundle.outputs}


def fnv1a64(value):
    digest = 0xCBF29CE484222325
    for byte in (value & (2**64 - 1)).to_bytes(8, "little"):
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest


# The families.


class Case:
    def __init__(self, folder):
        self.case = json.loads((folder / "case.json").read_text())
        self.weights = load_file(folder / "weights.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.dense = self.case["features"]["dense"]
        self.sparse = self.case["features"]["sparse"]

    def feature_inputs(self):
        """Columns by feature."""
        inputs = {name: self.inputs["dense"][:, i].astype(np.float32) for i, name in enumerate(self.dense)}
        rows = self.case["rows"]
        if "values" in self.inputs:
            lengths = self.inputs["lengths"].astype(np.int64).reshape(len(self.sparse), rows)
            ends = np.cumsum(lengths.sum(1))
            for feature, count, end in zip(self.sparse, lengths, ends):
                ids = self.inputs["values"][end - count.sum() : end].astype(np.int64)
                if feature["jagged"]:
                    inputs[feature["name"]] = (ids, count)
                else:
                    assert (count == 1).all(), feature
                    inputs[feature["name"]] = ids
        else:
            for i, feature in enumerate(self.sparse):
                inputs[feature["name"]] = self.inputs["sparse"][:, i].astype(np.int64)
        return inputs


def new_bundle(case, name, context, table_tensor):
    """Features dense-then-sparse as the case lists them, a table per sparse feature."""
    c = case.case
    bundle = Bundle(name, DESCRIPTIONS[c["name"]] + (", with a context" if context else ""))
    scope = lambda feature: "context" if feature in context else "candidate"
    for feature in case.sparse:
        tensor = table_tensor(feature["name"])
        assert case.weights[tensor].shape == (feature["vocab"], c["embedding_dim"]), feature
        bundle.table(feature["name"], tensor, case.weights[tensor])
    for feature in case.dense:
        bundle.dense(feature, scope=scope(feature))
    for feature in case.sparse:
        length = {"max_len": 20} if feature.get("jagged") else {}
        bundle.sparse(feature["name"], feature["name"], scope=scope(feature["name"]), **length)
    return bundle


def copy(bundle, case, *names):
    for name in names:
        bundle.tensor(name, case.weights[name])


def layers(bundle, case, pairs):
    """(weight, bias) names, copied; a bias that the case lacks is None."""
    pairs = [(weight, bias if bias in case.weights else None) for weight, bias in pairs]
    copy(bundle, case, *(name for pair in pairs for name in pair if name))
    return pairs


def dlrm(case, bundle, bottom, top, pairs):
    """Naumov et al. 2019, arXiv:1906.00091. `pairs`: (row, column) of the interaction matrix, in the order of the top MLP's inputs."""
    n, dim = len(case.sparse) + 1, case.case["embedding_dim"]
    bundle.op("dense", "dense", features=case.dense)
    bottom = bundle.mlp("bottom", "dense", layers(bundle, case, bottom))
    bundle.op("reshape", "bottom.row", in_=bottom, shape=[1, dim])
    bundle.op("lookup", "embedded", features=[feature["name"] for feature in case.sparse])
    bundle.op("concat", "vectors", in_=["bottom.row", "embedded"], axis=0)
    bundle.op("matmul", "dots", a="vectors", b="vectors", transpose_b=True)
    bundle.op("reshape", "dots.flat", in_="dots", shape=[n * n])
    bundle.op("gather_const", "pairs", in_="dots.flat", axis=0, indices=[row * n + column for row, column in pairs(n)])
    bundle.op("concat", "interaction", in_=[bottom, "pairs"], axis=0)
    logit = bundle.mlp("top", "interaction", layers(bundle, case, top), last_relu=False)
    bundle.output("prob", bundle.op("sigmoid", "prob", in_=logit))


def lower_triangle(n):
    return [(row, column) for row in range(n) for column in range(row)]


def upper_triangle(n):
    return [(row, column) for row in range(n) for column in range(row + 1, n)]


def dlrm_reference(case, name, context):
    number = {feature["name"]: i for i, feature in enumerate(case.sparse)}
    bundle = new_bundle(case, name, context, lambda feature: f"emb_l.{number[feature]}.weight")
    stack = lambda part: [(f"{part}.{i}.weight", f"{part}.{i}.bias") for i in (0, 2, 4)]
    dlrm(case, bundle, stack("bot_l"), stack("top_l"), lower_triangle)
    return bundle


def dlrm_torchrec(case, name, context):
    bundle = new_bundle(case, name, context, lambda f: f"model.sparse_arch.embedding_bag_collection.embedding_bags.t_{f}.weight")
    mlp = lambda path, n: [(f"{path}._mlp.{i}._linear.weight", f"{path}._mlp.{i}._linear.bias") for i in range(n)]
    top = mlp("model.over_arch.model.0", 2) + [("model.over_arch.model.1.weight", "model.over_arch.model.1.bias")]
    dlrm(case, bundle, mlp("model.dense_arch.model", 2), top, upper_triangle)
    return bundle


def deepctr(case, name, context):
    """What the deepctr-torch models share: embeddings, the flat input of the MLP, the wide (linear) part."""
    bundle = new_bundle(case, name, context, lambda feature: f"embedding_dict.{feature}.weight")
    sparse = [feature["name"] for feature in case.sparse]
    bundle.op("dense", "dense", features=case.dense)
    bundle.op("lookup", "embedded", features=sparse)
    bundle.op("reshape", "embedded.flat", in_="embedded", shape=[len(sparse) * case.case["embedding_dim"]])
    bundle.op("concat", "flat", in_=["embedded.flat", "dense"], axis=0)
    if "linear_model.weight" in case.weights:
        for feature in sparse:
            tensor = f"linear_model.embedding_dict.{feature}.weight"
            bundle.table(f"{feature}.wide", tensor, case.weights[tensor])
        bundle.op("lookup", "wide.rows", features=sparse, tables=[f"{feature}.wide" for feature in sparse])
        bundle.op("reduce_sum", "wide.sparse", in_="wide.rows", axes=[0])
        bundle.op("linear", "wide.dense", in_="dense", weight=bundle.tensor("linear_model.weight.T", case.weights["linear_model.weight"].T))
        bundle.op("add", "wide", a="wide.sparse", b="wide.dense")
    return bundle


def stack_of(path, count):
    return [(f"{path}.linears.{i}.weight", f"{path}.linears.{i}.bias") for i in range(count)]


def finish(case, bundle, terms):
    """Sum of logit terms, bias, sigmoid."""
    copy(bundle, case, "out.bias")
    bundle.op("const", "out.bias", tensor="out.bias")
    total = terms[0]
    for i, term in enumerate(terms[1:] + ["out.bias"]):
        total = bundle.op("add", f"logit.{i}", a=total, b=term)
    bundle.output("prob", bundle.op("sigmoid", "prob", in_=total))


def deepfm(case, name, context):
    """Guo et al. 2017, arXiv:1703.04247: wide part, factorization machine, MLP."""
    bundle = deepctr(case, name, context)
    bundle.op("reduce_sum", "fm.sum", in_="embedded", axes=[0])
    bundle.op("pow", "fm.square_of_sum", a="fm.sum", b=2)
    bundle.op("mul", "fm.squares", a="embedded", b="embedded")
    bundle.op("reduce_sum", "fm.sum_of_squares", in_="fm.squares", axes=[0])
    bundle.op("sub", "fm.cross", a="fm.square_of_sum", b="fm.sum_of_squares")
    bundle.op("reduce_sum", "fm.total", in_="fm.cross", axes=[0], keep=True)
    bundle.op("mul", "fm", a="fm.total", b=0.5)
    deep = bundle.mlp("dnn", "flat", layers(bundle, case, stack_of("dnn", 2)))
    deep = bundle.mlp("dnn.logit", deep, layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", "fm", deep])
    return bundle


def cross_and_deep(case, bundle, crossed):
    deep = bundle.mlp("dnn", "flat", layers(bundle, case, stack_of("dnn", 2)))
    bundle.op("concat", "both", in_=[crossed, deep], axis=0)
    logit = bundle.mlp("dnn.logit", "both", layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", logit])


def dcn(case, name, context):
    """Wang et al. 2017, arXiv:1708.05123: x0 (x . w) + b + x."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (kernel, bias) in enumerate(zip(case.weights["crossnet.kernels"], case.weights["crossnet.bias"])):
        bundle.op("linear", f"cross.{i}.dot", in_=x, weight=bundle.tensor(f"crossnet.kernels.{i}", kernel.reshape(1, -1)))
        bundle.op("mul", f"cross.{i}.scaled", a="flat", b=f"cross.{i}.dot")
        bundle.op("const", f"cross.{i}.bias", tensor=bundle.tensor(f"crossnet.bias.{i}", bias.reshape(-1)))
        bundle.op("add", f"cross.{i}.shifted", a=f"cross.{i}.scaled", b=f"cross.{i}.bias")
        x = bundle.op("add", f"cross.{i}", a=f"cross.{i}.shifted", b=x)
    cross_and_deep(case, bundle, x)
    return bundle


def dcn_matrix(case, name, context):
    """Wang et al. 2020, arXiv:2008.13535: x0 * (W x + b) + x."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (kernel, bias) in enumerate(zip(case.weights["crossnet.kernels"], case.weights["crossnet.bias"])):
        weight, bias = bundle.tensor(f"crossnet.kernels.{i}", kernel), bundle.tensor(f"crossnet.bias.{i}", bias.reshape(-1))
        bundle.op("linear", f"cross.{i}.linear", in_=x, weight=weight, bias=bias)
        bundle.op("mul", f"cross.{i}.scaled", a="flat", b=f"cross.{i}.linear")
        x = bundle.op("add", f"cross.{i}", a=f"cross.{i}.scaled", b=x)
    cross_and_deep(case, bundle, x)
    return bundle


def wdl(case, name, context):
    """Cheng et al. 2016, arXiv:1606.07792, with batch norm in the MLP (eps as in the case's graph)."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (weight, bias) in enumerate(layers(bundle, case, stack_of("dnn", 2))):
        norm = {"mean": "running_mean", "var": "running_var", "weight": "weight", "bias": "bias"}
        norm = {key: f"dnn.bn.{i}.{tensor}" for key, tensor in norm.items()}
        copy(bundle, case, *norm.values())
        bundle.op("linear", f"dnn.{i}", in_=x, weight=weight, bias=bias)
        bundle.op("batch_norm", f"dnn.{i}.norm", in_=f"dnn.{i}", eps=1e-5, **norm)
        x = bundle.op("relu", f"dnn.{i}.relu", in_=f"dnn.{i}.norm")
    deep = bundle.mlp("dnn.logit", x, layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", deep])
    return bundle


def mmoe(case, name, context):
    """Ma et al. 2018, doi:10.1145/3219819.3220007: experts, a softmax gate and a tower per task."""
    bundle = deepctr(case, name, context)
    experts, units = 3, case.weights["expert_dnn.0.linears.1.weight"].shape[0]
    for i in range(experts):
        expert = bundle.mlp(f"expert.{i}", "flat", layers(bundle, case, stack_of(f"expert_dnn.{i}", 2)))
        bundle.op("reshape", f"expert.{i}.row", in_=expert, shape=[1, units])
    bundle.op("concat", "experts", in_=[f"expert.{i}.row" for i in range(experts)], axis=0)
    for task in range(2):
        gate = bundle.mlp(f"gate.{task}", "flat", layers(bundle, case, stack_of(f"gate_dnn.{task}", 1)))
        weight = f"gate_dnn_final_layer.{task}.weight"
        gate = bundle.mlp(f"gate.{task}.logit", gate, layers(bundle, case, [(weight, None)]), last_relu=False)
        bundle.op("softmax", f"gate.{task}.softmax", in_=gate, axis=-1)
        bundle.op("matmul", f"mix.{task}", a=f"gate.{task}.softmax", b="experts")
        tower = bundle.mlp(f"tower.{task}", f"mix.{task}", layers(bundle, case, stack_of(f"tower_dnn.{task}", 1)))
        weight = f"tower_dnn_final_layer.{task}.weight"
        tower = bundle.mlp(f"tower.{task}.logit", tower, layers(bundle, case, [(weight, f"out.{task}.bias")]), last_relu=False)
        bundle.output(f"probs_{task}", bundle.op("sigmoid", f"probs_{task}", in_=tower))
    return bundle


FAMILIES = {
    "dlrm": (dlrm_reference, CRITEO_CONTEXT, EXACT),
    "dlrm_torchrec": (dlrm_torchrec, CRITEO_CONTEXT, ROUNDED_POOLS),
    "dlrm_multihot": (dlrm_torchrec, CRITEO_CONTEXT, ROUNDED_POOLS),
    "deepfm": (deepfm, OPEN_BANDIT_CONTEXT, EXACT),
    "dcn": (dcn, CRITEO_CONTEXT, EXACT),
    "dcn_matrix": (dcn_matrix, OPEN_BANDIT_CONTEXT, EXACT),
    "wdl": (wdl, OPEN_BANDIT_CONTEXT, EXACT),
    "mmoe": (mmoe, ADULT_CONTEXT, EXACT),
}


DESCRIPTIONS = {
    "dlrm": "DLRM, pair order of the original reference (lower triangle), trained on synthetic Criteo-shaped rows",
    "dlrm_torchrec": "DLRM of torchrec (upper triangle), trained on synthetic Criteo-shaped rows",
    "dlrm_multihot": "DLRM of torchrec with 6 of 26 features as bags of 0 to 20 ids, trained on synthetic Criteo-shaped rows",
    "deepfm": "DeepFM, trained on Open Bandit impressions",
    "dcn": "DCN with vector cross layers, trained on synthetic Criteo-shaped rows",
    "dcn_matrix": "DCN with matrix cross layers, trained on Open Bandit impressions",
    "wdl": "Wide & Deep with batch norm, trained on Open Bandit impressions",
    "mmoe": "MMoE with 3 experts and 2 tasks (income above 50K, never married), trained on Adult",
}


def make_case(name, golden, out):
    family, context, bound = FAMILIES[name]
    case = Case(golden / name)
    inputs = case.feature_inputs()
    stored = case.outputs["probs_f64" if "probs_f64" in case.outputs else "prob_f64"]
    atol = case.case["tolerance"]["f32"]["prob_atol"]
    for bundle_name, context in ((name, set()), (f"{name}_scoped", context)):
        bundle = family(case, bundle_name, context)
        names = {feature["name"] for feature in bundle.features}
        if not context <= names:
            raise SystemExit(f"{bundle_name}: no features {sorted(context - names)}")
        expected = {output["name"]: stored[:, i] for i, output in enumerate(bundle.outputs)}
        found = evaluate(bundle, inputs)
        worst = max(np.abs(found[output] - expected[output]).max() for output in expected)
        if not worst <= bound:
            raise SystemExit(f"{bundle_name}: differs from the stored outputs by {worst}, more than {bound}")
        bundle.write(out / bundle_name, inputs, expected, atol)
        print(f"{bundle_name}: {len(bundle.graph)} steps, {worst:.1e} from the stored outputs")


# The model behind the protocol's vectors.


def dyadic(shape, step, seed):
    """Multiples of `step` between -1 and 1: sums and products of a few of them are exact in f32, in any order."""
    n = int(1 / step)
    return np.random.default_rng(seed).integers(-n, n + 1, shape).astype(np.float32) * np.float32(step)


def make_wire_vectors(out):
    """One feature of every kind the wire can carry; no division, no transcendental function: every engine gives the same bits."""
    bundle = Bundle("wire_vectors", "Tiny model with exact scores, one feature of every kind: for protocol vectors and tests")
    for seed, (table, rows, dim) in enumerate([("segments", 32, 4), ("ad", 16, 4), ("advertiser", 8, 4), ("word", 16, 4), ("seq", 8, 2)]):
        bundle.table(table, f"table.{table}", dyadic((rows, dim), 1 / 8, seed))
    bundle.dense("age", width=2, scope="context", nan={"value": 0.0})
    bundle.sparse("segments", "segments", "context", max_len=4, id_type="u64", hash={"fn": "fnv1a64", "mod": 31, "add": 1})
    bundle.integer("slot", scope="context")
    bundle.dense("ctr")
    bundle.sparse("ad", "ad")
    bundle.sparse("advertiser", "advertiser", missing={"row": 0}, out_of_range={"row": 1})
    bundle.sparse("words", "word", max_len=3, weighted=True)
    bundle.sparse("seq", "seq", max_len=2, pool="none")

    bundle.op("dense", "age", features=["age"])
    bundle.op("lookup", "segments", feature="segments")
    bundle.op("integer", "slot.id", feature="slot")
    bundle.op("cast", "slot", in_="slot.id", to="f32")
    bundle.op("concat", "context", in_=["age", "segments", "slot"], axis=0)
    bundle.op("dense", "ctr", features=["ctr"])
    bundle.op("lookup", "pooled", features=["ad", "advertiser", "words"])
    bundle.op("reshape", "pooled.flat", in_="pooled", shape=[12])
    bundle.op("lookup", "seq", feature="seq")
    bundle.op("reshape", "seq.flat", in_="seq", shape=[4])
    bundle.op("length", "seq.length.id", feature="seq")
    bundle.op("cast", "seq.length.f32", in_="seq.length.id", to="f32")
    bundle.op("reshape", "seq.length", in_="seq.length.f32", shape=[1])
    bundle.op("concat", "x", in_=["context", "ctr", "pooled.flat", "seq.flat", "seq.length"], axis=0)
    width = 7 + 1 + 12 + 4 + 1
    weight, bias = bundle.tensor("hidden.weight", dyadic((4, width), 1 / 4, 10)), bundle.tensor("hidden.bias", dyadic(4, 1 / 4, 11))
    bundle.op("linear", "hidden", in_="x", weight=weight, bias=bias)
    bundle.op("relu", "hidden.relu", in_="hidden")
    bundle.op("linear", "head", in_="hidden.relu", weight=bundle.tensor("head.weight", dyadic((2, 4), 1 / 4, 12)))
    bundle.op("slice", "ad.row", in_="pooled", axis=0, start=0, end=1)
    bundle.op("mul", "match.products", a="segments", b="ad.row")
    bundle.op("reduce_sum", "match", in_="match.products", axes=[0, 1])
    bundle.op("slice", "head.score", in_="head", axis=0, start=0, end=1)
    bundle.op("slice", "head.value", in_="head", axis=0, start=1, end=2)
    bundle.op("add", "score", a="head.score", b="match")
    bundle.op("mul", "value", a="head.value", b=0.5)
    bundle.output("score", "score", "logit")
    bundle.output("value", "value", "value")

    rows, rng = 16, np.random.default_rng(99)

    def bags(most, high):
        lengths = rng.integers(0, most + 1, rows)
        lengths[:2] = 0, most
        return rng.integers(0, high, lengths.sum()), lengths

    inputs = {
        "age": dyadic((rows, 2), 1 / 8, 20),
        "segments": bags(4, 2**62),
        "slot": rng.integers(-4, 9, rows),
        "ctr": dyadic(rows, 1 / 16, 21),
        "ad": rng.integers(0, 16, rows),
        "advertiser": rng.integers(0, 8, rows),
        "words": None,
        "seq": bags(2, 8),
    }
    ids, lengths = bags(3, 16)
    inputs["words"] = (ids, lengths, dyadic(len(ids), 1 / 8, 22))
    expected = evaluate(bundle, inputs)
    for name, values in expected.items():
        if (values.astype(np.float32) != values).any():
            raise SystemExit(f"wire_vectors: {name} is not exact in f32")
    bundle.write(out / "wire_vectors", inputs, expected, 0.0)
    print(f"wire_vectors: {len(bundle.graph)} steps, exact")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True, help="folder of the reference cases")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write the bundles to")
    parser.add_argument("--only", nargs="*", help="names of the cases to make (default: all)")
    arguments = parser.parse_args()
    for name in arguments.only or [*FAMILIES, "wire_vectors"]:
        make_wire_vectors(arguments.out) if name == "wire_vectors" else make_case(name, arguments.golden, arguments.out)


if __name__ == "__main__":
    main()
