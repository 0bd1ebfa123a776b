"""Reductions, norms, order statistics, softmax."""

import math

from .canonical import operator
from .errors import ExportError
from .layout import Row, Value, touches_rows
from .ops_elementwise import binary, binary_compare, clamp, scaled, unary, where
from .ops_integers import small


def dims_given(x, dims):
    """Dimensions as a list of numbers; none given means all."""
    if dims is None or dims == []:
        return list(range(x.rank))
    return sorted(x.dim(d) for d in (dims if isinstance(dims, (list, tuple)) else [dims]))


def reduced(c, op, x, dims=None, keep=False):
    """A reduction over dimensions; the batch may not be among them."""
    x = c.as_value(x)
    dims = dims_given(x, dims)
    if any(isinstance(x.dims[d], Row) for d in dims):
        raise touches_rows("reduces over")
    if not dims:
        return x
    axes = [axis for d in dims for axis in x.axes(d)]
    term = c.graph.emit(op, {"in": x.term}, axes=axes, keep=keep or None)
    out = [1 if d in dims else size for d, size in enumerate(x.dims) if keep or d not in dims]
    return Value(term, out, x.kind if x.kind != "b" else "i")


def count(x, dims):
    return math.prod(x.dims[d] for d in dims_given(x, dims))


@operator("sum", "mean", "amax", "amin", "prod", "nansum")
def reduction(c, node, a):
    name = node.op.split(".")[1]
    x, dims, keep = c.as_value(a["self"]), a.get("dim"), a.get("keepdim", False)
    if name == "nansum":
        x = where(c, binary_compare(c, "ne", x, x), 0.0, x)
    if name in ("mean", "prod"):
        x = c.to_kind(x, "f")
    op = {
        "sum": "reduce_sum",
        "nansum": "reduce_sum",
        "mean": "reduce_mean",
        "amax": "reduce_max",
        "amin": "reduce_min",
        "prod": "reduce_prod",
    }[name]
    out = reduced(c, op, x, dims, keep)
    return out


@operator("max.dim", "min.dim", "max.default", "min.default")
def extreme(c, node, a):
    op, x = "reduce_max" if ".max." in node.op else "reduce_min", c.as_value(a["self"])
    if node.op.endswith(".default"):
        return reduced(c, op, x)
    keep = a.get("keepdim", False)
    return Pair(lambda: reduced(c, op, x, a["dim"], keep), lambda: best_index(c, x, a["dim"], "max" in op, keep))


class Pair:
    """Two results of which often one alone is read: made when read."""

    def __init__(self, *makers):
        self.makers, self.made = makers, {}

    def __getitem__(self, index):
        if index not in self.made:
            self.made[index] = self.makers[index]()
        return self.made[index]


def best_index(c, x, dim, largest, keep):
    dim = x.dim(dim)
    axis = x.axis(dim, "searches along")
    if x.kind == "i" and not small(c, x):
        # f32 would not tell large integers apart: the first that is the extreme.
        x, largest = binary_compare(c, "eq", x, reduced(c, "reduce_max" if largest else "reduce_min", x, [dim], True)), True
    x = c.to_kind(x, "f")
    term = c.graph.emit("argtopk", {"in": x.term}, axis=axis, k=1, largest=None if largest else False)
    out = Value(term, x.dims[:dim] + (1,) + x.dims[dim + 1 :], "i")
    return out if keep else c.squeeze(out, dim)


@operator("argmax", "argmin")
def argmax(c, node, a):
    x = c.as_value(a["self"])
    if a.get("dim") is None:
        raise touches_rows("searches along")
    return best_index(c, x, a["dim"], "max" in node.op, a.get("keepdim", False))


