"""Elementwise arithmetic, comparisons, logic, activations."""

import math

import numpy as np

from .canonical import operator
from .errors import ExportError
from .layout import Value, shape_of


def unary(c, op, x):
    x = c.to_kind(c.as_value(x), "f")
    return Value(c.graph.unary(op, x.term), x.dims, "f")


def binary(c, op, a, b, kind=None):
    """A binary op with torch's promotion; `kind` forces the type of the operands."""
    values = [c.as_value(a), c.as_value(b)]
    if kind is None:
        values, kind = c.promote(values)
    else:
        values = [c.to_kind(v, kind) for v in values]
    (a, b), dims = c.aligned(values, op)
    term = c.graph.binary(op, a, b)
    if term.shape != shape_of(dims):
        term = c.graph.broadcast(term, shape_of(dims))
    return Value(term, dims, kind)


def scaled(c, x, factor):
    return x if factor in (None, 1) else binary(c, "mul", x, factor)


@operator("relu", "sigmoid", "tanh", "exp", "log", "sqrt", "sin", "cos", "erf", "special_erf.default", "special_expit.default")
def same_name(c, node, a):
    name = node.op.split(".")[1].rstrip("_").removeprefix("special_")
    x = c.as_value(a["self"])
    if name == "relu" and x.kind != "f":
        return binary(c, "max", x, 0)
    return unary(c, {"expit": "sigmoid"}.get(name, name), x)


@operator("abs", "floor", "sign", "ceil", "trunc", "fix")
def integer_too(c, node, a):
    name = node.op.split(".")[1].rstrip("_")
    x = c.as_value(a["self"])
    if x.kind != "f":
        if name == "abs":
            return binary(c, "max", x, binary(c, "mul", x, -1))
        if name == "sign":
            return clamp(c, x, -1, 1)
        return x
    if name == "ceil":
        return negative(c, unary(c, "floor", negative(c, x)))
    if name in ("trunc", "fix"):
        return where(c, binary_compare(c, "lt", x, 0.0), negative(c, unary(c, "floor", negative(c, x))), unary(c, "floor", x))
    return unary(c, name, x)


def negative(c, x):
    return binary(c, "mul", x, -1)


@operator("neg", "negative")
def neg(c, node, a):
    return negative(c, a["self"])


@operator("positive", "real")
def positive(c, node, a):
    return a["self"]


@operator("reciprocal")
def reciprocal(c, node, a):
    return binary(c, "div", 1.0, a["self"], "f")


@operator("rsqrt")
def rsqrt(c, node, a):
    return binary(c, "div", 1.0, unary(c, "sqrt", a["self"]), "f")


@operator("square")
def square(c, node, a):
    return binary(c, "mul", a["self"], a["self"])


@operator("log1p")
def log1p(c, node, a):
    return unary(c, "log", binary(c, "add", a["self"], 1.0, "f"))


@operator("log2", "log10")
def log_base(c, node, a):
    base = 2 if "log2" in node.op else 10
    return binary(c, "div", unary(c, "log", a["self"]), math.log(base), "f")


@operator("expm1")
def expm1(c, node, a):
    return binary(c, "sub", unary(c, "exp", a["self"]), 1.0, "f")


@operator("exp2")
def exp2(c, node, a):
    return unary(c, "exp", binary(c, "mul", a["self"], math.log(2.0), "f"))


@operator("sinh", "cosh", "tan", "erfc", "sinc")
def composed(c, node, a):
    name, x = node.op.split(".")[1].rstrip("_"), c.to_kind(c.as_value(a["self"]), "f")
    if name == "erfc":
        return binary(c, "sub", 1.0, unary(c, "erf", x))
    if name == "tan":
        return binary(c, "div", unary(c, "sin", x), unary(c, "cos", x))
    if name == "sinc":
        turned = scaled(c, x, math.pi)
        return where(c, binary_compare(c, "eq", x, 0.0), 1.0, binary(c, "div", unary(c, "sin", turned), turned))
    grown, shrunk = unary(c, "exp", x), unary(c, "exp", negative(c, x))
    return scaled(c, binary(c, "sub" if name == "sinh" else "add", grown, shrunk), 0.5)


@operator("round.default")
def rounded(c, node, a):
    """To the nearest whole number, halves to the even one."""
    x = c.as_value(a["self"])
    if x.kind != "f":
        return x
    down = unary(c, "floor", x)
    rest = binary(c, "sub", x, down)  # exact, where x + 0.5 is not
    half = binary(c, "add", down, binary(c, "mod", down, 2.0))
    up = where(c, binary_compare(c, "gt", rest, 0.5), binary(c, "add", down, 1.0), half)
    return where(c, binary_compare(c, "lt", rest, 0.5), down, up)


