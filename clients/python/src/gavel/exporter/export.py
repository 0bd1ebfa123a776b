"""The way from a model to its bundle, step by step."""

import copy
import re
import warnings
from collections import Counter

import numpy as np
import torch

from ..bundle import Bundle
from ..interpreter import evaluate
from ..quantized import dequantize, quantize
from . import leaves, ops_elementwise, ops_layers, ops_layout, ops_lookup, ops_plumbing, ops_products, ops_recurrent, ops_reduce  # noqa: F401 (they register)
from .canonical import Canonicaliser, stand_ins
from .errors import ExportError
from .features import Assignment, live_steps
from .from_program import plain_name, trace_of
from .inputs import Flat, Inputs
from .outputs import output_columns
from .reference import model_outputs, place_of, program_outputs
from .report import Report, auc
from .samples import Samples
from .specs import normalised, placed

EXACT = 1e-6  # largest difference of the graph to torch, both in float64, relative above 1
F32_AGREES = 2e-3  # the user's own f32 model against float64: a gross difference means that tracing changed the model
TRACED_ROWS = 11
STORED = {"f32": "f32", "f16": "f16", "int8": "int8_rowwise", "int4": "int4_rowwise", "int2": "int2_rowwise"}


def export(
    model,
    example,
    specs,
    out,
    *,
    name,
    description,
    output_names,
    output_kinds,
    context,
    tables,
    selftest_rows,
    selftest_inputs,
    labels,
    atol,
):
    if tables not in STORED:
        raise ExportError(f"tables={tables!r}", f"use one of {', '.join(STORED)}")
    if not isinstance(model, torch.nn.Module):
        raise ExportError(f"the model is a {type(model).__name__}", "pass a torch.nn.Module")
    if not 1 <= selftest_rows <= 65536:
        raise ExportError(f"selftest_rows={selftest_rows}", "use 1 to 65536, 128 are plenty")
    model, specs = plain_model(model), normalised(specs)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _export(
            model,
            example,
            specs,
            out,
            name,
            description,
            output_names,
            output_kinds,
            context,
            tables,
            selftest_rows,
            selftest_inputs,
            labels,
            atol,
        )
    finally:
        for module, mode in modes.items():
            module.training = mode


def _export(
    model, example, specs, out, name, description, output_names, output_kinds, context, tables, count, selftest_inputs, labels, atol
):
    name = name or re.sub(r"[^A-Za-z0-9_.-]", "_", type(model).__name__)[:64]
    inputs = Inputs(model, example, specs)
    specs = placed(specs, inputs.leaves)
    first = inputs.tensors(*inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(inputs.rows)))
    model_outputs(model, inputs, first, False, "its example inputs")
    flat_model, quantised = leaves.swapped(model)
    flat = Flat(flat_model, inputs)
    program, sizes = traced(flat, inputs)
    trace = trace_of(program, sizes)
    canonical = Canonicaliser(trace, stand_ins(trace, inputs.leaves))
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
        bundle, before = (
            requantised(bundle, assignment.used_tables(steps), canonical.graph.tables, quantised, graph, STORED[tables]),
            expected,
        )
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
        bundle.write(out, sent, expected, atol=atol, rtol=1e-5 if largest > 1 else None, check=EXACT, rows=samples.origin)
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
        samples.origin,
    )


def plain_model(model):
    """The module behind wrappers, on the CPU and in f32: a copy where that changes it."""
    if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        model = model.module
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ExportError("the model is a TorchScript module", "pass the Python module that it was made from")
    state = list(model.parameters()) + list(model.buffers())
    if any(t.device.type != "cpu" or t.is_floating_point() and t.dtype != torch.float32 for t in state):
        model = copy.deepcopy(model).cpu().float()
    return model


# Tracing.


