"""The bundle's graph under construction.

A `Term` is a value per row: made by a step, a constant, or columns of the model's inputs that nobody has read yet. Steps over constants
alone are folded on the spot; equal steps are made once; moves that cancel each other vanish. Shapes come from the interpreter itself,
run on zeros.
"""

import hashlib
import json
import math

import numpy as np

from .. import interpreter
from .errors import ExportError

ELEMENTS_MAX, RANK_MAX = 1 << 20, 8
INTEGER_MAX = 1 << 53  # of the integers that a manifest states


class Term:
    """`shape`: per row; `dtype`: "f32" or "i64"; exactly one of `name` (of a step's value), `array` (constant), `columns` is set.

    `source`: the tensor in the model that a constant is, unchanged; `origin`: the tensors that it was computed from; `literal`: a
    constant that the code states, so it may be written as a number;
    `columns`: numbers of input columns, with `offset` added to each id; `leaf_dtype`: what the columns hold.
    """

    __slots__ = ("shape", "dtype", "name", "array", "columns", "offset", "source", "literal", "raw_f32", "origin")

    def __init__(
        self, shape, dtype, name=None, array=None, columns=None, offset=None, source=None, literal=False, raw_f32=False, origin=()
    ):
        self.shape, self.dtype, self.name, self.array = tuple(int(s) for s in shape), dtype, name, array
        self.columns, self.offset, self.source, self.literal, self.raw_f32 = columns, offset, source, literal, raw_f32
        self.origin = frozenset([source]) if source is not None else frozenset(origin)

    @property
    def constant(self):
        return self.array is not None

    def __repr__(self):
        what = self.name or ("constant" if self.constant else "columns")
        return f"{what}:{self.dtype}{list(self.shape)}"


