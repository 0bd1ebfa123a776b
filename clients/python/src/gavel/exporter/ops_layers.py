"""Normalisation, convolution, pooling, padding."""

import numpy as np

from .canonical import operator
from .errors import ExportError
from .layout import Row, Value, shape_of, touches_rows
from .ops_elementwise import binary, unary
from .ops_layout import gather_const
from .ops_reduce import reduced, variance


def pair(x, d):
    x = [x] if isinstance(x, int) else list(x)
    return x * d if len(x) == 1 else x


def optional(c, x):
    return None if x is None else c.as_value(x).term


@operator(
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "cudnn_batch_norm",
    "native_batch_norm",
    "instance_norm",
)
def batch_norm(c, node, a):
    x = c.to_kind(c.as_value(a["input"]), "f")
    training = a.get("training", a.get("use_input_stats", False)) or a.get("running_mean") is None
    if "instance_norm" in node.op:
        if not training:
            raise ExportError("instance norm with running statistics has no counterpart", "use batch norm")
        out = normalised(c, x, list(range(2, x.rank)), a.get("eps", 1e-5))
        return affine(c, out, a.get("weight"), a.get("bias"), 1)
    if training:
        raise ExportError(
            "batch norm normalises with the batch's own statistics", "call model.eval() before exporting, and keep track_running_stats=True"
        )
    axis = x.axis(1, "normalises")
    tensors = {"mean": a["running_mean"], "var": a["running_var"], "weight": a.get("weight"), "bias": a.get("bias")}
    tensors = {key: optional(c, t) for key, t in tensors.items()}
    term = c.graph.emit("batch_norm", {"in": x.term}, tensors, axis=axis, eps=a.get("eps", 1e-5))
    out = Value(term, x.dims, "f")
    return out if node.op.startswith("aten.batch_norm") else [out, None, None, None]


def affine(c, x, weight, bias, dim):
    for op, t in (("mul", weight), ("add", bias)):
        if t is not None:
            t = c.as_value(t)
            x = binary(c, op, x, c.reshape(t, [t.dims[0]] + [1] * (x.rank - dim - 1)))
    return x


def normalised(c, x, dims, eps):
    centred = binary(c, "sub", x, reduced(c, "reduce_mean", x, dims, True))
    return binary(c, "div", centred, unary(c, "sqrt", binary(c, "add", variance(c, x, dims, 0, True), eps)))


@operator("layer_norm", "native_layer_norm")
def layer_norm(c, node, a):
    x, count = c.to_kind(c.as_value(a["input"]), "f"), len(a["normalized_shape"])
    for dim in range(x.rank - count, x.rank):
        x.axis(dim, "normalises over")
    tensors = {"weight": optional(c, a.get("weight")), "bias": optional(c, a.get("bias"))}
    out = Value(
        c.graph.emit("layer_norm", {"in": x.term}, tensors, axes=count if count != 1 else None, eps=a.get("eps", 1e-5)), x.dims, "f"
    )
    return out if "native" not in node.op else [out, None, None]


@operator("rms_norm")
def rms_norm(c, node, a):
    x, count = c.to_kind(c.as_value(a["input"]), "f"), len(a["normalized_shape"])
    eps = a.get("eps")
    squares = reduced(c, "reduce_mean", binary(c, "mul", x, x), list(range(x.rank - count, x.rank)), True)
    out = binary(c, "div", x, unary(c, "sqrt", binary(c, "add", squares, 1.1920928955078125e-07 if eps is None else eps)))
    return out if a.get("weight") is None else binary(c, "mul", out, a["weight"])


