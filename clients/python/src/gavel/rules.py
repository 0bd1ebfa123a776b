"""What becomes of a feature's values before the graph sees them: transforms, hashes, missing ids, padding, pooling."""

import numpy as np


def fnv1a64(value):
    digest = 0xCBF29CE484222325
    for byte in (int(value) & (2**64 - 1)).to_bytes(8, "little"):
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest


def splitmix64(value):
    x = int(value) & (2**64 - 1)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


HASHES = {"identity": lambda value: int(value) & (2**64 - 1), "fnv1a64": fnv1a64, "splitmix64": splitmix64}


class InputError(ValueError):
    """An id or a number that the feature's rules refuse."""


class Features:
    """Reads a manifest's features from inputs: name -> array, or (flat ids, lengths[, weights])."""

    def __init__(self, manifest, tables, inputs):
        self.features = {feature["name"]: feature for feature in manifest["features"]}
        self.rows_of_table = {table["name"]: table["rows"] for table in manifest["tables"]}
        self.tables, self.inputs = tables, inputs
        self.rows = {len(value[1]) if isinstance(value, tuple) else len(value) for value in inputs.values()}
        if len(self.rows) != 1:
            raise InputError(f"the inputs have different numbers of rows: {sorted(self.rows)}")
        self.rows = self.rows.pop()
        self.padded = {}

    def dense(self, name):
        feature = self.features[name]
        x = np.asarray(self.inputs[name], dtype=np.float64).reshape(self.rows, -1)
        rule = feature.get("nan", "error")
        if rule == "error" and np.isnan(x).any():
            raise InputError(f"feature {name} holds NaN")
        if isinstance(rule, dict):
            x = np.where(np.isnan(x), rule["value"], x)
        return np.log1p(np.maximum(x, 0)) if feature.get("transform") == "log1p_clamp0" else x

    def integer(self, name):
        return np.asarray(self.inputs[name], dtype=np.int64).reshape(self.rows, -1)

    def bag(self, name):
        """Rows of the feature's table [rows, len], -1 for absent or behind the end; weights; lengths as sent."""
        if name in self.padded:
            return self.padded[name]
        feature, value = self.features[name], self.inputs[name]
        if isinstance(value, tuple):
            ids, lengths = np.asarray(value[0], np.int64), np.asarray(value[1], np.int64)
            width = feature["max_len"]
            if len(lengths) and lengths.max() > width:
                raise InputError(f"feature {name}: a bag of {lengths.max()} ids, max_len is {width}")
            there = np.arange(width) < lengths[:, None]
            padded = np.full((self.rows, width), -1, np.int64)
            padded[there] = ids
            weights = np.zeros((self.rows, width))
            weights[there] = value[2] if len(value) > 2 else 1.0
        else:
            padded = np.asarray(value, np.int64).reshape(self.rows, -1)
            there, lengths = np.ones(padded.shape, bool), np.full(self.rows, padded.shape[1])
            weights = np.ones(padded.shape)
        found = np.full(padded.shape, -1, np.int64)
        for at in zip(*np.nonzero(there)):
            found[at] = self.row(feature, int(padded[at]))
        self.padded[name] = (found, weights, lengths)
        return self.padded[name]

    def row(self, feature, id_):
        """The row of an id, -1 if it is absent."""
        name, rows, bits = feature["name"], self.rows_of_table[feature["table"]], 64 if feature.get("id_type") == "u64" else 32
        missing = id_ == -1
        if missing:
            rule = feature.get("missing", "error")
            if rule == "error":
                raise InputError(f"feature {name}: missing id")
            row = -1 if rule == "skip" else rule["row"]
        elif "hash" in feature:
            hash_ = feature["hash"]
            row = hash_.get("add", 0) + HASHES[hash_["fn"]](id_) % hash_["mod"]
        else:
            row = id_ % 2**bits if id_ < 0 else id_
            if row >= rows:
                rule = feature.get("out_of_range", "error")
                if rule == "error":
                    raise InputError(f"feature {name}: id {id_}, the table has {rows} rows")
                row = rule["row"]
        return -1 if row == feature.get("padding", -2) else row

    def lookup(self, name, pool=None, table=None):
        feature = self.features[name]
        table = self.tables[table or feature["table"]]
        pool = pool or feature.get("pool", "sum")
        found, weights, _ = self.bag(name)
        there = found >= 0
        vectors = table[np.where(there, found, 0)].astype(np.float64)
        if pool == "max":
            top = np.where(there[..., None], vectors, -np.inf).max(1, initial=-np.inf)
            return np.where(there.any(1)[:, None], top, 0.0)
        vectors = np.where(there[..., None], vectors * weights[..., None], 0.0)
        if pool == "none":
            return vectors
        total = vectors.sum(1)
        return total if pool == "sum" else total / np.maximum(there.sum(1), 1)[:, None]