class Graph:
    def __init__(self):
        self.steps = []  # dicts; "@.." ops stand for reads of inputs and are replaced later
        self.made = {}  # name -> (step, Terms it reads)
        self.tensors = {}  # name -> array
        self.tables = {}  # name -> array of the tensors that are looked up in
        self.by_content = {}
        self.origins = {}  # name of a tensor -> tensors of the model that it was computed from
        self.same = {}
        self.by_name = {}
        self.names = set()
        self.numbers = set()  # tensors of the model that became numbers of steps
        self.place = ""  # prefix of new names: the module under way

    # Names and tensors.

    def name(self, hint):
        hint = "".join(c if c.isascii() and (c.isalnum() or c in "_-.:/@+#=") else "_" for c in hint)[-110:] or "v"
        name, i = hint, 1
        while name in self.names:
            i += 1
            name = f"{hint}.{i}"
        self.names.add(name)
        return name

    def tensor(self, term, hint):
        """The name of a constant's tensor, for an argument of a step."""
        array, name = term.array, term.source
        if name is not None and (name not in self.tensors or self.tensors[name] is array):
            self.tensors[name], self.origins[name] = array, term.origin
            return name
        if len(term.origin) == 1:
            hint = f"{next(iter(term.origin))}/derived"
        key = (array.shape, str(array.dtype), hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
        if key not in self.by_content:
            name, i = hint, 1
            while name in self.tensors:
                i += 1
                name = f"{hint}.{i}"
            self.tensors[name] = array
            self.by_content[key] = name
        name = self.by_content[key]
        self.origins[name] = self.origins.get(name, frozenset()) | term.origin
        return name

    def unique_table(self, hint):
        name, i = hint, 1
        while name in self.tables:
            i += 1
            name = f"{hint}.{i}"
        return name

    # Terms.

    def constant(self, array, source=None, literal=False):
        array = np.asarray(array)
        if array.dtype.kind in "iub":
            array, dtype = array.astype(np.int64, copy=False), "i64"
        else:
            array, dtype = array.astype(np.float64, copy=False) if array.dtype != np.float32 else array, "f32"
        return Term(array.shape, dtype, array=array, source=source, literal=literal)

    def columns(self, columns, dtype, offset=None, raw_f32=False):
        columns = np.asarray(columns)
        offset = np.zeros(columns.shape, np.int64) if offset is None else offset
        return Term(columns.shape, dtype, columns=columns, offset=offset, raw_f32=raw_f32)

    def value(self, term):
        """The name of the value that the term is, made now if need be."""
        if term.name is not None:
            return term.name
        if term.constant:
            term.name = self.const_step(term)
        else:
            term.name = self.read_columns(term)
        return term.name

    def const_step(self, term):
        array = term.array
        if array.size and (array == array.flat[0]).all() and term.source is None and stated(array):
            step = {"op": "fill", "value": to_number(array.flat[0], term.dtype), "shape": list(array.shape), "dtype": term.dtype}
            return self.add(step, [], array.shape, term.dtype, "fill").name
        name = self.tensor(term, self.hint("const"))
        return self.add({"op": "const", "tensor": name}, [], array.shape, term.dtype, name).name

    def read_columns(self, term):
        key = {"op": "@columns", "columns": term.columns.ravel().tolist(), "dtype": "f32" if term.raw_f32 else "i64"}
        read = self.add(key, [], (term.columns.size,), key["dtype"], "inputs")
        read = self.reshape(read, term.shape)
        if term.offset.any():
            read = self.emit("add", {"a": read, "b": self.constant(term.offset)})
        if read.dtype != term.dtype:
            read = self.emit("cast", {"in": read}, to=term.dtype)
        return read.name

    def hint(self, op):
        return f"{self.place}/{op}" if self.place else op

    def add(self, step, terms, shape, dtype, hint):
        """Appends a step unless an equal one was made."""
        key = json.dumps(step, sort_keys=True)
        if key in self.same:
            return self.same[key]
        if math.prod(shape) > ELEMENTS_MAX or len(shape) > RANK_MAX:
            raise ExportError(
                f"a value of shape {list(shape)} per row: a bundle's values have up to {ELEMENTS_MAX} elements and {RANK_MAX} axes",
                "make the model's intermediate values smaller",
            )
        if math.prod(shape) == 0:
            raise ExportError(f"a value without elements, shape {list(shape)} per row", "remove the empty slice or list from the model")
        name = self.name(hint)
        step = step | {"out": name}
        self.steps.append(step)
        term = Term(shape, dtype, name=name)
        self.made[name] = (step, terms)
        self.same[key] = self.by_name[name] = term
        return term

    def same_term(self, name):
        """The term that a step made."""
        return self.by_name[name]

    def emit(self, op, reads, tensors=None, hint=None, **attributes):
        """A step. `reads`: argument -> Term, list of Terms, or a number; `tensors`: argument -> constant Term."""
        tensors = {key: term for key, term in (tensors or {}).items() if term is not None}
        attributes = {key: value for key, value in attributes.items() if value is not None}
        flat = [t for r in reads.values() for t in (r if isinstance(r, list) else [r]) if isinstance(t, Term)]
        arrays = {f"@{key}": widened(term.array) for key, term in tensors.items()}
        step = {"op": op} | attributes | {key: f"@{key}" for key in tensors}
        if all(t.constant for t in flat):
            return self.fold(step, reads, arrays, tensors)
        scalar = {
            key: to_number(r.array.reshape(()), r.dtype)
            for key, r in reads.items()
            if is_literal(r) and key in ("a", "b") and op in NUMERIC
        }
        if len(scalar) < len([k for k in reads if k in ("a", "b")]):
            self.numbers.update(*(reads[key].origin for key in scalar))
            reads = reads | scalar
        shape, dtype = self.infer(step, reads, arrays)
        if op in NUMERIC:
            reads = self.without_broadcasts(reads, shape)
        written = {key: self.tensor(term, self.hint(f"{op}.{key}")) for key, term in tensors.items()}
        names = {}
        for key, r in reads.items():
            names[key] = [self.value(t) for t in r] if isinstance(r, list) else self.value(r) if isinstance(r, Term) else r
        return self.add({"op": op} | names | attributes | written, flat, shape, dtype, hint or self.hint(op))

    def without_broadcasts(self, reads, shape):
        """Operands as they were before a broadcast that the step makes anyway."""
        for key, r in reads.items():
            made, source = self.maker(r, "broadcast") if isinstance(r, Term) else (None, None)
            if (
                made
                and np.broadcast_shapes(source[0].shape, *(x.shape for k, x in reads.items() if k != key and isinstance(x, Term))) == shape
            ):
                reads = reads | {key: source[0]}
        return reads

    def run(self, step, reads, arrays, of):
        values = {}
        for key, r in reads.items():
            if isinstance(r, list):
                step[key] = [f"{key}{i}" for i in range(len(r))]
                values |= {f"{key}{i}": of(t) for i, t in enumerate(r)}
            elif isinstance(r, Term):
                step[key] = f"={key}"
                values[f"={key}"] = of(r)
            else:
                step[key] = r
        try:
            return interpreter.step_value(step, values.__getitem__, arrays, 1)
        except (ValueError, IndexError) as error:
            shapes = {key: [t.shape for t in r] if isinstance(r, list) else getattr(r, "shape", r) for key, r in reads.items()}
            raise ExportError(
                f"step {step['op']} cannot be made of {shapes}: {error}", "this is a fault of the exporter: report it with the model"
            ) from error

    def fold(self, step, reads, arrays, tensors):
        out = self.run(dict(step), reads, arrays, lambda t: widened(t.array)[None])
        literal = all(t.literal for r in reads.values() for t in (r if isinstance(r, list) else [r]) if isinstance(t, Term)) and not tensors
        origin = frozenset().union(*(t.origin for t in tensors.values()))
        origin = origin.union(*(t.origin for r in reads.values() for t in (r if isinstance(r, list) else [r]) if isinstance(t, Term)))
        return Term(
            out.shape[1:],
            "i64" if out.dtype.kind in "iub" else "f32",
            array=np.require(out[0], requirements="C"),
            literal=literal,
            origin=origin,
        )

    def infer(self, step, reads, arrays):
        zeros = lambda t: np.zeros((1,) + t.shape, np.int64 if t.dtype == "i64" else np.float64)
        out = self.run(dict(step), reads, arrays, zeros)
        return out.shape[1:], "i64" if out.dtype.kind in "iub" else "f32"

    # Layout, with what cancels.

    def maker(self, term, op):
        """The step that made the term, if it is one of `op`."""
        step, reads = self.made.get(term.name, ({"op": None}, []))
        return (step, reads) if step["op"] == op else (None, None)

    def lazily(self, terms, move):
        """Applies a move to columns that nobody has read yet, if all terms are such."""
        if not all(t.columns is not None for t in terms) or len({(t.dtype, t.raw_f32) for t in terms}) != 1:
            return None
        columns = move([t.columns for t in terms])
        return self.columns(columns, terms[0].dtype, move([t.offset for t in terms]), terms[0].raw_f32)

    def reshape(self, term, shape):
        shape = tuple(int(s) for s in shape)
        if shape == term.shape:
            return term
        if math.prod(shape) != math.prod(term.shape):
            raise ExportError(f"{list(term.shape)} per row cannot be seen as {list(shape)}")
        if term.constant:
            return Term(shape, term.dtype, array=term.array.reshape(shape), literal=term.literal, origin=term.origin)
        lazy = self.lazily([term], lambda x: x[0].reshape(shape))
        if lazy is not None:
            return lazy
        step, reads = self.maker(term, "reshape")
        return self.reshape(reads[0], shape) if step else self.emit("reshape", {"in": term}, shape=list(shape))

    def transpose(self, term, perm):
        perm = [p % len(term.shape) for p in perm]
        if perm == list(range(len(perm))):
            return term
        shape = tuple(term.shape[p] for p in perm)
        if [p for p in perm if term.shape[p] != 1] == sorted(p for p in perm if term.shape[p] != 1):
            return self.reshape(term, shape)
        lazy = self.lazily([term], lambda x: x[0].transpose(perm))
        if lazy is not None:
            return lazy
        if not term.constant:
            step, reads = self.maker(term, "transpose")
            if step:
                return self.transpose(reads[0], [step["perm"][p] for p in perm])
        return self.emit("transpose", {"in": term}, perm=perm)

    def slice(self, term, axis, start, end, step=1):
        axis %= len(term.shape)
        size = term.shape[axis]
        start, end, step = slice(start, end, step).indices(size)
        if start == 0 and end == size and step == 1:
            return term
        at = (slice(None),) * axis + (slice(start, end, step),)
        lazy = self.lazily([term], lambda x: x[0][at])
        if lazy is not None:
            return lazy
        made, parts = self.maker(term, "concat")
        if made and made["axis"] % len(term.shape) == axis and step == 1:
            begin = 0
            for part in parts:
                if begin <= start and end <= begin + part.shape[axis]:
                    return self.slice(part, axis, start - begin, end - begin)
                begin += part.shape[axis]
        made, reads = self.maker(term, "slice")
        if made and made["axis"] == axis and made.get("step", 1) == 1 and step == 1:
            return self.slice(reads[0], axis, made["start"] + start, made["start"] + end)
        return self.emit("slice", {"in": term}, axis=axis, start=start, end=end, step=step if step != 1 else None)

    def select(self, term, axis, index):
        axis %= len(term.shape)
        part = self.slice(term, axis, index, index + 1)
        return self.reshape(part, term.shape[:axis] + term.shape[axis + 1 :])

    def concat(self, terms, axis):
        if len(terms) == 1:
            return terms[0]
        axis %= len(terms[0].shape)
        lazy = self.lazily(terms, lambda x: np.concatenate(x, axis))
        if lazy is not None:
            return lazy
        flat = []
        for term in terms:
            step, reads = self.maker(term, "concat")
            flat += reads if step and step["axis"] == axis else [term]
        flat = self.joined_slices(self.joined_columns(flat, axis), axis)
        return flat[0] if len(flat) == 1 else self.emit("concat", {"in": flat}, axis=axis)

    def joined_slices(self, terms, axis):
        """Neighbours that are neighbouring slices of one value become one slice, where that is the same order of memory."""
        out, last = [], None
        for term in terms:
            piece = self.piece(term) if math.prod(term.shape[:axis]) == 1 else None
            if out and last and piece and piece[0] is last[0] and last[2] == piece[1]:
                last = (last[0], last[1], piece[2])
                size = out[-1].shape[axis] + term.shape[axis]
                out[-1] = self.reshape(self.slice(last[0], 0, last[1], last[2]), term.shape[:axis] + (size,) + term.shape[axis + 1 :])
            else:
                out.append(term)
                last = piece
        return out

    def piece(self, term):
        """(value, start, end) if the term is a slice of a value's first axis, seen in some shape."""
        step, reads = self.maker(term, "reshape")
        step, reads = self.maker(reads[0] if step else term, "slice")
        if not step or step["axis"] != 0 or step.get("step", 1) != 1:
            return None
        return reads[0], step["start"], step["end"]

    def joined_columns(self, terms, axis):
        """Neighbours that are columns nobody has read yet become one read."""
        out = []
        for term in terms:
            both = self.lazily([out[-1], term], lambda x: np.concatenate(x, axis)) if out and len(term.shape) == 1 else None
            out = out[:-1] + [both] if both is not None else out + [term]
        return out

    def gather_const(self, term, axis, indices):
        axis %= len(term.shape)
        indices = [int(i) % term.shape[axis] if i < 0 else int(i) for i in indices]
        if indices == list(range(term.shape[axis])):
            return term
        if indices == list(range(indices[0], indices[0] + len(indices))):
            return self.slice(term, axis, indices[0], indices[-1] + 1)
        lazy = self.lazily([term], lambda x: np.take(x[0], indices, axis))
        return lazy if lazy is not None else self.emit("gather_const", {"in": term}, axis=axis, indices=indices)

    def broadcast(self, term, shape):
        shape = tuple(int(s) for s in shape)
        if shape == term.shape:
            return term
        lazy = self.lazily([term], lambda x: np.broadcast_to(x[0], shape).copy())
        return lazy if lazy is not None else self.emit("broadcast", {"in": term}, shape=list(shape))

    def cast(self, term, dtype):
        if term.dtype == dtype:
            return term
        if term.columns is not None and dtype == "i64" and term.raw_f32 and not term.offset.any():
            return self.columns(term.columns, "i64")
        if term.columns is not None and dtype == "f32" and term.dtype == "i64":
            return Term(term.shape, "f32", columns=term.columns, offset=term.offset)
        if term.columns is not None and dtype == "i64" and not term.raw_f32:
            return Term(term.shape, "i64", columns=term.columns, offset=term.offset)
        return self.emit("cast", {"in": term}, to=dtype)

    # Arithmetic.

    def binary(self, op, a, b):
        """`a`, `b`: Terms or numbers, one type."""
        for x, y in ((a, b), (b, a)):
            neutral = NEUTRAL.get(op)
            if (
                neutral is not None
                and isinstance(x, Term)
                and (y is a or y is b)
                and is_neutral(y, neutral, x)
                and (x is a or op in ("add", "mul"))
            ):
                return x
        if op == "add" and isinstance(a, Term) and isinstance(b, Term):
            for x, y in ((a, b), (b, a)):
                if x.columns is not None and x.dtype == "i64" and y.constant and y.dtype == "i64":
                    offset = np.broadcast_arrays(x.columns, y.array)
                    if offset[0].shape == x.shape:
                        return self.columns(x.columns, "i64", x.offset + offset[1])
        if op == "div" and isinstance(a, Term) and isinstance(b, Term):
            normalised = self.l2_norm(a, b)
            if normalised is not None:
                return normalised
        reads = {key: self.constant(np.asarray(x), literal=True) if not isinstance(x, Term) else x for key, x in (("a", a), ("b", b))}
        return self.emit(op, reads)

    def l2_norm(self, x, size):
        """x / max(|x|, eps), if that is what the division computes."""
        step, reads = self.maker(size, "broadcast")
        clamp, reads = self.maker(reads[0] if step else size, "clamp")
        if not clamp or "max" in clamp:
            return None
        _, reads = self.maker(reads[0], "sqrt")
        summed, reads = self.maker(reads[0], "reduce_sum") if reads else (None, None)
        if not summed or len(summed["axes"]) != 1 or not summed.get("keep"):
            return None
        square = self.made.get(reads[0].name, ({"op": None}, []))[0]
        if x.name is None or square not in self.squares(x, square):
            return None
        return self.emit("l2_norm", {"in": x}, axis=summed["axes"][0], eps=clamp["min"])

    @staticmethod
    def squares(x, step):
        """The step, if it squares x."""
        twice = step["op"] == "mul" and step["a"] == step["b"] == x.name
        return [step] if twice or step["op"] == "pow" and step["a"] == x.name and step["b"] == 2 else []

    def unary(self, op, term):
        return self.emit(op, {"in": term})

    def matmul(self, a, b):
        """numpy's matmul of a [.., m, k] and b [.., k, n]: transposes of the last two axes become flags."""
        flags = {}
        for key, term in (("a", a), ("b", b)):
            step, reads = self.maker(term, "transpose")
            rank = len(term.shape)
            if step and step["perm"] == list(range(rank - 2)) + [rank - 1, rank - 2]:
                flags[f"transpose_{key}"] = True
                a, b = (reads[0], b) if key == "a" else (a, reads[0])
        return self.emit("matmul", {"a": a, "b": b}, **flags)


NUMERIC = {"add", "sub", "mul", "div", "pow", "min", "max", "mod", "compare", "where"}
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1}


def is_literal(x):
    """A constant that may be written as a number of the manifest."""
    if not (isinstance(x, Term) and x.constant and x.array.size == 1 and not x.shape and x.source is None):
        return False
    return stated(x.array)


def stated(array):
    """Whether a number can stand in a manifest: no NaN, and integers that JSON's readers hold."""
    return not np.isnan(array).any() and (array.dtype.kind == "f" or bool((np.abs(array.astype(np.float64)) <= INTEGER_MAX).all()))


def is_neutral(y, neutral, x):
    if isinstance(y, Term):
        return y.constant and y.literal and not y.shape and y.array == neutral
    return y == neutral


def widened(array):
    return array.astype(np.int64 if array.dtype.kind in "iub" else np.float64, copy=False)


def to_number(x, dtype):
    x = int(x) if dtype == "i64" else float(x)
    if isinstance(x, float) and math.isinf(x):
        return "inf" if x > 0 else "-inf"
    return x