def top(c, x, k, dim, largest):
    dim = x.dim(dim)
    axis = x.axis(dim, "sorts")
    dims = x.dims[:dim] + (k,) + x.dims[dim + 1 :]
    attributes = {"axis": axis, "k": k, "largest": None if largest else False}
    if x.kind == "f":
        return Pair(
            lambda: Value(c.graph.emit("topk", {"in": x.term}, **attributes), dims, "f"),
            lambda: Value(c.graph.emit("argtopk", {"in": x.term}, **attributes), dims, "i"),
        )
    key = x if x.kind == "b" or small(c, x) else ranks(c, x, dim)
    order = lambda: Value(c.graph.emit("argtopk", {"in": c.to_kind(key, "f").term}, **attributes), dims, "i")
    return Pair(lambda: Value(c.graph.emit("take_along", {"in": x.term, "index": order().term}, axis=axis), dims, x.kind), order)


def ranks(c, x, dim):
    """How many elements along a dimension are less than each: orders integers that f32 would not tell apart."""
    less = binary_compare(c, "lt", c.unsqueeze(x, dim), c.unsqueeze(x, dim + 1))
    return reduced(c, "reduce_sum", less, [dim + 1])


@operator("topk")
def topk(c, node, a):
    x = c.as_value(a["self"])
    return top(c, x, a["k"], a.get("dim", -1), a.get("largest", True))


@operator("sort", "argsort")
def sort(c, node, a):
    x, dim = c.as_value(a["self"]), a.get("dim", -1)
    x.axis(dim, "sorts")
    pair = top(c, x, x.dims[x.dim(dim)], dim, a.get("descending", False))
    return pair if ".sort." in node.op else pair[1]


@operator("median.dim", "nanmedian.dim", "kthvalue")
def kth(c, node, a):
    """The k-th least along a dimension; the median is the lower one of the middle."""
    x, dim, keep = c.as_value(a["self"]), a.get("dim", -1), a.get("keepdim", False)
    x.axis(dim, "sorts")
    if "nanmedian" in node.op:
        raise ExportError("nanmedian has no counterpart in a bundle", "use torch.median")
    size = x.dims[x.dim(dim)]
    k = a["k"] if "k" in a else (size + 1) // 2
    pair = top(c, x, k, dim, False)
    last = lambda v: c.slice(v, dim, k - 1, k) if keep else c.select(v, dim, k - 1)
    return Pair(lambda: last(pair[0]), lambda: last(pair[1]))


@operator("any", "all")
def any_all(c, node, a):
    x = c.to_kind(c.as_value(a["self"]), "b")
    out = reduced(c, "reduce_max" if ".any." in node.op else "reduce_min", x, a.get("dim"), a.get("keepdim", False))
    return Value(out.term, out.dims, "b")


@operator("count_nonzero")
def count_nonzero(c, node, a):
    return reduced(c, "reduce_sum", c.to_kind(c.as_value(a["self"]), "b"), a.get("dim"))


@operator("norm", "linalg_vector_norm", "linalg_norm")
def norm(c, node, a):
    x, dims, keep = c.to_kind(c.as_value(a["self"]), "f"), a.get("dim"), a.get("keepdim", False)
    p = a.get("ord", a.get("p", 2))
    p = 2 if p is None else p
    if p == 2:
        return unary(c, "sqrt", reduced(c, "reduce_sum", binary(c, "mul", x, x), dims, keep))
    if p == 1:
        return reduced(c, "reduce_sum", unary(c, "abs", x), dims, keep)
    if p in (math.inf, -math.inf):
        return reduced(c, "reduce_max" if p > 0 else "reduce_min", unary(c, "abs", x), dims, keep)
    if p == 0:
        return c.to_kind(reduced(c, "reduce_sum", c.to_kind(x, "b"), dims, keep), "f")
    powers = reduced(c, "reduce_sum", binary(c, "pow", unary(c, "abs", x), float(p)), dims, keep)
    return binary(c, "pow", powers, 1.0 / p)


def variance(c, x, dims, correction, keep):
    centred = binary(c, "sub", x, reduced(c, "reduce_mean", x, dims, True))
    total = reduced(c, "reduce_sum", binary(c, "mul", centred, centred), dims, keep)
    return scaled(c, total, 1.0 / max(count(x, dims) - correction, 0)) if count(x, dims) > correction else binary(c, "div", total, 0.0)


