"""Embedding lookups: of the inputs' own ids where possible, else of computed ids."""

import numpy as np

from .canonical import Ids, RowNumbers, operator
from .errors import ExportError
from .graph import Term
from .layout import Row, Value, broadcast_dims, shape_of, touches_rows
from .row_picks import torch_index


def table_of(c, weight):
    """The name of the table that a weight is: remembered in the graph's tables."""
    weight = c.as_value(weight)
    if not weight.constant:
        raise ExportError("a lookup in a table that is computed from the inputs", "use torch.gather on the computed values")
    term = weight.term
    name = term.source
    if name is None:
        name = next((n for n, t in c.graph.tables.items() if t is term.array), None) or c.graph.unique_table(c.graph.hint("table"))
    c.graph.tables[name] = term.array
    return name, term.shape


@operator("embedding")
def embedding(c, node, a):
    ids = a["indices"]
    if isinstance(ids, Ids):
        raise ExportError(
            f"the jagged input {ids.leaf} is looked up without pooling", "use nn.EmbeddingBag, or pass a padded matrix [batch, length]"
        )
    return rows_of(c, a["weight"], ids)


def rows_of(c, weight, ids, wraps=False):
    """A lookup: noted for later where the ids are columns of the inputs, a step over computed ids else. `wraps`: negative ids count from
    the end."""
    ids = c.as_value(ids)
    name, (rows, dim) = table_of(c, weight)
    if ids.constant:
        weight = c.as_value(weight).term
        out = weight.array[ids.term.array]
        return Value(Term(out.shape, "f32", array=out, origin=weight.origin), ids.dims + (dim,), "f")
    if ids.term.columns is not None:
        step = {
            "op": "@lookup",
            "columns": ids.term.columns.ravel().tolist(),
            "offset": ids.term.offset.ravel().tolist(),
            "table": name,
            "rows": rows,
            "dim": dim,
        } | ({"wraps": True} if wraps else {})
        term = c.graph.add(step, [], (ids.term.columns.size, dim), "f32", c.graph.hint("lookup"))
        term = c.graph.reshape(term, ids.term.shape + (dim,))
    else:
        ids = torch_index(c, ids, rows) if wraps else c.to_kind(ids, "i")
        term = c.graph.add(
            {"op": "embedding", "in": c.graph.value(ids.term), "table": name},
            [ids.term],
            ids.term.shape + (dim,),
            "f32",
            c.graph.hint("embedding"),
        )
    return Value(term, ids.dims + (dim,), "f")


def take(c, x, index, dim, wraps):
    """x[index] along a dimension, for an index that depends on the inputs. `wraps`: negative indices count from the end."""
    dim = x.dim(dim)
    if x.constant and x.row is None and dim == 0 and x.rank == 2 and x.kind == "f":
        return rows_of(c, x, index, wraps)
    if x.constant and x.dims and x.row is None and x.rank == 1 and x.kind == "f":
        return c.squeeze(rows_of(c, column_of(c, x), index, wraps), -1)
    if x.row is not None and isinstance(x.dims[dim], Row):
        raise touches_rows("picks rows of")
    if x.row is not None and index.row is not None:
        raise ExportError(
            "an index per row picks from values of all rows",
            "to pick an element of each row write x[torch.arange(len(x)), i], or x.gather(1, i)",
        )
    axis = x.axis(dim, "picks from")
    index = torch_index(c, index, x.dims[dim]) if wraps else c.to_kind(index, "i")
    term = c.graph.emit("gather", {"in": x.term, "index": index.term}, axis=axis)
    return Value(term, x.dims[:dim] + index.dims + x.dims[dim + 1 :], x.kind)


def column_of(c, x):
    """A vector of the model's as a table of one column."""
    name = f"{x.term.source}:column" if x.term.source else None
    if name:
        c.graph.origins[name] = x.term.origin
    term = Term((x.dims[0], 1), "f32", array=x.term.array.reshape(-1, 1), source=name, origin=x.term.origin)
    return Value(term, (x.dims[0], 1), "f")


