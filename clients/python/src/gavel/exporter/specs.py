"""What a user may say about a model's inputs: names of features, their columns, and the rules that the server applies to them."""

from dataclasses import dataclass


@dataclass
class _Feature:
    """`name`: on the wire; `input`: the model's input that holds it (an argument of forward, a key of a dict, "argument.key"; default:
    the input of the feature's name); `columns`: of a matrix [batch, n]: a number, (start, end) or a list of neighbours (default: all);
    `scope`: "context" (once per request) or "candidate" (default)."""

    name: str
    input: str | None = None
    columns: object = None
    scope: str | None = None

    def numbers(self, width):
        """Column numbers of the input."""
        if self.columns is None:
            return list(range(width))
        if isinstance(self.columns, int):
            return [self.columns + width if self.columns < 0 else self.columns]
        if isinstance(self.columns, (tuple, range, slice)):
            x = self.columns
            start, end = (x.start, x.stop) if isinstance(x, (range, slice)) else x
            return list(range(start or 0, width if end is None else end))
        return list(self.columns)


@dataclass
class Dense(_Feature):
    """Numbers. `nan`: None refuses NaN, "keep" hands it on to the model, a number replaces it; `transform`: "log1p_clamp0" if the server is
    to compute ln(1 + max(x, 0)) of what it is sent; the model's input then is the transformed number."""

    nan: float | str | None = None
    transform: str | None = None


@dataclass
class _Rules(_Feature):
    """`hash`: {"fn": "fnv1a64" | "splitmix64" | "identity", "mod": m, "add": a}: clients send raw ids, the model's input is add + fn(id)
    % mod;
    `missing`: {"row": k}, what a missing id becomes; `out_of_range`: {"row": k}; `id_type`: "u32" or "u64"."""

    hash: dict | None = None
    missing: object = None
    out_of_range: object = None
    id_type: str | None = None


@dataclass
class Sparse(_Rules):
    """Ids that are looked up in a table."""


@dataclass
class Integer(_Feature):
    """Whole numbers that the model computes with (lengths, positions), or ids that it also reads as numbers."""


@dataclass
class Jagged(_Rules):
    """A bag of ids per row, of any length up to `max_len` (default: the longest bag of the example inputs).

    `input`: the key of a KeyedJaggedTensor, or the input with all ids one after the other; for the latter `offsets`: the input with the
    start of each bag, and `weights`: the input with a weight per id, if the model takes some.
    """

    max_len: int | None = None
    offsets: str | None = None
    weights: str | None = None


KINDS = {"dense": Dense, "sparse": Sparse, "integer": Integer, "jagged": Jagged}


def normalised(features):
    """Specs of what a user may pass: a list of specs, of dicts as in a manifest ({"name", "kind", ..}), or a dict name -> spec or dict;
    or plain names, one per column of a single matrix or per input."""
    from .errors import ExportError

    if isinstance(features, dict):
        features = [{"name": name} | spec if isinstance(spec, dict) else spec for name, spec in features.items()]
    out = []
    for spec in features:
        if isinstance(spec, dict):
            kind = spec.get("kind")
            if kind not in KINDS:
                raise ExportError(f"feature {spec.get('name')!r}: kind {kind!r}", f"use one of {', '.join(KINDS)}")
            try:
                spec = KINDS[kind](**{key: value for key, value in spec.items() if key != "kind"})
            except TypeError as error:
                raise ExportError(f"feature {spec.get('name')!r}: {error}", "see help(gavel.Sparse) for what can be said") from error
        if isinstance(spec, str):
            spec = _Feature(spec)
        if not isinstance(spec, _Feature):
            raise ExportError(f"features holds {spec!r}", "pass gavel.Dense, gavel.Sparse, gavel.Integer or gavel.Jagged")
        out.append(spec)
    return out


def placed(specs, leaves):
    """Specs with the columns of those that are plain names: of a single matrix, or whole inputs, in order."""
    from .errors import ExportError

    rows = [leaf for leaf in leaves if leaf.role == "rows"]
    plain = [spec for spec in specs if type(spec) is _Feature and spec.name not in {leaf.name for leaf in rows}]
    if not plain:
        return specs
    if len(rows) == 1 and len(specs) == rows[0].columns:
        return [spec if spec.columns is not None else type(spec)(**vars(spec) | {"columns": i}) for i, spec in enumerate(specs)]
    if len(specs) == len(rows):
        return [spec if spec.input is not None else type(spec)(**vars(spec) | {"input": leaf.name}) for spec, leaf in zip(specs, rows)]
    raise ExportError(
        f"{len(specs)} names for {', '.join(f'{leaf.name} ({leaf.columns} columns)' for leaf in rows)}",
        "name every column of a single matrix, or every input; or say which: gavel.Sparse(name, input=.., columns=..)",
    )
