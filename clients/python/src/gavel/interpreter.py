"""A float64 interpreter of a bundle's graph, in numpy: what the exporter holds its own work against.

Values are arrays [rows, ...]: the row axis is always first here, also of constants (where it may be 1, and broadcasts). Semantics are
those of docs/bundle.md. Nothing is shared with the server's engines or its reference.
"""

import math

import numpy as np

from .rules import Features

NUMBERS = {"inf": math.inf, "-inf": -math.inf}
MISSING_I64 = np.iinfo(np.int64).min


def number(x):
    """A number of the manifest: JSON has no infinities, so they are strings."""
    return NUMBERS[x] if isinstance(x, str) else x


def is_number(x):
    return not isinstance(x, str) or x in NUMBERS


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def erf(x):
    return _erf(x)


_erf = np.vectorize(math.erf, otypes=[np.float64])

UNARY = {
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "erf": erf,
    "floor": np.floor,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.where(x < 0, 0.0, x),
    "sigmoid": sigmoid,
}

BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "mod": np.mod,
    "and": lambda a, b: ((a != 0) & (b != 0)).astype(np.int64),
    "or": lambda a, b: ((a != 0) | (b != 0)).astype(np.int64),
    "xor": lambda a, b: ((a != 0) ^ (b != 0)).astype(np.int64),
}

COMPARE = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}


def align(*arrays):
    """[rows, ...] arrays with the same rank: shapes of a row broadcast from the right, so axes are put in behind the row axis."""
    rank = max(np.ndim(a) for a in arrays)
    return [a if np.ndim(a) in (0, rank) else a.reshape(a.shape[:1] + (1,) * (rank - np.ndim(a)) + a.shape[1:]) for a in arrays]


def axis(written):
    return written if written < 0 else written + 1


def axes_of(step, x):
    axes = step.get("axes")
    return tuple(axis(a) for a in axes) if axes is not None else tuple(range(1, x.ndim))


def step_value(step, get, tensors, rows):
    """The value of one step of arithmetic or layout: everything but the reading of features.

    `get`: name of a value -> array [rows, ...]; `tensors`: name -> array.
    """
    op = step["op"]

    def value(key):
        return get(step[key])

    def operand(key):
        x = step[key]
        return number(x) if is_number(x) else get(x)

    def tensor(key):
        return tensors[step[key]] if key in step else None

    with np.errstate(all="ignore"):
        if op in UNARY:
            return UNARY[op](value("in"))
        if op in BINARY:
            return BINARY[op](*align(operand("a"), operand("b")))
        handler = HANDLERS.get(op)
        if handler is None:
            raise KeyError(f"unknown op {op}")
        return handler(step, value, operand, tensor, get, rows)


def _const(step, value, operand, tensor, get, rows):
    return tensor("tensor")[None]


def _fill(step, value, operand, tensor, get, rows):
    dtype = np.int64 if step.get("dtype", "f32") == "i64" else np.float64
    return np.full([1] + list(step.get("shape", [])), number(step["value"]), dtype)


def _iota(step, value, operand, tensor, get, rows):
    dtype = np.int64 if step.get("dtype", "f32") == "i64" else np.float64
    return (step.get("start", 0) + step.get("step", 1) * np.arange(step["size"])).astype(dtype)[None]


def _linear(step, value, operand, tensor, get, rows):
    out = value("in") @ tensor("weight").T
    return out if "bias" not in step else out + tensor("bias")


def _matmul(step, value, operand, tensor, get, rows):
    a, b = value("a"), value("b")
    row, column = a.ndim == 2, b.ndim == 2
    a = a[:, None, :] if row else a
    b = b[:, :, None] if column else b
    a = a.swapaxes(-1, -2) if step.get("transpose_a") else a
    b = b.swapaxes(-1, -2) if step.get("transpose_b") else b
    out = np.matmul(*align(a, b))
    out = out[..., 0] if column else out
    return (out[..., 0] if column else out[..., 0, :]) if row else out


def _compare(step, value, operand, tensor, get, rows):
    return COMPARE[step["cmp"]](*align(operand("a"), operand("b"))).astype(np.int64)