@operator("gather", "take_along_dim")
def gather(c, node, a):
    x, index = c.as_value(a["self"]), c.to_kind(c.as_value(a.get("index", a.get("indices"))), "i")
    dim = a.get("dim")
    if dim is None:
        raise ExportError("take_along_dim without a dim", "pass dim")
    dim = x.dim(dim)
    axis = index.axis(dim, "gathers along")
    x.axis(dim, "gathers along")
    # torch.gather reads x[:index.shape] in the other dimensions.
    for d in range(x.rank):
        if d != dim and not isinstance(x.dims[d], Row) and not isinstance(index.dims[d], Row) and x.dims[d] != index.dims[d]:
            if "take_along_dim" in node.op:
                target = broadcast_dims(
                    [Value(c.graph.constant(np.zeros(shape_of(v.dims[d : d + 1]))), v.dims[d : d + 1], "f") for v in (x, index)], "gather"
                )
                if x.dims[d] != target[0]:
                    x = c.expand(x, x.dims[:d] + (target[0],) + x.dims[d + 1 :], "gather")
                else:
                    index = c.expand(index, index.dims[:d] + (target[0],) + index.dims[d + 1 :], "gather")
            else:
                x = c.slice(x, d, 0, index.dims[d])
    if x.row is None and index.row is not None:
        dims = list(x.dims)
        dims[index.row] = index.dims[index.row]
        x = c.expand(x, dims, "gather")
    elif index.row is None and x.row is not None:
        dims = list(index.dims)
        dims[x.row] = x.dims[x.row]
        index = c.expand(index, dims, "gather")
    if x.row != index.row or x.row is not None and x.dims[x.row] != index.dims[index.row]:
        raise ExportError("gather: rows of the index and of the values are in different order", "keep the batch first in both")
    axis = x.axis(dim, "gathers along")
    term = c.graph.emit("take_along", {"in": x.term, "index": index.term}, axis=axis)
    return Value(term, index.dims, x.kind)


MODES = {0: "sum", 1: "mean", 2: "max"}


@operator("embedding_bag", "_embedding_bag")
def embedding_bag(c, node, a):
    mode = MODES[a.get("mode", 0)]
    ids, offsets, weights = a["indices"], a["offsets"], a.get("per_sample_weights")
    padding = a.get("padding_idx")
    name, (rows, dim) = table_of(c, a["weight"])
    if padding is not None:
        padding = padding % rows if padding != -1 or node.op.endswith("padding_idx") else None
    step = {"op": "@bag", "table": name, "rows": rows, "dim": dim, "pool": mode, "padding": padding}
    if isinstance(ids, Ids):
        if not isinstance(offsets, Ids) or offsets.role != "offsets" or offsets.leaf != ids.leaf:
            raise ExportError(
                f"the bags of {ids.leaf} are not given by an input of offsets",
                "name it: features=[gavel.Jagged(name, input=IDS, offsets=OFFSETS)]",
            )
        if weights is not None and not (isinstance(weights, Ids) and weights.leaf == ids.leaf):
            raise ExportError(
                "the weights of a bag's ids are computed", "pass them as an input of the model: gavel.Jagged(.., weights=INPUT)"
            )
        step |= {"jagged": ids.leaf, "weighted": weights is not None}
    else:
        ids = c.as_value(ids)
        size = fixed_bag(ids, offsets)
        if ids.term.columns is None or ids.term.offset.any():
            return [computed_bag(c, ids, size, name, rows, dim, mode, padding, weights)] + [None] * 3
        step |= {"columns": ids.term.columns.ravel().tolist()}
        if weights is not None:
            weights = c.as_value(weights)
            if weights.term.columns is None or not weights.term.raw_f32:
                return [computed_bag(c, ids, size, name, rows, dim, mode, padding, weights)] + [None] * 3
            step |= {"weights": weights.term.columns.ravel().tolist()}
    term = c.graph.add(step, [], (dim,), "f32", c.graph.hint("bag"))
    return [Value(term, (Row(), dim), "f"), None, None, None]


def fixed_bag(ids, offsets):
    """Ids per bag, where all bags are as long as each other: ids [batch * n], offsets arange(0, batch * n, n)."""
    starts = isinstance(offsets, RowNumbers) and offsets.start == 0 and offsets.dims == (Row(),)
    if starts and ids.rank == 1 and ids.dims[0] == Row(1, offsets.step):
        return offsets.step
    raise ExportError(
        "the bags of a lookup are not given by the inputs alone",
        "pass ids as a matrix [batch, n], or ids and offsets as inputs: features=[gavel.Jagged(name, input=IDS, offsets=OFFSETS)]",
    )


