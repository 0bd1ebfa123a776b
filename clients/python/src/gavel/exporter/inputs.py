"""A model's example inputs as leaves: flat arrays with a role each, and back.

Every leaf has rows (its first dimension), or belongs to a jagged feature: ids one after the other with offsets, or a key of a
KeyedJaggedTensor.
"""

import dataclasses
import inspect
from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import ExportError
from .specs import Jagged


@dataclass
class Leaf:
    """`role`: "rows", "ids", "offsets", "weights" (jagged, native), or "padded", "padded_weights" (a key of a KeyedJaggedTensor);
    `feature`: name of the jagged feature that it belongs to; `start`: number of its first column among all inputs' columns."""

    name: str
    data: torch.Tensor | None
    role: str = "rows"
    feature: str | None = None
    start: int = 0
    shape: tuple = ()
    stack: str | None = None  # the matrix [features, n] that it is a row of

    @property
    def columns(self):
        return int(np.prod(self.shape)) if self.shape else 1

    @property
    def floating(self):
        return self.data.is_floating_point()


@dataclass
class Bag:
    """A jagged feature of the model's inputs. `ids`: a list of arrays, one a row, from the examples; `weights`: likewise, or None."""

    name: str
    ids: list
    weights: list | None = None
    last_offset: bool = False
    max_len: int = 0
    leaves: dict = field(default_factory=dict)  # role -> Leaf


