"""From traced operators to the bundle's ops: the walk over the nodes, and what all operators share.

Operators are in the files ops_*.py, each a function `(c, node, a)` registered under the names it serves; `a` holds the arguments by name,
with earlier nodes replaced by their Values. Every result is compared with the shape that the trace recorded.
"""

import numpy as np

from .errors import ExportError
from .graph import Graph
from .layout import Row, Value, broadcast_dims, reshaped, same_shape, shape_of, touches_rows
from .trace import Ref, Rows, Unknown

OPERATORS = {}


def operator(*names):
    """Registers an operator under names such as "linear" (all overloads) or "max.dim"."""

    def register(function):
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return register


class RowNumbers:
    """start + step * (number of the row) for each row: what arange(batch) makes. Offsets of bags may use it, and x[arange(batch), i].

    `dims`: as of a Value; `extra`: how many numbers there are beyond the rows.
    """

    def __init__(self, start, step, dims=(Row(),), extra=0):
        self.start, self.step, self.dims, self.extra = start, step, tuple(dims), extra

    @property
    def plain(self):
        """Whether these are the numbers of the rows themselves."""
        return self.start == 0 and self.step == 1 and self.extra == 0 and Row() in self.dims


class Ids:
    """The ids of a jagged input, all rows one after the other; or the starts of its bags; or weights of the ids."""

    def __init__(self, leaf, role):
        self.leaf, self.role = leaf, role


ROW_NUMBERS = "the number of a row in its batch is used as data"
ROW_NUMBERS_REMEDY = (
    "rows come in any order and number: leave the row's number out; "
    "to pick an element of each row write x[torch.arange(len(x)), i] or x.gather(1, i)"
)

# Bits of integers that wrap, and the operators that can make them (sums of torch are int64).
BITS = {"int8": 8, "uint8": 8, "int16": 16, "int32": 32}
WRAPPING = {"add", "sub", "rsub", "mul", "pow", "square", "neg", "bitwise_left_shift", "__lshift__"}
KINDS = {"float64": "f", "float32": "f", "float16": "f", "bfloat16": "f", "bool": "b"}


def foreign(error):
    """An ExportError for what a translator did not foresee."""
    said = str(error).strip().partition("\n")[0]
    return ExportError(
        f"this use of the operation has no counterpart in a bundle ({type(error).__name__}{': ' + said if said else ''})",
        "write this part of the model with other operations, or in another form of the same",
    )


def fixed(x):
    """Whether arguments hold nothing that depends on the inputs or on the number of rows."""
    if isinstance(x, (list, tuple)):
        return all(map(fixed, x))
    if isinstance(x, Value):
        return x.constant and x.row is None
    return x is None or isinstance(x, (bool, int, float, str))


def values_in(x):
    if isinstance(x, (list, tuple)):
        return [v for item in x for v in values_in(item)]
    return [x] if isinstance(x, Value) else []


def kind_of(dtype):
    return KINDS.get(dtype, "i")


