"""Ids and tables."""

import numpy as np

from .build import ROWS, f, ints


def lookups(to):
    def columns(high, n):
        return np.concatenate([ints(h, n, 1) for h in high], 1)

    x = np.concatenate([columns([5, 6, 5, 5, 5], ROWS).astype(np.float32), f(ROWS, 2)], 1)
    to.take("packed_columns", """
        c0 = Slice(X, i0, i1, i1)
        c1 = Slice(X, i1, i2, i1)
        h = Slice(X, i2, i5, i1)
        d = Slice(X, i5, i7, i1)
        k0 = Cast<to=7>(c0)
        k1 = Cast<to=7>(c1)
        kh = Cast<to=7>(h)
        e0 = Gather(t0, k0)
        w0 = Gather(lin, k0)
        e1 = Gather(t1, k1)
        eh = Gather(t0, kh)
        s = ReduceSum<keepdims=1>(eh, i1)
        m = ReduceMean<axes=[1], keepdims=0>(eh)
        cat = Concat<axis=2>(e0, e1, s)
        flat = Flatten(cat)
        y = Concat<axis=1>(flat, d, m)
        wide = Squeeze(w0, i1)
        p = Sigmoid(wide)""",
            {"X": x}, ["y", "p"],
            {"t0": f(5, 3), "t1": f(6, 3), "lin": f(5, 1), "i0": np.int64([0]), "i1": np.int64([1]), "i2": np.int64([2]), "i5": np.int64([5]),
             "i7": np.int64([7])})
    to.take("fused_tables", """
        shifted = Add(ids, offsets)
        e = Gather(table, shifted)
        s = ReduceSum<keepdims=0>(e, one)""",
            {"ids": columns([4, 7, 3], ROWS)}, ["e", "s"], {"offsets": np.int64([0, 4, 11]), "table": f(14, 2), "one": np.int64([1])})
    to.take("bags", """
        e = Gather(items, history)
        s = ReduceSum<keepdims=0>(e, one)
        t = Gather(items, target)
        e2 = Gather(items, other)
        m = ReduceMean<axes=[1], keepdims=1>(e2)
        y = Mul(s, t)""",
            {"history": ints(9, ROWS, 4), "other": ints(9, ROWS, 2), "target": ints(9, ROWS)}, ["y", "m"], {"items": f(9, 3), "one": np.int64([1])})
    to.take("masked_history", """
        e = Gather(items, history)
        gone = Equal(history, zero)
        there = Not(gone)
        mask = Cast<to=1>(there)
        m3 = Unsqueeze(mask, two)
        em = Mul(e, m3)
        s = ReduceSum<keepdims=0>(em, one)
        n = ReduceSum<keepdims=1>(mask, one)
        y = Div(s, n)""",
            {"history": np.concatenate([ints(8, ROWS, 1) + 1, ints(9, ROWS, 3)], 1)}, ["y"],
            {"items": f(9, 3), "one": np.int64([1]), "two": np.int64([2]), "zero": np.int64(0)})
    to.take("computed_ids", """
        k = Add(a, b)
        e = Gather(items, k)
        last = Sub(a, five)
        l = Gather(items, last)
        map = Gather(buckets, a)
        m = Gather(items, map)
        y = Concat<axis=1>(e, l, m)""",
            {"a": ints(5, ROWS), "b": ints(4, ROWS)}, ["y"], {"items": f(9, 2), "five": np.int64(5), "buckets": np.int64([3, 1, 8, 0, 2])})


def by_row(to):
    """An element of each row: x[arange(batch), i], as both exporters of torch write it, and by batch_dims."""
    own = np.random.default_rng(37)
    x = own.standard_normal((ROWS, 5, 3)).astype(np.float32)
    rows = """
        s = Shape(x)
        n = Gather<axis=0>(s, zero)
        r = Range(zero, n, one)
        """
    weights = {"zero": np.int64(0), "one": np.int64(1), "last": np.int64([-1])}
    to.take("by_row", rows + """r1 = Unsqueeze(r, last)
        i1 = Unsqueeze(i, last)
        pairs = Concat<axis=-1>(r1, i1)
        a = GatherND(x, pairs)
        both = Max(r1, k)
        to = Shape(both)
        wide = Expand(r1, to)
        r2 = Unsqueeze(wide, last)
        k2 = Unsqueeze(k, last)
        many = Concat<axis=-1>(r2, k2)
        c = GatherND(x, many)
        d = GatherND<batch_dims=1>(x, k2)
        cd = Add(c, d)
        t = Transpose<perm=[1, 0, 2]>(x)
        swapped = Concat<axis=-1>(i1, r1)
        e = GatherND(t, swapped)
        y = Concat<axis=1>(a, e)
        z = Flatten(cd)""",
            {"x": x, "i": own.integers(-5, 5, ROWS), "k": own.integers(0, 5, (ROWS, 2))}, ["y", "z"], weights)
    to.take("by_row_flat", rows + """five = Gather<axis=0>(s, one)
        flat = Flatten<axis=2>(x)
        first = Mul(r, five)
        at = Add(i, first)
        a = Gather(flat, at)
        r1 = Unsqueeze(first, last)
        many = Add(k, r1)
        b = Gather(flat, many)
        c = Flatten(b)
        y = Concat<axis=1>(a, c)""",
            {"x": x, "i": own.integers(0, 5, ROWS), "k": own.integers(0, 5, (ROWS, 2))}, ["y"], weights)


def written(to):
    """ScatterElements as sums and marks."""
    own = np.random.default_rng(41)
    f = lambda *shape: own.standard_normal(shape).astype(np.float32)
    to.take("written", """
        s = Shape(ids)
        n = Slice(s, zero1, one1)
        size = Concat<axis=0>(n, five)
        empty = ConstantOfShape(size)
        ones = ConstantOfShape<value = float[1] {1.0}>(s)
        a = ScatterElements<axis=1, reduction="add">(empty, ids, u)
        b = ScatterElements<axis=1>(empty, ids, ones)
        c = ScatterElements<axis=-1>(x, id, v)
        counts = ScatterElements<axis=1, reduction="add">(empty, ids, ones)
        d = ScatterElements<axis=1, reduction="add">(x3, ids3, u3)
        e = Flatten(d)
        y = Concat<axis=1>(a, b, c, counts, e)""",
            {"ids": own.integers(-5, 5, (ROWS, 3)), "u": f(ROWS, 3), "x": f(ROWS, 4), "id": own.integers(0, 4, (ROWS, 1)), "v": f(ROWS, 1),
             "x3": f(ROWS, 4, 2), "ids3": own.integers(0, 4, (ROWS, 3, 2)), "u3": f(ROWS, 3, 2)}, ["y"],
            {"zero1": np.int64([0]), "one1": np.int64([1]), "five": np.int64([5])}, opset=18)
