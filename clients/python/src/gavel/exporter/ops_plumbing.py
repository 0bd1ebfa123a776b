"""Plumbing that changes nothing, casts, and constants that the code states."""

import numpy as np

from .canonical import Ids, RowNumbers, kind_of, operator
from .errors import ExportError
from .layout import Row, Value, shape_of, touches_rows
from .trace import Rows, Unknown


@operator(
    "contiguous",
    "clone",
    "detach",
    "detach_",
    "alias",
    "lift_fresh_copy",
    "lift",
    "lift_fresh",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "view_as_real_copy",
    "requires_grad_",
    "resolve_conj",
    "resolve_neg",
    "data",
    "set_grad",
)
def same(c, node, a):
    if a.get("train") is True:
        raise ExportError("dropout is active", "call model.eval() before exporting")
    return a.get("self", a.get("input"))


@operator("native_dropout")
def native_dropout(c, node, a):
    if a.get("train"):
        raise ExportError("dropout is active", "call model.eval() before exporting")
    return [a["input"], None]


@operator("_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size", "_assert_async", "_assert_scalar", "guards")
def nothing(c, node, a):
    return None


@operator("to", "_to_copy", "type_as", "cpu", "float", "double", "half", "bfloat16", "long", "int", "bool", "to_dense")
def convert(c, node, a):
    x = a.get("self", a.get("input"))
    if isinstance(x, IdsList):
        return x
    if not isinstance(x, Value):
        if kind_of(node.dtype) != "i" and not isinstance(x, (Ids,)):
            return c.as_value(x)
        return x
    if node.dtype in ("float16", "bfloat16"):
        c.halves = True
    kind = kind_of(node.dtype)
    if kind == x.kind or {kind, x.kind} <= {"i", "b"} and kind == "i":
        made = Value(x.term, x.dims, kind)
    else:
        made = c.to_kind(x, kind)
    return made if x.kind == "b" else c.wrapped(made, node.dtype)


@operator(
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "randint_like",
    "bernoulli",
    "multinomial",
    "normal",
    "uniform",
    "exponential",
    "log_normal",
    "cauchy",
    "geometric",
    "poisson",
)
def random(c, node, a):
    raise ExportError(
        "random numbers are made in forward", "leave them out when model.eval() is on, or make them once and keep them as a buffer"
    )


class IdsList:
    """Jagged inputs on top of each other: [features, batch] of offsets, for instance."""

    def __init__(self, parts):
        self.parts = parts


# Constants.


def dims_of(c, node, sizes=None):
    """Dims of what a factory makes: rows where the size is the batch's."""
    dims = []
    for size in node.shape:
        if isinstance(size, Unknown):
            raise ExportError(f"a tensor is made with a size that depends on data ({size})", "make its size fixed")
        dims.append(Row(1, size.factor) if isinstance(size, Rows) else size)
    if sum(isinstance(d, Row) for d in dims) > 1:
        raise touches_rows("makes a table of rows by rows of")
    return dims


def filled(c, node, value):
    dims, kind = dims_of(c, node), kind_of(node.dtype)
    array = np.full(shape_of(dims), value, np.float64 if kind == "f" else np.int64)
    return Value(c.graph.constant(array, literal=True), dims, kind)


@operator("zeros", "zeros_like", "new_zeros", "zero", "empty", "empty_like", "new_empty", "zeros.default")
def zeros(c, node, a):
    return filled(c, node, 0)


@operator("ones", "ones_like", "new_ones")
def ones(c, node, a):
    return filled(c, node, 1)


@operator("full", "full_like", "new_full", "scalar_tensor", "fill")
def full(c, node, a):
    value = a.get("fill_value", a.get("value", a.get("s")))
    if isinstance(value, Value):
        value = c.array(value, "the value of a fill").reshape(()).item()
    if isinstance(value, (Rows, Unknown)):
        c.as_value(value)
    return filled(c, node, value)


@operator("arange", "range")
def arange(c, node, a):
    start, end, step = a.get("start", 0), a["end"], a.get("step", 1)
    if any(isinstance(x, (Rows, Unknown)) for x in (start, end, step)):
        size = node.shape[0] if node.shape else None
        if isinstance(start, int) and isinstance(end, Rows) and isinstance(step, int) and end.factor % step == 0 and start == 0:
            return RowNumbers(0, step, (Row(1, end.factor // step),))
        if isinstance(size, Rows) and isinstance(step, int) and isinstance(start, int):
            return RowNumbers(start, step, (Row(1, size.factor),))
        if start == 0 and isinstance(step, int) and isinstance(end, Unknown):
            return RowNumbers(0, step, extra=1)
        raise ExportError(f"arange({start}, {end}, {step}) depends on the batch", "rows come in any number: use fixed sizes")
    return c.constant(np.arange(start, end, step).astype(np.float64 if kind_of(node.dtype) == "f" else np.int64), kind_of(node.dtype))


@operator("linspace")
def linspace(c, node, a):
    return c.constant(np.linspace(a["start"], a["end"], a["steps"]), kind_of(node.dtype))


@operator("eye")
def eye(c, node, a):
    dims_of(c, node)
    if any(isinstance(size, Rows) for size in node.shape):
        raise touches_rows("makes a table of rows by rows of")
    return c.constant(np.eye(*[s for s in node.shape]), kind_of(node.dtype))


@operator("triu_indices", "tril_indices")
def triangle_indices(c, node, a):
    make = np.triu_indices if "triu" in node.op else np.tril_indices
    row, col = a["row"], a["col"]
    return c.constant(np.stack(make(row, a.get("offset", 0), col)).astype(np.int64))


@operator("triu", "tril")
def triangle(c, node, a):
    from .ops_elementwise import where

    x = c.as_value(a["self"])
    x.axis(-1, "takes a triangle of"), x.axis(-2, "takes a triangle of")
    mask = np.tri(x.dims[-2], x.dims[-1], a.get("diagonal", 0) - (1 if "triu" in node.op else 0), dtype=bool)
    mask = c.constant(~mask if "triu" in node.op else mask)
    out = where(c, mask, x, 0.0 if x.kind == "f" else 0)
    return Value(out.term, out.dims, x.kind)
