"""Rows for the selftest: the examples, rows mixed from them, and ids from all over the tables."""

import numpy as np

from .. import rules
from .errors import ExportError


class Samples:
    """`rows`: leaf name -> array; `bags`: name -> (ids per row, weights per row): what the model takes; `features`: what a client sends;
    `origin`: "given" if all rows are examples as they are, else "mixed"."""

    def __init__(self, inputs, assignment, given, count, mixed=True, seed=0):
        """`mixed`: whether rows may be put together from columns of several examples; else more rows are the examples again."""
        self.inputs, self.assignment = inputs, assignment
        self.rng = np.random.default_rng(seed)
        self.manifest = assignment.manifest()
        rows, bags = given
        n = min(count, next(len(x) for x in list(rows.values()) + [ids for ids, _ in bags.values()]))
        self.origin = "given" if n == count else "mixed"
        rows, bags = inputs.take(rows, bags, np.arange(n))
        if mixed:
            self.rows, self.bags = self.grown(rows, bags, count - n)
        else:
            self.rows, self.bags = inputs.take(rows, bags, np.arange(max(n, count)) % n)
        self.examples = n  # rows in front that are the examples themselves
        self.raw = {}  # feature -> raw ids [rows, width] or per row, where a rule changes them
        self.apply_rules(n)

    def replace(self, bad):
        """Puts examples in the place of made rows that are marked in `bad` [rows]."""
        at = np.arange(len(bad))
        at[bad] %= self.examples
        self.rows, self.bags = self.inputs.take(self.rows, self.bags, at)
        self.raw = {name: x[at] if isinstance(x, np.ndarray) else [x[i] for i in at] for name, x in self.raw.items()}

    def grown(self, rows, bags, more):
        if more <= 0:
            return rows, bags
        n = next(len(x) for x in list(rows.values()) + [ids for ids, _ in bags.values()])
        out = {}
        for leaf in self.inputs.leaves:
            if leaf.role != "rows":
                continue
            flat = rows[leaf.name].reshape(n, -1)
            new = np.stack([flat[self.rng.integers(0, n, more), c] for c in range(flat.shape[1])], 1)
            for c in range(flat.shape[1]):
                high = self.highest_id(leaf.start + c)
                if high:
                    ids = self.rng.integers(0, high, more)
                    ids[: min(2, more)] = [0, high - 1][: min(2, more)]
                    new[:, c] = np.where(self.rng.random(more) < 0.7, ids, new[:, c])
            out[leaf.name] = np.concatenate([rows[leaf.name], new.astype(flat.dtype).reshape((more,) + leaf.shape)])
        grown, alike = {}, {}
        for name, (ids, weights) in bags.items():
            bag = self.inputs.bags[name]
            high = self.table_rows(name)
            lengths = self.rng.integers(0, bag.max_len + 1, more)
            lengths[: min(2, more)] = [0, bag.max_len][: min(2, more)]
            stack = bag.leaves["ids"].stack if "ids" in bag.leaves else None
            if stack is not None:
                # Rows of one matrix of ids have as many ids each.
                of = [b.max_len for b in self.inputs.bags.values() if "ids" in b.leaves and b.leaves["ids"].stack == stack]
                lengths = alike.setdefault(stack, np.minimum(lengths, min(of)))
            dtype = ids[0].dtype
            new = [self.rng.integers(0, high, k).astype(dtype) for k in lengths]
            pool = np.concatenate(weights) if weights is not None else None
            new_weights = None
            if weights is not None:
                new_weights = [
                    self.rng.choice(pool, k).astype(pool.dtype) if len(pool) else self.rng.random(k).astype(np.float32) for k in lengths
                ]
            grown[name] = (list(ids) + new, None if weights is None else list(weights) + new_weights)
        return out, grown

    def highest_id(self, column):
        """How many ids a column may hold, 0 if it is no id."""
        a = self.assignment
        block = a.of_column.get(column)
        if block is None or column not in a.looked_up:
            return 0
        if block.kind == "sparse":
            spans = [a.span(table, offset, rows) for table, offset, rows in a.looked_up[column]]
            return min(end - first for first, end in spans)
        return 0

    def table_rows(self, bag):
        steps = [s for s in self.assignment.steps if s.get("jagged") == bag]
        return min((s["rows"] for s in steps if s["op"] == "@bag"), default=1)

    def apply_rules(self, examples):
        """Features that a server changes on the way (hash, missing, transform): raw values are drawn, the model's inputs follow from
        them."""
        tables = {name: {"name": name, "rows": end - start} for name, (_, start, end) in self.assignment.tables.items()}
        reader = lambda name: rules.Features({"features": self.manifest, "tables": list(tables.values())}, {}, {name: np.zeros(1)})
        for block, feature in zip(self.assignment.blocks, self.manifest):
            name = feature["name"]
            if feature["kind"] == "dense":
                self.apply_number_rules(block, feature, examples)
            if feature["kind"] != "sparse" or not ({"hash", "missing", "out_of_range"} & set(feature)):
                continue
            read, size = reader(name), tables[feature["table"]]["rows"]
            check_rules(feature, size)

            def draw(shape, keep):
                """Raw ids: any, if hashed; else the model's own with some missing and out of range."""
                self.origin = "mixed"
                if "hash" in feature:
                    ids = self.rng.integers(0, 2**31 if feature.get("id_type") != "u64" else 2**62, shape)
                else:
                    ids = keep.astype(np.int64).copy()
                    odd = self.rng.random(shape)
                    if "out_of_range" in feature:
                        ids[odd < 0.1] = size + 5
                if feature.get("missing", "error") not in ("error", "skip"):
                    ids[self.rng.random(shape) < 0.1] = -1
                return ids

            if block.bag is None:
                leaf, at = block.leaf, [c - block.leaf.start for c in block.columns]
                flat = self.rows[leaf.name].reshape(len(self.rows[leaf.name]), -1)
                raw = draw((len(flat), len(at)), flat[:, at])
                found = np.array([[read.row(feature, int(i)) for i in row] for row in raw])
                flat = flat.copy()
                flat[:, at] = found + 0
                self.rows[leaf.name] = flat.reshape(self.rows[leaf.name].shape)
                self.raw[name] = raw
            else:
                ids, weights = self.bags[block.bag.name]
                raw = [draw(x.shape, x) for x in ids]
                found = [np.array([read.row(feature, int(i)) for i in x], dtype=ids[0].dtype) for x in raw]
                self.bags[block.bag.name] = (found, weights)
                self.raw[name] = raw

    def apply_number_rules(self, block, feature, examples):
        name, transform, nan = feature["name"], feature.get("transform"), feature.get("nan")
        leaf, at = block.leaf, [c - block.leaf.start for c in block.columns]
        flat = self.rows[leaf.name].reshape(len(self.rows[leaf.name]), -1)
        if nan is None and np.isnan(flat[:, at]).any():
            remedy = f'gavel.Dense({name!r}, nan="keep") hands NaN on to the model, nan=NUMBER replaces it'
            raise ExportError(f"feature {name}: the inputs hold NaN, and it has no rule for that", remedy)
        if transform is None and nan is None:
            return
        raw = (np.expm1(flat[:, at].astype(np.float64)) if transform else flat[:, at]).astype(np.float32)
        if isinstance(nan, dict):
            # Some of the rows that are made up miss the number; of the examples those that come so.
            raw[examples:][self.rng.random(raw[examples:].shape) < 0.1] = np.nan
        flat = flat.astype(np.float64 if transform else flat.dtype)
        flat[:, at] = rules.Features({"features": [feature], "tables": []}, {}, {name: raw}).dense(name)
        self.rows[leaf.name] = flat.reshape(self.rows[leaf.name].shape)
        self.raw[name] = raw

    def features(self):
        """What a client sends: feature -> array, or (flat ids, lengths[, weights])."""
        out = {}
        for block, feature in zip(self.assignment.blocks, self.manifest):
            name = feature["name"]
            if block.bag is not None:
                ids, weights = self.bags[block.bag.name]
                ids = self.raw.get(name, ids)
                lengths = np.array([len(x) for x in ids], np.int64)
                flat = np.concatenate(ids).astype(np.int64) if len(ids) else np.zeros(0, np.int64)
                out[name] = (flat, lengths) + ((np.concatenate(weights).astype(np.float32),) if block.weighted else ())
                continue
            leaf, at = block.leaf, [c - block.leaf.start for c in block.columns]
            flat = self.rows[leaf.name].reshape(len(self.rows[leaf.name]), -1)
            values = self.raw.get(name, flat[:, at])
            if feature["kind"] == "dense":
                values = values.astype(np.float32)
            else:
                if (values != np.trunc(values)).any():
                    raise ExportError(
                        f"feature {name}: ids that are no whole numbers", "pass example inputs with ids that the model was trained with"
                    )
                values = values.astype(np.int64)
                if feature["kind"] == "sparse" and values.min(initial=0) < 0 and "missing" not in feature:
                    raise ExportError(
                        f"feature {name}: the examples hold negative ids, and a server looks up ids from 0",
                        f"pass ids from 0; for missing ones, sent as -1, say gavel.Sparse({name!r}, missing={{\"row\": ROW}})",
                    )
            if block.weighted:
                leaf = self.assignment.leaf_of(block.weights[0])
                weights = self.rows[leaf.name].reshape(len(flat), -1)[:, [c - leaf.start for c in block.weights]]
                out[name] = Weighted(values, weights.astype(np.float32))
            else:
                out[name] = values
        return out


class Weighted(tuple):
    """A bag of fixed length with weights: as (flat ids, lengths, weights)."""

    def __new__(cls, ids, weights):
        return super().__new__(cls, (ids.reshape(-1), np.full(len(ids), ids.shape[1], np.int64), weights.reshape(-1)))


def check_rules(feature, rows):
    name = feature["name"]
    if "hash" in feature:
        hash_ = feature["hash"]
        if hash_.get("fn") not in rules.HASHES:
            raise ExportError(f"feature {name}: hash function {hash_.get('fn')!r}", f"use one of {', '.join(rules.HASHES)}")
        if hash_.get("add", 0) + hash_["mod"] > rows:
            raise ExportError(
                f"feature {name}: hash gives rows up to {hash_.get('add', 0) + hash_['mod'] - 1}, the table has {rows}", "lower mod or add"
            )
        if "out_of_range" in feature:
            raise ExportError(f"feature {name}: out_of_range with a hash", "after a hash every id is in range: leave the rule out")
    for key in ("missing", "out_of_range"):
        rule = feature.get(key)
        if isinstance(rule, dict) and not 0 <= rule["row"] < rows:
            raise ExportError(f"feature {name}: {key} row {rule['row']}, the table has {rows} rows", "name a row of the table")