def traced(flat, inputs):
    """The exported program and the expressions that are its number of rows."""
    rows, bags = inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(TRACED_ROWS) % inputs.rows)
    if all(sum(len(x) for x in ids) == 0 for ids, _ in bags.values()) and bags:
        raise ExportError("all bags of the example inputs are empty", "pass examples with some ids")
    arguments = tuple(
        x.float() if x.is_floating_point() and x.dtype == torch.float64 and inputs.leaves[i].data.dtype != torch.float64 else x
        for i, x in enumerate(inputs.tensors(rows, bags))
    )
    first = None
    for shapes, strict in ((named_shapes(inputs), False), (automatic_shapes(inputs), False), (named_shapes(inputs), True)):
        # Named sizes tell best what is wrong; automatic ones take models whose conditions on sizes torch cannot prove; strict tracing reads
        # Python itself, and so takes len(x) for the size of the batch.
        try:
            with torch.no_grad(), leaves.no_fast_paths(), leaves.packed_sequences(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(flat, arguments, dynamic_shapes=(tuple(shapes),), strict=strict)
                if any(mutates(n) for n in program.graph.nodes):
                    program = program.run_decompositions({})
        except ExportError:
            raise
        except Exception as error:
            first = first or error
            if "Constraints violated" not in str(error) and "Specializations" not in str(error):
                break
            continue
        sizes = batch_sizes(program, inputs)
        if sizes is not None:
            return program, sizes
    if first is not None:
        raise untraceable(first) from first
    raise ExportError(
        "the model works with one fixed number of rows alone",
        "take sizes of the batch from x.shape[0], not from numbers in the code or in the examples",
    )


def named_shapes(inputs):
    batch = torch.export.Dim("batch", min=1)
    names = list(inputs.bags)
    shapes = []
    for leaf in inputs.leaves:
        if leaf.role in ("ids", "weights"):
            shapes.append({0: torch.export.Dim(f"ids_{names.index(leaf.feature)}", min=0)})
        elif leaf.role == "offsets" and inputs.bags[leaf.feature].last_offset:
            shapes.append({0: batch + 1})
        else:
            shapes.append({0: batch})
    return shapes


def automatic_shapes(inputs):
    return [{0: torch.export.Dim.AUTO} for _ in inputs.leaves]


def batch_sizes(program, inputs):
    """Expressions that stand for the number of rows, None if tracing fixed it."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes = set()
    for name, leaf in zip(program.graph_signature.user_inputs, inputs.leaves):
        value = nodes[name].meta.get("val")
        if leaf.role in ("ids", "weights") or not isinstance(value, torch.Tensor):
            continue
        size = value.shape[0]
        if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
            return None
        expression = size.node.expr
        sizes.add(expression - 1 if leaf.role == "offsets" and inputs.bags[leaf.feature].last_offset else expression)
    return sizes


def mutates(node):
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and "_assert" not in schema.name


def untraceable(error):
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
    used = {tensor for tensor, _, _ in parts.values()}
    used |= {origin for name in bundle.tensors for origin in graph.origins.get(name.removesuffix("/dense"), ())}
    by_memory = {}
    for key, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if tensor.is_floating_point() and tensor.numel():
            by_memory.setdefault(tensor.data_ptr(), []).append(plain_name(key))
    return sorted(keys[0] for keys in by_memory.values() if not any(key in used for key in keys))


def count_rows(sent):
    first = next(iter(sent.values()))
    return len(first[1]) if isinstance(first, tuple) else len(first)


# Checks.


def compare(model, inputs, program, samples, columns, bundle, sent):
    """Expected outputs in float64, the graph's difference to them, and that of torch's own f32. Refuses what differs."""
    tensors = inputs.tensors(samples.rows, samples.bags)
    wanted = flattened(program_outputs(program, tensors), columns)
    for name, x in wanted.items():
        if not np.isfinite(x).all():
            raise ExportError(
                f"output {name} is {x[~np.isfinite(x)][0]} in row {int(np.argmax(~np.isfinite(x)))} of the selftest",
                "pass selftest_inputs that the model can score, or clamp what overflows",
            )
    own = flattened(model_outputs(model, inputs, tensors, False), columns)
    f32 = distance(own, wanted)
    double = model_outputs(model, inputs, tensors, True)
    if double is not None:
        double = flattened(double, columns)
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
    rows_apart(model, inputs, samples, columns, own)
    found = bundle.evaluate(sent)
    exact = distance(found, wanted)
    if not exact <= EXACT:
        name = max(wanted, key=lambda key: np.nan_to_num(np.abs(found[key] - wanted[key]), nan=np.inf).max())
        row = int(np.argmax(np.nan_to_num(np.abs(found[name] - wanted[name]), nan=np.inf)))
        raise ExportError(
            f"the graph differs from torch by {exact:.3g} (output {name}, row {row}: "
            f"{float(found[name][row])!r}, torch has {float(wanted[name][row])!r})",
            "this is a fault of the exporter: report it with the model",
        )
    return wanted, exact, f32


def flattened(arrays, columns, rows=None):
    """Output name -> [rows] of torch's results. `rows`: where a model may squeeze a single row's dimension away."""

    def matrix(x):
        count = rows if rows and x.size % rows == 0 else len(x)
        return x.reshape(count, -1)

    return {name: np.asarray(matrix(np.asarray(arrays[at]))[:, i], np.float64) for name, _, _, (at, i) in columns}


def distance(found, wanted):
    return max(float((np.abs(found[key] - x) / np.maximum(1, np.abs(x))).max()) for key, x in wanted.items())


def rows_apart(model, inputs, samples, columns, together):
    """Whether rows score the same among fewer others: rows of different requests share batches. Some models cannot score a single row
    (they squeeze its dimension away), where the bundle can: those are tried with two."""
    rows = len(next(iter(together.values())))
    for i in (0, 1, 2):
        for count in (1, 2):
            picked = (i + np.arange(count)) % rows
            part, bags = inputs.take(samples.rows, samples.bags, picked)
            try:
                apart = flattened(model_outputs(model, inputs, inputs.tensors(part, bags), False), columns, count)
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