@operator("group_norm")
def group_norm(c, node, a):
    x, groups = c.to_kind(c.as_value(a["input"]), "f"), a["num_groups"]
    if x.row != 0:
        raise touches_rows("normalises over")
    sizes = x.dims[1:]
    split = Value(
        c.graph.reshape(x.term, (groups, sizes[0] // groups) + sizes[1:]), (x.dims[0], groups, sizes[0] // groups) + sizes[1:], "f"
    )
    out = normalised(c, split, list(range(2, split.rank)), a.get("eps", 1e-5))
    out = Value(c.graph.reshape(out.term, sizes), x.dims, "f")
    return affine(c, out, a.get("weight"), a.get("bias"), 1)


@operator("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def conv(c, node, a):
    x, weight = c.to_kind(c.as_value(a["input"]), "f"), c.as_value(a["weight"])
    if a.get("transposed"):
        raise ExportError("a transposed convolution has no counterpart in a bundle", "use a linear layer")
    if not weight.constant:
        raise ExportError("a convolution whose kernel is computed from the inputs", "write it as a product: torch.bmm or torch.einsum")
    d = weight.rank - 2
    for dim in range(x.rank - d - 1, x.rank):
        x.axis(dim, "convolves over")
    padding = a.get("padding", 0)
    dilations, strides = pair(a.get("dilation", 1), d), pair(a.get("stride", 1), d)
    if isinstance(padding, str):
        spans = [(k - 1) * s for k, s in zip(weight.dims[2:], dilations)]
        pads = [0] * (2 * d) if padding == "valid" else [s // 2 for s in spans] + [s - s // 2 for s in spans]
    else:
        pads = pair(padding, d) * 2
    bias = optional(c, a.get("bias"))
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "groups": a.get("groups", 1)}
    defaults = {"strides": [1] * d, "dilations": [1] * d, "pads": [0] * (2 * d), "groups": 1}
    attributes = {key: v for key, v in attributes.items() if v != defaults[key]}
    term = c.graph.emit("conv", {"in": x.term}, {"weight": weight.term, "bias": bias}, **attributes)
    return Value(term, x.dims[: x.rank - d - 1] + term.shape[len(term.shape) - d - 1 :], "f")


@operator(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool1d_with_indices"
)
def pool(c, node, a):
    name, x = node.op.split(".")[1], c.to_kind(c.as_value(a["self"]), "f")
    d = int(name.partition("pool")[2][0])
    for dim in range(x.rank - d - 1, x.rank):
        x.axis(dim, "pools over")
    if a.get("ceil_mode") or a.get("divisor_override"):
        raise ExportError("pooling with ceil_mode or divisor_override has no counterpart", "pad the input instead")
    kernel = pair(a["kernel_size"], d)
    attributes = {"kernel": kernel, "strides": pair(a.get("stride") or kernel, d), "pads": pair(a.get("padding", 0), d) * 2}
    if "max" in name:
        attributes |= {"dilations": pair(a.get("dilation", 1), d)}
    else:
        attributes |= {"count_include_pad": a.get("count_include_pad", True)}
    term = c.graph.emit("max_pool" if "max" in name else "avg_pool", {"in": x.term}, **attributes)
    out = Value(term, x.dims[: x.rank - d] + term.shape[len(term.shape) - d :], "f")
    return [out, None] if "indices" in name else out


@operator("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive_pool(c, node, a):
    name, x = node.op.split(".")[1], c.to_kind(c.as_value(a["self"]), "f")
    d = int(name.partition("pool")[2][0])
    sizes, ins = pair(a["output_size"], d), x.dims[-d:]
    if any(isinstance(i, Row) or i % o for i, o in zip(ins, sizes)):
        raise ExportError(f"adaptive pooling of {list(ins)} to {sizes}", "use sizes that divide evenly")
    kernel = [i // o for i, o in zip(ins, sizes)]
    term = c.graph.emit("max_pool" if "max" in name else "avg_pool", {"in": x.term}, kernel=kernel, strides=kernel)
    out = Value(term, x.dims[: x.rank - d] + tuple(sizes), "f")
    return [out, None] if "max" in name else out


@operator("pad", "constant_pad_nd")
def pad(c, node, a):
    x, pads = c.as_value(a["self"]), list(a["pad"])
    if a.get("mode", "constant") != "constant":
        return mirrored(c, x, pads, a["mode"])
    value = a.get("value") or 0
    before, after = [0] * len(x.term.shape), [0] * len(x.term.shape)
    out = x
    for i in range(len(pads) // 2):
        dim, (front, back) = x.rank - 1 - i, pads[2 * i : 2 * i + 2]
        if not front and not back:
            continue
        axis = x.axis(dim, "pads")
        if front < 0 or back < 0:
            size = out.dims[dim]
            out = c.slice(out, dim, max(-front, 0), size + min(back, 0))
        before[axis], after[axis] = max(front, 0), max(back, 0)
    if not any(before + after):
        return out
    if x.kind != "f":
        return padded_integers(c, x, pads, int(value))
    term = c.graph.emit("pad", {"in": out.term}, pads=before + after, value=value if value else None)
    dims = list(out.dims)
    for dim, d in enumerate(out.dims):
        if not isinstance(d, Row):
            axis = out.axes(dim)[0]
            dims[dim] = d + before[axis] + after[axis]
    return Value(term, dims, "f")


def mirrored(c, x, pads, mode):
    """Padding with elements of the tensor itself."""
    for i in range(len(pads) // 2):
        dim, (front, back) = x.rank - 1 - i, pads[2 * i : 2 * i + 2]
        x.axis(dim, "pads")
        size = x.dims[dim]
        places = np.arange(-front, size + back)
        if mode == "replicate":
            places = places.clip(0, size - 1)
        elif mode == "circular":
            places = places % size
        elif mode == "reflect":
            places = size - 1 - np.abs(size - 1 - np.abs(places))
        else:
            raise ExportError(f"padding of mode {mode} has no counterpart in a bundle", "pad with a constant")
        x = gather_const(c, x, dim, places.tolist())
    return x


def padded_integers(c, x, pads, value):
    for i in range(len(pads) // 2):
        dim, (front, back) = x.rank - 1 - i, pads[2 * i : 2 * i + 2]
        x = c.slice(x, dim, max(-front, 0), x.dims[dim] + min(back, 0)) if front < 0 or back < 0 else x
        beside = lambda n: c.expand(c.as_value(value, "i"), x.dims[:dim] + (n,) + x.dims[dim + 1 :], "padding")
        parts = [beside(front)] if front > 0 else []
        parts += [Value(x.term, x.dims, "i")] + ([beside(back)] if back > 0 else [])
        x = c.concat(parts, dim)
    return x


@operator("unfold")
def unfold(c, node, a):
    x, dim, size, step = c.as_value(a["self"]), a["dimension"], a["size"], a["step"]
    dim = x.dim(dim)
    x.axis(dim, "takes windows of")
    starts = range(0, x.dims[dim] - size + 1, step)
    picked = gather_const(c, x, dim, [s + i for s in starts for i in range(size)])
    dims = picked.dims[:dim] + (len(starts), size) + picked.dims[dim + 1 :]
    split = Value(c.graph.reshape(picked.term, shape_of(dims)), dims, x.kind)
    return c.permute(split, [d for d in range(split.rank) if d != dim + 1] + [dim + 1])


@operator("one_hot")
def one_hot(c, node, a):
    x = c.as_value(a["self"])
    depth = a.get("num_classes", -1)
    if depth == -1:
        raise ExportError("one_hot without num_classes depends on the largest id of the batch", "pass num_classes")
    term = c.graph.emit("one_hot", {"in": x.term}, depth=depth)
    return c.to_kind(Value(term, x.dims + (depth,), "f"), "i")
