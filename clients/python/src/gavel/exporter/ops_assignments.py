"""Assignments to parts of a tensor, which tracing turns into new tensors."""

from .canonical import RowNumbers, operator
from .errors import ExportError
from .layout import Row, touches_rows
from .trace import Rows


def placed(c, x, src, dim, places):
    """x with elements along a dimension replaced by those of src, in order."""
    from .ops_layout import gather_const

    x.axis(dim, "writes along")
    size = x.dims[dim]
    if any(not -size <= p < size for p in places):
        raise ExportError(f"an index {places} is out of range for a dimension of {size}")
    src = c.to_kind(src, x.kind)
    row = next((v.dims[v.row] for v in (src, x) if v.row is not None), None)
    dims = list(x.dims[:dim] + (len(places),) + x.dims[dim + 1 :])
    if row is not None and x.row is None:
        dims[src.row + x.rank - src.rank] = row
        x = c.expand(x, dims[:dim] + [size] + dims[dim + 1 :], "an assignment")
    both = c.concat([x, c.expand(src, dims, "an assignment")], dim)
    of = list(range(size))
    for i, place in enumerate(places):
        of[place] = size + i
    return gather_const(c, both, dim, of)


@operator("copy")
def copy(c, node, a):
    return c.expand(c.as_value(a["src"]), list(c.as_value(a["self"]).dims), "copy")


@operator("index_put", "_unsafe_index_put")
def index_put(c, node, a):
    """x[mask] = value."""
    from .ops_elementwise import binary, where

    x, indices, value = c.as_value(a["self"]), a["indices"], c.as_value(a["values"])
    if any(isinstance(i, RowNumbers) for i in indices):
        from .row_picks import put_in_each_row

        return put_in_each_row(c, x, indices, value, a.get("accumulate"))
    given = [c.as_value(i) for i in indices if i is not None]
    if len(given) == 1 and given[0].kind != "b" and given[0].constant and given[0].rank == 1 and not a.get("accumulate"):
        return placed(c, x, value, next(d for d, i in enumerate(indices) if i is not None), given[0].term.array.tolist())
    if len(given) != 1 or given[0].kind != "b" or indices[0] is None or value.term.shape not in ((), (1,)):
        raise ExportError("an assignment to picked elements", "assign to slices, or use torch.where")
    mask = given[0]
    while mask.rank < x.rank:
        mask = c.unsqueeze(mask, mask.rank)
    value = c.to_kind(c.reshape(value, []), x.kind)
    return where(c, mask, binary(c, "add", x, value) if a.get("accumulate") else value, x)


@operator("slice_scatter", "select_scatter")
def scatter(c, node, a):
    """x with a slice replaced: what functionalised assignments to slices become."""
    x, src, dim = c.as_value(a["self"]), c.as_value(a["src"]), a.get("dim", 0)
    dim = x.dim(dim)
    d = x.dims[dim]
    if "select" in node.op:
        start = a["index"] % d if not isinstance(d, Row) else None
        end, step, src = (start + 1 if start is not None else None), 1, c.unsqueeze(src, dim)
        if start is None:
            raise touches_rows("writes one row of")
    else:
        start, end, step = a.get("start") or 0, a.get("end"), a.get("step", 1)
        if isinstance(d, Row):
            if start == 0 and (end is None or end == Rows(d.outer * d.inner) or isinstance(end, int) and end >= 2**62) and step == 1:
                return src
            raise touches_rows("writes some rows of")
        end = d if end is None else min(end, d)
        if step != 1:
            return placed(c, x, src, dim, list(range(start, end, step)))
    src = c.to_kind(src, x.kind)
    parts = [c.slice(x, dim, 0, start)] if start else []
    parts += [src] + ([c.slice(x, dim, end, d)] if end < d else [])
    row = next((v.row for v in (src, x) if v.row is not None), None)
    if row is not None:
        dims = next(v for v in (src, x) if v.row is not None).dims[row]
        parts = [p if p.row is not None else c.expand(p, p.dims[:row] + (dims,) + p.dims[row + 1 :], "assignment") for p in parts]
    return c.concat(parts, dim)
