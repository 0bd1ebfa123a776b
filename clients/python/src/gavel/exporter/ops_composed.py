"""Operators that a bundle has no op for, made of those it has."""

import math

import numpy as np

from .canonical import operator
from .errors import ExportError
from .layout import Value
from .ops_elementwise import binary, binary_compare, logical, negated, negative, scaled, unary, where
from .ops_layout import gather_const
from .ops_products import linear, matmul
from .ops_reduce import reduced

STEPS_MAX = 256


def floating(c, x):
    return c.to_kind(c.as_value(x), "f")


@operator("asinh", "acosh", "atanh")
def inverse_hyperbolic(c, node, a):
    name, x = node.op.split(".")[1].rstrip("_"), floating(c, a["self"])
    if name == "atanh":
        return scaled(c, unary(c, "log", binary(c, "div", binary(c, "add", x, 1.0), binary(c, "sub", 1.0, x))), 0.5)
    root = unary(c, "sqrt", binary(c, "add", binary(c, "mul", x, x), 1.0 if name == "asinh" else -1.0))
    if name == "acosh":
        return unary(c, "log", binary(c, "add", x, root))
    # Of |x|, so that nothing cancels.
    return binary(c, "mul", unary(c, "sign", x), unary(c, "log", binary(c, "add", unary(c, "abs", x), root)))


@operator("xlogy", "special_xlogy")
def xlogy(c, node, a):
    x, y = floating(c, a["self"]), floating(c, a["other"])
    return where(c, binary_compare(c, "eq", x, 0.0), 0.0, binary(c, "mul", x, unary(c, "log", y)))


@operator("special_entr")
def entropy(c, node, a):
    x = floating(c, a["self"])
    out = negative(c, binary(c, "mul", x, unary(c, "log", x)))
    out = where(c, binary_compare(c, "eq", x, 0.0), 0.0, out)
    return where(c, binary_compare(c, "lt", x, 0.0), -math.inf, out)


@operator("hypot")
def hypot(c, node, a):
    squares = [binary(c, "mul", v, v) for v in (floating(c, a["self"]), floating(c, a["other"]))]
    return unary(c, "sqrt", binary(c, "add", *squares))


@operator("logaddexp", "logaddexp2")
def logaddexp(c, node, a):
    base = math.log(2.0) if "2" in node.op.split(".")[1] else 1.0
    x, y = (scaled(c, floating(c, a[key]), base) for key in ("self", "other"))
    apart = negative(c, unary(c, "abs", binary(c, "sub", x, y)))
    return scaled(c, binary(c, "add", binary(c, "max", x, y), unary(c, "softplus", apart)), 1 / base)


@operator("frac")
def frac(c, node, a):
    x = floating(c, a["self"])
    size = unary(c, "abs", x)
    return binary(c, "mul", unary(c, "sign", x), binary(c, "sub", size, unary(c, "floor", size)))


@operator("deg2rad", "rad2deg")
def degrees(c, node, a):
    return scaled(c, floating(c, a["self"]), math.pi / 180 if "deg2rad" in node.op else 180 / math.pi)


@operator("heaviside")
def heaviside(c, node, a):
    x = floating(c, a["self"])
    return where(c, binary_compare(c, "eq", x, 0.0), floating(c, a["values"]), c.to_kind(binary_compare(c, "gt", x, 0.0), "f"))


@operator("isin")
def isin(c, node, a):
    x, among = c.as_value(a["elements"]), np.unique(c.array(c.as_value(a["test_elements"]), "what isin looks for"))
    if not among.size:
        raise ExportError("isin among no elements", "leave it out")
    found = binary_compare(c, "eq", c.unsqueeze(x, x.rank), c.constant(among))
    found = reduced(c, "reduce_max", found, [-1])
    found = Value(found.term, found.dims, "b")
    return negated(c, found) if a.get("invert") else found


@operator("diff")
def diff(c, node, a):
    x, dim = c.as_value(a["self"]), a.get("dim", -1)
    x.axis(dim, "takes differences of")
    before, after = a.get("prepend"), a.get("append")
    if before is not None or after is not None:
        x = c.concat([c.as_value(v) for v in (before, x, after) if v is not None], dim)
    for _ in range(a.get("n", 1)):
        size = x.dims[x.dim(dim)]
        x = binary(c, "sub", c.slice(x, dim, 1, size), c.slice(x, dim, 0, size - 1))
    return x


