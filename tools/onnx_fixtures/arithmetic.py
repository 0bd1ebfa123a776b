"""Elementwise ops."""

import numpy as np
import onnx

from .build import ROWS, f, ints, model


def elementwise(to):
    to.take("arithmetic", """
        a = Add(x, w)
        b = Sub(c1, x)
        c = Mul(x, row)
        d = Div(x, pos)
        e = Pow(pos, x)
        g = Min(x, w, c1)
        h = Max(x, row)
        i = Mod<fmod=1>(x, c2)
        j = Mean(x, w, row)
        k = Sum(x, x, w)
        m = Neg(x)
        n = Reciprocal(pos)
        mi = Mod(k7, three)
        mf = Cast<to=1>(mi)
        ai = Abs(k7)
        af = Cast<to=1>(ai)
        y = Concat<axis=1>(a, b, c, d, e, g, h, i, j, k, m, n)
        z = Concat<axis=1>(mf, af)""",
            {"x": f(ROWS, 4), "pos": np.abs(f(ROWS, 4)) + 0.5, "row": f(ROWS, 1), "k7": ints(9, ROWS, 2) - 4}, ["y", "z"],
            {"w": f(4), "c1": np.float32(1.5), "c2": np.float32([0.7]), "three": np.int64(3)})
    unary = ["Abs", "Exp", "Tanh", "Sigmoid", "Relu", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Softplus", "Softsign", "Erf",
             "LeakyRelu<alpha=0.2>", "Elu<alpha=0.7>", "Selu", "Celu<alpha=0.6>", "HardSigmoid<alpha=0.3>", "HardSwish", "Mish",
             "Gelu", "Gelu<approximate=\"tanh\">", "ThresholdedRelu<alpha=0.3>", "Log", "Sqrt", "Clip"]
    lines, names = [], []
    for i, op in enumerate(unary):
        source = "p" if op in ("Log", "Sqrt") else "x"
        lines.append(f"v{i} = Clip(x, low, high)" if op == "Clip" else f"v{i} = {op}({source})")
        names.append(f"v{i}")
    lines += [f"y = Concat<axis=1>({', '.join(names)})", "s = PRelu(x, slope)"]
    x = np.concatenate([f(ROWS, 1, scale=2), np.float32([[-2.5], [-0.5], [0.5], [1.5], [0], [2.5], [-1.5]])], 1)
    to.take("activations", "\n".join(lines), {"x": x, "p": np.abs(f(ROWS, 2)) + 0.1}, ["y", "s"],
            {"low": np.float32(-0.5), "high": np.float32(0.75), "slope": np.float32([0.1, 0.3])}, opset=20)
    to.take("logic", """
        a = Less(x, w)
        b = GreaterOrEqual(x, zero)
        c = Equal(k, two)
        ab = And(a, b)
        cc = Not(c)
        o = Or(ab, cc)
        q = Xor(a, b)
        relu = Relu(x)
        bad0 = Sqrt(relu)
        y = Where(b, bad0, x)
        ninf = Where(c, minus_inf, x)
        s = Softmax<axis=1>(ninf)
        of = Cast<to=1>(o)
        qf = Cast<to=1>(q)""",
            {"x": f(ROWS, 4), "k": ints(3, ROWS, 4)}, ["y", "s", "of", "qf"],
            {"w": f(4), "zero": np.float32(0), "two": np.int64(2), "minus_inf": np.float32(-np.inf)})


def wrapping(to):
    # Numbers of its own: the other files stay what they are.
    to.take("wrapping", """
        i = Cast<to=6>(k)
        m = Mul(i, factor)
        a = Add(m, addend)
        s = Sub(a, i)
        p = Mul(k, big)
        q = Cast<to=6>(p)
        r = Add(s, q)
        y = Cast<to=1>(r)""",
            {"k": (np.arange(ROWS * 3, dtype=np.int64) * 7919 % 10_007).reshape(ROWS, 3)}, ["y"],
            {"factor": np.int32(1_540_483_477), "addend": np.int32(2_000_000_000), "big": np.int64(10_000_000_019)})


