"""Moves of elements: nothing here computes."""

import numpy as np

from .canonical import Ids, RowNumbers, operator
from .errors import ExportError
from .layout import Row, Value, reshaped, same_shape, shape_of, touches_rows
from .ops_plumbing import IdsList, dims_of
from .trace import Rows, Unknown


@operator("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel", "_reshape_alias", "_reshape_copy")
def reshape(c, node, a):
    x = a.get("self", a.get("input"))
    if isinstance(x, RowNumbers) and not x.extra:
        return RowNumbers(x.start, x.step, reshaped(x.dims, node.shape, "a reshape"))
    if isinstance(x, Ids):
        return x
    x = c.as_value(x)
    if node.op.startswith("aten.view.dtype"):
        raise ExportError("the bits of a tensor are read as another type")
    return c.reshape(x, node.shape, "a reshape")


@operator("squeeze", "unsqueeze")
def squeeze(c, node, a):
    x = a["self"]
    if isinstance(x, RowNumbers) and not x.extra:
        return RowNumbers(x.start, x.step, reshaped(x.dims, node.shape, "a reshape"))
    if isinstance(x, Ids):
        return x
    return c.reshape(c.as_value(x), node.shape, "a reshape")


@operator("permute")
def permute(c, node, a):
    x = c.as_value(a["self"])
    return c.permute(x, [d % x.rank for d in a["dims"]])


