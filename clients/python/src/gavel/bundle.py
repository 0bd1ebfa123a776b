"""A bundle under construction, and its files. Usable by hand: docs/bundle.md says what the parts mean.

bundle = gavel.Bundle("clicks")
bundle.table("ad", ad_vectors)
bundle.dense("ctr")
bundle.sparse("ad", "ad")
bundle.op("dense", "ctr", features=["ctr"])
...
bundle.output("prob", "prob", "probability")
bundle.write("models/clicks/1", inputs, expected, atol=2e-6)
"""

import hashlib
import json
import pathlib
import re

import numpy as np
from safetensors.numpy import save_file

from .interpreter import evaluate

TABLE_FILE_BYTES = 1 << 28  # tables of this size get a file of their own
MODEL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
ROW_BYTES = {
    "f32": lambda dim: 4 * dim,
    "f16": lambda dim: 2 * dim,
    "bf16": lambda dim: 2 * dim,
    "int8_rowwise": lambda dim: dim + 8,
    "int4_rowwise": lambda dim: (dim + 1) // 2 + 4,
    "int2_rowwise": lambda dim: (dim + 3) // 4 + 4,
    "int8_tbe": lambda dim: dim + 4,
    "int4_tbe": lambda dim: (dim + 1) // 2 + 4,
    "int2_tbe": lambda dim: (dim + 3) // 4 + 4,
}


class Bundle:
    """Manifest and tensors. `tensors`: name -> array; `values`: of tables whose tensor holds codes: name of the table -> f32 [rows,
    dim]."""

    def __init__(self, name, description=None):
        if not MODEL_NAME.fullmatch(name):
            raise ValueError(f"model name {name!r}: 1 to 64 of A-Z a-z 0-9 _ - ., not starting with a dot")
        self.name, self.description = name, description
        self.features, self.tables, self.graph, self.outputs = [], [], [], []
        self.tensors, self.values = {}, {}

    def dense(self, name, width=1, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "dense", "scope": scope} | ({"width": width} if width != 1 else {}) | rules)

    def integer(self, name, width=1, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "integer", "scope": scope} | ({"width": width} if width != 1 else {}) | rules)

    def sparse(self, name, table, scope="candidate", **rules):
        self.features.append({"name": name, "kind": "sparse", "scope": scope, "table": table} | rules)

    def table(self, name, rows, tensor=None, dtype="f32", dim=None, values=None):
        """A table. `rows`: [rows, dim], or for a quantised `dtype` the bytes [rows, row bytes], with `dim` and the `values` that they
        stand for."""
        tensor = tensor or name
        rows = np.asarray(rows)
        self.tensors[tensor] = np.ascontiguousarray(rows, dtype={"f32": np.float32, "f16": np.float16}.get(dtype, rows.dtype))
        entry = {"name": name} | ({"tensor": tensor} if tensor != name else {}) | {"rows": rows.shape[0], "dim": dim or rows.shape[1]}
        self.tables.append(entry | ({"dtype": dtype} if dtype != "f32" else {}))
        if values is not None:
            self.values[name] = values

    def tensor(self, name, values):
        """A tensor of the graph: f32, or i64 for whole numbers. Gives its name."""
        values = np.asarray(values)
        self.tensors[name] = np.require(values, np.int64 if values.dtype.kind in "iub" else np.float32, "C")
        return name

    def op(self, op, out, **arguments):
        """Adds a step. `in` is a word of Python: it is given as `in_`."""
        self.graph.append({"op": op} | {key.rstrip("_"): value for key, value in arguments.items()} | {"out": out})
        return out

    def output(self, name, value, kind="probability"):
        self.outputs.append({"name": name, "value": value, "kind": kind})

    def manifest(self):
        described = {"description": self.description} if self.description else {}
        return (
            {"format": "gavel/1", "name": self.name}
            | described
            | {
                "weights": [],
                "tables": self.tables,
                "features": self.features,
                "graph": self.graph,
                "outputs": self.outputs,
                "selftest": {},
            }
        )

    def evaluate(self, inputs):
        """Outputs in float64: name -> [rows]. `inputs`: feature -> array [rows] or [rows, width], or (flat ids, lengths[, weights])."""
        return evaluate(self.manifest(), self.tensors, inputs, self.values)

    def write(self, folder, inputs, expected, atol=2e-6, rtol=None, check=1e-6, rows="given"):
        """Writes manifest, weights and selftest into `folder`.

        `inputs`: as `evaluate` takes them; `expected`: output -> float64 [rows], from the training framework; `rows`: "given" if
        the inputs are real ones, "mixed" if some were put together from others, "made_up" if they are random. Refuses (ValueError) if the
        graph, evaluated here, differs from `expected` by more than `check` (relative above 1).
        """
        if rows not in ("given", "mixed", "made_up"):
            raise ValueError(f"rows {rows!r}: one of given, mixed, made_up")
        folder = pathlib.Path(folder)
        found = self.evaluate(inputs)
        for name, wanted in expected.items():
            wanted = np.asarray(wanted, np.float64).reshape(-1)
            off = np.abs(found[name] - wanted) / np.maximum(1, np.abs(wanted))
            if not (off <= check).all():
                raise ValueError(
                    f"output {name} of the graph differs from the expected one by {np.nanmax(off):.3g} "
                    f"in row {int(np.argmax(~(off <= check)))}"
                )
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("weights*.safetensors"):
            old.unlink()
        manifest = self.manifest()
        manifest["weights"] = self.write_weights(folder)
        manifest["selftest"] = written(folder, "selftest.safetensors", selftest_tensors(self.features, inputs, expected))
        manifest["selftest"] |= {"atol": atol} | ({"rtol": rtol} if rtol else {}) | ({"rows": rows} if rows != "given" else {})
        (folder / "manifest.json").write_text(text(manifest), encoding="utf-8")

    def write_weights(self, folder):
        big = {table.get("tensor", table["name"]) for table in self.tables}
        big = [name for name in sorted(big) if self.tensors[name].nbytes >= TABLE_FILE_BYTES]
        small = {name: array for name, array in self.tensors.items() if name not in big}
        files = [written(folder, "weights.safetensors", small)] if small else []
        return files + [written(folder, f"weights-{i:03}.safetensors", {name: self.tensors[name]}) for i, name in enumerate(big)]


