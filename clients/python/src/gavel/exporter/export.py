"""The way from a model to its bundle, step by step."""

import copy
import re
from collections import Counter

import numpy as np
import torch

from ..bundle import Bundle
from ..interpreter import evaluate
from . import (  # noqa: F401 (operators register)
    leaves,
    ops_assignments,
    ops_composed,
    ops_elementwise,
    ops_integers,
    ops_layers,
    ops_layout,
    ops_lookup,
    ops_plumbing,
    ops_products,
    ops_recurrent,
    ops_reduce,
)
from .canonical import Canonicaliser, stand_ins
from .checks import EXACT, compare, scorable
from .encoder_leaf import packs
from .errors import ExportError
from .features import Assignment, live_steps
from .from_program import trace_of
from .inputs import Flat, Inputs
from .options import STORED, Options
from .outputs import output_columns
from .reference import Fixed, model_outputs, place_of
from .report import Report, auc
from .samples import Samples
from .specs import placed
from .tensors import add_tables, add_tensors, requantised, unused_tensors
from .tracing import traced


def export(model, example, **options):
    """Writes the bundle; gives its Report. `options`: of Options."""
    modes = {}
    try:
        options = Options(**options)
        if not isinstance(model, torch.nn.Module):
            raise ExportError(f"the model is a {type(model).__name__}", "pass a torch.nn.Module")
        model, warnings = plain_model(model)
        modes = {module: module.training for module in model.modules()}
        model.eval()
        return _export(model, example, options, warnings)
    except (ExportError, OSError):
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"the export fails ({type(error).__name__}{': ' + said if said else ''})",
            "take what the line below needs out of the exported module; if it is none of the model's, report it with the model",
            source=place_of(error),
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _export(model, example, options, warnings):
    name, tables, count = options.name or re.sub(r"[^A-Za-z0-9_-]", "_", type(model).__name__)[:64], options.tables, options.selftest_rows
    inputs = Inputs(model, example, options.features)
    specs = placed(options.features, inputs.leaves)
    first = inputs.tensors(*inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(inputs.rows)))
    model_outputs(model, inputs, first, False, "its example inputs")
    flat_model, quantised = leaves.swapped(model)
    flat = Flat(flat_model, inputs)
    program, sizes = traced(flat, inputs)
    trace = trace_of(program, sizes)
    trace.evaluate = Fixed(program)
    canonical = Canonicaliser(trace, stand_ins(trace, inputs.leaves))
    results = canonical.run()
    columns = output_columns(canonical, results, inputs.results, options.output_names, options.output_kinds)
    assignment = Assignment(canonical, inputs, [column[1] for column in columns], known_columns(model, inputs), specs, options.context)
    graph, values = assignment.rewrite([column[1] for column in columns])
    steps = live_steps(graph.steps, values)

    bundle = Bundle(name, options.description)
    bundle.features, bundle.graph = assignment.manifest(), steps
    bundle.outputs = [{"name": c[0], "value": v, "kind": c[2]} for c, v in zip(columns, values)]
    if not bundle.features:
        raise ExportError("no output depends on an input", "export a module whose forward uses its arguments")
    unrounded = add_tables(bundle, assignment.used_tables(steps), canonical.graph.tables, quantised, "f32")
    unrounded |= add_tensors(bundle, graph)

    given = inputs
    if options.selftest_inputs is not None:
        given = Inputs(model, options.selftest_inputs, specs)
        same = [leaf.name for leaf in given.leaves] == [leaf.name for leaf in inputs.leaves]
        if not same:
            raise ExportError("selftest_inputs differ in form from example_inputs", "pass the same arguments with other rows")
    # Mixed rows would have padding in the middle of a history, which such an encoder treats in another way.
    mixed = not any(map(packs, model.modules()))
    samples = Samples(inputs, assignment, (given.example_rows(), given.example_bags()), count, mixed)
    samples.features()  # refuses what a client could not send
    scorable(model, inputs, samples)
    sent = samples.features()
    expected, exact, f32 = compare(model, inputs, program, samples, columns, bundle, sent, unrounded, canonical)

    shift, area = {}, {}
    if tables != "f32":
        bundle, before = (
            requantised(bundle, assignment.used_tables(steps), canonical.graph.tables, quantised, graph, STORED[tables]),
            expected,
        )
        expected = evaluate(bundle.manifest(), bundle.tensors, sent, bundle.values)
        shift = {key: float(np.abs(expected[key] - before[key]).max()) for key in expected}
    if options.labels is not None:
        labels = np.asarray(options.labels).reshape(len(options.labels), -1)
        n = min(len(labels), count, given.rows)
        for i, output in enumerate(bundle.outputs):
            column = labels[:n, i if labels.shape[1] > i else 0]
            first = auc((before if tables != "f32" else expected)[output["name"]][:n], column)
            if first is not None:
                area[output["name"]] = (first, auc(expected[output["name"]][:n], column))
    atol = max(2e-6, 10 * f32) if options.atol is None else options.atol
    largest = max(float(np.abs(x).max()) for x in expected.values())
    try:
        rtol = 1e-5 if largest > 1 else None
        bundle.write(options.out, sent, expected, atol=atol, rtol=rtol, check=max(EXACT, exact), rows=samples.origin)
    except ValueError as error:
        raise ExportError(str(error), "this is a fault of the exporter: report it with the model") from error
    return Report(
        name,
        str(options.out),
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
        warnings + canonical.warnings,
        samples.origin,
    )


def plain_model(model):
    """(the module behind wrappers, on the CPU and in f32: a copy where that changes it; warnings)."""
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while isinstance(model, wrappers) or isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
        model = model.module if isinstance(model, wrappers) else model._orig_mod
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ExportError(
                f"{path or 'the model'} is a TorchScript module", "pass the Python module that it was made from", module=path or None
            )
        refuse_quantised(path, module)
    state = list(model.parameters()) + list(model.buffers())
    narrow = sorted({str(t.dtype).removeprefix("torch.") for t in state if t.dtype in (torch.float16, torch.bfloat16)})
    if any(t.device.type != "cpu" or t.is_floating_point() and t.dtype != torch.float32 for t in state):
        model = copy.deepcopy(model).cpu().float()
    return model, [f"the model's {' and '.join(narrow)} numbers were widened: gavel computes in f32"] if narrow else []


def refuse_quantised(path, module):
    home = type(module).__module__
    rounded = home.startswith(("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic.quantized")) and "quantized" in home
    if rounded or any(c.__name__ == "FakeQuantizeBase" for c in type(module).__mro__):
        raise ExportError(
            f"the module is quantised by torch ({type(module).__name__})",
            'export the float model: tables="int8" stores tables in 8 bits, and the server picks layers for 8 bits with --precision int8',
            module=path or "(the model itself)",
        )


def count_rows(sent):
    first = next(iter(sent.values()))
    return len(first[1]) if isinstance(first, tuple) else len(first)


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
