"""What is known of the range of an integer: from the steps that made it, never from the examples."""

import math

LEAST, MOST = -(1 << 63), (1 << 63) - 1
ALL = (LEAST, MOST)
F32_WHOLE = 1 << 24  # f32 holds every whole number up to here
MOVES = {"reshape", "transpose", "slice", "gather_const", "broadcast", "take_along", "gather", "reduce_max", "reduce_min"}
TRUTHS = {"compare", "and", "or", "xor", "not"}


def bounds(graph, term):
    """(least, largest) number that an integer Term may hold. What a gather makes of an index out of range is left aside."""
    if term.constant:
        return (int(term.array.min()), int(term.array.max())) if term.array.size else ALL
    if term.name is None or term.dtype != "i64":
        return ALL
    step, reads = graph.made[term.name]
    op = step["op"]
    if op in TRUTHS:
        return 0, 1
    if op == "fill":
        return step["value"], step["value"]
    if op == "const":
        array = graph.tensors[step["tensor"]]
        return int(array.min()), int(array.max())
    if op == "argtopk":
        return 0, reads[0].shape[step["axis"]] - 1
    if op == "concat":
        of = [bounds(graph, t) for t in reads]
        return min(low for low, _ in of), max(high for _, high in of)
    if op in MOVES:
        return bounds(graph, reads[0])
    if op == "cast":
        return of_float(graph, reads[0])
    if op == "reduce_sum":
        low, high = bounds(graph, reads[0])
        count = math.prod(reads[0].shape) // max(math.prod(term.shape), 1)
        return within(low * count, high * count)
    if op in ("add", "sub", "mul", "min", "max", "mod", "where"):
        return combined(op, *(operand(graph, step[key]) for key in ("a", "b")))
    return ALL


def of_float(graph, term):
    """Of whole numbers cut from floats: known only behind a clamp, or where the floats were integers."""
    step, reads = graph.made.get(term.name, ({"op": None}, []))
    if step["op"] == "clamp":
        low, high = (float(step.get(key, default)) for key, default in (("min", "-inf"), ("max", "inf")))
        return LEAST if math.isinf(low) else math.trunc(low), MOST if math.isinf(high) else math.trunc(high)
    if step["op"] == "one_hot":
        return 0, 1
    if step["op"] == "cast":
        low, high = bounds(graph, reads[0])
        return (low, high) if -F32_WHOLE <= low and high <= F32_WHOLE else ALL
    return of_float(graph, reads[0]) if step["op"] in MOVES else ALL


def operand(graph, x):
    return bounds(graph, graph.by_name[x]) if isinstance(x, str) else (x, x)


def combined(op, a, b):
    """Of an operation on two ranges."""
    if op == "mod":
        return (0, b[1] - 1) if b[0] > 0 else ALL
    if op == "add":
        return within(a[0] + b[0], a[1] + b[1])
    if op == "sub":
        return within(a[0] - b[1], a[1] - b[0])
    if op == "mul":
        corners = [x * y for x in a for y in b]
        return within(min(corners), max(corners))
    if op == "where":
        return min(a[0], b[0]), max(a[1], b[1])
    pick = min if op == "min" else max
    return pick(a[0], b[0]), pick(a[1], b[1])


def within(low, high):
    """The range, or all if 64 bits cannot hold it: sums and products wrap."""
    return (low, high) if LEAST <= low and high <= MOST else ALL
