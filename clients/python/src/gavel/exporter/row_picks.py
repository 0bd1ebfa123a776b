"""x[torch.arange(batch), i]: an element of each row, at indices of the row's own."""

import numpy as np

from .bounds import bounds
from .canonical import ROW_NUMBERS, ROW_NUMBERS_REMEDY, RowNumbers
from .errors import ExportError
from .layout import Row, Value, broadcast_dims, shape_of
from .ops_elementwise import binary, binary_compare, logical, where
from .trace import Rows


def of_each_row(c, x, indices):
    """x[arange(batch), i, ..]; dimensions that are not indexed stay behind the indices' own."""
    dims, given, rest = row_indices(c, x, indices)
    if not given:
        out = c.reshape(x, [*_sizes(dims), *_sizes(x.dims[1:])], "an index") if all(d == 1 or isinstance(d, Row) for d in dims) else None
        if out is None:
            raise ExportError(ROW_NUMBERS, ROW_NUMBERS_REMEDY)
        return out
    sizes = [x.dims[d] for d, _ in given]
    moved = c.permute(x, [0] + [d for d, _ in given] + rest)
    left = tuple(x.dims[d] for d in rest)
    moved = Value(c.graph.reshape(moved.term, (int(np.prod(sizes)),) + left), (Row(), int(np.prod(sizes))) + left, x.kind)
    at = place(c, [i for _, i in given], sizes)
    at = c.expand(at, broadcast_dims([at, _like(c, dims)], "an index"), "an index")
    if at.constant:
        at = Value(c.graph.constant(at.term.array), at.dims, "i")
    term = c.graph.emit("gather", {"in": moved.term, "index": at.term}, axis=0)
    return Value(term, at.dims + left, x.kind)


def put_in_each_row(c, x, indices, value, accumulate):
    """x with x[arange(batch), i] = value, for one index per row."""
    dims, given, rest = row_indices(c, x, indices)
    if len(given) != 1 or any(not isinstance(d, Row) for d in dims):
        raise ExportError("an assignment to several picked elements of each row", "use torch.scatter along one dimension")
    (d, at), size = given[0], x.dims[given[0][0]]
    at = torch_index(c, at, size)
    hit = binary_compare(c, "eq", c.unsqueeze(c.expand(at, dims, "an index"), 1), c.constant(np.arange(size)))
    hit = Value(c.graph.reshape(hit.term, (size,) + (1,) * len(rest)), (Row(), size) + (1,) * len(rest), "b")
    moved = c.permute(x, [0, d] + rest)
    value = c.to_kind(value, x.kind)
    if value.rank and value.row is not None:
        value = c.unsqueeze(value, 1)
    out = where(c, hit, binary(c, "add", moved, value) if accumulate else value, moved)
    order = [0] + [2 + i for i in range(len(rest))]
    order.insert(d, 1)
    return c.permute(out, order)


def row_indices(c, x, indices):
    """(dims that the row's numbers have, [(dimension, index)] of the other indices, dimensions without an index)."""
    numbers = [i for i in indices if isinstance(i, RowNumbers)]
    if len(numbers) != 1 or not numbers[0].plain or indices[0] is not numbers[0] or x.row != 0 or x.dims[0] != Row():
        raise ExportError(ROW_NUMBERS, ROW_NUMBERS_REMEDY)
    given = [(d, c.as_value(i)) for d, i in enumerate(indices) if i is not None and d]
    if any(i.kind == "b" for _, i in given):
        raise ExportError("a mask picks elements: the result's size depends on data", "use torch.where or multiply with the mask")
    taken = [d for d, _ in given]
    return numbers[0].dims, given, [d for d in range(1, x.rank) if d not in taken]


def place(c, indices, sizes):
    """One index into merged dimensions; -1 too small where one of several is out of range, so that it picks no other element."""
    total = int(np.prod(sizes))
    if len(sizes) == 1:
        return torch_index(c, indices[0], sizes[0])
    at, good = None, None
    for index, size in zip(indices, sizes):
        index = torch_index(c, index, size)
        low, high = bounds(c.graph, index.term)
        if low < 0 or high >= size:
            inside = logical(c, "and", binary_compare(c, "ge", index, 0), binary_compare(c, "lt", index, size))
            good = inside if good is None else logical(c, "and", good, inside)
        at = index if at is None else binary(c, "add", binary(c, "mul", at, size), index)
    return at if good is None else where(c, good, at, -1 - total)


def torch_index(c, index, size):
    """An index as torch reads it: negative ones count from the end. What is out of range stays so: picking it gives NaN."""
    index = c.to_kind(index, "i")
    if bounds(c.graph, index.term)[0] >= 0:
        return index
    return where(c, binary_compare(c, "lt", index, 0), binary(c, "add", index, size), index)


def _like(c, dims):
    return Value(c.graph.constant(np.zeros(shape_of(dims))), dims, "f")


def _sizes(dims):
    return [Rows(d.outer * d.inner) if isinstance(d, Row) else d for d in dims]