def _not(step, value, operand, tensor, get, rows):
    return (value("in") == 0).astype(np.int64)


def _where(step, value, operand, tensor, get, rows):
    cond, a, b = align(value("cond"), operand("a"), operand("b"))
    return np.where(cond != 0, a, b)


def _clamp(step, value, operand, tensor, get, rows):
    x = value("in")
    x = np.maximum(x, number(step["min"])) if "min" in step else x
    return np.minimum(x, number(step["max"])) if "max" in step else x


def _prelu(step, value, operand, tensor, get, rows):
    x, slope = align(value("in"), tensor("slope")[None])
    return np.where(x < 0, x * slope, x)


def softmax(x, along):
    top = x.max(along, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0))
    return e / e.sum(along, keepdims=True)


def _softmax(step, value, operand, tensor, get, rows):
    return softmax(value("in"), axis(step["axis"]))


def _batch_norm(step, value, operand, tensor, get, rows):
    x = value("in")
    along = axis(step.get("axis", -1)) % x.ndim
    shape = [1] * x.ndim
    shape[along] = -1
    at = lambda key: tensor(key).reshape(shape)
    out = (x - at("mean")) / np.sqrt(at("var") + step.get("eps", 1e-5))
    out = out * at("weight") if "weight" in step else out
    return out + at("bias") if "bias" in step else out


def _l2_norm(step, value, operand, tensor, get, rows):
    x = value("in")
    return x / np.maximum(np.sqrt((x * x).sum(axis(step["axis"]), keepdims=True)), step.get("eps", 1e-12))


def _reduce(function):
    def handler(step, value, operand, tensor, get, rows):
        x = value("in")
        return function(x, axis=axes_of(step, x), keepdims=step.get("keep", False))

    return handler


def _cumsum(step, value, operand, tensor, get, rows):
    x, along = value("in"), axis(step["axis"])
    x = np.flip(x, along) if step.get("reverse") else x
    out = np.cumsum(x, along)
    out = out - x if step.get("exclusive") else out
    return np.flip(out, along) if step.get("reverse") else out


def _windows(x, kernel, strides, pads, dilations, fill):
    """[.., s1..sd] -> [.., t1..td, k1..kd]."""
    d = len(kernel)
    x = np.pad(x, [(0, 0)] * (x.ndim - d) + list(zip(pads[:d], pads[d:])), constant_values=fill)
    spans = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations)]
    x = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(x.ndim - d, x.ndim)))
    lead = x.ndim - 2 * d
    return x[(slice(None),) * lead + tuple(slice(None, None, s) for s in strides) + tuple(slice(None, None, s) for s in dilations)]


def _conv(step, value, operand, tensor, get, rows):
    x, weight = value("in"), tensor("weight")
    d, groups = weight.ndim - 2, step.get("groups", 1)
    ones = [1] * d
    windows = _windows(
        x, weight.shape[2:], step.get("strides", ones), step.get("pads", [0] * (2 * d)), step.get("dilations", ones), 0.0
    )  # [.., C, t.., k..]
    lead = windows.shape[: -1 - 2 * d]
    outs, channels, o = windows.shape[-2 * d : -d], weight.shape[1], weight.shape[0] // groups
    windows = windows.reshape(lead + (groups, channels) + outs + weight.shape[2:])
    kernel = weight.reshape((groups, o, channels) + weight.shape[2:])
    t, k = "tuv"[:d], "xyz"[:d]
    out = np.einsum(f"...gc{t}{k},goc{k}->...go{t}", windows, kernel).reshape(lead + (groups * o,) + outs)
    return out if "bias" not in step else out + tensor("bias").reshape([-1] + ones)


