"""Where the rows of the batch are in a traced tensor.

A bundle's values are per row; torch's tensors carry the batch as one of their dimensions, often the first, sometimes moved (attention
heads in front) or merged with others (view(batch * steps, dim)). A `Value` knows the dimension, so that every operator can prove that it
leaves rows apart.
"""

import math
from typing import NamedTuple

from .errors import ExportError
from .trace import Rows, Unknown


class Row(NamedTuple):
    """The dimension that holds the batch: outer * batch * inner, in this order of memory."""

    outer: int = 1
    inner: int = 1

    @property
    def axes(self):
        return [size for size in self if size > 1]


class Value:
    """A traced tensor. `term`: its value per row; `dims`: its dimensions, int or Row; `kind`: "f" float, "i" integer, "b" bool.

    The axes of the term are those of the dims, in order, where a Row stands for up to two axes (its outer and inner sizes above 1).
    """

    __slots__ = ("term", "dims", "kind")

    def __init__(self, term, dims, kind):
        self.term, self.dims, self.kind = term, tuple(dims), kind
        assert tuple(term.shape) == shape_of(self.dims), (term, dims)

    @property
    def rank(self):
        return len(self.dims)

    @property
    def row(self):
        """The number of the row dimension, None if no dimension depends on the batch."""
        return next((i for i, d in enumerate(self.dims) if isinstance(d, Row)), None)

    @property
    def constant(self):
        return self.term.constant

    def dim(self, written):
        return written % self.rank if self.rank else 0

    def axes(self, dim):
        """The axes of the term that a dimension stands for."""
        return axes_of(self.dims)[self.dim(dim)]

    def axis(self, dim, what):
        """The one axis of a dimension that is not the batch."""
        dim = self.dim(dim)
        if isinstance(self.dims[dim], Row):
            raise touches_rows(what)
        return self.axes(dim)[0]

    def __repr__(self):
        return f"{self.term!r} as {list(self.dims)}"


def touches_rows(what):
    return ExportError(
        f"the model {what} the batch: a row's score would depend on the rows it is scored with",
        "let every operation leave the batch dimension alone; the server puts rows of many requests into one batch",
    )


def shape_of(dims):
    return tuple(size for d in dims for size in (d.axes if isinstance(d, Row) else [d]))


def axes_of(dims):
    """dims -> list of lists of axes."""
    out, at = [], 0
    for d in dims:
        n = len(d.axes) if isinstance(d, Row) else 1
        out.append(list(range(at, at + n)))
        at += n
    return out


def same_shape(dims, shape):
    """Whether dims are what the trace says, as far as it knows."""
    if len(dims) != len(shape):
        return False
    for d, s in zip(dims, shape):
        if isinstance(s, Unknown):
            continue
        if isinstance(d, Row):
            if s != Rows(d.outer * d.inner):
                return False
        elif d != s:
            return False
    return True


def reshaped(dims, shape, what):
    """Dims of a tensor of `dims` seen with the sizes `shape`, in the same order of memory."""
    unknown = [i for i, size in enumerate(shape) if isinstance(size, Unknown)]
    if len(unknown) == 1:
        # Known from the rest: what torch could not count, the exporter may have.
        sizes = [s.factor if isinstance(s, Rows) else s for s in shape if not isinstance(s, Unknown)]
        total, rest = math.prod(shape_of(dims)), math.prod(sizes)
        if rest and total % rest == 0:
            shape = [total // rest if i == unknown[0] else size for i, size in enumerate(shape)]
    for size in shape:
        if isinstance(size, Unknown):
            raise ExportError(f"{what}: a size depends on data ({size})", "give the tensor a shape that only the batch varies")
    row = next((i for i, d in enumerate(dims) if isinstance(d, Row)), None)
    target = [i for i, size in enumerate(shape) if isinstance(size, Rows)]
    if row is None and not target:
        return list(shape)
    if row is None or len(target) != 1:
        raise touches_rows(f"folds {what}")
    at = target[0]
    before = dims[row].outer
    for d in dims[:row]:
        before *= d
    in_front = 1
    for size in shape[:at]:
        in_front *= size
    factor = shape[at].factor
    outer, rest = divmod(before, in_front)
    if rest or factor % outer:
        raise touches_rows("mixes other dimensions with")
    return list(shape[:at]) + [Row(outer, factor // outer)] + list(shape[at + 1 :])


def broadcast_dims(values, what):
    """The dims that several Values broadcast to."""
    rank = max((v.rank for v in values), default=0)
    out = [1] * rank
    for v in values:
        for i, d in enumerate(v.dims):
            at = rank - v.rank + i
            known = out[at]
            if d == 1 and not isinstance(d, Row):
                continue
            if known == 1 and not isinstance(known, Row):
                out[at] = d
            elif known != d:
                if isinstance(d, Row) and isinstance(known, Row):
                    raise touches_rows(f"combines rows in different order ({what}) along")
                raise ExportError(f"{what}: dimensions {known} and {d} do not broadcast")
    if sum(isinstance(d, Row) for d in out) > 1:
        raise touches_rows(f"pairs every row with every other ({what}) along")
    return out
