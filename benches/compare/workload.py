"""A synthetic model as the bench sees it: where its files are, what a row costs, and rows to rotate over."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Model:
    """A bundle of `gavel synth` and the same model as ONNX."""

    name: str
    bundle: Path
    onnx: Path
    onnx_fused: Path | None
    served = "prob"

    def __post_init__(self):
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        self.tables = {table["name"]: table for table in manifest["tables"]}
        self.features = manifest["features"]
        self.sparse = [feature for feature in self.features if feature["kind"] == "sparse"]
        self.dense = [feature for feature in self.features if feature["kind"] == "dense"]
        self.hots = [feature.get("width", 1) for feature in self.sparse]
        self.dim = manifest["tables"][0]["dim"]
        self.layers = self._layers(manifest)
        vectors = len(self.sparse) + 1
        self.dot_pairs = vectors * (vectors - 1) // 2 if any(step["op"] == "matmul" for step in manifest["graph"]) else 0

    def _layers(self, manifest):
        """[outputs, inputs] of every linear layer, from the headers of the weights files."""
        shapes = {}
        for spec in manifest["weights"]:
            with open(self.bundle / spec["file"], "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes.update({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})
        return [shapes[step["weight"]] for step in manifest["graph"] if step["op"] == "linear"]

    @property
    def macs(self):
        """Multiply-adds per row: dense layers, and each kept pair of the interaction once."""
        return sum(o * i for o, i in self.layers) + self.dot_pairs * self.dim

    @property
    def weight_bytes(self):
        return 4 * sum(o * i + o for o, i in self.layers)

    @property
    def ids(self):
        return sum(self.hots)

    @property
    def row_bytes(self):
        """Of a table."""
        return 4 * self.dim

    @property
    def table_bytes(self):
        return sum(table["rows"] for table in self.tables.values()) * self.row_bytes

    def inputs(self, batch, sets, seed=1000):
        """`sets` times the ONNX file's inputs (dense f32 [batch, 13], ids i64 [batch, ids]): ids uniform over all rows, the worst case for caches. Context
        features of a request are the same in all its rows."""
        random = np.random.default_rng(seed)
        context_dense = self.dense[0]["scope"] == "context"
        made = []
        for _ in range(sets):
            dense = np.log1p(random.exponential(10.0, (1 if context_dense else batch, len(self.dense)))).astype(np.float32)
            columns = []
            for feature, hot in zip(self.sparse, self.hots):
                rows = 1 if feature["scope"] == "context" else batch
                ids = random.integers(0, self.tables[feature["table"]]["rows"], (rows, hot))
                columns.append(np.broadcast_to(ids, (batch, hot)))
            # Copies: the runtimes want to own what they read.
            dense = np.broadcast_to(dense, (batch, len(self.dense))).copy()
            made.append(dict(dense=dense, ids=np.concatenate(columns, 1).astype(np.int64)))
        return made

    def scores(self, output):
        """Of the output that is compared, [batch]."""
        return np.asarray(output).reshape(-1)

    def pack(self, inputs, file):
        """Writes inputs as gavel's requests: context row (dense, ids), then candidate rows (dense, ids). See `inputs.rs`."""
        context = [feature["scope"] == "context" for feature in self.sparse]
        of_context = np.repeat(np.array(context, bool), self.hots)
        context_dense = self.dense[0]["scope"] == "context"
        with open(file, "wb") as out:
            for one in inputs:
                dense, ids = one["dense"], one["ids"].astype(np.uint32)
                parts = [dense[:1] if context_dense else dense[:0], ids[:1, of_context], dense[:0] if context_dense else dense, ids[:, ~of_context]]
                for part in parts:
                    out.write(np.ascontiguousarray(part).tobytes())


def sets_of(batch):
    """Inputs to rotate over: some 16,000 rows in all, so that tables are really walked."""
    return max(4, min(4096, math.ceil(16384 / batch)))
