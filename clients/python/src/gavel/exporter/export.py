"""The way from a model to its bundle, step by step."""

import re
import warnings
from collections import Counter

import numpy as np
import torch

from ..bundle import Bundle
from ..interpreter import evaluate
from ..quantized import dequantize, quantize
from . import leaves, ops_elementwise, ops_layers, ops_layout, ops_lookup, ops_products, ops_recurrent, ops_reduce  # noqa: F401 (they register)
from .canonical import Canonicaliser, Ids
from .errors import ExportError
from .features import Assignment, live_steps
from .from_program import trace_of
from .inputs import Flat, Inputs
from .layout import Row, Value
from .reference import model_outputs, place_of, program_outputs
from .report import Report, auc
from .samples import Samples

OUTPUTS_MAX = 64
EXACT = 1e-6  # largest difference of the graph to torch, both in float64, relative above 1
F32_AGREES = 2e-3  # the user's own f32 model against float64: a gross difference means that tracing changed the model
TRACED_ROWS = 11
KINDS = ("probability", "logit", "value")
STORED = {"f32": "f32", "f16": "f16", "int8": "int8_rowwise", "int4": "int4_rowwise", "int2": "int2_rowwise"}


def export(model, example, specs, out, *, name, description, output_names, output_kinds, context, tables, selftest_rows, selftest_inputs, labels, atol):
    if tables not in STORED:
        raise ExportError(f"tables={tables!r}", f"use one of {', '.join(STORED)}")
    if not isinstance(model, torch.nn.Module):
        raise ExportError(f"the model is a {type(model).__name__}", "pass a torch.nn.Module")
    if not 1 <= selftest_rows <= 65536:
        raise ExportError(f"selftest_rows={selftest_rows}", "use 1 to 65536, 128 are plenty")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _export(
            model, example, specs, out, name, description, output_names, output_kinds, context, tables, selftest_rows, selftest_inputs, labels, atol
        )
    finally:
        for module, mode in modes.items():
            module.training = mode


def _export(model, example, specs, out, name, description, output_names, output_kinds, context, tables, count, selftest_inputs, labels, atol):
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", type(model).__name__)[:64]
    inputs = Inputs(model, example, specs)
    first = inputs.tensors(*inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(inputs.rows)))
    model_outputs(model, inputs, first, False, "its example inputs")
    flat_model, quantised = leaves.swapped(model)
    flat = Flat(flat_model, inputs)
    program, symbol = traced(flat, inputs)
    trace = trace_of(program, symbol)
    canonical = Canonicaliser(trace, stand_ins(trace, inputs))
    results = canonical.run()
    columns = output_columns(canonical, results, inputs.results, output_names, output_kinds)
    assignment = Assignment(canonical, inputs, [column[1] for column in columns], known_columns(model, inputs), specs, context)
    graph, values = assignment.rewrite([column[1] for column in columns])
    steps = live_steps(graph.steps, values)

    bundle = Bundle(name, description)
    bundle.features, bundle.graph = assignment.manifest(), steps
    bundle.outputs = [{"name": c[0], "value": v, "kind": c[2]} for c, v in zip(columns, values)]
    if not bundle.features:
        raise ExportError("no output depends on an input", "export a module whose forward uses its arguments")
    add_tables(bundle, assignment.used_tables(steps), canonical.graph.tables, quantised, "f32")
    add_tensors(bundle, graph)

    given = inputs
    if selftest_inputs is not None:
        given = Inputs(model, selftest_inputs, specs)
        same = [leaf.name for leaf in given.leaves] == [leaf.name for leaf in inputs.leaves]
        if not same:
            raise ExportError("selftest_inputs differ in form from example_inputs", "pass the same arguments with other rows")
    samples = Samples(inputs, assignment, (given.example_rows(), given.example_bags()), count)
    sent = samples.features()
    expected, exact, f32 = compare(model, inputs, program, samples, columns, bundle, sent)

    shift, area = {}, {}
    if tables != "f32":
        bundle, before = requantised(bundle, assignment.used_tables(steps), canonical.graph.tables, quantised, graph, STORED[tables]), expected
        expected = evaluate(bundle.manifest(), bundle.tensors, sent, bundle.values)
        shift = {key: float(np.abs(expected[key] - before[key]).max()) for key in expected}
    if labels is not None:
        labels = np.asarray(labels).reshape(len(labels), -1)
        n = min(len(labels), count, given.rows)
        for i, output in enumerate(bundle.outputs):
            column = labels[:n, i if labels.shape[1] > i else 0]
            first = auc((before if tables != "f32" else expected)[output["name"]][:n], column)
            if first is not None:
                area[output["name"]] = (first, auc(expected[output["name"]][:n], column))
    if atol is None:
        atol = max(2e-6, 10 * f32)
    largest = max(float(np.abs(x).max()) for x in expected.values())
    try:
        bundle.write(out, sent, expected, atol=atol, rtol=1e-5 if largest > 1 else None, check=EXACT)
    except ValueError as error:
        raise ExportError(str(error), "this is a fault of the exporter: report it with the model") from error
    return Report(
        name,
        str(out),
        Counter(step["op"] for step in steps),
        sum(int(np.prod(t.shape)) for t in bundle.tensors.values()),
        sum(t.nbytes for t in bundle.tensors.values()),
        unused_tensors(flat_model, bundle, canonical.graph, assignment.used_tables(steps)),
        bundle.features,
        bundle.outputs,
        count_rows(sent),
        exact,
        f32,
        atol,
        tables,
        shift,
        area,
        canonical.warnings,
    )