def _pool(step, value, operand, tensor, get, rows):
    x, kernel = value("in"), step["kernel"]
    d = len(kernel)
    ones, none = [1] * d, [0] * (2 * d)
    strides, pads, dilations = step.get("strides", ones), step.get("pads", none), step.get("dilations", ones)
    along = tuple(range(-d, 0))
    if step["op"] == "max_pool":
        return _windows(x, kernel, strides, pads, dilations, -np.inf).max(along)
    total = _windows(x, kernel, strides, pads, dilations, 0.0).sum(along)
    if step.get("count_include_pad", False):
        return total / math.prod(kernel)
    return total / _windows(np.ones_like(x), kernel, strides, pads, dilations, 0.0).sum(along)


def _pad(step, value, operand, tensor, get, rows):
    x, pads = value("in"), step["pads"]
    n = len(pads) // 2
    return np.pad(x, [(0, 0)] + list(zip(pads[:n], pads[n:])), constant_values=number(step.get("value", 0)))


def _topk_order(step, x):
    along = axis(step["axis"])
    order = np.argsort(-x if step.get("largest", True) else x, axis=along, kind="stable")
    return np.take(order, np.arange(step["k"]), along), along


def _topk(step, value, operand, tensor, get, rows):
    x = value("in")
    order, along = _topk_order(step, x)
    return np.take_along_axis(x, order, along)


def _argtopk(step, value, operand, tensor, get, rows):
    return _topk_order(step, value("in"))[0].astype(np.int64)


def _layer_norm(step, value, operand, tensor, get, rows):
    x = value("in")
    along = tuple(range(-step.get("axes", 1), 0))
    centred = x - x.mean(along, keepdims=True)
    out = centred / np.sqrt((centred * centred).mean(along, keepdims=True) + step.get("eps", 1e-5))
    out = out * tensor("weight") if "weight" in step else out
    return out + tensor("bias") if "bias" in step else out


def _sdpa(step, value, operand, tensor, get, rows):
    q, k, v = align(value("q"), value("k"), value("v"))
    scores = q @ k.swapaxes(-1, -2) * step.get("scale", 1 / math.sqrt(q.shape[-1]))
    if "mask" in step:
        mask, scores = align(value("mask"), scores)
        scores = np.where(mask != 0, scores, -np.inf) if mask.dtype == np.int64 else scores + mask
    if step.get("causal"):
        scores = np.where(np.tril(np.ones(scores.shape[-2:])) != 0, scores, -np.inf)
    nothing = np.isneginf(scores).all(-1, keepdims=True)
    return np.where(nothing, 0.0, softmax(np.where(nothing, 0.0, scores), -1)) @ v


def _gru(step, value, operand, tensor, get, rows):
    x, w_ih, w_hh = value("in"), tensor("w_ih"), tensor("w_hh")
    hidden, kind = w_hh.shape[1], step.get("kind", "gru")
    n, steps = x.shape[:2]
    n = max(n, rows)
    x = np.broadcast_to(x, (n,) + x.shape[1:])
    b_ih = tensor("b_ih") if "b_ih" in step else np.zeros(3 * hidden)
    b_hh = tensor("b_hh") if "b_hh" in step else np.zeros(3 * hidden)
    h = np.broadcast_to(value("h0"), (n, hidden)) if "h0" in step else np.zeros((n, hidden))
    length = np.broadcast_to(value("length"), (n,)) if "length" in step else np.full(n, steps)
    attention = np.broadcast_to(value("attention"), (n, steps)) if "attention" in step else None
    out = np.zeros((n, steps, hidden))
    for t in reversed(range(steps)) if step.get("reverse") else range(steps):
        gi = x[:, t] @ w_ih.T + b_ih
        gh = h @ w_hh.T + b_hh
        r = sigmoid(gi[:, :hidden] + gh[:, :hidden])
        z = sigmoid(gi[:, hidden : 2 * hidden] + gh[:, hidden : 2 * hidden])
        if step.get("reset_after", True):
            new = np.tanh(gi[:, 2 * hidden :] + r * gh[:, 2 * hidden :])
        else:
            new = np.tanh(gi[:, 2 * hidden :] + b_hh[2 * hidden :] + (r * h) @ w_hh[2 * hidden :].T)
        if kind == "gru":
            after = (1 - z) * new + z * h
        else:
            u = attention[:, t, None] if kind == "agru" else attention[:, t, None] * z
            after = (1 - u) * h + u * new
        taken = (t < length)[:, None]
        h = np.where(taken, after, h)
        out[:, t] = np.where(taken, after, 0.0)
    return h if step.get("last") else out