def selftest_tensors(features, inputs, expected):
    tensors = {}
    for feature in features:
        name, value = feature["name"], inputs[feature["name"]]
        if isinstance(value, tuple):
            tensors[f"in.{name}"] = np.asarray(value[0], np.int64)
            tensors[f"in.{name}.lengths"] = np.asarray(value[1], np.int64)
            if len(value) > 2:
                tensors[f"in.{name}.weights"] = np.asarray(value[2], np.float32)
        else:
            tensors[f"in.{name}"] = np.ascontiguousarray(value, dtype=np.float32 if feature["kind"] == "dense" else np.int64)
    for name, value in expected.items():
        tensors[f"out.{name}"] = np.ascontiguousarray(value, dtype=np.float64).reshape(-1)
    return tensors


def written(folder, name, tensors):
    """Writes a file of tensors; gives its entry for the manifest."""
    path = folder / name
    save_file({key: np.require(array, requirements="C") for key, array in tensors.items()}, path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def text(manifest):
    """One line per entry of a list: long manifests stay readable, and a diff shows what changed."""
    lines = []
    for key, value in manifest.items():
        if isinstance(value, list):
            entries = ",\n".join("    " + json.dumps(item, allow_nan=False) for item in value)
            value = f"[\n{entries}\n  ]" if value else "[]"
        else:
            value = json.dumps(value, allow_nan=False)
        lines.append(f"  {json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