@operator("bucketize.Tensor", "searchsorted.Tensor")
def bucketize(c, node, a):
    """The number of boundaries below a value."""
    boundaries = c.as_value(a.get("boundaries", a.get("sorted_sequence")))
    numbers = np.sort(c.array(boundaries, "the boundaries of a bucketize"))
    if numbers.ndim != 1 or a.get("sorter") is not None:
        raise ExportError("boundaries that differ by row", "use one vector of boundaries")
    right = a.get("right", False) or a.get("side") == "right"
    x = c.as_value(a["self"])
    below = binary_compare(c, "le" if right else "lt", c.constant(numbers, boundaries.kind), c.unsqueeze(x, x.rank))
    from .ops_reduce import reduced

    return reduced(c, "reduce_sum", below, [-1])


@operator("add", "sub", "subtract", "rsub")
def add(c, node, a):
    name = node.op.split(".")[1].rstrip("_")
    x, y = a["self"], scaled(c, a["other"], a.get("alpha"))
    if name == "rsub":
        return binary(c, "sub", y, a["self"]) if a.get("alpha") in (None, 1) else binary(c, "sub", a["other"], scaled(c, x, a.get("alpha")))
    return binary(c, "add" if name == "add" else "sub", x, y)


@operator("mul", "multiply")
def mul(c, node, a):
    x, y = c.as_value(a["self"]), c.as_value(a["other"])
    if x.kind == "b" and y.kind == "b":
        return logical(c, "and", x, y)
    return binary(c, "mul", x, y)


@operator("div", "divide", "true_divide", "floor_divide")
def div(c, node, a):
    x, y = c.as_value(a["self"]), c.as_value(a["other"])
    mode = "floor" if "floor_divide" in node.op else a.get("rounding_mode")
    if mode is not None and x.kind != "f" and y.kind != "f":
        from .ops_integers import floor_divided, truncated

        return (floor_divided if mode == "floor" else truncated)(c, x, y)
    out = binary(c, "div", x, y, "f")
    if mode is None:
        return out
    if mode == "trunc":
        out = where(c, binary_compare(c, "lt", out, 0.0), negative(c, unary(c, "floor", negative(c, out))), unary(c, "floor", out))
    else:
        out = unary(c, "floor", out)
    return out


@operator("remainder")
def remainder(c, node, a):
    return binary(c, "mod", a["self"], a["other"])


@operator("fmod")
def fmod(c, node, a):
    x, y = c.as_value(a["self"]), c.as_value(a["other"])
    if x.kind != "f" and y.kind != "f":
        from .ops_integers import truncated

        return binary(c, "sub", x, binary(c, "mul", truncated(c, x, y), y))
    size = unary(c, "abs", y)
    x = c.to_kind(x, "f")
    return binary(c, "mul", unary(c, "sign", x), binary(c, "mod", unary(c, "abs", x), size))


@operator("pow", "float_power")
def power(c, node, a):
    x = a.get("self", a.get("base"))
    exponent = a["exponent"]
    base = c.as_value(x)
    if not isinstance(exponent, Value) and exponent == 2:
        return binary(c, "mul", base, base) if base.kind != "f" else binary(c, "pow", base, 2.0, "f")
    if not isinstance(exponent, Value) and exponent == 0.5:
        return unary(c, "sqrt", base)
    if base.kind != "f" and c.as_value(exponent).kind != "f":
        from .ops_integers import raised

        return raised(c, base, exponent)
    return binary(c, "pow", base, exponent, "f")


@operator("maximum", "minimum", "max.other", "min.other", "fmax", "fmin")
def extreme(c, node, a):
    name = node.op.split(".")[1]
    return binary(c, "max" if "max" in name else "min", a["self"], a["other"])


def clamp(c, x, low=None, high=None):
    x = c.as_value(x)
    if x.kind != "f" and isinstance(low, float) | isinstance(high, float):
        x = c.to_kind(x, "f")
    if any(isinstance(b, Value) for b in (low, high)) or x.kind != "f":
        x = x if low is None else binary(c, "max", x, low)
        return x if high is None else binary(c, "min", x, high)
    bounds = {key: spelled(float(b)) for key, b in (("min", low), ("max", high)) if b is not None}
    return Value(c.graph.emit("clamp", {"in": x.term}, **bounds), x.dims, "f")


def spelled(x):
    return "inf" if x == math.inf else "-inf" if x == -math.inf else x


@operator("clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6")
def clamps(c, node, a):
    name = node.op.split(".")[1].rstrip("_")
    if name == "relu6":
        return clamp(c, a["self"], 0.0, 6.0)
    if name == "hardtanh":
        return clamp(c, a["self"], a.get("min_val", -1.0), a.get("max_val", 1.0))
    return clamp(c, a["self"], a.get("min"), a.get("max"))


