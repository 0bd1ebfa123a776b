"""What the graph does with each column of the model's inputs."""

import numpy as np

from .errors import ExportError


class Uses:
    """The part of an Assignment that collects uses: `looked_up`: column -> {(table, offset, rows)}; `read_f32`, `read_i64`, `bagged`;
    `groups`: columns that are read together."""

    def uses(self):
        self.looked_up, self.read_f32, self.read_i64, self.bagged = {}, set(), set(), {}
        self.groups, self.weight_columns, self.from_the_end = [], set(), set()
        for step in self.steps:
            if step["op"] == "@columns":
                (self.read_f32 if step["dtype"] == "f32" else self.read_i64).update(step["columns"])
                self.groups.append(frozenset(step["columns"]))
            elif step["op"] == "@lookup":
                for column, offset in zip(step["columns"], step["offset"]):
                    self.looked_up.setdefault(column, set()).add((step["table"], offset, step["rows"]))
                if step.get("wraps"):
                    self.from_the_end.update(column for column in step["columns"] if self.sample(column).min(initial=0) < 0)
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
            if not numbers and column not in self.from_the_end and self.offsets_fit(column):
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
