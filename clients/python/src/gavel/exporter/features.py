"""From columns of the model's inputs to named features, and from reads of columns to the bundle's lookups.

While the trace is walked, reads of inputs are only noted ("@columns", "@lookup", "@bag", "@length"). Here, when all of them are known,
each column gets a kind by its uses: looked up only: sparse; read as a number: dense or integer; both: integer, looked up through the
`embedding` op.
Columns that are always used together become one feature.
"""

from dataclasses import dataclass, field

import numpy as np

from .. import interpreter
from .errors import ExportError
from .reads import Reads
from .specs import Dense, Integer, Jagged, Sparse
from .uses import Uses

FLOAT_IDS_MAX = 1 << 24  # whole numbers above it are not all exact in f32


@dataclass
class Block:
    """One feature. `columns`: numbers among all inputs' columns; `kind`: "dense", "integer", "sparse"; `offset`: added to each id before
    the lookup; `bag`: name of the jagged input instead of columns; `weights`: columns of the weights of a fixed bag."""

    name: str
    columns: list
    kind: str
    spec: object = None
    leaf: object = None
    offset: int = 0
    table: str | None = None
    pool: str | None = None
    padding: int | None = None
    bag: object = None
    weighted: bool = False
    weights: list = field(default_factory=list)


def nan_rule(name, nan):
    """As in a manifest: "keep", or a number that takes NaN's place."""
    if nan == "keep":
        return nan
    if isinstance(nan, str) or not abs(nan) <= float(np.finfo(np.float32).max):
        raise ExportError(f"feature {name}: nan {nan!r}", 'use "keep", a number that f32 holds, or None to refuse NaN')
    return {"value": float(np.float32(nan))}


def live_steps(steps, outputs):
    """Steps that an output needs, in order."""
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step["out"] in needed:
            kept.append(step)
            needed.update(interpreter.read_values(step) if not step["op"].startswith("@") else [])
    return kept[::-1]