def binary_compare(c, cmp, a, b):
    values, _ = c.promote([c.as_value(a), c.as_value(b)])
    (a, b), dims = c.aligned(values, "a comparison")
    return Value(c.graph.emit("compare", {"a": a, "b": b}, cmp=cmp), dims, "b")


@operator("lt", "le", "gt", "ge", "eq", "ne", "less", "less_equal", "greater", "greater_equal", "not_equal")
def comparison(c, node, a):
    name = node.op.split(".")[1].rstrip("_")
    long = {"less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne"}
    return binary_compare(c, long.get(name, name), a["self"], a["other"])


def logical(c, op, a, b):
    values = [c.to_kind(c.as_value(v), "b") for v in (a, b)]
    (a, b), dims = c.aligned(values, op)
    return Value(c.graph.emit(op, {"a": a, "b": b}), dims, "b")


@operator("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
def logic(c, node, a):
    name = node.op.split(".")[1].strip("_")
    values = [c.as_value(a["self"]), c.as_value(a["other"])]
    if "logical" not in name and any(v.kind != "b" for v in values):
        from .ops_integers import masked

        rest = masked(c, *values) if "and" in name else None
        if rest is not None:
            return rest
        raise ExportError("bitwise arithmetic of integers has no counterpart in a bundle", "use comparisons and logical operations")
    return logical(c, name.split("_")[-1], *values)


def negated(c, x):
    x = c.to_kind(c.as_value(x), "b")
    return Value(c.graph.unary("not", x.term), x.dims, "b")


@operator("logical_not", "bitwise_not")
def logical_not(c, node, a):
    x = c.as_value(a["self"])
    if "bitwise" in node.op and x.kind != "b":
        return binary(c, "sub", -1, x)
    return negated(c, x)


@operator("isnan")
def isnan(c, node, a):
    return binary_compare(c, "ne", a["self"], a["self"])


@operator("isinf", "isfinite")
def isinf(c, node, a):
    x = c.to_kind(c.as_value(a["self"]), "f")
    return binary_compare(c, "eq" if "isinf" in node.op else "lt", unary(c, "abs", x), math.inf)


def where(c, cond, a, b):
    values, kind = c.promote([c.as_value(a), c.as_value(b)])
    (cond, a, b), dims = c.aligned([c.to_kind(c.as_value(cond), "b")] + values, "a choice")
    term = c.graph.emit("where", {"cond": cond, "a": a, "b": b})
    shape = shape_of(dims)
    if term.shape != shape:
        term = c.graph.broadcast(term, shape)
    return Value(term, dims, kind)


@operator("where")
def where_(c, node, a):
    x, y = c.as_value(a["self"]), c.as_value(a["other"])
    out = where(c, a["condition"], x, y)
    return c.to_kind(out, "b") if x.kind == y.kind == "b" else out


@operator("masked_fill")
def masked_fill(c, node, a):
    x, value = c.as_value(a["self"]), a["value"]
    if x.kind == "f":
        value = c.to_kind(c.as_value(value), "f")
    return where(c, a["mask"], value, x)


@operator("nan_to_num")
def nan_to_num(c, node, a):
    x = c.to_kind(c.as_value(a["self"]), "f")
    f32_max = float(np.finfo(np.float32).max)
    high, low = a.get("posinf"), a.get("neginf")
    out = where(c, binary_compare(c, "ne", x, x), a.get("nan") or 0.0, x)
    return clamp(c, out, low if low is not None else -f32_max, high if high is not None else f32_max)


@operator("addcmul", "addcdiv")
def addc(c, node, a):
    op = "mul" if "addcmul" in node.op else "div"
    return binary(c, "add", a["self"], scaled(c, binary(c, op, a["tensor1"], a["tensor2"]), a.get("value", 1)))


@operator("lerp")
def lerp(c, node, a):
    return binary(c, "add", a["self"], binary(c, "mul", a["weight"], binary(c, "sub", a["end"], a["self"])))


# Activations.


@operator("silu")
def silu(c, node, a):
    return binary(c, "mul", a["self"], unary(c, "sigmoid", a["self"]))


@operator("gelu")
def gelu(c, node, a):
    x = a["self"]
    if a.get("approximate", "none") == "tanh":
        cubed = binary(c, "mul", binary(c, "mul", x, x), x)
        inner = scaled(c, binary(c, "add", x, scaled(c, cubed, 0.044715)), math.sqrt(2 / math.pi))
        gate = unary(c, "tanh", inner)
    else:
        gate = unary(c, "erf", scaled(c, x, math.sqrt(0.5)))
    return binary(c, "mul", scaled(c, x, 0.5), binary(c, "add", gate, 1.0))


@operator("leaky_relu", "rrelu", "rrelu_with_noise")
def leaky_relu(c, node, a):
    x = c.as_value(a["self"])
    slope = a.get("negative_slope", 0.01) if "leaky" in node.op else (a.get("lower", 1 / 8) + a.get("upper", 1 / 3)) / 2
    slope = c.graph.constant(np.asarray([slope]))
    return Value(c.graph.emit("prelu", {"in": x.term}, {"slope": slope}), x.dims, "f")


@operator("prelu", "_prelu_kernel")
def prelu(c, node, a):
    x, weight = c.as_value(a["self"]), c.as_value(a["weight"])
    slope = c.array(weight, "the slope of a PReLU")
    if "kernel" in node.op:
        shape = slope.shape
    else:
        channel = 1 if x.rank > 1 else 0
        shape = [slope.size if i == channel and slope.size > 1 else 1 for i in range(x.rank)]
    dims = [d for d in shape]
    (x_term, slope_term), out = c.aligned([x, Value(c.graph.reshape(weight.term, shape), dims, "f")], "a PReLU")
    slope_term = _squeezed_front(c, slope_term)
    if slope_term.array.size == weight.term.array.size and slope_term.shape == weight.term.shape:
        slope_term = weight.term
    return Value(c.graph.emit("prelu", {"in": x_term}, {"slope": slope_term}), out, "f")


def _squeezed_front(c, term):
    shape = list(term.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return c.graph.reshape(term, shape or [1])


def _elu(c, x, alpha, scale=1.0, input_scale=1.0):
    x = c.to_kind(c.as_value(x), "f")
    grown = binary(c, "sub", unary(c, "exp", scaled(c, clamp(c, x, None, 0.0), input_scale)), 1.0)
    return scaled(c, where(c, binary_compare(c, "gt", x, 0.0), x, scaled(c, grown, alpha)), scale)


@operator("elu")
def elu(c, node, a):
    return _elu(c, a["self"], a.get("alpha", 1.0), a.get("scale", 1.0), a.get("input_scale", 1.0))


@operator("selu")
def selu(c, node, a):
    return _elu(c, a["self"], 1.6732632423543772, 1.0507009873554805)


@operator("celu")
def celu(c, node, a):
    alpha = a.get("alpha", 1.0)
    return _elu(c, a["self"], alpha, 1.0, 1 / alpha)


@operator("softplus")
def softplus(c, node, a):
    x, beta, threshold = c.as_value(a["self"]), a.get("beta", 1), a.get("threshold", 20)
    out = scaled(c, unary(c, "softplus", scaled(c, x, beta)), 1 / beta)
    # Behind the threshold torch gives x itself: exp(-20) away from it.
    return where(c, binary_compare(c, "gt", scaled(c, x, beta), float(threshold)), x, out)


@operator("hardsigmoid", "hardswish")
def hardsigmoid(c, node, a):
    gate = binary(c, "div", clamp(c, binary(c, "add", a["self"], 3.0, "f"), 0.0, 6.0), 6.0)
    return gate if "sigmoid" in node.op else binary(c, "mul", a["self"], gate)


@operator("mish")
def mish(c, node, a):
    return binary(c, "mul", a["self"], unary(c, "tanh", unary(c, "softplus", a["self"])))


@operator("log_sigmoid")
def log_sigmoid(c, node, a):
    return negative(c, unary(c, "softplus", negative(c, a["self"])))


@operator("logit", "special_logit.default")
def logit(c, node, a):
    x = a["self"] if a.get("eps") is None else clamp(c, a["self"], a["eps"], 1 - a["eps"])
    return unary(c, "log", binary(c, "div", x, binary(c, "sub", 1.0, x)))


@operator("softsign")
def softsign(c, node, a):
    return binary(c, "div", a["self"], binary(c, "add", unary(c, "abs", a["self"]), 1.0))


@operator("threshold")
def threshold(c, node, a):
    return where(c, binary_compare(c, "gt", a["self"], a["threshold"]), a["self"], float(a["value"]))


@operator("hardshrink", "softshrink")
def shrink(c, node, a):
    x, lambd = c.as_value(a["self"]), a.get("lambd", 0.5)
    small = binary_compare(c, "le", unary(c, "abs", x), float(lambd))
    kept = x if "hard" in node.op else binary(c, "sub", x, scaled(c, unary(c, "sign", x), lambd))
    return where(c, small, 0.0, kept)


@operator("glu")
def glu(c, node, a):
    x, dim = c.as_value(a["self"]), a.get("dim", -1)
    size = x.dims[x.dim(dim)]
    x.axis(dim, "splits")
    return binary(c, "mul", c.slice(x, dim, 0, size // 2), unary(c, "sigmoid", c.slice(x, dim, size // 2, size)))
