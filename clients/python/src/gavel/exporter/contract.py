"""Products of tensors: everything from mm to einsum becomes one contraction over labels, then linear, matmul or mul and reduce_sum.

The label of the batch must be one of the result's; it is then dropped from all operands, which leaves a contraction per row.
"""

import math

from .errors import ExportError
from .layout import Row, Value, shape_of, touches_rows


def contract(c, a, la, b, lb, lo):
    """Sum over labels. `a`, `b`: Values with the labels `la`, `lb`, one a dimension; `lo`: labels of the result. Gives a Value of dims
    lo."""
    (a, b), _ = c.promote([a, b])
    sizes, rows = {}, None
    for value, labels in ((a, la), (b, lb)):
        for d, label in zip(value.dims, labels):
            if isinstance(d, Row):
                if rows is not None and rows[0] != label or label not in lo:
                    raise touches_rows("multiplies rows with other rows of")
                if rows is not None and rows[1] != d:
                    raise touches_rows("multiplies rows in different order along")
                rows = (label, d)
            elif sizes.setdefault(label, d) != d:
                if d != 1 and sizes[label] != 1:
                    raise ExportError(f"a product of dimensions {sizes[label]} and {d}")
                sizes[label] = max(d, sizes[label])
    if rows is not None:
        sizes[rows[0]] = rows[1]
        for value, labels in ((a, la), (b, lb)):
            for d, label in zip(value.dims, labels):
                if label == rows[0] and not isinstance(d, Row) and d != 1:
                    raise touches_rows("multiplies rows with a fixed number of others along")
    a, la = drop_ones(c, a, la, sizes)
    b, lb = drop_ones(c, b, lb, sizes)
    dims = [sizes[label] for label in lo]
    ta, la = splittouches_rows(a, la, rows)
    tb, lb = splittouches_rows(b, lb, rows)
    out = [axis for label in lo for axis in (row_labels(rows) if rows and label == rows[0] else [label])]
    # A label that both operands broadcast along has size 1: it comes back with the reshape.
    term = product(c.graph, ta, la, tb, lb, [label for label in out if label in la or label in lb])
    return Value(c.graph.reshape(term, shape_of(dims)), dims, "f")


def drop_ones(c, value, labels, sizes):
    """Without dimensions of size 1 that broadcast."""
    for dim in reversed(range(value.rank)):
        d = value.dims[dim]
        if not isinstance(d, Row) and d == 1 and (isinstance(sizes[labels[dim]], Row) or sizes[labels[dim]] != 1):
            value = c.squeeze(value, dim)
            labels = labels[:dim] + labels[dim + 1 :]
    return value, labels


def row_labels(rows):
    label, d = rows
    return [f"{label}>"] * (d.outer > 1) + [f"{label}<"] * (d.inner > 1)


def splittouches_rows(value, labels, rows):
    out = []
    for d, label in zip(value.dims, labels):
        out += row_labels(rows) if isinstance(d, Row) else [label]
    return value.term, out


def sum_out(g, term, labels, keep):
    """Sums the axes that nothing else needs."""
    axes = [i for i, label in enumerate(labels) if label not in keep]
    if axes:
        term = g.emit("reduce_sum", {"in": term}, axes=axes)
    return term, [label for label in labels if label in keep]


def arrange(g, term, labels, groups):
    """The term with its axes in the order of groups, each group merged into one axis."""
    order = [label for group in groups for label in group]
    sizes = dict(zip(labels, term.shape))
    term = g.transpose(term, [labels.index(label) for label in order])
    return g.reshape(term, [math.prod(sizes[label] for label in group) for group in groups])


def product(g, a, la, b, lb, lo):
    """A contraction of two Terms per row."""
    a, la = sum_out(g, a, la, set(lb) | set(lo))
    b, lb = sum_out(g, b, lb, set(la) | set(lo))
    sizes = dict(zip(la, a.shape)) | dict(zip(lb, b.shape))
    both = [label for label in la if label in lb]
    batch, summed = [label for label in both if label in lo], [label for label in both if label not in lo]
    left, right = [label for label in la if label not in lb], [label for label in lb if label not in la]
    if not summed:
        return elementwise(g, a, la, b, lb, lo)
    # The weight of a linear layer is the constant operand without batch labels.
    if (a.constant or b.constant) and not batch and not (a.constant and b.constant):
        if a.constant:
            a, la, left, b, lb, right = b, lb, right, a, la, left
        summed = [label for label in la if label in summed]
        left = [label for label in left]
        right = [label for label in lo if label in right]
        x = arrange(g, a, la, [[label] for label in left] + [summed])
        weight = b if lb == right + summed and len(right) == len(summed) == 1 else arrange(g, b, lb, [right, summed])
        out = g.emit("linear", {"in": x}, {"weight": weight})
        made = left + right
        out = g.reshape(out, [sizes[label] for label in made])
        return g.transpose(out, [made.index(label) for label in lo])
    if not left and not right:
        out, made = sum_out(g, elementwise(g, a, la, b, lb, batch + summed), batch + summed, set(batch))
        return g.transpose(out, [made.index(label) for label in lo])
    batch = [label for label in lo if label in batch]
    left, right = [label for label in lo if label in left], [label for label in lo if label in right]
    # Whichever order needs no transpose of the result comes first.
    if right and left and lo.index(right[0]) < lo.index(left[0]):
        a, la, left, b, lb, right = b, lb, right, a, la, left
    lead = [[label] for label in batch]
    natural = lambda labels, first, second: (
        [x for x in labels if x in second] + [x for x in labels if x in first] == [x for x in labels if x not in batch]
    )
    summed = [label for label in la if label in summed]
    if natural(la, left, summed) and left:
        a = g.transpose(arrange(g, a, la, lead + [summed, left]), list(range(len(batch))) + [len(batch) + 1, len(batch)])
    else:
        a = arrange(g, a, la, lead + [left, summed])
    if natural(lb, summed, right) and right:
        b = g.transpose(arrange(g, b, lb, lead + [right, summed]), list(range(len(batch))) + [len(batch) + 1, len(batch)])
    else:
        b = arrange(g, b, lb, lead + [summed, right])
    out = g.matmul(a, b)
    made = batch + left + right
    out = g.reshape(out, [sizes[label] for label in made])
    return g.transpose(out, [made.index(label) for label in lo])


def elementwise(g, a, la, b, lb, lo):
    """No label is summed: a product with broadcasting."""

    def spread(term, labels):
        order = [label for label in lo if label in labels]
        term = g.transpose(term, [labels.index(label) for label in order])
        sizes = dict(zip(order, term.shape))
        shape = [sizes.get(label, 1) for label in lo]
        while len(shape) > 1 and lo[len(lo) - len(shape)] not in labels:
            shape = shape[1:]
        return g.reshape(term, shape)

    out = g.binary("mul", spread(a, la), spread(b, lb))
    return out
