"""Linear layers and products of matrices."""

import numpy as np

from .canonical import operator
from .contract import contract
from .errors import ExportError
from .layout import Row, Value, broadcast_dims, shape_of, touches_rows
from .ops_elementwise import binary, scaled


def letters(n, first="a"):
    return [chr(ord(first) + i) for i in range(n)]


def matmul(c, a, b):
    """torch.matmul."""
    a, b = c.as_value(a), c.as_value(b)
    lead = max(a.rank, b.rank) - 2
    batch = letters(max(lead, 0), "p")
    la = (batch[len(batch) - (a.rank - 2) :] if a.rank > 2 else []) + (["m", "k"] if a.rank > 1 else ["k"])
    lb = (batch[len(batch) - (b.rank - 2) :] if b.rank > 2 else []) + (["k", "n"] if b.rank > 1 else ["k"])
    lo = batch + (["m"] if a.rank > 1 else []) + (["n"] if b.rank > 1 else [])
    return contract(c, a, la, b, lb, lo)


def linear(c, x, weight, bias=None):
    """x [.., i] · weight [o, i] + bias [o], one step where the weight is the model's."""
    x, weight = c.to_kind(c.as_value(x), "f"), c.as_value(weight)
    last = x.dims[-1]
    if weight.constant and weight.rank == 2 and not isinstance(last, Row) and (bias is None or c.as_value(bias).constant):
        tensors = {"weight": weight.term}
        if bias is not None:
            bias = c.as_value(bias)
            tensors["bias"] = c.graph.reshape(bias.term, [weight.dims[0]]) if bias.term.shape != (weight.dims[0],) else bias.term
        return Value(c.graph.emit("linear", {"in": x.term}, tensors), x.dims[:-1] + (weight.dims[0],), "f")
    labels = letters(x.rank - 1, "p")
    out = contract(c, x, labels + ["k"], weight, ["n", "k"] if weight.rank == 2 else ["k"], labels + (["n"] if weight.rank == 2 else []))
    return out if bias is None else binary(c, "add", out, bias)


@operator("linear")
def linear_(c, node, a):
    return linear(c, a["input"], a["weight"], a.get("bias"))


@operator("mm", "bmm", "matmul", "mv", "dot", "vdot", "inner", "linalg_matmul", "__matmul__")
def products(c, node, a):
    first = a.get("self", a.get("input"))
    second = next(a[key] for key in ("mat2", "other", "vec", "tensor") if key in a)
    if ".inner." in node.op:
        second = (
            c.permute(c.as_value(second), list(range(c.as_value(second).rank))[:-2] + [-1, -2]) if c.as_value(second).rank > 1 else second
        )
    x, w = c.as_value(first), c.as_value(second)
    if w.constant and w.rank == 2 and w.row is None and x.rank >= 2 and not isinstance(x.dims[-1], Row) and not x.constant:
        return linear(c, x, c.permute(w, [1, 0]))
    return matmul(c, x, w)


@operator("addmm", "addbmm", "baddbmm", "addmv")
def addmm(c, node, a):
    x, w = a.get("mat1", a.get("batch1", a.get("mat"))), a.get("mat2", a.get("batch2", a.get("vec")))
    if "addbmm" in node.op and "baddbmm" not in node.op:
        raise ExportError("addbmm sums over the batch", "use torch.baddbmm")
    alpha, beta, bias = a.get("alpha", 1), a.get("beta", 1), c.as_value(a["self"])
    x, w = c.as_value(x), c.as_value(w)
    plain = alpha == 1 and beta == 1 and w.constant and w.rank == 2 and bias.constant and bias.rank == 1 and bias.dims[0] == w.dims[1]
    if plain and not x.constant and not isinstance(x.dims[-1], Row):
        return linear(c, x, c.permute(w, [1, 0]), bias)
    return binary(c, "add", scaled(c, bias, beta), scaled(c, matmul(c, x, w), alpha))