class Assignment(Uses, Reads):
    def __init__(self, canonicaliser, inputs, outputs, known=(), specs=(), context=()):
        """`outputs`: names of values; `known`: (feature name, leaf name, start, end) that the model's library says; `specs`: the user's."""
        self.old, self.inputs = canonicaliser.graph, inputs
        self.leaves = [leaf for leaf in inputs.leaves if leaf.role == "rows"]
        self.specs, self.warnings = list(specs), canonicaliser.warnings
        self.steps = live_steps(self.old.steps, outputs)
        self.tables = {}  # name -> (tensor, first row, end)
        self.uses()
        self.blocks = self.make_blocks(known)
        self.of_column = {column: block for block in self.blocks for column in block.columns}
        self.set_scopes(context)

    def make_blocks(self, known):
        blocks, taken = [], {}
        for spec in self.specs:
            if isinstance(spec, Jagged):
                continue
            leaf, columns = self.columns_of(spec)
            blocks.append(self.block(spec.name, columns, spec, leaf))
            for column in columns:
                if column in taken:
                    raise ExportError(f"features {taken[column]} and {spec.name} both name {self.label(column)}", "name each column once")
                taken[column] = spec.name
        for name, leaf_name, start, end in known:
            leaf = next((leaf for leaf in self.leaves if leaf.name == leaf_name), None)
            if leaf is None or end > leaf.columns:
                continue
            columns = [column for column in range(leaf.start + start, leaf.start + end)]
            live = [column for column in columns if column in self.used]
            if not live or any(column in taken for column in columns):
                continue
            if self.split_kinds(columns) and len(columns) > 1:
                continue
            blocks.append(self.block(name, columns, None, leaf))
            taken |= dict.fromkeys(columns, name)
        for leaf in self.leaves:
            rest = [c for c in range(leaf.start, leaf.start + leaf.columns) if c in self.used and c not in taken]
            for columns in self.automatic(rest):
                name = leaf.name if len(columns) == leaf.columns else f"{leaf.name}.{columns[0] - leaf.start}"
                if len(columns) > 1 and len(columns) != leaf.columns:
                    name = f"{leaf.name}.{columns[0] - leaf.start}-{columns[-1] - leaf.start}"
                blocks.append(self.block(name, columns, None, leaf))
        blocks = [block for block in blocks if any(column in self.used for column in block.columns)]
        blocks.sort(key=lambda block: block.columns[0])
        blocks += self.jagged_blocks()
        names = [block.name for block in blocks]
        for name in names:
            if names.count(name) > 1:
                raise ExportError(f"two features would be called {name}", "name them: features=[gavel.Sparse(..), ..]")
        return blocks

    def split_kinds(self, columns):
        return len({self.kind(column) for column in columns if column in self.used}) > 1

    def automatic(self, columns):
        """Neighbours of one kind that are always used together."""
        out = []
        for column in columns:
            sign = (self.kind(column), frozenset(i for i, group in enumerate(self.groups) if column in group), self.offset_of(column))
            if out and out[-1][1] == sign and out[-1][0][-1] == column - 1:
                out[-1][0].append(column)
            else:
                out.append(([column], sign))
        return [columns for columns, _ in out]

    def offset_of(self, column):
        """The constant added to a sparse column's ids."""
        offsets = {offset for _, offset, _ in self.looked_up.get(column, ())}
        return offsets.pop() if len(offsets) == 1 and self.kind(column) == "sparse" else 0

    def columns_of(self, spec):
        by_name = {leaf.name: leaf for leaf in self.leaves}
        leaf = by_name.get(spec.input or spec.name)
        if leaf is None and spec.input is None and len(self.leaves) == 1 and spec.columns is not None:
            leaf = self.leaves[0]
        if leaf is None:
            raise ExportError(
                f"feature {spec.name}: the model has no input {spec.input or spec.name}", f"its inputs are {', '.join(by_name)}"
            )
        numbers = spec.numbers(leaf.columns)
        if (
            not numbers
            or numbers != list(range(numbers[0], numbers[0] + len(numbers)))
            or not 0 <= numbers[0] <= numbers[-1] < leaf.columns
        ):
            raise ExportError(
                f"feature {spec.name}: columns {spec.columns} of {leaf.name}, which has {leaf.columns}", "name neighbouring columns"
            )
        return leaf, [leaf.start + n for n in numbers]

    def block(self, name, columns, spec, leaf):
        live = [column for column in columns if column in self.used]
        kinds = {self.kind(column) for column in live} or {"dense" if leaf.floating else "integer"}
        kind = kinds.pop() if len(kinds) == 1 else "mixed"
        told = {Dense: "dense", Sparse: "sparse", Integer: "integer"}.get(type(spec))
        if told is not None and told != kind and live:
            if kind == "sparse" and told == "integer":
                kind = "integer"
            elif told == "dense" and kind in ("integer", "mixed") and leaf.floating and not any(c in self.looked_up for c in live):
                kind = "dense"
            elif told == "integer" and kind == "dense" and all(self.whole(c) for c in live):
                kind = "integer"
            else:
                why = {
                    "sparse": "it is looked up in a table",
                    "dense": "it is read as a number",
                    "integer": "it is read as a number" + (" besides being looked up" if any(c in self.looked_up for c in live) else ""),
                    "mixed": "its columns are used in different ways",
                }[kind]
                raise ExportError(
                    f"feature {name} cannot be {told}: {why}",
                    "use gavel.Integer for ids that are also read as numbers" if told == "sparse" else None,
                )
        if kind == "mixed":
            if not leaf.floating or all(self.whole(c) for c in live):
                kind = "integer"
            elif not any(c in self.looked_up for c in live):
                kind = "dense"
            else:
                raise ExportError(f"feature {name}: its columns are used in different ways", "name them apart")
        block = Block(name, columns, kind, spec, leaf)
        if kind == "sparse":
            block.offset = self.offset_of(live[0])
            if any(self.offset_of(column) != block.offset for column in live):
                raise ExportError(f"feature {name}: different constants are added to the ids of its columns", "name its columns apart")
            self.bag_rules(block)
            rows = max(rows for column in live for _, _, rows in self.looked_up[column])
            if leaf.floating and rows > FLOAT_IDS_MAX:
                self.warnings.append(
                    f"feature {name}: its table has {rows} rows, but the model takes the ids as {leaf.data.dtype}, "
                    "which is exact up to 2^24 only; "
                    "the server takes whole 32-bit ids and looks up the right rows, where training did not"
                )
        return block

    def bag_rules(self, block):
        bags = [step for column in block.columns for step in self.bagged.get(column, [])]
        if not bags:
            return
        paddings = {step["padding"] for step in bags}
        whole = all(step["columns"] == block.columns for step in bags)
        if not whole:
            raise ExportError(f"feature {block.name}: bags of different columns overlap", "name the columns of each bag as a feature")
        plain = any(step["op"] == "@lookup" and set(step["columns"]) & set(block.columns) for step in self.steps)
        if len(paddings) > 1 or plain and paddings != {None}:
            raise ExportError(f"feature {block.name}: lookups with different padding ids", "pass the ids as two inputs")
        block.padding = paddings.pop()
        weights = {tuple(step.get("weights", ())) for step in bags}
        if len(weights) > 1:
            raise ExportError(f"feature {block.name}: bags with and without weights, or with different ones", "pass the ids as two inputs")
        block.weights = list(weights.pop())
        block.weighted = bool(block.weights)
        if block.weighted and plain:
            raise ExportError(f"feature {block.name}: a weighted bag is also looked up without weights", "pass the ids as two inputs")

    def jagged_blocks(self):
        out = []
        for name, bag in self.inputs.bags.items():
            steps = [step for step in self.steps if step.get("jagged") == name]
            if not steps:
                continue
            spec = next((s for s in self.specs if isinstance(s, Jagged) and name in (s.name, s.input)), None)
            lookups = [step for step in steps if step["op"] == "@bag"]
            if not lookups:
                raise ExportError(f"feature {name}: only the lengths of its bags are used", "pass the lengths as an input of their own")
            weighted = {step["weighted"] for step in lookups}
            paddings = {step["padding"] for step in lookups}
            if len(weighted) > 1 or len(paddings) > 1:
                raise ExportError(
                    f"feature {name}: lookups with different rules (weights {weighted}, padding {paddings})", "pass the ids as two inputs"
                )
            block = Block(spec.name if spec else name, [], "sparse", spec, bag=bag, weighted=weighted.pop(), padding=paddings.pop())
            out.append(block)
        return out

    def set_scopes(self, context):
        names = {block.name for block in self.blocks}
        unknown = [name for name in context if name not in names]
        if unknown:
            raise ExportError(
                f"context names {', '.join(unknown)}, which the model does not read", f"its features are {', '.join(sorted(names))}"
            )
        self.scopes = {}
        for block in self.blocks:
            scope = getattr(block.spec, "scope", None) or ("context" if block.name in context else "candidate")
            if scope not in ("context", "candidate"):
                raise ExportError(f"feature {block.name}: scope {scope!r}", 'use "context" or "candidate"')
            self.scopes[block.name] = scope

    def manifest(self):
        """Features and tables: ([feature], [(table, tensor, first row, end, dim)])."""
        features = []
        for block in self.blocks:
            spec, one = block.spec, {"name": block.name, "kind": block.kind, "scope": self.scopes[block.name]}
            if block.bag is None and block.weighted:
                one["max_len"] = len(block.columns)
            elif block.bag is None and len(block.columns) != 1:
                one["width"] = len(block.columns)
            if block.kind == "dense":
                if getattr(spec, "transform", None):
                    one["transform"] = spec.transform
                if getattr(spec, "nan", None) is not None:
                    one["nan"] = nan_rule(block.name, spec.nan)
            elif block.kind == "integer":
                if any(abs(int(self.sample(c).max(initial=0))) >= 2**31 for c in block.columns):
                    one["id_type"] = "u64"
            else:
                if block.bag is not None:
                    one["max_len"] = block.bag.max_len
                one["table"] = block.table
                if block.pool != "sum":
                    one["pool"] = block.pool
                if block.weighted:
                    one["weighted"] = True
                if block.padding is not None:
                    one["padding"] = block.padding
                for key in ("hash", "missing", "out_of_range", "id_type"):
                    if getattr(spec, key, None) is not None:
                        one[key] = getattr(spec, key)
                if "hash" in one and "id_type" not in one:
                    one["id_type"] = "u64"
            features.append(one)
        return features

    def used_tables(self, steps):
        """Tables that the final graph reads: name -> (tensor, first row, end)."""
        named = {block.table for block in self.blocks if block.table} | {step["table"] for step in steps if "table" in step}
        named |= {table for step in steps for table in step.get("tables", [])}
        return {name: part for name, part in self.tables.items() if name in named}