def _missing(x):
    return np.nan if x.dtype == np.float64 else MISSING_I64


def _gather(step, value, operand, tensor, get, rows):
    x, index = value("in"), value("index")
    n = max(len(x), len(index))
    x, index = np.broadcast_to(x, (n,) + x.shape[1:]), np.broadcast_to(index, (n,) + index.shape[1:])
    along = axis(step["axis"]) % x.ndim
    size = x.shape[along]
    fine = (index >= 0) & (index < size)
    taken = np.stack([np.take(row, np.where(ok, i, 0), along - 1) for row, i, ok in zip(x, index, fine)])
    fine = fine.reshape((n,) + (1,) * (along - 1) + index.shape[1:] + (1,) * (x.ndim - along - 1))
    return np.where(fine, taken, _missing(x))


def _take_along(step, value, operand, tensor, get, rows):
    x, index = value("in"), value("index")
    n = max(len(x), len(index))
    x, index = np.broadcast_to(x, (n,) + x.shape[1:]), np.broadcast_to(index, (n,) + index.shape[1:])
    along = axis(step["axis"])
    fine = (index >= 0) & (index < x.shape[along])
    return np.where(fine, np.take_along_axis(x, np.where(fine, index, 0), along), _missing(x))


def _embedding(step, value, operand, tensor, get, rows):
    table, ids = tensors_of_table(step, tensor), value("in")
    fine = (ids >= 0) & (ids < len(table))
    return np.where(fine[..., None], table[np.where(fine, ids, 0)].astype(np.float64), np.nan)


def tensors_of_table(step, tensor):
    return tensor("table")


def _one_hot(step, value, operand, tensor, get, rows):
    hot = value("in")[..., None] == np.arange(step["depth"])
    return np.where(hot, float(step.get("on", 1)), float(step.get("off", 0)))