@operator("einsum")
def einsum(c, node, a):
    equation, values = a["equation"].replace(" ", ""), [c.as_value(x) for x in a["tensors"]]
    terms, _, out = equation.partition("->")
    terms = terms.split(",")
    spread = max((v.rank - len(t.replace("...", "")) for v, t in zip(values, terms) if "..." in t), default=0)
    dots = [f"…{i}" for i in range(spread)]

    def labels(term, rank=None):
        before, found, after = term.partition("...")
        n = (rank - len(before) - len(after)) if rank is not None and found else spread
        return list(before) + (dots[spread - n :] if found else []) + list(after)

    ins = [labels(t, v.rank) for t, v in zip(terms, values)]
    if "->" in equation:
        out = labels(out)
    else:
        once = sorted(x for x in set("".join(terms).replace(".", "")) if sum(t.count(x) for t in terms) == 1)
        out = (dots if any("..." in t for t in terms) else []) + once
    values, ins = map(list, zip(*(diagonals(c, x, labels) for x, labels in zip(values, ins))))
    x, lx = values[0], ins[0]
    if len(values) == 1:
        for label, d in zip(lx, x.dims):
            if isinstance(d, Row) and label not in out:
                raise touches_rows("sums over")
        axes = [axis for i, label in enumerate(lx) if label not in out for axis in x.axes(i)]
        kept = [i for i, label in enumerate(lx) if label in out]
        term = c.graph.emit("reduce_sum", {"in": x.term}, axes=axes) if axes else x.term
        x = Value(term, [x.dims[i] for i in kept], x.kind)
        lx = [lx[i] for i in kept]
        return c.permute(x, [lx.index(label) for label in out])
    for i, (y, ly) in enumerate(zip(values[1:], ins[1:]), 1):
        later = {label for term in ins[i + 1 :] for label in term} | set(out)
        keep = [label for label in dict.fromkeys(lx + ly) if label in later] if i + 1 < len(values) else out
        x, lx = contract(c, x, lx, y, ly, keep), keep
    return x


def diagonals(c, x, labels):
    """The operand with every label once: "bii" takes a diagonal."""
    from .ops_layout import diagonal_of

    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            x = diagonal_of(c, x, i, j, 0)
            labels = [other for d, other in enumerate(labels) if d not in (i, j)] + [label]
    return x, labels


@operator("tensordot")
def tensordot(c, node, a):
    x, y = c.as_value(a["self"]), c.as_value(a["other"])
    dx, dy = [x.dim(d) for d in a["dims_self"]], [y.dim(d) for d in a["dims_other"]]
    lx, ly = letters(x.rank, "a"), letters(y.rank, "p")
    for i, j in zip(dx, dy):
        ly[j] = lx[i]
    out = [label for i, label in enumerate(lx) if i not in dx] + [label for j, label in enumerate(ly) if j not in dy]
    return contract(c, x, lx, y, ly, out)


@operator("outer", "ger")
def outer(c, node, a):
    return contract(c, c.as_value(a["self"]), ["a"], c.as_value(a.get("vec2")), ["b"], ["a", "b"])


@operator("bilinear")
def bilinear(c, node, a):
    x, y, weight = c.as_value(a["input1"]), c.as_value(a["input2"]), c.as_value(a["weight"])
    lead = letters(x.rank - 1, "p")
    half = contract(c, x, lead + ["i"], weight, ["o", "i", "j"], lead + ["o", "j"])
    out = contract(c, half, lead + ["o", "j"], y, lead + ["j"], lead + ["o"])
    return out if a.get("bias") is None else binary(c, "add", out, a["bias"])


@operator("scaled_dot_product_attention")
def sdpa(c, node, a):
    q, k, v = (c.to_kind(c.as_value(a[key]), "f") for key in ("query", "key", "value"))
    if a.get("dropout_p"):
        raise ExportError("attention with dropout", "call model.eval() before exporting")
    if a.get("enable_gqa"):
        raise ExportError("grouped-query attention has no counterpart", "repeat the keys and values to as many heads as the queries have")
    for x in (q, k, v):
        c.plain(x, "attention")
        x.axis(-1, "attends along"), x.axis(-2, "attends along")
    values, reads = [q, k, v], {}
    # The leading dimensions broadcast: those of the batch go away, others stay.
    lead = [Value(c.graph.constant(_zeros(x.dims[:-2])), x.dims[:-2], "f") for x in values]
    dims = broadcast_dims(lead, "attention")
    for key, x in zip("qkv", values):
        reads[key] = (
            c.expand(x, tuple(dims) + x.dims[-2:], "attention").term if x.rank == len(dims) + 2 and x.dims[:-2] != tuple(dims) else x.term
        )
    out_dims = tuple(dims) + (q.dims[-2], v.dims[-1])
    mask = a.get("attn_mask")
    if mask is not None:
        mask = c.as_value(mask)
        scores = tuple(dims) + (q.dims[-2], k.dims[-2])
        (term, _), _ = c.aligned([mask, Value(c.graph.constant(_zeros(scores)), scores, "f")], "a mask")
        reads["mask"] = term
    scale, causal = a.get("scale"), a.get("is_causal") or None
    return Value(c.graph.emit("sdpa", reads, scale=scale, causal=causal), out_dims, "f")


def _zeros(dims):
    return np.zeros(shape_of(dims))