# Tracing.


def traced(flat, inputs):
    """The exported program and the name of its symbol for the batch."""
    rows, bags = inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(TRACED_ROWS) % inputs.rows)
    if all(sum(len(x) for x in ids) == 0 for ids, _ in bags.values()) and bags:
        raise ExportError("all bags of the example inputs are empty", "pass examples with some ids")
    arguments = tuple(x.float() if x.is_floating_point() and x.dtype == torch.float64 and inputs.leaves[i].data.dtype != torch.float64 else x
                      for i, x in enumerate(inputs.tensors(rows, bags)))
    batch = torch.export.Dim("batch", min=1)
    shapes = []
    for leaf in inputs.leaves:
        if leaf.role in ("ids", "weights"):
            shapes.append({0: torch.export.Dim(f"nnz_{len([l for l in inputs.bags if l <= leaf.feature])}", min=0)})
        elif leaf.role == "offsets":
            shapes.append({0: batch + 1 if inputs.bags[leaf.feature].last_offset else batch})
        else:
            shapes.append({0: batch})
    try:
        with torch.no_grad(), leaves.no_fast_paths(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(flat, arguments, dynamic_shapes=(tuple(shapes),), strict=False)
            if any(str(getattr(n.target, "_schema", "")) and mutates(n) for n in program.graph.nodes):
                program = program.run_decompositions({})
    except ExportError:
        raise
    except Exception as error:
        raise untraceable(error, flat) from error
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs:
            leaf = inputs.leaves[list(program.graph_signature.user_inputs).index(node.name)]
            if leaf.role in ("rows", "padded") and isinstance(node.meta.get("val"), torch.Tensor):
                size = node.meta["val"].shape[0]
                if isinstance(size, torch.SymInt):
                    return program, str(size.node.expr)
    raise ExportError(
        "the model works with one fixed number of rows alone", "take sizes of the batch from x.shape[0], not from numbers in the code or in the examples"
    )


def mutates(node):
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and "_assert" not in schema.name


def untraceable(error, flat):
    """An ExportError for what torch.export says."""
    text = str(error)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    remedy = "make forward a fixed sequence of tensor operations"
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__ or "u0" in text:
        remedy = "a branch, a loop or a size depends on the data of the batch: use torch.where, masks and fixed lengths instead"
    elif "Constraints violated" in text or "specialized" in text or "batch" in text and "dynamic" in text:
        remedy = "the model works with one number of rows alone: take the batch's size from x.shape[0]"
    elif "pack_padded_sequence" in text or "packed" in text:
        remedy = "packed sequences depend on the batch: run the recurrent layer over the padded sequence and mask its outputs"
    return ExportError(f"torch.export cannot trace the model: {first}", remedy, source=place_of(error))


def stand_ins(trace, inputs):
    """What the input nodes stand for: columns, or parts of bags."""
    from .canonical import kind_of
    from .graph import Graph

    out, graph = {}, Graph()
    nodes = {node.name: node for node in trace.nodes}
    for name, leaf in zip(trace.inputs, inputs.leaves):
        node = nodes[name]
        if leaf.role != "rows":
            out[name] = Ids(leaf.feature, {"padded_weights": "weights"}.get(leaf.role, leaf.role))
            continue
        kind = kind_of(node.dtype)
        columns = np.arange(leaf.start, leaf.start + leaf.columns).reshape(leaf.shape)
        term = graph.columns(columns, "f32" if kind == "f" else "i64", raw_f32=kind == "f")
        out[name] = Value(term, (Row(),) + leaf.shape, kind)
    return out


# Names.


def known_columns(model, inputs):
    """(feature, leaf, start, end) of the columns that deepctr-torch packs into one matrix."""
    found = []
    for module in model.modules():
        index = getattr(module, "feature_index", None)
        if not isinstance(index, dict) or not all(isinstance(x, tuple) and len(x) == 2 for x in index.values()):
            continue
        matrices = [leaf for leaf in inputs.leaves if leaf.role == "rows" and len(leaf.shape) == 1]
        if len(matrices) != 1:
            continue
        names = {name for name, *_ in found}
        found += [(name, matrices[0].name, *span) for name, span in index.items() if name not in names]
    return found


def output_columns(c, results, paths, names, kinds):
    """Results as columns: [(name, value's name, kind)]."""
    columns = []
    single = len(results) == 1
    for (_, value), path in zip(results, paths):
        value = c.plain(value, "an output")
        if value.row is None:
            c.warn(f"output {path or 'of forward'} does not depend on the inputs and was left out")
            continue
        if value.row != 0 or value.rank > 2:
            raise ExportError(f"an output of shape {list(value.dims)}", "return tensors [batch] or [batch, n]")
        term = c.graph.cast(value.term, "f32")
        width = value.dims[1] if value.rank == 2 else 1
        kind = kind_of_output(c, term)
        base = path.rpartition(".")[2] if path and not path.rpartition(".")[2].isdigit() else path.replace(".", "_")
        base = base or ("prob" if kind == "probability" else "score")
        if base[0].isdigit():
            base = f"{'prob' if kind == 'probability' else 'score'}_{base}"
        for i in range(width):
            part = term if width == 1 else c.graph.slice(term, 0, i, i + 1)
            columns.append([base if width == 1 else f"{base}_{i}", part, kind])
    if not columns:
        raise ExportError("forward returns no tensor that depends on its inputs", "return scores")
    if len(columns) > OUTPUTS_MAX:
        raise ExportError(f"{len(columns)} output columns, a bundle has up to {OUTPUTS_MAX}", "return scores alone, not vectors")
    for given, at in ((names, 0), (kinds, 2)):
        if given is None:
            continue
        given = [given] * len(columns) if isinstance(given, str) and at == 2 else [given] if isinstance(given, str) else list(given)
        if len(given) != len(columns):
            raise ExportError(f"{len(given)} {'output_names' if at == 0 else 'output_kinds'} for {len(columns)} output columns: {[x[0] for x in columns]}")
        for column, x in zip(columns, given):
            column[at] = x
    for name, _, kind in columns:
        if kind not in KINDS:
            raise ExportError(f"output kind {kind!r}", f"use one of {', '.join(KINDS)}")
        if [x[0] for x in columns].count(name) > 1:
            raise ExportError(f"two outputs are called {name}", "pass output_names")
    return [(name, c.graph.value(term), kind) for name, term, kind in columns]


def kind_of_output(c, term):
    """A sigmoid or softmax gives probabilities, also through moves; all else is a value."""
    while term.name is not None:
        step, reads = c.graph.made[term.name]
        if step["op"] in ("sigmoid", "softmax"):
            return "probability"
        if step["op"] in ("concat",) and all(kind_of_output(c, t) == "probability" for t in reads):
            return "probability"
        if step["op"] not in ("reshape", "slice", "transpose", "gather_const"):
            return "value"
        term = reads[0]
    return "value"


# Tensors.


def add_tables(bundle, parts, arrays, quantised, form):
    """Tables in the form that is asked for; those that the model itself holds quantised stay as they are."""
    for name, (tensor, start, end) in parts.items():
        values = arrays[tensor][start:end]
        dim = values.shape[1]
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


def add_tensors(bundle, graph):
    """The tensors that the graph's steps name; a table that is also read whole gets a copy."""
    for step in bundle.graph:
        for key, x in step.items():
            if key in ("op", "out", "table") or not isinstance(x, str) or x not in graph.tensors or key in VALUE_KEYS.get(step["op"], VALUE_KEYS[None]):
                continue
            name = x
            if any(table.get("tensor", table["name"]) == x for table in bundle.tables):
                name = step[key] = f"{x}/dense"
            array = bundle.tensors.get(name)
            if array is None:
                bundle.tensor(name, graph.tensors[x])
                if not np.isfinite(bundle.tensors[name]).all() and step["op"] != "const":
                    raise ExportError(f"tensor {x} holds NaN or infinities", "train or load the model before exporting")


VALUE_KEYS = {None: ("in", "a", "b", "cond", "index", "q", "k", "v", "mask", "h0", "length", "attention", "value", "dtype", "cmp", "to", "kind", "feature")}


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
    used = {tensor for tensor, _, _ in parts.values()}
    used |= {origin for name in bundle.tensors for origin in graph.origins.get(name.removesuffix("/dense"), ())}
    by_memory = {}
    for key, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if tensor.is_floating_point() and tensor.numel():
            by_memory.setdefault(tensor.data_ptr(), []).append(key)
    return sorted(keys[0] for keys in by_memory.values() if not any(key in used for key in keys))


def count_rows(sent):
    first = next(iter(sent.values()))
    return len(first[1]) if isinstance(first, tuple) else len(first)


# Checks.


def compare(model, inputs, program, samples, columns, bundle, sent):
    """Expected outputs in float64, the graph's difference to them, and that of torch's own f32. Refuses what differs."""
    tensors = inputs.tensors(samples.rows, samples.bags)
    wanted = flattened(program_outputs(program, tensors), columns, bundle)
    for name, x in wanted.items():
        if not np.isfinite(x).all():
            raise ExportError(
                f"output {name} is {x[~np.isfinite(x)][0]} in row {int(np.argmax(~np.isfinite(x)))} of the selftest",
                "pass selftest_inputs that the model can score, or clamp what overflows",
            )
    own = flattened(model_outputs(model, inputs, tensors, False), columns, bundle)
    f32 = distance(own, wanted)
    double = model_outputs(model, inputs, tensors, True)
    if double is not None:
        double = flattened(double, columns, bundle)
        if not distance(double, wanted) <= EXACT and not all((np.asarray(x, np.float32) == x).all() for x in double.values()):
            raise ExportError(
                f"the traced model differs from the model itself by {distance(double, wanted):.3g}, both in float64",
                "forward depends on something that tracing froze: the batch's size, a counter, random numbers",
            )
    if not f32 <= F32_AGREES:
        raise ExportError(
            f"the traced model in float64 differs from the model in f32 by {f32:.3g}",
            "forward depends on something that tracing froze, or loses so many digits in f32 that its scores mean little",
        )
    rows_apart(model, inputs, samples, columns, bundle, own)
    found = bundle.evaluate(sent)
    exact = distance(found, wanted)
    if not exact <= EXACT:
        name = max(wanted, key=lambda key: np.nan_to_num(np.abs(found[key] - wanted[key]), nan=np.inf).max())
        row = int(np.argmax(np.nan_to_num(np.abs(found[name] - wanted[name]), nan=np.inf)))
        raise ExportError(
            f"the graph differs from torch by {exact:.3g} (output {name}, row {row}: {found[name][row]!r}, torch has {wanted[name][row]!r})",
            "this is a fault of the exporter: report it with the model",
        )
    return wanted, exact, f32


def flattened(arrays, columns, bundle):
    """Output name -> [rows] of torch's results: those that depend on the inputs, in order."""
    rows, out = None, []
    for x in arrays:
        out += [x.reshape(len(x), -1)[:, i] for i in range(int(np.prod(x.shape[1:])))] if x.ndim > 1 else [x]
    if len(out) != len(columns):
        # Results that do not depend on the inputs were left out: they are shorter, or constant.
        rows = max(len(x) for x in out)
        out = [x for x in out if len(x) == rows][: len(columns)]
    return {column[0]: np.asarray(x, np.float64) for column, x in zip(columns, out)}


def distance(found, wanted):
    return max(float((np.abs(found[key] - x) / np.maximum(1, np.abs(x))).max()) for key, x in wanted.items())


def rows_apart(model, inputs, samples, columns, bundle, together):
    """Whether rows score the same among fewer others: rows of different requests share batches. Some models cannot score a single row (they squeeze
    its dimension away), where the bundle can: those are tried with two."""
    rows = len(next(iter(together.values())))
    for i in (0, 1, 2):
        for count in (1, 2):
            picked = (i + np.arange(count)) % rows
            part, bags = inputs.take(samples.rows, samples.bags, picked)
            try:
                apart = flattened(model_outputs(model, inputs, inputs.tensors(part, bags), False), columns, bundle)
                if all(len(x) == count for x in apart.values()):
                    break
            except ExportError:
                if count == 2:
                    raise
        for name, x in apart.items():
            off = np.abs(x - together[name][picked]) / np.maximum(1, np.abs(x))
            if not (off <= 1e-4).all():
                raise ExportError(
                    f"row {i} scores {float(x[0])!r} among {count} and {float(together[name][i])!r} among {rows} rows (output {name})",
                    "a row's score must not depend on the rows beside it",
                )