def _trees(step, value, operand, tensor, get, rows):
    x = value("in")
    feature, threshold, mode = tensor("feature"), tensor("threshold"), tensor("mode")
    yes, no, leaves = tensor("yes"), tensor("no"), tensor("leaves")
    missing = tensor("missing_yes") if "missing_yes" in step else np.zeros(len(mode), np.int64)
    tests = [None, np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    out = np.zeros((len(x), leaves.shape[1]))
    for i, row in enumerate(x):
        for node in tensor("roots"):
            while mode[node] != 0:
                seen = row[feature[node]]
                left = missing[node] != 0 if np.isnan(seen) else tests[mode[node]](seen, threshold[node])
                node = yes[node] if left else no[node]
            out[i] += leaves[feature[node]]
    return out


def _concat(step, value, operand, tensor, get, rows):
    parts = align(*[get(name) for name in step["in"]])
    n = max(len(part) for part in parts)
    return np.concatenate([np.broadcast_to(part, (n,) + part.shape[1:]) for part in parts], axis(step["axis"]))


def _slice(step, value, operand, tensor, get, rows):
    x = value("in")
    at = [slice(None)] * x.ndim
    at[axis(step["axis"])] = slice(step.get("start"), step.get("end"), step.get("step", 1))
    return x[tuple(at)]


def _reshape(step, value, operand, tensor, get, rows):
    x = value("in")
    return x.reshape([len(x)] + list(step["shape"]))


def _transpose(step, value, operand, tensor, get, rows):
    x = value("in")
    return x.transpose([0] + [p % (x.ndim - 1) + 1 for p in step["perm"]])


def _broadcast(step, value, operand, tensor, get, rows):
    x, shape = value("in"), list(step["shape"])
    x = x.reshape(x.shape[:1] + (1,) * (len(shape) + 1 - x.ndim) + x.shape[1:])
    return np.broadcast_to(x, [len(x)] + shape)


def _gather_const(step, value, operand, tensor, get, rows):
    return np.take(value("in"), step["indices"], axis(step["axis"]))


def _cast(step, value, operand, tensor, get, rows):
    x = value("in")
    return x.astype(np.float64) if step["to"] == "f32" else np.trunc(x).astype(np.int64)


HANDLERS = {
    "const": _const,
    "fill": _fill,
    "iota": _iota,
    "linear": _linear,
    "matmul": _matmul,
    "compare": _compare,
    "not": _not,
    "where": _where,
    "clamp": _clamp,
    "prelu": _prelu,
    "softmax": _softmax,
    "batch_norm": _batch_norm,
    "l2_norm": _l2_norm,
    "reduce_sum": _reduce(np.sum),
    "reduce_mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_prod": _reduce(np.prod),
    "cumsum": _cumsum,
    "conv": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "pad": _pad,
    "topk": _topk,
    "argtopk": _argtopk,
    "layer_norm": _layer_norm,
    "sdpa": _sdpa,
    "gru": _gru,
    "gather": _gather,
    "take_along": _take_along,
    "embedding": _embedding,
    "one_hot": _one_hot,
    "trees": _trees,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "gather_const": _gather_const,
    "cast": _cast,
}


def evaluate(manifest, tensors, inputs, tables=None):
    """Outputs of a bundle in float64: name -> array [rows].

    `manifest`: as in docs/bundle.md; `tensors`: name -> array, any dtype; `inputs`: name of a feature -> array [rows] or [rows, width],
    or (flat ids, lengths[, weights]); `tables`: values of tables by name, where they are not the plain tensor (quantised ones).
    """
    tensors = Widened(tensors)
    tables = {
        table["name"]: (tables or {}).get(table["name"], tensors.raw(table.get("tensor", table["name"]))) for table in manifest["tables"]
    }
    features = Features(manifest, tables, inputs)
    rows, values, last_use = features.rows, {}, {}
    for i, step in enumerate(manifest["graph"]):
        for name in read_values(step):
            last_use[name] = i
    kept = {output["value"] for output in manifest["outputs"]}
    for i, step in enumerate(manifest["graph"]):
        op = step["op"]
        if op == "dense":
            v = np.concatenate([features.dense(name) for name in step["features"]], 1)
        elif op == "integer":
            v = features.integer(step["feature"])
        elif op == "length":
            v = features.bag(step["feature"])[2]
        elif op == "lookup":
            if "feature" in step:
                v = features.lookup(step["feature"], step.get("pool"), step.get("table"))
            else:
                of = step.get("tables", [None] * len(step["features"]))
                v = np.stack([features.lookup(f, step.get("pool"), t) for f, t in zip(step["features"], of)], 1)
        elif op == "embedding":
            v = _embedding(
                {"in": step["in"], "table": 0}, lambda key: values[step[key]], None, lambda key: tables[step["table"]], None, rows
            )
        else:
            v = step_value(step, values.__getitem__, tensors, rows)
        values[step["out"]] = v
        for name in read_values(step):
            if last_use[name] == i and name not in kept:
                values.pop(name, None)
    return {output["name"]: np.broadcast_to(values[output["value"]].reshape(-1), (rows,)) for output in manifest["outputs"]}


def read_values(step):
    """Names of the values that a step reads."""
    op = step["op"]
    if op in ("dense", "integer", "lookup", "length", "const", "fill", "iota"):
        return []
    names = []
    for key in ("in", "a", "b", "cond", "index", "q", "k", "v", "mask", "h0", "length", "attention"):
        if key == "k" and op in ("topk", "argtopk"):
            continue
        x = step.get(key)
        if isinstance(x, list):
            names += [name for name in x if isinstance(name, str)]
        elif isinstance(x, str) and x not in NUMBERS:
            names.append(x)
    return names


class Widened(dict):
    """Tensors as float64 or int64, converted when they are read."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors = tensors

    def raw(self, name):
        return self.tensors[name]

    def __missing__(self, name):
        x = np.asarray(self.tensors[name])
        x = x.astype(np.int64 if x.dtype.kind in "iub" else np.float64)
        self[name] = x
        return x