def computed_bag(c, ids, size, table, rows, dim, mode, padding, weights):
    """A bag of computed ids: lookup, weights, then the reduction in the graph."""
    from .ops_elementwise import binary, binary_compare, clamp, where
    from .ops_reduce import reduced

    if mode == "max" and padding is not None:
        raise ExportError("a maximum over a bag of computed ids with a padding id", "use mean or sum, or pass the ids as an input")
    g = c.graph
    ids = Value(g.reshape(ids.term, (size,)), (Row(), size), "i")
    term = g.add({"op": "embedding", "in": g.value(ids.term), "table": table}, [ids.term], (size, dim), "f32", g.hint("embedding"))
    x = Value(term, (Row(), size, dim), "f")
    there = None
    if weights is not None:
        weights = c.as_value(weights)
        x = binary(c, "mul", x, Value(g.reshape(weights.term, (size, 1)), (Row(), size, 1), "f"))
    if padding is not None:
        there = Value(g.reshape(binary_compare(c, "ne", ids, padding).term, (size, 1)), (Row(), size, 1), "b")
        x = where(c, there, x, 0.0)
    if mode == "mean" and there is not None:
        count = clamp(c, c.to_kind(reduced(c, "reduce_sum", there, [1]), "f"), 1.0, None)
        return binary(c, "div", reduced(c, "reduce_sum", x, [1]), count)
    return reduced(c, {"sum": "reduce_sum", "mean": "reduce_mean", "max": "reduce_max"}[mode], x, [1])


def jagged(x):
    if not isinstance(x, Ids) or x.role != "padded":
        raise ExportError(
            "ids that are not an input of the model go into a pooled lookup", "pass the KeyedJaggedTensor of the model's input"
        )
    return x


@operator("gavel::bag")
def gavel_bag(c, node, a):
    """The leaf op of leaves.py: a pooled lookup of one key of a KeyedJaggedTensor."""
    ids, (name, (rows, dim)) = jagged(a["ids"]), table_of(c, a["weight"])
    step = {"op": "@bag", "table": name, "rows": rows, "dim": dim, "pool": a["pool"], "padding": None, "jagged": ids.leaf}
    step["weighted"] = a.get("weights") is not None
    return Value(c.graph.add(step, [], (dim,), "f32", c.graph.hint("bag")), (Row(), dim), "f")


@operator("gavel::sequence")
def gavel_sequence(c, node, a):
    """The leaf op of leaves.py: the rows of one key, padded with zeros to a fixed length."""
    ids, (name, (rows, dim)), length = jagged(a["ids"]), table_of(c, a["weight"]), a["length"]
    step = {"op": "@bag", "table": name, "rows": rows, "dim": dim, "pool": "none", "padding": None, "jagged": ids.leaf, "weighted": False}
    step["length"] = length
    return Value(c.graph.add(step, [], (length, dim), "f32", c.graph.hint("sequence")), (Row(), length, dim), "f")


@operator("gavel::lengths")
def gavel_lengths(c, node, a):
    ids = jagged(a["ids"])
    return Value(c.graph.add({"op": "@length", "jagged": ids.leaf}, [], (), "i64", c.graph.hint("length")), (Row(),), "i")


@operator("scatter", "scatter_add", "scatter_reduce")
def scatter(c, node, a):
    """x with elements replaced or increased at computed places along a dimension."""
    from .ops_elementwise import binary, binary_compare, where
    from .ops_reduce import reduced

    x, index, dim = c.as_value(a["self"]), c.as_value(a["index"]), a["dim"]
    dim = x.dim(dim)
    x.axis(dim, "writes along")
    size = x.dims[dim]
    adds = "scatter_add" in node.op or a.get("reduce") in ("sum", "add")
    if a.get("reduce") not in (None, "sum", "add") or a.get("include_self") is False:
        raise ExportError(f"a scatter that reduces by {a.get('reduce')}", "use scatter_add")
    src = a.get("src", a.get("value"))
    if not adds and isinstance(src, Value) and c.graph.maker(index.term, "argtopk")[0] is None:
        raise ExportError(
            "a scatter whose indices may repeat: which value stays is not defined", "use scatter_add, or indices that come from topk"
        )
    # [.., k] indices against [.., 1, size] places.
    last = lambda v: c.permute(v, [d for d in range(v.rank) if d != dim] + [dim])
    places = last(index)
    hit = binary_compare(c, "eq", c.unsqueeze(places, places.rank), c.constant(np.arange(size)))
    if isinstance(src, Value):
        spread = c.unsqueeze(last(c.to_kind(src, x.kind)), x.rank)
    else:
        spread = c.as_value(src, x.kind)
    total = reduced(c, "reduce_sum", where(c, hit, spread, 0.0 if x.kind == "f" else 0), [-2])
    moved = last(x)
    if adds:
        out = binary(c, "add", moved, total)
    else:
        any_hit = reduced(c, "reduce_max", hit, [-2])
        new = total if isinstance(src, Value) else spread
        out = where(c, Value(any_hit.term, any_hit.dims, "b"), new, moved)
    order = list(range(x.rank - 1))
    order.insert(dim, x.rank - 1)
    return c.permute(out, order)