@operator("cumprod", "cummax", "cummin")
def running(c, node, a):
    name, x, dim = node.op.split(".")[1].rstrip("_"), c.as_value(a["self"]), a["dim"]
    x.axis(dim, "runs along")
    size = x.dims[x.dim(dim)]
    if size > STEPS_MAX:
        raise ExportError(f"{name} over {size} elements: the exporter unrolls up to {STEPS_MAX}", "use fewer")
    op, out = {"cumprod": "mul", "cummax": "max", "cummin": "min"}[name], []
    for i in range(size):
        part = c.slice(x, dim, i, i + 1)
        out.append(binary(c, op, out[-1], part) if out else part)
    values = c.concat(out, dim)
    return values if name == "cumprod" else [values, None]


@operator("aminmax")
def aminmax(c, node, a):
    x, dims = c.as_value(a["self"]), a.get("dim")
    return [reduced(c, op, x, dims, a.get("keepdim", False)) for op in ("reduce_min", "reduce_max")]


@operator("cdist", "_cdist_forward", "_euclidean_dist")
def cdist(c, node, a):
    """Distances of the vectors of two lists: by differences, where products would cancel."""
    if a.get("p", 2.0) not in (1, 2):
        raise ExportError(f"distances of order {a['p']}", "use p=1 or p=2")
    x, y = floating(c, a["x1"]), floating(c, a["x2"])
    apart = binary(c, "sub", c.unsqueeze(x, x.rank - 1), c.unsqueeze(y, y.rank - 2))
    if a.get("p", 2.0) == 1:
        return reduced(c, "reduce_sum", unary(c, "abs", apart), [-1])
    return unary(c, "sqrt", reduced(c, "reduce_sum", binary(c, "mul", apart, apart), [-1]))


@operator("cross", "linalg_cross")
def cross(c, node, a):
    x, y = floating(c, a["self"]), floating(c, a["other"])
    dim = a.get("dim")
    dim = -1 if dim is None else dim
    turned = lambda v, by: gather_const(c, v, dim, [by % 3, (by + 1) % 3, (by + 2) % 3])
    return binary(
        c, "sub", binary(c, "mul", turned(x, 1), turned(y, 2)), binary(c, "mul", turned(x, 2), turned(y, 1))
    )


@operator("broadcast_tensors")
def broadcast_tensors(c, node, a):
    values = [c.as_value(x) for x in a["tensors"]]
    _, dims = c.aligned(values, "a broadcast")
    return [c.expand(v, dims, "a broadcast") for v in values]


@operator("index_add")
def index_add(c, node, a):
    """x with elements added at fixed places: sums over groups of fields."""
    x, src, dim = floating(c, a["self"]), floating(c, a["source"]), a["dim"]
    index = c.array(c.as_value(a["index"]), "the index of index_add")
    dim = x.dim(dim)
    x.axis(dim, "adds along")
    size = x.dims[dim]
    if index.min(initial=0) < 0 or index.max(initial=0) >= size:
        raise ExportError(f"an index {index.tolist()} is out of range for a dimension of {size}")
    order = [d for d in range(src.rank) if d != dim] + [dim]
    spread = (np.arange(size)[:, None] == index[None, :]).astype(np.float64)
    total = linear(c, c.permute(src, order), c.constant(spread, literal=False))
    return binary(c, "add", x, scaled(c, c.permute(total, np.argsort(order).tolist()), a.get("alpha", 1)))


@operator("isclose")
def isclose(c, node, a):
    x, y = floating(c, a["self"]), floating(c, a["other"])
    near = binary(c, "add", scaled(c, unary(c, "abs", y), a.get("rtol", 1e-5)), a.get("atol", 1e-8))
    near = binary_compare(c, "le", unary(c, "abs", binary(c, "sub", x, y)), near)
    return logical(c, "or", near, binary_compare(c, "eq", x, y))


@operator("linalg_multi_dot", "chain_matmul")
def multi_dot(c, node, a):
    values = [c.as_value(x) for x in a.get("tensors", a.get("matrices"))]
    out = values[0]
    for value in values[1:]:
        out = matmul(c, out, value)
    return out


@operator("signbit")
def signbit(c, node, a):
    x = floating(c, a["self"])
    # Of a negative zero too: 1 / -0 is -inf.
    return logical(c, "or", binary_compare(c, "lt", x, 0.0), binary_compare(c, "lt", binary(c, "div", 1.0, x), 0.0))