class Inputs:
    """`leaves`: in the order of the flat model's arguments; `bags`: name -> Bag; `rows`: of the examples;
    `results`: paths of the tensors that forward returned when it was traced."""

    def __init__(self, model, example, specs=()):
        self.keywords = named_arguments(model, example) if isinstance(example, dict) else None
        if self.keywords:
            example = tuple(example[name] for name in self.keywords)
        if hasattr(example, "_fields"):
            example = (example,)
        if not isinstance(example, tuple):
            example = tuple(example) if isinstance(example, list) and takes(model, len(example)) else (example,)
        self.likely_rows = next((len(x) for x in example if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() > 1), None)
        self.specs = list(specs)
        self.arguments = list(zip(self.keywords, example)) if self.keywords else self._named(model, tuple(example))
        self.leaves, self.bags, self.build, self.results = [], {}, [], []
        self.last_offset = any(getattr(m, "include_last_offset", False) for m in model.modules())
        found = []
        for name, value in self.arguments:
            self.build.append((name, self._flatten(name, value, found)))
        self._short_names(found)
        self._roles(model, found)
        self.leaves = found
        at = 0
        for leaf in self.leaves:
            if leaf.role == "rows":
                leaf.shape = tuple(leaf.data.shape[1:])
                leaf.start = at
                at += leaf.columns
        self.columns = at

    @staticmethod
    def _named(model, example):
        """(name of the argument, value)."""
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        names = []
        for i in range(len(example)):
            if i < len(parameters) and parameters[i].kind in (parameters[i].POSITIONAL_ONLY, parameters[i].POSITIONAL_OR_KEYWORD):
                names.append(parameters[i].name)
            else:
                rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "input")
                names.append(f"{rest}.{i}")
        required = [
            p.name for p in parameters[len(example) :] if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if required:
            raise ExportError(f"forward also needs {', '.join(required)}", "pass example_inputs for every argument")
        return list(zip(names, example))

    def _flatten(self, path, value, found):
        """A recipe that gives the value back from leaves; tensors are appended to `found`."""
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value
            if self._by_feature(value):
                recipes = [self._flatten(f"{path}.{i}", item, found) for i, item in enumerate(value)]
                for leaf in found[-len(recipes) :]:
                    leaf.stack = path
                return ("stack", None, recipes)
            found.append(Leaf(path, value))
            return ("leaf", len(found) - 1)
        if type(value).__name__ == "KeyedJaggedTensor":
            return self._flatten_keyed(path, value, found)
        if isinstance(value, dict):
            return ("dict", type(value), {key: self._flatten(f"{path}.{key}", item, found) for key, item in value.items()})
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            return ("dataclass", type(value), {key: self._flatten(f"{path}.{key}", item, found) for key, item in held.items()})
        if isinstance(value, (list, tuple)):
            names = getattr(value, "_fields", range(len(value)))
            parts = [self._flatten(f"{path}.{name}", item, found) for name, item in zip(names, value)]
            return ("named" if hasattr(value, "_fields") else "list", type(value), parts)
        if value is None or isinstance(value, (bool, int, float, str)):
            return ("static", value)
        raise ExportError(
            f"the example input {path} is a {type(value).__name__}",
            "pass tensors, dicts, dataclasses and lists of tensors, or torchrec's KeyedJaggedTensor",
        )

    def _by_feature(self, value):
        """Whether a matrix has a row per feature, not per row of the batch: offsets [features, batch] or ids [features, n], as DLRM
        takes them."""
        if self.likely_rows is None or value.is_floating_point() or value.dim() != 2 or len(value) == self.likely_rows:
            return False
        if all(starts(row) for row in value) and value.shape[1] in (self.likely_rows, self.likely_rows + 1):
            self.features_first = len(value)
            return True
        return getattr(self, "features_first", None) == len(value)

    def _flatten_keyed(self, path, keyed, found):
        rows = keyed.stride()
        recipe = []
        for key, feature in keyed.to_dict().items():
            lengths = feature.lengths().cpu().numpy()
            ends = np.cumsum(lengths)
            cut = lambda x: [x[e - n : e] for e, n in zip(ends, lengths)]
            ids = cut(feature.values().cpu().numpy())
            weights = feature.weights_or_none()
            weights = None if weights is None else cut(weights.cpu().numpy())
            bag = Bag(key, ids, weights, max_len=max(1, int(lengths.max(initial=0))))
            spec = next((s for s in self.specs if isinstance(s, Jagged) and (s.input or s.name) == key), None)
            if spec is not None and spec.max_len is not None:
                if spec.max_len < bag.max_len:
                    raise ExportError(f"feature {spec.name}: max_len {spec.max_len}, an example has {bag.max_len} ids", "raise max_len")
                bag.max_len = spec.max_len
            self.bags[key] = bag
            bag.leaves["padded"] = Leaf(key, padded(ids, bag.max_len, -1, np.int64), "padded", key)
            found.append(bag.leaves["padded"])
            at = len(found) - 1
            if weights is not None:
                bag.leaves["padded_weights"] = Leaf(f"{key}.weights", padded(weights, bag.max_len, 0, np.float32), "padded_weights", key)
                found.append(bag.leaves["padded_weights"])
            recipe.append((key, at, len(found) - 1 if weights is not None else None))
        self.keyed_rows = rows
        return ("keyed", None, recipe)

    @staticmethod
    def _short_names(leaves):
        """`argument.key` becomes `key` where that is unique."""
        short = {}
        for leaf in leaves:
            short.setdefault(leaf.name.partition(".")[2] if "." in leaf.name and leaf.role == "rows" else leaf.name, []).append(leaf)
        for name, of in short.items():
            if len(of) == 1 and not name.isdigit() and not name[0].isdigit():
                of[0].name = name

    def _roles(self, model, leaves):
        """Which leaves have rows, which belong to bags."""
        by_name = {leaf.name: leaf for leaf in leaves}
        for spec in self.specs:
            if isinstance(spec, Jagged) and spec.offsets is not None:
                for key in filter(None, (spec.input or spec.name, spec.offsets, spec.weights)):
                    if key not in by_name:
                        raise ExportError(f"feature {spec.name}: the model has no input {key}", f"its inputs are {', '.join(by_name)}")
                self._pair(spec.name, by_name[spec.input or spec.name], by_name[spec.offsets], by_name.get(spec.weights), spec.max_len)
        rest = [leaf for leaf in leaves if leaf.role == "rows"]
        for leaf in rest:
            if leaf.data.dim() == 0:
                raise ExportError(
                    f"the example input {leaf.name} is a scalar", "pass numbers that are fixed as Python numbers, others as [batch]"
                )
        flat = [leaf for leaf in rest if leaf.data.dim() == 1 and not leaf.floating]
        offsets = [leaf for leaf in flat if starts(leaf.data)]
        bags = any(isinstance(m, torch.nn.EmbeddingBag) for m in model.modules())
        # Vectors that are as long as ids of bags may be the weights of these.
        lengths = {len(leaf.data) for leaf in flat if not any(leaf is o for o in offsets)} if bags and offsets else set()
        lengths -= {len(leaf.data) - d for leaf in offsets for d in (0, self.last_offset)}
        beside = [leaf for leaf in rest if leaf.floating and leaf.data.dim() == 1 and len(leaf.data) in lengths]
        sizes = [len(leaf.data) for leaf in rest if not any(leaf is x for x in flat + beside)] + [
            len(leaf.data) for leaf in leaves if leaf.role.startswith("padded")
        ]
        if sizes:
            self.rows = max(set(sizes), key=sizes.count)
        elif offsets and len(offsets) < len(flat):
            self.rows = len(offsets[0].data) - self.last_offset
        else:
            sizes = [len(leaf.data) for leaf in rest]
            self.rows = max(set(sizes), key=sizes.count) if sizes else len(next(iter(self.bags.values())).ids)
        odd = [leaf for leaf in flat if len(leaf.data) != self.rows]
        offsets = [leaf for leaf in offsets if len(leaf.data) in (self.rows, self.rows + 1)]
        ids = [leaf for leaf in odd if not any(leaf is o for o in offsets)]
        others = [leaf for leaf in flat if not any(leaf is o for o in offsets)]
        if len(offsets) == len(others) and bags:
            ids = others  # also where each bag happens to hold one id
        elif not ids:
            offsets = []
        if ids and len(ids) != len(offsets):
            raise ExportError(
                f"the inputs {', '.join(leaf.name for leaf in ids)} are no [batch] tensors of {self.rows} rows",
                "say what belongs together: features=[gavel.Jagged(name, input=IDS, offsets=OFFSETS)]; where ids have weights, "
                "with weights=WEIGHTS",
            )
        weights = [leaf for leaf in rest if leaf.floating and leaf.data.dim() == 1 and len(leaf.data) != self.rows]
        for one, start in zip(ids, offsets):
            of = next((leaf for leaf in weights if len(leaf.data) == len(one.data)), None)
            weights = [leaf for leaf in weights if leaf is not of]
            self._pair(one.name, one, start, of, None)
        if not self.rows:
            raise ExportError("the example inputs have no rows", "pass a few real rows")
        for leaf in leaves:
            if leaf.role == "rows" and len(leaf.data) != self.rows:
                raise ExportError(
                    f"the example input {leaf.name} has {len(leaf.data)} rows, others have {self.rows}",
                    "give every example input the same number of rows",
                )

    def _pair(self, name, ids, offsets, weights, max_len):
        starts_ = offsets.data.numpy().astype(np.int64)
        last = self.last_offset
        ends = starts_[1:] if last else np.append(starts_[1:], len(ids.data))
        starts_ = starts_[: len(ends)]
        cut = lambda x: [x[s:e] for s, e in zip(starts_, ends)]
        longest = max(1, int((ends - starts_).max(initial=0)))
        if max_len is not None and max_len < longest:
            raise ExportError(f"feature {name}: max_len {max_len}, an example has {longest} ids", "raise max_len")
        bag = Bag(name, cut(ids.data.numpy()), cut(weights.data.numpy()) if weights is not None else None, last, max_len or longest)
        bag.leaves = {"ids": ids, "offsets": offsets} | ({"weights": weights} if weights is not None else {})
        for role, leaf in bag.leaves.items():
            leaf.role, leaf.feature = role, name
        self.bags[name] = bag

    # Back to what forward takes.

    def tensors(self, rows, bags):
        """Arguments of the flat model. `rows`: leaf name -> array [n, ..]; `bags`: name -> (ids per row, weights per row or None)."""
        out = []
        for leaf in self.leaves:
            if leaf.role == "rows":
                out.append(torch.as_tensor(rows[leaf.name]))
                continue
            bag = self.bags[leaf.feature]
            ids, weights = bags[leaf.feature]
            dtype = leaf.data.numpy().dtype
            lengths = np.array([len(x) for x in ids], np.int64)
            if leaf.role == "padded":
                out.append(padded(ids, bag.max_len, -1, np.int64))
            elif leaf.role == "padded_weights":
                out.append(padded(weights, bag.max_len, 0, np.float64))
            elif leaf.role == "ids":
                out.append(torch.as_tensor(np.concatenate(ids).astype(dtype) if len(ids) else np.zeros(0, dtype)))
            elif leaf.role == "weights":
                out.append(torch.as_tensor(np.concatenate(weights).astype(np.float64)))
            else:
                ends = np.cumsum(lengths)
                out.append(torch.as_tensor(np.concatenate([[0], ends if bag.last_offset else ends[:-1]]).astype(dtype)))
        return out

    def call(self, model, tensors, flat):
        """What the user's forward returns for the flat model's arguments. `flat`: True while tracing (KeyedJaggedTensors stay padded)."""
        made = [self._rebuild(recipe, tensors, flat) for _, recipe in self.build]
        return model(**dict(zip(self.keywords, made))) if self.keywords else model(*made)

    def _rebuild(self, recipe, tensors, flat):
        kind = recipe[0]
        if kind == "leaf":
            return tensors[recipe[1]]
        if kind == "static":
            return recipe[1]
        if kind == "dict":
            made = {key: self._rebuild(item, tensors, flat) for key, item in recipe[2].items()}
            return made if recipe[1] is dict else recipe[1](made)
        if kind == "dataclass":
            return recipe[1](**{key: self._rebuild(item, tensors, flat) for key, item in recipe[2].items()})
        if kind == "stack":
            return torch.stack([self._rebuild(item, tensors, flat) for item in recipe[2]])
        if kind in ("list", "named"):
            made = [self._rebuild(item, tensors, flat) for item in recipe[2]]
            return recipe[1](*made) if kind == "named" else recipe[1](made)
        if flat:
            from .torchrec_leaves import TracedJagged, TracedKJT

            return TracedKJT({key: TracedJagged(tensors[i], None if w is None else tensors[w]) for key, i, w in recipe[2]})
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        ids = [tensors[i] for _, i, _ in recipe[2]]
        there = [x >= 0 for x in ids]
        weights = [tensors[w][t] for (_, _, w), t in zip(recipe[2], there) if w is not None]
        return KeyedJaggedTensor(
            keys=[key for key, _, _ in recipe[2]],
            values=torch.cat([x[t] for x, t in zip(ids, there)]),
            lengths=torch.cat([t.sum(1) for t in there]),
            weights=torch.cat(weights) if weights else None,
        )

    def example_rows(self):
        return {leaf.name: leaf.data.numpy() for leaf in self.leaves if leaf.role == "rows"}

    def example_bags(self):
        return {name: (bag.ids, bag.weights) for name, bag in self.bags.items()}

    def take(self, rows, bags, indices):
        """Some rows."""
        cut = lambda x: None if x is None else [x[i] for i in indices]
        return {name: x[indices] for name, x in rows.items()}, {name: (cut(ids), cut(weights)) for name, (ids, weights) in bags.items()}


def named_arguments(model, example):
    """forward's arguments, if a dict of examples holds them by name; in forward's order."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    given = [p.name for p in named if p.name in example]
    others = [key for key in example if key not in given]
    if others and not any(p.kind == p.VAR_KEYWORD for p in parameters) or not all(isinstance(key, str) for key in others):
        return None
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return given + others if set(required) <= set(given) else None


def takes(model, count):
    """Whether forward takes so many arguments, rather than one list."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required) <= count and (count <= len(positional) or any(p.kind == p.VAR_POSITIONAL for p in parameters))


def starts(x):
    """Whether a vector can be the starts of bags."""
    return len(x) > 0 and int(x[0]) == 0 and bool((x[1:] >= x[:-1]).all())


def padded(rows, width, fill, dtype):
    out = np.full((len(rows), width), fill, dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.as_tensor(out)


class Flat(torch.nn.Module):
    """The user's model with flat arguments and a flat list of results."""

    def __init__(self, model, inputs):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *tensors):
        made = self.inputs.call(self.model, tensors, True)
        # Kept outside of this module: tracing puts a module's own attributes back.
        self.inputs.results, out = [], []
        flatten_outputs("", made, self.inputs.results, out)
        return tuple(out)


def flatten_outputs(path, value, names, out):
    if isinstance(value, torch.Tensor):
        names.append(path)
        out.append(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten_outputs(f"{path}.{key}" if path else str(key), item, names, out)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            flatten_outputs(f"{path}.{field.name}" if path else field.name, getattr(value, field.name), names, out)
    elif isinstance(value, (list, tuple)):
        for name, item in zip(getattr(value, "_fields", range(len(value))), value):
            flatten_outputs(f"{path}.{name}" if path else str(name), item, names, out)
    elif value is None or isinstance(value, (bool, int, float, str)):
        pass
    else:
        raise ExportError(f"forward returns a {type(value).__name__}", "return tensors [batch] or [batch, n], or dicts and tuples of them")
