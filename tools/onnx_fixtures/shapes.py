"""Ops on shapes, products, windows, norms, orders, recurrences."""

import numpy as np

from .build import ROWS, f, ints, random


def shapes(to):
    to.take("reduce", """
        a = ReduceSum<keepdims=0>(x, a12)
        b = ReduceMean<axes=[2], keepdims=0>(x)
        c = ReduceMax<axes=[1], keepdims=1>(x)
        d = ReduceMin<axes=[-1], keepdims=0>(x)
        e = ReduceProd<axes=[1, 2], keepdims=0>(x)
        g = ReduceL1<axes=[1], keepdims=0>(x)
        h = ReduceL2<axes=[2], keepdims=0>(x)
        i = ReduceSumSquare<axes=[1, 2], keepdims=1>(x)
        j = ReduceLogSumExp<axes=[2], keepdims=0>(x)
        l = LogSoftmax<axis=2>(x)
        m = CumSum<exclusive=1>(x, one)
        n = CumSum<reverse=1>(x, two)""",
            {"x": f(ROWS, 2, 3)}, list("abcdeghijlmn"), {"a12": np.int64([1, 2]), "one": np.int64(1), "two": np.int64(2)})
    to.take("layout", """
        r = Reshape(x, r1)
        s = Shape(x)
        n = Gather<axis=0>(s, zero)
        n1 = Unsqueeze(n, zero1)
        t6 = Concat<axis=0>(n1, six)
        q = Reshape(x, t6)
        t = Transpose<perm=[0, 2, 1]>(x)
        back = Transpose<perm=[1, 2, 0]>(t)
        forth = Transpose<perm=[2, 0, 1]>(back)
        merged = Reshape(x, rm)
        doubled = Add(merged, bias3)
        parted = Reshape(doubled, rp)
        s1, s2 = Split<axis=2>(x, s12)
        back2 = Slice(x, sm1, smin, two1, sm1)
        u = Unsqueeze(x, two1)
        v = Squeeze(u, two1)
        fl = Flatten(v)
        g = Gather<axis=2>(x, g2)
        ge = GatherElements<axis=1>(fl, gi)
        tl = Tile(fl, t2)
        ex = Expand(one, t6)
        y1 = Concat<axis=1>(r, q, ex)
        y2 = Concat<axis=1>(ge, tl)
        y3 = Concat<axis=2>(parted, back2, s1, g)""",
            {"x": f(ROWS, 2, 3), "gi": ints(6, ROWS, 2)}, ["y1", "y2", "y3"],
            {"r1": np.int64([-1, 6]), "zero": np.int64(0), "zero1": np.int64([0]), "six": np.int64([6]), "rm": np.int64([-1, 3]), "bias3": f(3),
             "rp": np.int64([-1, 2, 3]), "s12": np.int64([1, 2]), "sm1": np.int64([-1]), "smin": np.int64([-(2**40)]), "two1": np.int64([2]),
             "g2": np.int64([2, -3]), "t2": np.int64([1, 2]), "one": np.float32([[1]])})
    to.take("borders", """
        p = Pad(x, pads, half)
        e = Pad<mode="reflect">(x, pads)
        g = Pad<mode="edge">(x, pads)
        c = Pad(x, cut)
        k = Pad(ids, pads)
        kf = Cast<to=1>(k)
        t = Transpose<perm=[2, 1, 0]>(x3)
        u = Transpose<perm=[2, 1, 0]>(t)""",
            {"x": f(ROWS, 4), "ids": ints(9, ROWS, 4), "x3": f(ROWS, 2, 2)}, ["p", "e", "g", "c", "kf", "u"],
            {"pads": np.int64([0, 1, 0, 2]), "half": np.float32(0.5), "cut": np.int64([0, -1, 0, 1])})
    to.take("pairs", """
        xt = Transpose<perm=[0, 2, 1]>(x)
        z = MatMul(x, xt)
        zt = Transpose<perm=[1, 2, 0]>(z)
        p = GatherND(zt, ij)
        y = Transpose<perm=[1, 0]>(p)
        d = DepthToSpace<blocksize=2, mode="CRD">(im)
        s = SpaceToDepth<blocksize=2>(d)
        t = Trilu<upper=0>(z, k)""",
            {"x": f(ROWS, 3, 4), "im": f(ROWS, 4, 1, 2)}, ["y", "d", "s", "t"],
            {"ij": np.int64([[1, 0], [2, 0], [2, 1]]), "k": np.int64(-1)})