class Canonicaliser:
    def __init__(self, trace, inputs):
        """`inputs`: node name -> Value, Ids or what else stands for the input."""
        self.trace, self.inputs, self.graph = trace, inputs, Graph()
        self.env, self.node = {}, None
        self.warnings, self.halves = [], False  # halves: whether casts to half precision were left out

    def run(self):
        """Walks the trace; gives the outputs: list of (name, Value)."""
        for node in live_nodes(self.trace):
            self.node = node
            self.graph.place = node.module or ""
            try:
                self.env[node.name] = self.visit(node)
            except ExportError as error:
                raise error.at(node.op, node.module or "(the model itself)", node.source) from error
            except Exception as error:
                raise foreign(error).at(node.op, node.module or "(the model itself)", node.source) from error
        return [(name, self.as_value(self.env[ref.node] if isinstance(ref, Ref) else ref)) for name, ref in self.trace.outputs]

    def visit(self, node):
        if node.op == "output":
            return None
        if node.op == "input":
            return self.inputs[node.name]
        if node.op == "parameter":
            array = self.trace.constants[node.target]
            if array is None:
                return None
            return Value(self.graph.constant(array, source=node.target), array.shape, kind_of(node.dtype))
        if node.size is not None:
            return node.size
        if node.op == "getitem":
            made = self.resolve(node.args["of"])
            return made if isinstance(made, (Value, Ids)) else made[node.args["index"]]
        a = {key: self.resolve(x) for key, x in node.args.items()}
        value = self.translated(node, a)
        if isinstance(value, Value) and node.op.split(".")[1:2] and node.op.split(".")[1].rstrip("_") in WRAPPING:
            value = self.wrapped(value, node.dtype)
        if isinstance(value, Value) and node.shape is not None and not same_shape(value.dims, node.shape):
            raise ExportError(
                f"the exporter made shape {list(value.dims)} where torch has {list(node.shape)}",
                "this is a fault of the exporter: report it with the model",
            )
        if isinstance(value, RowNumbers) and not value.extra and node.shape is not None and not same_shape(value.dims, node.shape):
            raise ExportError(ROW_NUMBERS, ROW_NUMBERS_REMEDY)
        return value

    def translated(self, node, a):
        """What the operator makes. Of weights alone torch itself makes it, where the bundle has no such operation."""
        if not fixed(list(a.values())):
            return self.handler(node.op)(self, node, a)
        try:
            return self.handler(node.op)(self, node, a)
        except Exception:
            if self.trace.evaluate is None:
                raise
            made = self.trace.evaluate(node.name)
            if made is None:
                raise
        origin = frozenset().union(*(v.term.origin for v in values_in(list(a.values()))))
        made = [None if x is None else self.evaluated(x, origin) for x in (made if isinstance(made, list) else [made])]
        return made[0] if node.shape is not None else made

    def evaluated(self, array, origin):
        value = self.constant(array, literal=False)
        value.term.origin = origin
        return value

    def wrapped(self, value, dtype):
        """Integers of fewer than 64 bits wrap around, as torch computes them; a bundle's integers have 64. Ids just read from an input stay
        as they are in 32 bits: larger ones are no rows of a table."""
        if value.kind != "i" or dtype not in BITS or (value.term.columns is not None and BITS[dtype] == 32):
            return value
        size = 1 << BITS[dtype]
        shift = 0 if dtype.startswith("u") else size // 2
        term = self.graph.binary("add", value.term, shift) if shift else value.term
        term = self.graph.binary("mod", term, size)
        return Value(self.graph.binary("sub", term, shift) if shift else term, value.dims, "i")

    def handler(self, op):
        parts = op.split(".")
        name, overload = (parts[1], ".".join(parts[1:3])) if len(parts) > 1 else (op, op)
        found = OPERATORS.get(f"{parts[0]}::{name}") or OPERATORS.get(overload) or OPERATORS.get(name)
        if found is None and name.endswith("_") and not name.startswith("_"):
            found = OPERATORS.get(f"{name[:-1]}.{parts[2]}" if len(parts) > 2 else name[:-1]) or OPERATORS.get(name[:-1])
        if found is None:
            raise ExportError(
                f"the operation {op} has no counterpart in a bundle",
                "write this part of the model with other operations, or leave it out of the exported module",
            )
        return found

    def resolve(self, x):
        if isinstance(x, Ref):
            return self.env[x.node]
        if isinstance(x, (list, tuple)):
            return [self.resolve(item) for item in x]
        return x

    def warn(self, text):
        if text not in self.warnings:
            self.warnings.append(text)

    # Making Values.

    def as_value(self, x, kind=None):
        """A Value of a Value or a Python number."""
        if isinstance(x, Value):
            return x
        if isinstance(x, (RowNumbers,)):
            raise ExportError(ROW_NUMBERS, ROW_NUMBERS_REMEDY)
        if isinstance(x, (Rows, Unknown)):
            raise ExportError(f"the size of the batch ({x}) is used as data", "a row's score must not depend on how many rows are scored")
        if isinstance(x, Ids):
            raise ExportError(
                f"the jagged input {x.leaf} is used by something else than a pooled lookup",
                "use nn.EmbeddingBag, or pass the ids as a padded matrix [batch, length]",
            )
        if x is None:
            raise ExportError("an absent value is used")
        if kind is None:
            kind = "b" if isinstance(x, bool) else "i" if isinstance(x, int) else "f"
        array = np.asarray(x, dtype=np.float64 if kind == "f" else np.int64)
        return Value(self.graph.constant(array, literal=True), array.shape, kind)

    def constant(self, array, kind=None, literal=True):
        array = np.asarray(array)
        kind = kind or {"f": "f", "b": "b"}.get(array.dtype.kind, "i")
        array = array.astype(np.float64 if kind == "f" else np.int64)
        return Value(self.graph.constant(array, literal=literal), array.shape, kind)

    def array(self, x, what):
        """The numbers of a constant."""
        if isinstance(x, Value):
            if not x.constant or x.row is not None:
                raise ExportError(f"{what} depends on the inputs", f"{what} must be fixed when the model is exported")
            return x.term.array
        return np.asarray(x)

    def wrap(self, term, dims, kind=None):
        return Value(term, dims, kind or ("f" if term.dtype == "f32" else "i"))

    # Kinds.

    def to_kind(self, value, kind):
        if value.kind == kind:
            return value
        if kind == "f":
            return Value(self.graph.cast(value.term, "f32"), value.dims, "f")
        if kind == "b":
            zero = self.graph.constant(np.asarray(0.0 if value.kind == "f" else 0), literal=True)
            return Value(self.graph.emit("compare", {"a": value.term, "b": zero}, cmp="ne"), value.dims, "b")
        return Value(self.graph.cast(value.term, "i64"), value.dims, "i")

    def promote(self, values):
        """Values of one kind: float before integer before bool; bool counts as integer in arithmetic."""
        kind = "f" if any(v.kind == "f" for v in values) else "i"
        return [self.to_kind(v, kind) if v.kind == "f" or kind == "f" else v for v in values], kind

    # Layout.

    def aligned(self, values, what):
        """Terms that broadcast from the right as the Values do, and the dims of the result."""
        dims = broadcast_dims(values, what)
        terms = []
        for v in values:
            offset, shape = len(dims) - v.rank, []
            for i, d in enumerate(v.dims):
                target = dims[offset + i]
                if isinstance(d, Row):
                    shape += d.axes
                elif isinstance(target, Row):
                    shape += [1] * len(target.axes)
                else:
                    shape.append(d)
            while v.term.constant and shape and shape[0] == 1 and len(shape) > 0 and v.term.array.size == 1:
                shape = shape[1:]
            terms.append(self.graph.reshape(v.term, shape))
        return terms, dims

    def expand(self, value, dims, what):
        """The Value broadcast to dims."""
        ones = Value(self.graph.constant(np.zeros(shape_of(dims))), dims, "f")
        (term, _), out = self.aligned([value, ones], what)
        return Value(self.graph.broadcast(term, shape_of(out)), out, value.kind)

    def plain(self, value, what):
        """The Value with the batch in a dimension of its own, not merged with others."""
        if value.row is not None and value.dims[value.row] != Row():
            raise ExportError(
                f"{what} on a tensor whose batch dimension is merged with others {list(value.dims)}",
                "reshape to [batch, ..] before this operation",
            )
        return value

    def reshape(self, value, shape, what="a reshape"):
        dims = reshaped(value.dims, shape, what)
        return Value(self.graph.reshape(value.term, shape_of(dims)), dims, value.kind)

    def permute(self, value, perm):
        axes = [value.axes(d) for d in perm]
        return Value(self.graph.transpose(value.term, [a for group in axes for a in group]), [value.dims[d] for d in perm], value.kind)

    def squeeze(self, value, dim):
        dim = value.dim(dim)
        if isinstance(value.dims[dim], Row) or value.dims[dim] != 1:
            return value
        dims = value.dims[:dim] + value.dims[dim + 1 :]
        return Value(self.graph.reshape(value.term, shape_of(dims)), dims, value.kind)

    def unsqueeze(self, value, dim):
        dim = dim % (value.rank + 1)
        dims = value.dims[:dim] + (1,) + value.dims[dim:]
        return Value(self.graph.reshape(value.term, shape_of(dims)), dims, value.kind)

    def slice(self, value, dim, start, end, step=1):
        dim = value.dim(dim)
        d = value.dims[dim]
        if isinstance(d, Row):
            return self.slice_rows(value, dim, start, end, step)
        axis = value.axes(dim)[0]
        term = self.graph.slice(value.term, axis, start, end, step)
        return Value(term, value.dims[:dim] + (term.shape[axis],) + value.dims[dim + 1 :], value.kind)

    def slice_rows(self, value, dim, start, end, step):
        """A slice of the row dimension: all of it, or whole batches of an outer size."""
        d = value.dims[dim]
        start = 0 if start is None else start
        whole = end is None or end == Rows(d.outer * d.inner) or (isinstance(end, int) and end >= 2**62)
        if start == 0 and whole and step == 1:
            return value
        unit = d.inner
        outer = [d.outer if whole and x is end else x.factor / unit if isinstance(x, Rows) else 0 if x == 0 else None for x in (start, end)]
        if step != 1 or any(x is None or x != int(x) for x in outer):
            raise touches_rows(f"takes rows {start}:{end} of")
        a, b = int(outer[0]), int(outer[1])
        dims = value.dims[:dim] + (Row(b - a, unit),) + value.dims[dim + 1 :]
        term = self.graph.slice(value.term, value.axes(dim)[0], a, b) if d.outer > 1 else value.term
        return Value(self.graph.reshape(term, shape_of(dims)), dims, value.kind)

    def select(self, value, dim, index):
        dim = value.dim(dim)
        if isinstance(value.dims[dim], Row):
            raise touches_rows(f"takes row {index} of")
        if not isinstance(index, int):
            raise ExportError(f"an index that depends on the batch or on data: {index}", "use a fixed index, or torch.gather")
        size = value.dims[dim]
        index = index % size
        part = self.slice(value, dim, index, index + 1)
        return self.squeeze(part, dim)

    def concat(self, values, dim):
        values = [v for v in values if not (v.rank == 1 and v.dims[0] == 0)]
        dim = values[0].dim(dim)
        values, kind = self.promote(values) if len({v.kind for v in values}) > 1 else (values, values[0].kind)
        row = next((v.row for v in values if v.row is not None), None)
        if row is not None and any(v.row is None for v in values):
            # A constant beside rows: it has the size of the batch only through an input, so it must not be along it.
            if row == dim:
                raise touches_rows("appends rows to")
            raise ExportError("a constant is concatenated with values per row", "expand it to the batch first")
        d = values[0].dims[dim]
        if isinstance(d, Row):
            if len({v.dims[dim].inner for v in values}) != 1:
                raise touches_rows("appends rows to")
            total = Row(sum(v.dims[dim].outer for v in values), d.inner)
            lead = len(axes_of_prefix(values[0].dims, dim))
            parts = []
            for v in values:
                own = v.dims[dim]
                parts.append(
                    self.graph.reshape(v.term, v.term.shape[:lead] + (own.outer,) + ((own.inner,) if own.inner > 1 else ()) + tail(v, dim))
                )
            dims = values[0].dims[:dim] + (total,) + values[0].dims[dim + 1 :]
            return Value(self.graph.reshape(self.graph.concat(parts, lead), shape_of(dims)), dims, kind)
        axis = values[0].axes(dim)[0]
        term = self.graph.concat([v.term for v in values], axis)
        return Value(term, values[0].dims[:dim] + (term.shape[axis],) + values[0].dims[dim + 1 :], kind)


