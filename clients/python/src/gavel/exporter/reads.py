"""The graph with real reads of features in the place of the notes that the walk left: dense, integer, lookup, length."""

import numpy as np

from .errors import ExportError
from .graph import Graph


class Reads:
    """The part of an Assignment that rewrites the graph."""

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
                if step.get("wraps"):
                    back = g.emit("compare", {"a": term, "b": 0}, cmp="lt")
                    term = g.emit("where", {"cond": back, "a": g.emit("add", {"a": term, "b": step["rows"]}), "b": term})
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