def correction_of(a):
    given = a.get("correction")
    return (1 if a.get("unbiased", True) else 0) if given is None else given


@operator("var", "std", "var_mean", "std_mean")
def var(c, node, a):
    name = node.op.split(".")[1]
    x, dims, keep = c.to_kind(c.as_value(a["self"]), "f"), a.get("dim"), a.get("keepdim", False)
    if any(isinstance(x.dims[d], Row) for d in dims_given(x, dims)):
        raise touches_rows("reduces over")
    out = variance(c, x, dims, correction_of(a), keep)
    out = unary(c, "sqrt", out) if "std" in name else out
    return [out, reduced(c, "reduce_mean", x, dims, keep)] if "mean" in name else out


@operator("logsumexp")
def logsumexp(c, node, a):
    x, dims = c.to_kind(c.as_value(a["self"]), "f"), a["dim"]
    peak = reduced(c, "reduce_max", x, dims, True)
    # A peak of -inf (all terms are zero) must not give inf - inf.
    peak = where(c, binary_compare(c, "eq", peak, -math.inf), 0.0, peak)
    total = unary(c, "log", reduced(c, "reduce_sum", unary(c, "exp", binary(c, "sub", x, peak)), dims, True))
    out = binary(c, "add", total, peak)
    if not a.get("keepdim", False):
        for dim in reversed(dims_given(x, dims)):
            out = c.squeeze(out, dim)
    return out


@operator("softmax", "_softmax", "_safe_softmax", "special_softmax")
def softmax(c, node, a):
    x = c.to_kind(c.as_value(a["self"]), "f")
    if x.rank == 0:
        return c.constant(1.0)
    axis = x.axis(a["dim"], "normalises over")
    return Value(c.graph.emit("softmax", {"in": x.term}, axis=axis), x.dims, "f")


@operator("log_softmax", "_log_softmax", "special_log_softmax")
def log_softmax(c, node, a):
    x = c.to_kind(c.as_value(a["self"]), "f")
    x.axis(a["dim"], "normalises over")
    shifted = binary(c, "sub", x, reduced(c, "reduce_max", x, [a["dim"]], True))
    return binary(c, "sub", shifted, unary(c, "log", reduced(c, "reduce_sum", unary(c, "exp", shifted), [a["dim"]], True)))


@operator("cumsum")
def cumsum(c, node, a):
    x = c.as_value(a["self"])
    axis = x.axis(a["dim"], "sums along")
    return Value(c.graph.emit("cumsum", {"in": x.term}, axis=axis), x.dims, x.kind if x.kind != "b" else "i")


@operator("cosine_similarity")
def cosine_similarity(c, node, a):
    x, y, dim, eps = (c.to_kind(c.as_value(a[k]), "f") for k in ("x1", "x2")), None, a.get("dim", 1), a.get("eps", 1e-8)
    x, y = x
    dots = binary(c, "mul", x, y)
    dim = dim if dim < 0 else dim - max(x.rank, y.rank)
    sizes = [clamp(c, unary(c, "sqrt", reduced(c, "reduce_sum", binary(c, "mul", v, v), [dim])), eps, None) for v in (x, y)]
    return binary(c, "div", binary(c, "div", reduced(c, "reduce_sum", dots, [dim]), sizes[0]), sizes[1])


@operator("pairwise_distance")
def pairwise_distance(c, node, a):
    if a.get("p", 2) != 2:
        raise ExportError("a pairwise distance other than Euclid's", "write it with abs, pow and sum")
    d = binary(c, "add", binary(c, "sub", a["x1"], a["x2"]), a.get("eps", 1e-6), "f")
    return unary(c, "sqrt", reduced(c, "reduce_sum", binary(c, "mul", d, d), [-1], a.get("keepdim", False)))
