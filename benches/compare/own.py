"""A model of the user's: an ONNX file, imported by `gavel import`, and rows for it.

Rows come from the bundle's selftest (dense values and integers, resampled) and from the tables (ids, uniform), and are written twice: as the file's
inputs, and as gavel's requests. That needs features that are columns of the inputs under their own names: an import without renaming.
"""

import json
import subprocess
from pathlib import Path

import numpy as np

from contestants import Failed


class OwnModel:
    """The file and the bundle that `gavel import` makes of it; every feature travels with every row."""

    onnx_fused = None

    def __init__(self, binary, onnx, rows, folder):
        self.name, self.onnx, self.bundle = onnx.stem, onnx, folder / "bundle"
        folder.mkdir(parents=True, exist_ok=True)
        command = [binary, "import", "onnx", str(onnx), "--out", str(self.bundle)] + (["--rows", str(rows)] if rows else [])
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failed(f"{onnx}: {done.stderr.strip()}")
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        self.rows_of = {table["name"]: table["rows"] for table in manifest["tables"]}
        self.features = manifest["features"]
        self.samples = self._samples(manifest)
        self.sources = self._sources()
        self.served, self.column = self._output(manifest["outputs"][0]["name"])

    def _samples(self, manifest):
        """[rows, width] of each feature in the selftest."""
        from safetensors.numpy import load_file

        tensors = load_file(self.bundle / manifest["selftest"]["file"])
        for feature in self.features:
            if feature.get("variable") or feature.get("weighted") or f"in.{feature['name']}.lengths" in tensors:
                raise Failed(f"{self.onnx}: feature {feature['name']!r} has bags of variable length or weights; this bench sends plain rows")
        return {feature["name"]: tensors[f"in.{feature['name']}"].reshape(len(tensors[f"in.{feature['name']}"]), -1) for feature in self.features}

    def _graph(self):
        import onnx

        graph = onnx.load(str(self.onnx), load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        return [value for value in graph.input if value.name not in constants], graph.output

    def _sources(self):
        """Per graph input: its type, its sizes behind the batch, and (feature, first column) pairs."""
        import onnx

        sources = {}
        for value in self._graph()[0]:
            tensor = value.type.tensor_type
            sizes = [dim.dim_value for dim in tensor.shape.dim][1:]
            sources[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), sizes, [])
        for feature in self.features:
            name = feature["name"]
            if name in sources:
                sources[name][2].append((name, 0))
                continue
            owner, _, columns = name.rpartition(".")
            if owner not in sources:
                raise Failed(f"{self.onnx}: feature {name!r} is no input of the file and no column of one")
            sources[owner][2].append((name, int(columns.split("-")[0])))
        return sources

    def _output(self, name):
        """The file's output that holds the bundle's first, and which column of it."""
        outputs = {value.name for value in self._graph()[1]}
        if name in outputs:
            return name, 0
        owner, _, column = name.rpartition(".")
        if owner not in outputs:
            raise Failed(f"{self.onnx}: output {name!r} is none of the file's: {', '.join(sorted(outputs))}")
        return owner, int(column)

    def scores(self, output):
        """Of the output that is compared, [batch]."""
        output = np.asarray(output)
        return output.reshape(len(output), -1)[:, self.column]

    def inputs(self, batch, sets, seed=1000):
        """`sets` times the file's inputs."""
        random = np.random.default_rng(seed)
        made = []
        for _ in range(sets):
            values = {feature["name"]: self._values(feature, batch, random) for feature in self.features}
            one = {}
            for name, (dtype, sizes, parts) in self.sources.items():
                flat = np.zeros((batch, int(np.prod(sizes))), dtype)
                for feature, first in parts:
                    flat[:, first : first + values[feature].shape[1]] = values[feature]
                one[name] = flat.reshape(batch, *sizes)
            made.append(one)
        return made

    def _values(self, feature, batch, random):
        samples = self.samples[feature["name"]]
        if feature["kind"] == "sparse":
            return random.integers(0, self.rows_of[feature["table"]], (batch, samples.shape[1]))
        return samples[random.integers(0, len(samples), batch)]

    def pack(self, inputs, file):
        """Writes inputs as gavel's requests: the rows' dense values, then their ids and integers. See `inputs.rs`."""
        places = {feature: (name, first) for name, (_, _, parts) in self.sources.items() for feature, first in parts}
        with open(file, "wb") as out:
            for one in inputs:
                blocks = {np.float32: [], np.uint32: []}
                for feature in self.features:
                    name, first = places[feature["name"]]
                    value = one[name].reshape(len(one[name]), -1)[:, first : first + self.samples[feature["name"]].shape[1]]
                    kind = np.float32 if feature["kind"] == "dense" else np.uint32
                    blocks[kind].append(value.astype(np.int64).astype(kind) if kind is np.uint32 else value.astype(kind))
                for block in blocks.values():
                    if block:
                        out.write(np.ascontiguousarray(np.concatenate(block, 1)).tobytes())
