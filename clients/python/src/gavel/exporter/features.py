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
from .graph import Graph
from .specs import Dense, Integer, Jagged, Sparse

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


def live_steps(steps, outputs):
    """Steps that an output needs, in order."""
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if step["out"] in needed:
            kept.append(step)
            needed.update(interpreter.read_values(step) if not step["op"].startswith("@") else [])
    return kept[::-1]


class Assignment:
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

    # Uses.

    def uses(self):
        self.looked_up, self.read_f32, self.read_i64, self.bagged = {}, set(), set(), {}
        self.groups, self.weight_columns = [], set()
        for step in self.steps:
            if step["op"] == "@columns":
                (self.read_f32 if step["dtype"] == "f32" else self.read_i64).update(step["columns"])
                self.groups.append(frozenset(step["columns"]))
            elif step["op"] == "@lookup":
                for column, offset in zip(step["columns"], step["offset"]):
                    self.looked_up.setdefault(column, set()).add((step["table"], offset, step["rows"]))
                self.groups.append(frozenset(step["columns"]))
            elif step["op"] == "@bag" and "columns" in step:
                for column in step["columns"]:
                    self.looked_up.setdefault(column, set()).add((step["table"], 0, step["rows"]))
                    self.bagged.setdefault(column, []).append(step)
                self.groups.append(frozenset(step["columns"]))
                if "weights" in step:
                    self.weight_columns.update(step["weights"])
                    self.groups.append(frozenset(step["weights"]))
        self._cuts, self._divides = {}, {}
        for uses in self.looked_up.values():
            for name, offset, _ in uses:
                self._cuts.setdefault(name, set()).add(offset)
        self.used = set(self.looked_up) | self.read_f32 | self.read_i64
        for column in self.weight_columns & self.used:
            raise ExportError(f"{self.label(column)} is both a weight of a bag and something else", "pass it as two inputs")

    def leaf_of(self, column):
        return next(leaf for leaf in self.leaves if leaf.start <= column < leaf.start + leaf.columns)

    def label(self, column):
        leaf = self.leaf_of(column)
        return leaf.name if leaf.columns == 1 else f"{leaf.name}.{column - leaf.start}"

    def sample(self, column):
        leaf = self.leaf_of(column)
        return np.asarray(leaf.data).reshape(len(leaf.data), -1)[:, column - leaf.start]

    def kind(self, column):
        leaf = self.leaf_of(column)
        numbers = column in self.read_f32 or column in self.read_i64
        if column in self.looked_up:
            if not numbers and self.offsets_fit(column):
                return "sparse"
            return "integer" if self.whole(column) else "dense"
        if leaf.floating and (column in self.read_f32 and column not in self.read_i64 or not self.whole(column)):
            return "dense"
        return "integer"

    def whole(self, column):
        """Whether a column's examples are whole numbers, so that it can be sent as an integer."""
        if not self.leaf_of(column).floating:
            return True
        x = self.sample(column)
        return bool(np.isfinite(x).all() and (x == np.trunc(x)).all())

    def offsets_fit(self, column):
        """Ids with a constant added (many fields in one table) get the part of the table that is theirs, if the examples stay in it."""
        uses = self.looked_up[column]
        if len({offset for _, offset, _ in uses}) != 1:
            return False
        return all(offset == 0 or self.divides(table) for table, offset, _ in uses)

    def divides(self, table):
        """Whether a table can be cut where its fields begin."""
        if table not in self._divides:
            self._divides[table] = self.examples_stay(table)
        return self._divides[table]

    def examples_stay(self, table):
        if any(step["op"] in ("embedding", "@bag") and step["table"] == table for step in self.steps):
            return False
        for column, uses in self.looked_up.items():
            for name, offset, rows in uses:
                if name != table:
                    continue
                x, end = self.sample(column), min(cut for cut in self.cuts(table) + [rows] if cut > offset)
                if offset < 0 or x.min(initial=0) < 0 or x.max(initial=0) >= end - offset or column in self.read_f32 | self.read_i64:
                    return False
        return True

    def span(self, table, offset, rows):
        """(first row, end) of the part of a table that ids with an offset reach."""
        if not self.divides(table):
            return 0, rows
        return offset, min(cut for cut in self.cuts(table) + [rows] if cut > offset)

    def cuts(self, table):
        """The offsets that are added to ids of a table."""
        return sorted(self._cuts.get(table, {0}))

    # Blocks.

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

    # The graph with real reads.

    def rewrite(self, outputs):
        """A new graph; gives it and the new names of the outputs."""
        self.new = Graph()
        self.new.tensors, self.new.by_content = self.old.tensors, self.old.by_content
        renamed = {}  # old name -> Term
        joins, made = self.joins(), {}
        for step in self.steps:
            op = step["op"]
            if step["out"] in joins:
                group, at = joins[step["out"]]
                key = group[0]["out"]
                if key not in made:
                    made[key] = self.joined(group)
                shape = self.old.same_term(step["out"]).shape
                term = self.new.reshape(self.new.slice(made[key], 0, at, at + 1), shape)
            elif op.startswith("@"):
                term = {"@columns": self.read, "@lookup": self.lookup, "@bag": self.bag, "@length": self.length}[op](step)
            else:
                term = self.replay(step, renamed)
            renamed[step["out"]] = term
        return self.new, [self.new.value(renamed[name]) for name in outputs]

    def joins(self):
        """Lookups whose rows the model puts side by side, to be made as one: name -> (group of steps, place in it)."""
        by_out, out = {step["out"]: step for step in self.steps}, {}

        def base(name):
            while by_out[name]["op"] == "reshape":
                name = by_out[name]["in"]
            return by_out[name]

        for step in self.steps:
            if step["op"] != "concat":
                continue
            run = []
            for name in [*step["in"], None]:
                lookup = base(name) if name is not None else None
                key = self.joinable(lookup) if lookup is not None else None
                flat = name is not None and all(size == 1 for size in self.old.same_term(name).shape[: step["axis"]])
                if (
                    key is not None
                    and flat
                    and lookup["out"] not in out
                    and (not run or run[0][0] == key)
                    and all(lookup is not x for _, x in run)
                ):
                    run.append((key, lookup))
                    continue
                if len(run) > 1:
                    group = [x for _, x in run]
                    out |= {x["out"]: (group, i) for i, x in enumerate(group)}
                run = [(key, lookup)] if key is not None and flat and lookup["out"] not in out else []
        return out

    def joinable(self, step):
        """What lookups must share to be joined, None if the step is no lookup of one vector."""
        if step["op"] == "@lookup" and len(step["columns"]) == 1:
            block = self.of_column[step["columns"][0]]
            return (step["dim"], "sum") if block.kind == "sparse" and len(block.columns) == 1 else None
        if step["op"] == "@bag" and step["pool"] != "none":
            block = self.block_of_bag(step)
            return (step["dim"], step["pool"]) if block.kind == "sparse" else None
        return None

    def joined(self, group):
        """One lookup of several features: [n, dim]."""
        blocks, tables = [], []
        pool = self.joinable(group[0])[1]
        for step in group:
            if step["op"] == "@lookup":
                block = self.of_column[step["columns"][0]]
                table = self.part(block, step)
            else:
                block = self.block_of_bag(step)
                self.check_bag(block, step)
                table = self.table(step["table"], 0, step["rows"])
            block.table, block.pool = block.table or table, block.pool or pool
            blocks.append(block)
            tables.append(table)
        of = {"tables": tables} if any(block.table != table for block, table in zip(blocks, tables)) else {}
        of |= {"pool": pool} if any(block.pool != pool for block in blocks) else {}
        names = [block.name for block in blocks]
        return self.new.add({"op": "lookup", "features": names} | of, [], (len(names), group[0]["dim"]), "f32", "lookup")

    def replay(self, step, renamed):
        g, was = self.new, self.old.same_term(step["out"])
        op = step["op"]
        if op == "reshape":
            return g.reshape(renamed[step["in"]], step["shape"])
        if op == "transpose":
            return g.transpose(renamed[step["in"]], step["perm"])
        if op == "slice":
            return g.slice(renamed[step["in"]], step["axis"], step.get("start"), step.get("end"), step.get("step", 1))
        if op == "concat":
            return g.concat([renamed[name] for name in step["in"]], step["axis"])
        new, terms = dict(step), []
        del new["out"]
        for key, x in step.items():
            if key in (
                "op",
                "out",
                "table",
                "tensor",
                "weight",
                "bias",
                "mean",
                "var",
                "slope",
                "w_ih",
                "w_hh",
                "b_ih",
                "b_hh",
                "dtype",
                "to",
                "cmp",
                "kind",
            ):
                continue
            if isinstance(x, str) and x in renamed:
                new[key] = g.value(renamed[x])
                terms.append(renamed[x])
        if op == "embedding":
            new["table"] = self.table(step["table"], 0, len(self.old.tables[step["table"]]))
        return g.add(new, terms, was.shape, was.dtype, step["out"])

    def table(self, tensor, start, end):
        """The name of a table: all rows of a tensor, or some."""
        rows = len(self.old.tables[tensor])
        name = tensor if (start, end) == (0, rows) else f"{tensor}:{start}-{end}"
        self.tables[name] = (tensor, start, end)
        return name

    def runs(self, columns):
        """The columns of a read as whole features where possible: [(block, None)] or [(block, positions)]."""
        out, i = [], 0
        while i < len(columns):
            block = self.of_column[columns[i]]
            n = len(block.columns)
            if columns[i : i + n] == block.columns:
                out.append((block, None))
                i += n
            else:
                at = block.columns.index(columns[i])
                if out and out[-1][0] is block and out[-1][1] is not None:
                    out[-1][1].append(at)
                else:
                    out.append((block, [at]))
                i += 1
        return out

    def read(self, step):
        """@columns: f32 or i64 [n]."""
        g, dtype, parts = self.new, step["dtype"], []
        runs = self.runs(step["columns"])
        i = 0
        while i < len(runs):
            block, positions = runs[i]
            if block.kind == "dense":
                together = [block]
                while positions is None and i + 1 < len(runs) and runs[i + 1][0].kind == "dense" and runs[i + 1][1] is None:
                    i += 1
                    together.append(runs[i][0])
                width = sum(len(b.columns) for b in together)
                names = [b.name for b in together]
                term = g.add({"op": "dense", "features": names}, [], (width,), "f32", names[0] if len(names) == 1 else "dense")
            else:
                term = self.integer(block)
            term = term if positions is None else g.gather_const(term, 0, positions)
            parts.append(g.cast(term, dtype))
            i += 1
        return g.concat(parts, 0)

    def integer(self, block):
        return self.new.add({"op": "integer", "feature": block.name}, [], (len(block.columns),), "i64", block.name)

    def lookup(self, step):
        """@lookup: f32 [n, dim]."""
        g, dim, parts = self.new, step["dim"], []
        runs, i, at = self.runs(step["columns"]), 0, 0
        while i < len(runs):
            block, positions = runs[i]
            if block.kind != "sparse":
                term = (
                    self.integer(block)
                    if block.kind == "integer"
                    else g.cast(g.add({"op": "dense", "features": [block.name]}, [], (len(block.columns),), "f32", block.name), "i64")
                )
                columns = block.columns if positions is None else [block.columns[p] for p in positions]
                term = term if positions is None else g.gather_const(term, 0, positions)
                added = np.asarray(step["offset"][at : at + len(columns)])
                at += len(columns)
                term = g.emit("add", {"a": term, "b": g.constant(added)}) if added.any() else term
                table = self.table(step["table"], 0, step["rows"])
                parts.append(
                    g.add(
                        {"op": "embedding", "in": g.value(term), "table": table}, [term], (len(columns), dim), "f32", f"{block.name}.rows"
                    )
                )
                i += 1
                continue
            if len(block.columns) == 1:
                together = [block]
                while i + 1 < len(runs) and runs[i + 1][0].kind == "sparse" and len(runs[i + 1][0].columns) == 1:
                    i += 1
                    together.append(runs[i][0])
                at += len(together)
                parts.append(self.lookups(together, step, dim))
            else:
                term = self.one_lookup(block, self.part(block, step), dim, "none", len(block.columns))
                parts.append(term if positions is None else g.gather_const(term, 0, positions))
                at += len(block.columns if positions is None else positions)
            i += 1
        return g.concat(parts, 0)

    def part(self, block, step):
        return self.table(step["table"], *self.span(step["table"], block.offset, step["rows"]))

    def lookups(self, blocks, step, dim):
        g, tables = self.new, [self.part(block, step) for block in blocks]
        if len(blocks) == 1:
            return g.reshape(self.one_lookup(blocks[0], tables[0], dim, None, None), (1, dim))
        names = [block.name for block in blocks]
        of = {}
        for block, table in zip(blocks, tables):
            block.table = block.table or table
            block.pool = block.pool or "sum"
        if any(block.table != table for block, table in zip(blocks, tables)):
            of["tables"] = tables
        if any(block.pool != "sum" for block in blocks):
            of["pool"] = "sum"
        return g.add({"op": "lookup", "features": names} | of, [], (len(names), dim), "f32", "lookup")

    def one_lookup(self, block, table, dim, pool, length):
        block.table = block.table or table
        pool = pool or "sum"
        block.pool = block.pool or pool
        given = ({} if block.table == table else {"table": table}) | ({} if block.pool == pool else {"pool": pool})
        shape = (length, dim) if length is not None else (dim,)
        return self.new.add({"op": "lookup", "feature": block.name} | given, [], shape, "f32", block.name)

    def block_of_bag(self, step):
        if "jagged" in step:
            return next(b for b in self.blocks if b.bag is not None and b.bag.name == step["jagged"])
        return self.of_column[step["columns"][0]]

    @staticmethod
    def check_bag(block, step):
        if block.kind != "sparse":
            raise ExportError(
                f"feature {block.name} is pooled and also read as numbers", "pass the ids as two inputs: one for the bag, one for the rest"
            )
        if block.weighted and step["pool"] == "max":
            raise ExportError(f"feature {block.name}: a weighted bag pooled by maximum", "use sum")

    def bag(self, step):
        table, block = self.table(step["table"], 0, step["rows"]), self.block_of_bag(step)
        self.check_bag(block, step)
        if step["pool"] != "none":
            return self.one_lookup(block, table, step["dim"], step["pool"], None)
        term, length = self.one_lookup(block, table, step["dim"], "none", block.bag.max_len), step["length"]
        if length < block.bag.max_len:
            return self.new.slice(term, 0, 0, length)
        return term if length == block.bag.max_len else self.new.emit("pad", {"in": term}, pads=[0, 0, length - block.bag.max_len, 0])

    def length(self, step):
        block = next(b for b in self.blocks if b.bag is not None and b.bag.name == step["jagged"])
        return self.new.add({"op": "length", "feature": block.name}, [], (), "i64", f"{block.name}.length")

    # The manifest's features.

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
                    one["nan"] = {"value": float(spec.nan)}
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