def integers(to):
    """Quotients, powers, narrow types, constants that f64 does not hold."""
    own = np.random.default_rng(29)
    k = own.integers(-2**31, 2**31, (ROWS, 4))
    to.take("quotients", """
        a = Div(k, seven)
        b = Div(k, negative)
        c = Div(k, d)
        e = Div(seven, d)
        j = Mul(k, big)
        g = Div(j, seven)
        i = Cast<to=6>(k)
        h = Div(i, thirteen)
        hh = Cast<to=7>(h)
        all = Concat<axis=1>(a, b, c, e, g, hh)
        small = Mod<fmod=1>(all, thousand)
        y = Cast<to=1>(small)""",
            {"k": k, "d": own.integers(1, 2**15, (ROWS, 4)) * own.choice([-1, 1], (ROWS, 4))}, ["y"],
            {"seven": np.int64([7]), "negative": np.int64(-3600), "big": np.int64(2**31 - 5), "thirteen": np.int32(13), "thousand": np.int64(1000)})
    to.take("narrow", """
        a = Cast<to=2>(k)
        b = Cast<to=3>(k)
        c = Cast<to=5>(x)
        d = Cast<to=4>(x)
        e = Add(u, two)
        g = Cast<to=12>(k)
        af = Cast<to=1>(a)
        bf = Cast<to=1>(b)
        cf = Cast<to=1>(c)
        df = Cast<to=1>(d)
        ef = Cast<to=1>(e)
        gs = Cast<to=7>(g)
        gm = Mod(gs, thousand)
        gf = Cast<to=1>(gm)
        kc = Cast<to=2>(wide)
        kf = Cast<to=1>(kc)
        h = Mul(k, hash)
        hm = Mod(h, thousand)
        hf = Cast<to=1>(hm)
        y = Concat<axis=1>(af, bf, cf, df, ef, gf, hf)
        z = Add(x, kf)""",
            {"k": k[:, :2] % 100_000 - 50_000, "x": (own.standard_normal((ROWS, 1)) * 50_000).astype(np.float32),
             "u": own.integers(0, 256, (ROWS, 2)).astype(np.uint8)}, ["y", "z"],
            {"two": np.uint8(200), "thousand": np.int64(1000), "wide": np.int64([300]), "hash": np.int64(-7046029254386353131)})
    to.take("powers", """
        a = Pow(k, two)
        b = Pow(j, five)
        c = Pow(k, none_)
        ab = Concat<axis=1>(a, b, c)
        m = Mod(ab, prime)
        i = Cast<to=3>(k)
        n = Neg(i)
        s = Abs(i)
        l = Cast<to=6>(k)
        r = CumSum(l, axis)
        mf = Cast<to=1>(m)
        nf = Cast<to=1>(n)
        sf = Cast<to=1>(s)
        rf = Cast<to=1>(r)
        y = Concat<axis=1>(mf, nf, sf, rf)""",
            {"k": np.int64([[2**31 - 1, 2**31 - 1], [-128, 128], [100_003, -100_003], [5, -7], [0, 1], [-1, 127], [300, 90_000]]), "j": own.integers(-1000, 1000, (ROWS, 2))}, ["y"],
            {"two": np.int64(2), "five": np.int64(5), "none_": np.int64(0), "prime": np.int64(1009), "axis": np.int64(1)})
    to.take("wide_ids", """
        i = Cast<to=6>(k)
        m = Mod(i, prime)
        n = Mod(k, prime64)
        mf = Cast<to=1>(m)
        nf = Cast<to=1>(n)
        y = Concat<axis=1>(mf, nf)""",
            {"k": own.integers(2**33, 2**45, (ROWS, 2))}, ["y"], {"prime": np.int32(1009), "prime64": np.int64(1013)})
    x = own.standard_normal((ROWS, 3)).astype(np.float32)
    to.take("bounds", """
        a = Clip(x, high, low)
        b = Gemm<alpha=2.0, beta=0.5>(x, w, low)
        c = Gemm<beta=-3.0>(x, w, one)
        d = Sum(low, high, x)
        e = Mean(low, high, x)
        y = Concat<axis=1>(a, b, c, d, e)""",
            {"x": x}, ["y"], {"low": np.float32(-0.5), "high": np.float32(0.25), "one": np.float32([[1.5]]), "w": own.standard_normal((3, 2)).astype(np.float32)})


def curves(to):
    inside = np.linspace(-1, 1, ROWS * 3).reshape(ROWS, 3).astype(np.float32)
    outside = np.float32([[1e-5, -1e-3, 0.3], [0.41, 0.42, -0.415], [0.99, 1.01, -2], [0.5, -0.5, 0.49], [2e3, -30, 30], [80, -80, 1], [0, 7, -7]])
    huge = outside * np.float32([1, 1e9, 1e15])
    ops = {"Asin": "a", "Acos": "a", "Atanh": "c", "Sinh": "b", "Cosh": "b", "Atan": "h", "Asinh": "h", "Acosh": "g"}
    lines = [f"{op.lower()} = {op}({source})" for op, source in ops.items()]
    to.take("curves", "\n".join(lines + [f"y = Concat<axis=1>({', '.join(op.lower() for op in ops)})"]),
            {"a": inside, "b": outside.clip(-80, 80), "c": inside * np.float32(0.999), "h": huge, "g": 1 + np.abs(huge)}, ["y"])


def beyond_f32(to):
    """The absolute value, by squares that no f32 holds."""
    nodes = """large = Mul(x, scale)
        square = Mul(large, large)
        root = Sqrt(square)
        y = Div(root, scale)"""
    scale = {"scale": np.array(1e20, np.float32)}
    onnx.save(model(nodes, {"x": np.ones((ROWS, 1), np.float32)}, ["y"], scale), to.engine / "overflow.onnx")