def stand_ins(trace, leaves):
    """What the input nodes stand for: columns, or parts of bags."""
    out, graph = {}, Graph()
    nodes = {node.name: node for node in trace.nodes}
    for name, leaf in zip(trace.inputs, leaves):
        node = nodes[name]
        if leaf.role != "rows":
            out[name] = Ids(leaf.feature, {"padded_weights": "weights"}.get(leaf.role, leaf.role))
            continue
        kind = kind_of(node.dtype)
        columns = np.arange(leaf.start, leaf.start + leaf.columns).reshape(leaf.shape)
        term = graph.columns(columns, "f32" if kind == "f" else "i64", raw_f32=kind == "f")
        out[name] = Value(term, (Row(),) + leaf.shape, kind)
    return out


def live_nodes(trace):
    """Nodes that an output needs: what a model computes for nobody is no reason to refuse it."""
    needed, live = set(), []
    collect(needed, [ref for _, ref in trace.outputs])
    for node in reversed(trace.nodes):
        if node.name in needed:
            live.append(node)
            collect(needed, list(node.args.values()))
    return live[::-1]


def collect(needed, x):
    if isinstance(x, Ref):
        needed.add(x.node)
    elif isinstance(x, (list, tuple)):
        for item in x:
            collect(needed, item)


def tail(value, dim):
    at = axes_of_prefix(value.dims, dim + 1)
    return value.term.shape[len(at) :]


def axes_of_prefix(dims, count):
    return [axis for d in dims[:count] for axis in (d.axes if isinstance(d, Row) else [d])]
