"""Bundles under construction, and their files."""

import hashlib
import json

import numpy as np
from safetensors.numpy import save


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
