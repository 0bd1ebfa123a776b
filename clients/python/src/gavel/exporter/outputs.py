"""What forward returns, as named columns of scores."""

import math

from .errors import ExportError

OUTPUTS_MAX = 64
KINDS = ("probability", "logit", "value")


def output_columns(c, results, paths, names, kinds):
    """Results as columns: [(name, value's name, kind, (number of the result, of its column))]."""
    columns = []
    for number, ((_, value), path) in enumerate(zip(results, paths)):
        value = c.plain(value, "an output")
        if value.row is None:
            c.warn(f"output {path or 'of forward'} does not depend on the inputs and was left out")
            continue
        if value.row != 0:
            raise ExportError(f"an output of shape {list(value.dims)}", "return tensors [batch] or [batch, n]")
        width = math.prod(value.term.shape)
        if width > OUTPUTS_MAX:
            raise ExportError(f"an output of {width} numbers per row, a bundle has up to {OUTPUTS_MAX}", "return scores alone, not vectors")
        term = c.graph.cast(value.term, "f32")
        term = c.graph.reshape(term, (width,)) if len(term.shape) > 1 else term
        kind = kind_of_output(c, term)
        base = path.rpartition(".")[2] if path and not path.rpartition(".")[2].isdigit() else path.replace(".", "_")
        base = base or ("prob" if kind == "probability" else "score")
        if base[0].isdigit():
            base = f"{'prob' if kind == 'probability' else 'score'}_{base}"
        for i in range(width):
            part = term if width == 1 else c.graph.slice(term, 0, i, i + 1)
            columns.append([base if width == 1 else f"{base}_{i}", part, kind, (number, i)])
    if not columns:
        raise ExportError("forward returns no tensor that depends on its inputs", "return scores")
    if len(columns) > OUTPUTS_MAX:
        raise ExportError(f"{len(columns)} output columns, a bundle has up to {OUTPUTS_MAX}", "return scores alone, not vectors")
    for given, at in ((names, 0), (kinds, 2)):
        if given is None:
            continue
        given = [given] * len(columns) if isinstance(given, str) and at == 2 else [given] if isinstance(given, str) else list(given)
        if len(given) != len(columns):
            raise ExportError(
                f"{len(given)} {'output_names' if at == 0 else 'output_kinds'} for {len(columns)} output columns: {[x[0] for x in columns]}"
            )
        for column, x in zip(columns, given):
            column[at] = x
    for name, _, kind, _ in columns:
        if kind not in KINDS:
            raise ExportError(f"output kind {kind!r}", f"use one of {', '.join(KINDS)}")
        if [x[0] for x in columns].count(name) > 1:
            raise ExportError(f"two outputs are called {name}", "pass output_names")
    return [(name, c.graph.value(term), kind, place) for name, term, kind, place in columns]


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
