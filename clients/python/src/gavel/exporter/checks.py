"""What holds a bundle against torch: the graph, the model as it is, rows apart."""

import numpy as np

from ..interpreter import evaluate
from .encoder_leaf import packs
from .errors import ExportError
from .reference import Float32, model_outputs, program_outputs

EXACT = 1e-6  # largest difference of the graph to torch, both in float64, relative above 1
F32_AGREES = 2e-3  # the user's own f32 model against float64: a gross difference means that tracing changed the model
FROZEN = "forward depends on something that tracing froze: the batch's size, a counter, random numbers"
NESTED = (
    "nn.TransformerEncoder gives zeros for padded steps only if no row of the batch has padding before its end: pad all histories at "
    "their ends, or construct it with enable_nested_tensor=False"
)
ROUNDING = 5  # how much more than torch's own f32 the rounding of computed weights may move scores


def scorable(model, inputs, samples):
    """Leaves out made rows that the model itself cannot score, such as histories that are masked entirely; refuses examples of the kind."""
    bad = np.zeros(next(len(x) for x in [*samples.rows.values(), *(ids for ids, _ in samples.bags.values())]), bool)
    for x in model_outputs(model, inputs, inputs.tensors(samples.rows, samples.bags), False):
        if x.size and x.size % len(bad) == 0:
            bad |= ~np.isfinite(x.reshape(len(bad), -1)).all(1)
    if bad[: samples.examples].any():
        row = int(np.argmax(bad))
        raise ExportError(
            f"the model itself gives NaN or an infinity in row {row} of its examples",
            "pass examples that it can score; clamp what overflows, and let no mask hide a whole history",
        )
    if bad.any():
        samples.replace(bad)


def compare(model, inputs, program, samples, columns, bundle, sent, unrounded, canonical):
    """Expected outputs in float64, the graph's difference to them, and that of torch's own f32. Refuses what differs.

    `unrounded`: name -> tensor in float64, for those that were computed from the model's: the bundle holds them in f32.
    """
    halves, warn = canonical.halves, canonical.warn
    tensors = inputs.tensors(samples.rows, samples.bags)
    own = flattened(model_outputs(model, inputs, tensors, False), columns)
    wanted = flattened(program_outputs(program, tensors), columns)
    for name, x in wanted.items():
        if not np.isfinite(x).all():
            raise ExportError(
                f"output {name} is {x[~np.isfinite(x)][0]} in row {int(np.argmax(~np.isfinite(x)))} of the selftest",
                "pass selftest_inputs that the model can score, or clamp what overflows",
            )
    f32 = distance(own, wanted)
    double = model_outputs(model, inputs, tensors, True)
    if double is not None:
        double = flattened(double, columns)
        if not distance(double, wanted) <= EXACT and not all((np.asarray(x, np.float32) == x).all() for x in double.values()):
            raise ExportError(
                f"the traced model differs from the model itself by {distance(double, wanted):.3g}, both in float64",
                NESTED if any(map(packs, model.modules())) else FROZEN,
            )
    if not f32 <= F32_AGREES and halves:
        raise ExportError(
            f"the model computes parts in half precision (autocast, .half(), .bfloat16()); in f32, as a server computes, "
            f"scores move by {f32:.3g}",
            "take the casts out of forward before exporting: with autocast(enabled=False), or .float()",
        )
    if not f32 <= F32_AGREES:
        raise ExportError(
            f"the traced model in float64 differs from the model in f32 by {f32:.3g}",
            NESTED if any(map(packs, model.modules())) else f"{FROZEN}; or it loses so many digits in f32 that its scores mean little",
        )
    if halves:
        warn(f"casts to half precision inside the model were left out, which moves its scores by up to {f32:.1e}: gavel computes in f32")
        f32 = distance(flattened(program_outputs(program, tensors, Float32), columns), wanted)
    rows_apart(model, inputs, samples, columns, own)
    found = evaluate(bundle.manifest(), bundle.tensors | unrounded, sent, bundle.values)
    exact = distance(found, wanted)
    if not exact <= EXACT:
        name = max(wanted, key=lambda key: np.nan_to_num(np.abs(found[key] - wanted[key]), nan=np.inf).max())
        row = int(np.argmax(np.nan_to_num(np.abs(found[name] - wanted[name]), nan=np.inf)))
        raise ExportError(
            f"the graph differs from torch by {exact:.3g} (output {name}, row {row}: "
            f"{float(found[name][row])!r}, torch has {float(wanted[name][row])!r})",
            "this is a fault of the exporter: report it with the model",
        )
    if unrounded:
        exact = distance(bundle.evaluate(sent), wanted)
        if not exact <= max(EXACT, ROUNDING * f32):
            raise ExportError(
                f"what the model computes from its weights loses too much in f32: scores move by {exact:.3g}",
                "keep such numbers small, or compute them once and store them as parameters before exporting",
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
    (they squeeze its dimension away), or none but empty histories, where the bundle can: those are tried with two, then with half."""
    rows = len(next(iter(together.values())))
    for i in (0, 1, 2):
        counts = (1, 2, max(2, rows // 2))
        for count in counts:
            picked = (i + np.arange(count)) % rows
            part, bags = inputs.take(samples.rows, samples.bags, picked)
            try:
                apart = flattened(model_outputs(model, inputs, inputs.tensors(part, bags), False), columns, count)
                if all(len(x) == count for x in apart.values()):
                    break
            except ExportError:
                if count == counts[-1]:
                    raise
        for name, x in apart.items():
            off = np.abs(x - together[name][picked]) / np.maximum(1, np.abs(x))
            if not (off <= 1e-4).all():
                raise ExportError(
                    f"row {i} scores {float(x[0])!r} among {count} and {float(together[name][i])!r} among {rows} rows (output {name})",
                    "a row's score must not depend on the rows beside it",
                )