def products(to):
    to.take("matmul", """
        a = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)
        c = Gemm(x, v)
        d = MatMul(x, v)
        e = MatMul(x3, v)
        h = MatMul(x, heads)
        ht = Transpose<perm=[1, 0, 2]>(h)
        g = MatMul(x, vec)
        i = MatMul(left, x3)
        xt = Transpose<perm=[1, 0, 2]>(x3)
        wt = MatMul(xt, per)
        j = Transpose<perm=[1, 0, 2]>(wt)
        col = Unsqueeze(x, m1)
        k = MatMul(x3, col)""",
            {"x": f(ROWS, 4), "x3": f(ROWS, 3, 4)}, ["a", "c", "d", "e", "ht", "g", "i", "j", "k"],
            {"w": f(3, 4), "b": f(3), "v": f(4, 2), "heads": f(2, 4, 3), "vec": f(4), "left": f(2, 3), "per": f(3, 4, 2), "m1": np.int64([-1])})
    to.take("einsum", """
        a = Einsum<equation="bhd,bmd->bhm">(x, z)
        b = Einsum<equation="bhd,bmd->bhmd">(x, z2)
        c = Einsum<equation="bhd,dk->bhk">(x, w)
        d = Einsum<equation="bij->bji">(x)
        e = Einsum<equation="...d,d->...">(x, v)
        g = Einsum<equation="bhd,bhd,d->b">(x, x, v)
        h = Einsum<equation="bij->b">(x)
        m = Reshape(x, rm)
        mw = Einsum<equation="ij,jk->ik">(m, w)
        i = Reshape(mw, rp)""",
            {"x": f(ROWS, 2, 3), "z": f(ROWS, 4, 3), "z2": f(ROWS, 2, 3)}, list("abcdeghi"),
            {"w": f(3, 2), "v": f(3), "rm": np.int64([-1, 3]), "rp": np.int64([-1, 2, 2])})
    to.take("convolutions", """
        a = Conv<kernel_shape=[3], pads=[1, 1], group=2>(x, w, b)
        c = MaxPool<kernel_shape=[2], strides=[2]>(a)
        d = AveragePool<kernel_shape=[3], pads=[1, 1], strides=[2], count_include_pad=1>(a)
        e = GlobalAveragePool(a)
        g = Conv<auto_pad="SAME_UPPER", strides=[2, 1]>(im, w2)
        g2 = Conv<pads=[0, 1, 1, 0], dilations=[1, 2]>(im, w2)
        h = MaxPool<kernel_shape=[2, 2], auto_pad="SAME_LOWER", strides=[2, 2]>(im)
        i = GlobalMaxPool(im)""",
            {"x": f(ROWS, 2, 6), "im": f(ROWS, 1, 4, 4)}, ["c", "d", "e", "g", "g2", "h", "i"],
            {"w": f(4, 1, 3), "b": f(4), "w2": f(1, 1, 3, 2)})
    to.take("normalisations", """
        a = BatchNormalization<epsilon=0.001>(x2, s4, b4, m4, v4)
        c = BatchNormalization(x, s2, b2, m2, v2)
        d = LayerNormalization<axis=-1>(x, s4, b4)
        e = LayerNormalization<axis=1, epsilon=0.01>(x, s24)
        g = InstanceNormalization(x, s2, b2)
        h = GroupNormalization<num_groups=1>(x, s2, b2)
        i = LpNormalization<axis=1, p=2>(x2)
        j = LpNormalization<axis=-1, p=1>(x2)""",
            {"x": f(ROWS, 2, 4), "x2": f(ROWS, 4)}, list("acdeghij"),
            {"s4": f(4), "b4": f(4), "m4": f(4), "v4": np.abs(f(4)) + 0.1, "s2": f(2), "b2": f(2), "m2": f(2), "v2": np.abs(f(2)) + 0.1, "s24": f(2, 4)},
            opset=21)
    to.take("orders", """
        t, i = TopK<axis=1>(x, k2)
        fi = Cast<to=1>(i)
        bt, bi = TopK<axis=1, largest=0>(x, k2)
        m = ArgMax<axis=1, keepdims=0>(x)
        mm = ArgMin<axis=2>(x3)
        o = OneHot<axis=-1>(m, depth, onoff)
        o1 = OneHot<axis=1>(ids, depth, onoff)
        mf = Cast<to=1>(mm)
        g = Gather<axis=1>(x, k0)""",
            {"x": f(ROWS, 5), "x3": f(ROWS, 2, 3), "ids": ints(7, ROWS, 2) - 1}, ["t", "fi", "bt", "mf", "o", "o1", "g"],
            {"k2": np.int64([2]), "depth": np.int64(5), "onoff": np.float32([0.5, 2]), "k0": np.int64([0])})


def sequences(to):
    h, i, t = 3, 2, 4
    gru = lambda d: {"w": f(d, 3 * h, i), "r": f(d, 3 * h, h), "b": f(d, 6 * h)}
    both, one = gru(2), gru(1)
    to.take("gru", """
        x = Transpose<perm=[1, 0, 2]>(seq)
        h0 = Transpose<perm=[1, 0, 2]>(start)
        lengths = Cast<to=6>(n)
        y, yh = GRU<hidden_size=3, linear_before_reset=1>(x, w, r, b)
        yt = Transpose<perm=[2, 0, 1, 3]>(y)
        z, zh = GRU<hidden_size=3, direction="bidirectional">(x, w2, r2, b2, none, h0)
        zt = Transpose<perm=[1, 0, 2]>(zh)
        rv, rh = GRU<hidden_size=3, direction="reverse", linear_before_reset=1>(x, w, r, b, lengths)
        rt = Transpose<perm=[2, 0, 1, 3]>(rv)
        rl = Squeeze(rh, zero)
        yl = Squeeze(yh, zero)""",
            {"seq": f(ROWS, t, i), "n": random.integers(0, t + 1, ROWS).astype(np.int64), "start": f(ROWS, 2, h)}, ["yt", "zt", "rt", "rl", "yl"],
            {"w": one["w"], "r": one["r"], "b": one["b"], "w2": both["w"], "r2": both["r"], "b2": both["b"], "zero": np.int64([0])})