@operator("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "movedim", "moveaxis", "adjoint")
def transpose(c, node, a):
    x = c.as_value(a["self"])
    name, perm = node.op.split(".")[1].rstrip("_"), list(range(x.rank))
    if name in ("t", "mT", "adjoint"):
        if x.rank > 1:
            perm[-1], perm[-2] = perm[-2], perm[-1]
    elif name == "numpy_T":
        perm.reverse()
    elif name in ("movedim", "moveaxis"):
        source, target = ([d] if isinstance(d, int) else list(d) for d in (a["source"], a["destination"]))
        source, target = [d % x.rank for d in source], [d % x.rank for d in target]
        rest = [d for d in perm if d not in source]
        for to, of in sorted(zip(target, source)):
            rest.insert(to, of)
        perm = rest
    else:
        i, j = (x.dim(a.get(key, a.get(other))) for key, other in (("dim0", "axis0"), ("dim1", "axis1")))
        perm[i], perm[j] = perm[j], perm[i]
    return c.permute(x, perm)


@operator("expand", "expand_as", "broadcast_to")
def expand(c, node, a):
    x = a["self"]
    if isinstance(x, RowNumbers) and not x.extra:
        return RowNumbers(x.start, x.step, dims_of(c, node))
    x = c.as_value(x)
    return c.expand(x, dims_of_like(c, node, x), "expand")


def dims_of_like(c, node, x):
    """Dims that the node's shape says, with the layout of x's row dimension where sizes agree."""
    dims = dims_of(c, node)
    for i in range(1, x.rank + 1):
        own = x.dims[-i]
        if isinstance(own, Row) and isinstance(dims[-i], Row) and own.outer * own.inner == dims[-i].inner:
            dims[-i] = own
    return dims


@operator("repeat", "tile")
def repeat(c, node, a):
    x, repeats = c.as_value(a["self"]), list(a.get("repeats", a.get("dims")))
    repeats = [1] * (x.rank - len(repeats)) + repeats
    while x.rank < len(repeats):
        x = c.unsqueeze(x, 0)
    for dim, n in enumerate(repeats):
        if n == 1 and not isinstance(n, Rows):
            continue
        size = x.dims[dim]
        if isinstance(size, Row):
            raise touches_rows("repeats") if size.outer != 1 or not isinstance(n, int) else touches_rows("repeats")
        if size == 1:
            dims = list(x.dims)
            dims[dim] = Row(1, n.factor) if isinstance(n, Rows) else n
            x = c.expand(x, dims, "repeat")
        elif isinstance(n, int):
            x = c.concat([x] * n, dim)
        else:
            y = c.unsqueeze(x, dim)
            dims = list(y.dims)
            dims[dim] = Row(1, n.factor)
            y = c.expand(y, dims, "repeat")
            shape = list(x.dims)
            shape[dim] = Rows(n.factor * size)
            x = c.reshape(y, [Rows(d.outer * d.inner) if isinstance(d, Row) else d for d in shape], "repeat")
    return x


@operator("repeat_interleave")
def repeat_interleave(c, node, a):
    x, n, dim = c.as_value(a["self"]), a.get("repeats"), a.get("dim")
    if not isinstance(n, int):
        n = c.array(n, "the repeats of repeat_interleave").reshape(-1)
        if dim is not None and len(set(n.tolist())) != 1:
            return gather_const(c, x, dim, np.repeat(np.arange(len(n)), n).tolist())
        n = int(n[0])
    if dim is None:
        raise touches_rows("flattens")
    dim = x.dim(dim)
    y = c.unsqueeze(x, dim + 1)
    dims = list(y.dims)
    dims[dim + 1] = n
    return c.reshape(c.expand(y, dims, "repeat"), node.shape, "repeat")


@operator("cat", "concat", "concatenate")
def cat(c, node, a):
    return c.concat([c.as_value(x) for x in a["tensors"]], a.get("dim", a.get("axis", 0)))


@operator("stack")
def stack(c, node, a):
    if all(isinstance(x, Ids) for x in a["tensors"]):
        return IdsList(a["tensors"])
    values = [c.as_value(x) for x in a["tensors"]]
    dim = a.get("dim", 0) % (values[0].rank + 1)
    return c.concat([c.unsqueeze(x, dim) for x in values], dim)


@operator("hstack", "vstack", "dstack", "column_stack")
def named_stack(c, node, a):
    values = [c.as_value(x) for x in a["tensors"]]
    name = node.op.split(".")[1]
    if name == "column_stack":
        values = [c.unsqueeze(x, 1) if x.rank == 1 else x for x in values]
    elif name == "dstack":
        values = [c.unsqueeze(c.unsqueeze(x, 0), 2) if x.rank == 1 else c.unsqueeze(x, 2) if x.rank == 2 else x for x in values]
        return c.concat(values, 2)
    elif name == "vstack":
        return c.concat([c.unsqueeze(x, 0) if x.rank == 1 else x for x in values], 0)
    return c.concat(values, 0 if values[0].rank == 1 else 1)


@operator("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")
def split(c, node, a):
    x, dim = c.as_value(a["self"]), a.get("dim", 0)
    dim = x.dim(dim)
    size, d = None, x.dims[dim]
    name = node.op.split(".")[1]
    if isinstance(d, Row):
        pieces = a.get("split_size", a.get("split_sizes", a.get("chunks")))
        if "chunk" in name and d.outer % pieces == 0:
            sizes = [Rows(d.outer * d.inner // pieces)] * pieces
        elif isinstance(pieces, Rows):
            sizes = [pieces] * (d.outer * d.inner // pieces.factor)
        elif isinstance(pieces, list) and all(isinstance(p, Rows) for p in pieces):
            sizes = pieces
        else:
            raise touches_rows("splits")
        out, at = [], 0
        for piece in sizes:
            out.append(c.slice_rows(x, dim, Rows(at) if at else 0, Rows(at + piece.factor), 1))
            at += piece.factor
        return out
    if name == "tensor_split":
        count = a.get("sections", a.get("tensor_indices_or_sections"))
        cuts = a.get("indices")
        if count is not None:
            count = int(c.array(count, "the sections of a split").reshape(())) if isinstance(count, Value) else count
            cuts = np.cumsum([d // count + (i < d % count) for i in range(count)]).tolist()[:-1]
        ends = [0, *(slice(None, cut).indices(d)[1] for cut in cuts), d]
        size = [max(end - start, 0) for start, end in zip(ends, ends[1:])]
    elif "chunk" in name:
        size = -(-d // a["chunks"])
    else:
        size = a.get("split_size", a.get("split_sizes", a.get("sizes")))
    if isinstance(size, int):
        sizes = [min(size, d - at) for at in range(0, d, size)]
    else:
        sizes = list(size)
    out, at = [], 0
    for n in sizes:
        out.append(c.slice(x, dim, at, at + n))
        at += n
    return out


@operator("unbind")
def unbind(c, node, a):
    x, dim = a["self"], a.get("dim", 0)
    if isinstance(x, IdsList) and dim == 0:
        return x.parts
    x = c.as_value(x)
    dim = x.dim(dim)
    if isinstance(x.dims[dim], Row):
        raise touches_rows("takes apart")
    return [c.select(x, dim, i) for i in range(x.dims[dim])]


@operator("select.int", "select_copy")
def select(c, node, a):
    if isinstance(a["self"], IdsList) and a["dim"] == 0:
        return a["self"].parts[a["index"]]
    return c.select(c.as_value(a["self"]), a["dim"], a["index"])


@operator("slice.Tensor", "slice_copy", "narrow")
def slice_(c, node, a):
    x, dim = a["self"], a.get("dim", 0)
    if isinstance(x, Ids):
        return x
    if isinstance(x, RowNumbers):
        whole = dim == 0 and a.get("start") in (None, 0) and a.get("step", 1) == 1
        if whole and (node.shape is None or same_shape((Row(),), node.shape)):
            return RowNumbers(x.start, x.step)  # also the offsets of bags without the end of the last
        c.as_value(x)
    x = c.as_value(x)
    start = a.get("start")
    end = start + a["length"] if "narrow" in node.op else a.get("end")
    d = x.dims[x.dim(dim)]
    if not isinstance(d, Row) and isinstance(end, int):
        end = min(end, d)
    if not isinstance(d, Row) and any(isinstance(x, (Rows, Unknown)) for x in (start, end)):
        raise ExportError(f"a slice {start}:{end} whose bounds depend on the batch", "slice with fixed bounds")
    return c.slice(x, dim, start, end, a.get("step", 1) or 1)


@operator("flip", "fliplr", "flipud")
def flip(c, node, a):
    x = c.as_value(a["self"])
    for dim in a.get("dims", [1 if ".fliplr." in node.op else 0]):
        x.axis(dim, "turns around")
        x = gather_const(c, x, dim, list(reversed(range(x.dims[x.dim(dim)]))))
    return x


@operator("roll")
def roll(c, node, a):
    x = c.as_value(a["self"])
    dims = a.get("dims") or []
    if not dims:
        raise touches_rows("rolls")
    for shift, dim in zip(a["shifts"], dims):
        x.axis(dim, "rolls")
        x = gather_const(c, x, dim, np.roll(np.arange(x.dims[x.dim(dim)]), shift).tolist())
    return x


def gather_const(c, x, dim, indices):
    dim = x.dim(dim)
    axis = x.axis(dim, "picks from")
    size = x.dims[dim]
    if any(not -size <= i < size for i in indices):
        raise ExportError(f"an index {indices} is out of range for a dimension of {size}")
    term = c.graph.gather_const(x.term, axis, indices)
    return Value(term, x.dims[:dim] + (len(indices),) + x.dims[dim + 1 :], x.kind)


@operator("index_select")
def index_select(c, node, a):
    x, index = c.as_value(a["self"]), c.as_value(a["index"])
    if x.constant and not index.constant:
        return lookup_constant(c, x, index, a["dim"], False)
    return gather_const(c, x, a["dim"], c.array(index, "the index of index_select").tolist())


def lookup_constant(c, x, index, dim, wraps):
    from .ops_lookup import take

    return take(c, x, index, dim, wraps)


@operator("diagonal")
def diagonal(c, node, a):
    return diagonal_of(c, c.as_value(a["self"]), a.get("dim1", 0), a.get("dim2", 1), a.get("offset", 0))


def diagonal_of(c, x, i, j, offset):
    i, j = x.dim(i), x.dim(j)
    x.axis(i, "takes the diagonal of"), x.axis(j, "takes the diagonal of")
    rows, cols = x.dims[i], x.dims[j]
    picks = [r * cols + r + offset for r in range(rows) if 0 <= r + offset < cols]
    rest = [d for d in range(x.rank) if d not in (i, j)]
    moved = c.permute(x, rest + [i, j])
    flat = Value(c.graph.reshape(moved.term, moved.term.shape[:-2] + (rows * cols,)), moved.dims[:-2] + (rows * cols,), x.kind)
    return gather_const(c, flat, -1, picks)


@operator("index.Tensor")
def index(c, node, a):
    """x[.., i, j, ..]: fixed indices pick elements; indices of the request itself look up."""
    x, indices = c.as_value(a["self"]), a["indices"]
    if any(isinstance(i, RowNumbers) for i in indices):
        from .row_picks import of_each_row

        return of_each_row(c, x, indices)
    given = [d for d, i in enumerate(indices) if i is not None]
    values = [c.as_value(indices[d]) for d in given]
    if any(v.kind == "b" for v in values):
        if len(values) == 1 and values[0].constant and values[0].row is None:
            # A fixed mask over several dimensions stands for as many fixed indices.
            given = list(range(given[0], given[0] + values[0].rank))
            values = [c.constant(i) for i in np.nonzero(values[0].term.array)]
        else:
            raise ExportError("a mask picks elements: the result's size depends on data", "use torch.where or multiply with the mask")
    if not all(v.constant for v in values):
        if len(values) == 1:
            return lookup_constant(c, x, values[0], given[0], True)
        raise ExportError("several indices that depend on the inputs", "use torch.gather along one dimension")
    arrays = np.broadcast_arrays(*[v.term.array for v in values])
    if given != list(range(given[0], given[0] + len(given))):
        raise ExportError("indices for dimensions that are not neighbours", "index one dimension after the other")
    for d in given:
        x.axis(d, "picks rows from")
    sizes = [x.dims[d] for d in given]
    for array, size in zip(arrays, sizes):
        if array.size and not (-size <= array.min() and array.max() < size):
            raise ExportError(f"an index is out of range for a dimension of {size}")
    flat = np.ravel_multi_index([array % size for array, size in zip(arrays, sizes)], sizes)
    first, last = given[0], given[-1]
    dims = x.dims[:first] + (int(np.prod(sizes)),) + x.dims[last + 1 :]
    merged = Value(c.graph.reshape(x.term, shape_of(dims)), dims, x.kind)
    picked = gather_const(c, merged, first, flat.ravel().tolist())
    dims = x.dims[:first] + tuple(flat.shape) + x.dims[last + 1 :]
    return Value(c.graph.reshape(picked.term, shape_of(dims)), dims, x.kind)


@operator("masked_select")
def masked_select(c, node, a):
    """The elements under a fixed mask, row by row: a list of elements, whole rows after each other."""
    x, mask = c.as_value(a["self"]), c.as_value(a["mask"])
    if not mask.constant or mask.row is not None or x.row != 0 or mask.rank > x.rank - 1:
        raise ExportError("a mask picks elements: the result's size depends on data", "use torch.where or multiply with the mask")
    full = np.broadcast_to(mask.term.array != 0, x.dims[1:])
    flat = Value(c.graph.reshape(x.term, (full.size,)), (x.dims[0], full.size), x.kind)
    picked = gather_const(c, flat, 1, np.nonzero(full.ravel())[0].tolist())
    return Value(picked.term, (Row(1, picked.dims[1]),) if picked.dims[1] > 1 else (Row(),), x.kind)


@operator("meshgrid")
def meshgrid(c, node, a):
    arrays = [c.array(x, "a grid") for x in a["tensors"]]
    return [c.constant(x) for x in np.meshgrid(*arrays, indexing=a.get("indexing", "ij"))]
