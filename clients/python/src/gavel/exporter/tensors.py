"""The numbers of a bundle: tables and the tensors that its graph names."""

import numpy as np

from ..bundle import Bundle
from ..quantized import dequantize, quantize
from .errors import ExportError
from .from_program import plain_name


def add_tables(bundle, parts, arrays, quantised, form):
    """Tables in the form that is asked for; those that the model itself holds quantised stay as they are. Gives those that were computed,
    as name of the tensor -> float64."""
    unrounded = {}
    for name, (tensor, start, end) in parts.items():
        values = arrays[tensor][start:end]
        dim = values.shape[1]
        if not np.isfinite(values).all():
            raise ExportError(f"table {name} holds NaN or infinities", "train or load the model before exporting")
        if values.dtype == np.float64:
            unrounded[name] = values
        if tensor in quantised:
            own, rows = quantised[tensor]
            values = np.asarray(values, np.float32)
            bundle.table(name, rows[start:end], dtype=own, dim=dim, values=values)
        elif form == "f32":
            bundle.table(name, np.asarray(values, np.float32))
        elif form == "f16":
            half = np.asarray(values, np.float16)
            if not np.isfinite(half).all():
                raise ExportError(f"table {name} has values beyond the range of f16", 'use tables="f32" or "int8"')
            bundle.table(name, half, dtype="f16")
        else:
            rows = quantize(values, form)
            bundle.table(name, rows, dtype=form, dim=dim, values=dequantize(rows, form, dim))
    return unrounded


def add_tensors(bundle, graph):
    """The tensors that the graph's steps name; a table that is also read whole gets a copy. Gives those that were computed, as name ->
    float64."""
    unrounded = {}
    for step in bundle.graph:
        for key, x in step.items():
            if (
                key in ("op", "out", "table")
                or not isinstance(x, str)
                or x not in graph.tensors
                or key in VALUE_KEYS.get(step["op"], VALUE_KEYS[None])
            ):
                continue
            name = x
            if any(table.get("tensor", table["name"]) == x for table in bundle.tables):
                name = step[key] = f"{x}/dense"
            array = bundle.tensors.get(name)
            if array is None:
                bundle.tensor(name, graph.tensors[x])
                if not np.isfinite(bundle.tensors[name]).all() and step["op"] != "const":
                    raise ExportError(f"tensor {x} holds NaN or infinities", "train or load the model before exporting")
                if graph.tensors[x].dtype == np.float64:
                    unrounded[name] = graph.tensors[x]
    return unrounded


VALUE_KEYS = {
    None: (
        "in",
        "a",
        "b",
        "cond",
        "index",
        "q",
        "k",
        "v",
        "mask",
        "h0",
        "length",
        "attention",
        "value",
        "dtype",
        "cmp",
        "to",
        "kind",
        "feature",
    )
}


def requantised(bundle, parts, arrays, quantised, graph, form):
    new = Bundle(bundle.name, bundle.description)
    new.features, new.graph, new.outputs = bundle.features, bundle.graph, bundle.outputs
    add_tables(new, parts, arrays, quantised, form)
    for key, array in bundle.tensors.items():
        if key not in new.tensors:
            new.tensors[key] = array
    return new


def unused_tensors(model, bundle, graph, parts):
    """Parameters and buffers that no step reads."""
    used = {tensor for tensor, _, _ in parts.values()} | graph.numbers
    used |= {origin for name in bundle.tensors for origin in graph.origins.get(name.removesuffix("/dense"), ())}
    by_memory = {}
    for key, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if tensor.is_floating_point() and tensor.numel():
            by_memory.setdefault(tensor.data_ptr(), []).append(plain_name(key))
    return sorted(keys[0] for keys in by_memory.values() if not any(key in used for key in keys))
