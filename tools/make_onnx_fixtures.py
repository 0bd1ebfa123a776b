#!/usr/bin/env python3
"""Makes the ONNX files in tests/onnx, with rows whose outputs onnxruntime computed.

    python3 tools/make_onnx_fixtures.py --out tests/onnx [--golden DIR]

Needs onnx, onnxruntime, numpy and safetensors. `ok/NAME.onnx` are imported, with `ok/NAME.safetensors` holding inputs and outputs by name;
`refused/NAME.onnx` are refused, for the reason that tests/onnx_import.rs states, `engine/NAME.onnx` only because the engine computes
something else than float64 arithmetic does. `--golden` also copies the files of trained models, `--torch` (needs torch and onnxscript)
exports nn.EmbeddingBag, `--boosted` (needs lightgbm, xgboost and onnxmltools) trains trees.
"""

import argparse
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, parser
from safetensors.numpy import load_file, save_file

warnings.filterwarnings("ignore")
ROWS = 7
random = np.random.default_rng(17)


def f(*shape, scale=1.0):
    return (random.standard_normal(shape) * scale).astype(np.float32)


def ints(high, *shape):
    return random.integers(0, high, shape).astype(np.int64)


def model(nodes, inputs, outputs, weights, opset=17, ml=None, functions=(), batch="N", types=None, domains=()):
    """A model of nodes in the text form of onnx.parser; `inputs`: name -> array with rows first."""
    of_type = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64, np.dtype(np.int32): TensorProto.INT32,
               np.dtype(np.float64): TensorProto.DOUBLE, np.dtype(np.bool_): TensorProto.BOOL}
    value = lambda name, array: helper.make_tensor_value_info(name, of_type[array.dtype], [batch, *array.shape[1:]])
    out_type = lambda name: helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None)
    nodes = [parser.parse_node(line.strip()) for line in nodes.strip().splitlines()] if isinstance(nodes, str) else nodes
    for node in nodes:
        node.input[:] = ["" if name == "none" else name for name in node.input]
    graph = helper.make_graph(nodes, "fixture", [value(*item) for item in inputs.items()], [out_type(name) for name in outputs],
                              [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()])
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    imports += [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10 if opset > 20 else 8,
                             producer_name="make_onnx_fixtures")


def run(made, inputs, outputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Fusions would compute products of quantised weights in integers.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(list(outputs), inputs)
    rows = len(next(iter(inputs.values())))
    return {name: np.asarray(result, dtype=np.float64).reshape(rows, -1) for name, result in zip(outputs, results)}


class Fixtures:
    def __init__(self, out):
        self.ok, self.refused, self.engine = out / "ok", out / "refused", out / "engine"
        for folder in (self.ok, self.refused, self.engine):
            folder.mkdir(parents=True, exist_ok=True)

    def take(self, name, nodes, inputs, outputs, weights=None, **options):
        made = model(nodes, inputs, outputs, weights or {}, **options)
        expected = run(made, inputs, outputs)
        assert all(np.isfinite(array).all() for array in expected.values()), name
        onnx.save(made, self.ok / f"{name}.onnx")
        save_file({**{key: np.ascontiguousarray(array) for key, array in inputs.items()}, **expected}, self.ok / f"{name}.safetensors")

    def keep(self, name, made, inputs, outputs, trained):
        """A file that an exporter wrote, if it computes what the trainer computes."""
        expected = run(made, inputs, outputs)
        np.testing.assert_allclose(expected[outputs[0]], trained.reshape(len(trained), -1), rtol=1e-5, atol=1e-6, err_msg=name)
        onnx.save(made, self.ok / f"{name}.onnx")
        save_file({**{key: np.ascontiguousarray(array) for key, array in inputs.items()}, **expected}, self.ok / f"{name}.safetensors")

    def refuse(self, name, nodes, inputs, outputs, weights=None, **options):
        onnx.save(model(nodes, inputs, outputs, weights or {}, **options), self.refused / f"{name}.onnx")


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


def structure(to):
    function = parser.parse_function("""<opset_import: ["" : 17], domain: "local"> gate <alpha: float = 2.0> (x, w) => (y) {
        k = Constant<value_float: float = @alpha>()
        h = MatMul(x, w)
        s = Sigmoid(h)
        y = Mul(s, k)
    }""")
    outer = parser.parse_function("""<opset_import: ["" : 17, "local" : 1], domain: "local"> twice (x, w) => (z) {
        y = local.gate<alpha = 3.0>(x, w)
        z = local.gate(y, w)
    }""")
    nodes = [parser.parse_node(line) for line in ["a = local.twice(x, w)", "b = local.gate<alpha = 0.5>(x, w)", "s = Shape(x)", "k = Gather<axis=0>(s, one)",
                                                   "c = Equal(k, three)"]]
    branch = lambda op: helper.make_graph([helper.make_node(op, ["b"], ["out"])], op, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    nodes.append(helper.make_node("If", ["c"], ["d"], then_branch=branch("Tanh"), else_branch=branch("Exp")))
    to.take("functions", nodes, {"x": f(ROWS, 3)}, ["a", "d"], {"w": f(3, 3), "one": np.int64(1), "three": np.int64(3)}, functions=[function, outer],
            domains=["local"])
    to.take("quantised_weights", """
        w = DequantizeLinear<axis=1>(q, s, z)
        y = MatMul(x, w)
        q2 = QuantizeLinear(f2, s0, z0)
        w2 = DequantizeLinear(q2, s0, z0)
        z2 = MatMul(x, w2)""",
            {"x": f(ROWS, 4)}, ["y", "z2"],
            {"q": random.integers(-128, 128, (4, 2)).astype(np.int8), "s": np.float32([0.02, 0.05]), "z": np.int8([3, -7]), "f2": f(4, 2),
             "s0": np.float32(0.03), "z0": np.uint8(100)})
    half = f(3, 4).astype(np.float16)
    to.take("types", """
        wf = Cast<to=1>(half)
        y = Gemm<transB=1>(x, wf)
        d = Cast<to=1>(xd)
        b = Cast<to=1>(flag)
        i = Cast<to=1>(count)
        t = Cast<to=6>(x)
        tf = Cast<to=1>(t)
        nz = Cast<to=9>(count)
        nf = CastLike(nz, x)""",
            {"x": f(ROWS, 4, scale=3), "xd": f(ROWS, 2).astype(np.float64), "flag": ints(2, ROWS, 1) > 0, "count": ints(5, ROWS, 2).astype(np.int32)},
            ["y", "d", "b", "i", "tf", "nf"], {"half": half})
    x = f(ROWS, 2, 3)
    made = model("""
        r = Reshape(x, r16)
        y = MatMul(r, w)
        back = Reshape(r, r123)
        s = ReduceSum<keepdims=0>(back, two)
        e = Expand(c, r12)
        z = Concat<axis=1>(s, e)""", {"x": x}, ["y", "z"],
                 {"r16": np.int64([1, 6]), "w": f(6, 2), "r123": np.int64([1, 2, 3]), "two": np.int64([2]), "c": f(1, 1), "r12": np.int64([1, 2])}, batch=1)
    expected = [run(made, {"x": x[i:i + 1]}, ["y", "z"]) for i in range(ROWS)]
    onnx.save(made, to.ok / "fixed_batch.onnx")
    save_file({"x": x, **{name: np.concatenate([row[name] for row in expected]) for name in ("y", "z")}}, to.ok / "fixed_batch.safetensors")
    inputs = {"x": f(ROWS, 4)}
    made = model("y = MatMul(x, w)", inputs, ["y"], {"w": f(4, 300)[:, :3].copy()})
    expected = run(made, inputs, ["y"])
    onnx.save(made, to.ok / "external_data.onnx", save_as_external_data=True, location="external_data.bin", size_threshold=0)
    save_file({**inputs, **expected}, to.ok / "external_data.safetensors")


def trees(to):
    def forest(count, depth, features, kind, targets, modes):
        attributes = {key: [] for key in ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
                                          "nodes_falsenodeids", "nodes_missing_value_tracks_true", f"{kind}_treeids", f"{kind}_nodeids", f"{kind}_ids",
                                          f"{kind}_weights")}
        for tree in range(count):
            inner = 2**depth - 1
            for node in range(2 * inner + 1):
                leaf = node >= inner
                row = [tree, node, 0 if leaf else int(random.integers(features)), 0.0 if leaf else float(np.float32(random.standard_normal())),
                       "LEAF" if leaf else modes[int(random.integers(len(modes)))], 0 if leaf else 2 * node + 1, 0 if leaf else 2 * node + 2,
                       int(random.integers(2)) if not leaf else 0]
                for key, value in zip(list(attributes)[:8], row):
                    attributes[key].append(value)
                if leaf:
                    for target in targets(tree):
                        for key, value in ((f"{kind}_treeids", tree), (f"{kind}_nodeids", node), (f"{kind}_ids", target),
                                           (f"{kind}_weights", float(np.float32(random.standard_normal() * 0.5)))):
                            attributes[key].append(value)
        return attributes

    x = f(ROWS, 5)
    node = lambda op, outputs, attributes, **more: [helper.make_node(op, ["X"], outputs, domain="ai.onnx.ml", **attributes, **more)]
    regressor = forest(4, 3, 5, "target", lambda tree: [0, 1], ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"])
    to.take("tree_regressor", node("TreeEnsembleRegressor", ["y"], regressor, n_targets=2, base_values=[0.25, -1.0]), {"X": x}, ["y"], ml=3)
    leq = forest(3, 2, 5, "target", lambda tree: [0], ["BRANCH_LEQ"])
    to.take("tree_average", node("TreeEnsembleRegressor", ["y"], leq, n_targets=1, aggregate_function="AVERAGE"), {"X": x}, ["y"], ml=3)
    binary = forest(3, 3, 5, "class", lambda tree: [0], ["BRANCH_LEQ"])
    to.take("tree_binary", node("TreeEnsembleClassifier", ["label", "prob"], binary, classlabels_int64s=[0, 1], post_transform="LOGISTIC",
                                base_values=[0.3]), {"X": x}, ["prob"], ml=3)
    several = forest(6, 2, 5, "class", lambda tree: [tree % 3], ["BRANCH_LT"])
    to.take("tree_classes", node("TreeEnsembleClassifier", ["label", "prob"], several, classlabels_int64s=[0, 1, 2], post_transform="SOFTMAX"),
            {"X": x}, ["prob"], ml=3)
    tensor = lambda name, values, kind: helper.make_tensor(name, kind, [len(values)], values)
    modern = dict(nodes_splits=tensor("s", [0.1, -0.3, 0.7], TensorProto.FLOAT), nodes_featureids=[0, 1, 4],
                  nodes_modes=tensor("m", [0, 1, 3], TensorProto.UINT8), nodes_truenodeids=[1, 0, 2], nodes_falsenodeids=[2, 1, 3],
                  nodes_trueleafs=[0, 1, 1], nodes_falseleafs=[0, 1, 1], leaf_targetids=[0, 1, 0, 1],
                  leaf_weights=tensor("w", [0.5, 1.5, -2.0, 3.0], TensorProto.FLOAT), tree_roots=[0], n_targets=2)
    to.take("tree_ensemble", node("TreeEnsemble", ["y"], modern), {"X": x}, ["y"], opset=21, ml=5)
    pipeline = [
        helper.make_node("Imputer", ["a"], ["ai"], domain="ai.onnx.ml", imputed_value_floats=[0.5, 1.5], replaced_value_float=0.0),
        helper.make_node("Scaler", ["ai"], ["as"], domain="ai.onnx.ml", offset=[0.1, 0.2], scale=[2.0, 0.5]),
        helper.make_node("Normalizer", ["as"], ["an"], domain="ai.onnx.ml", norm="L2"),
        helper.make_node("OneHotEncoder", ["k"], ["ko"], domain="ai.onnx.ml", cats_int64s=[0, 2, 5]),
        helper.make_node("Reshape", ["ko", "m3"], ["kf"]),
        helper.make_node("Binarizer", ["a"], ["bin"], domain="ai.onnx.ml", threshold=0.25),
        helper.make_node("FeatureVectorizer", ["an", "kf", "bin"], ["v"], domain="ai.onnx.ml", inputdimensions=[2, 3, 2]),
        helper.make_node("LinearRegressor", ["v"], ["r"], domain="ai.onnx.ml", coefficients=[float(x) for x in f(7)], intercepts=[0.5], targets=1),
        helper.make_node("LinearClassifier", ["v"], ["label", "c"], domain="ai.onnx.ml", coefficients=[float(x) for x in f(21)],
                         intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
    ]
    a = f(ROWS, 2)
    a[2, 1] = 0
    to.take("pipeline", pipeline, {"a": a, "k": ints(6, ROWS, 1)}, ["r", "c", "v"], {"m3": np.int64([-1, 3])}, ml=3)


def missing(to):
    """NaN as a missing value: every mode of a branch, imputers, choices by IsNaN."""
    rng = np.random.default_rng(23)
    x = rng.standard_normal((16, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.4] = np.nan
    x[0], x[1] = np.nan, 0.25
    modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    # A tree of one split for each mode, with and without the flag.
    keys = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids",
            "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids", "target_weights")
    stumps = {key: [] for key in keys}
    for tree in range(2 * len(modes)):
        for row in ([tree, 0, tree % 4, 0.25, modes[tree // 2], 1, 2, tree % 2], [tree, 1, 0, 0.0, "LEAF", 0, 0, 0], [tree, 2, 0, 0.0, "LEAF", 0, 0, 0]):
            for key, value in zip(keys[:8], row):
                stumps[key].append(value)
        for leaf in (1, 2):
            for key, value in zip(keys[8:], (tree, leaf, tree, float(leaf))):
                stumps[key].append(value)
    node = lambda op, source, out, **attributes: helper.make_node(op, [source], [out], domain="ai.onnx.ml", **attributes)
    to.take("missing_modes", [node("TreeEnsembleRegressor", "X", "y", n_targets=2 * len(modes), **stumps)], {"X": x}, ["y"], ml=3)
    tensor = lambda name, values, kind: helper.make_tensor(name, kind, [len(values)], values)
    count = 2 * len(modes)
    modern = dict(nodes_splits=tensor("s", [0.25] * count, TensorProto.FLOAT), nodes_featureids=[i % 4 for i in range(count)],
                  nodes_modes=tensor("m", [i // 2 for i in range(count)], TensorProto.UINT8), nodes_truenodeids=[2 * i for i in range(count)],
                  nodes_falsenodeids=[2 * i + 1 for i in range(count)], nodes_trueleafs=[1] * count, nodes_falseleafs=[1] * count,
                  nodes_missing_value_tracks_true=[i % 2 for i in range(count)], leaf_targetids=[i // 2 for i in range(2 * count)],
                  leaf_weights=tensor("w", [float(i % 2 + 1) for i in range(2 * count)], TensorProto.FLOAT), tree_roots=list(range(count)),
                  n_targets=count)
    to.take("missing_modes_modern", [node("TreeEnsemble", "X", "y", **modern)], {"X": x}, ["y"], opset=21, ml=5)
    linear = dict(coefficients=[0.5, -1.0, 2.0, 0.25], intercepts=[0.5], targets=1)
    to.take("missing_imputed", [
        node("Imputer", "X", "i", imputed_value_floats=[0.5, 1.5, -0.5, 2.0], replaced_value_float=float("nan")), node("LinearRegressor", "i", "y", **linear),
        # Scaled, then split; chosen by IsNaN, by its contrary, and in a matrix that is moved about.
        node("Scaler", "X", "s", offset=[0.1], scale=[2.0]), node("TreeEnsembleRegressor", "s", "t", n_targets=count, **stumps),
        *[parser.parse_node(line) for line in ("n = IsNaN(X)", "a = Where(n, c, X)", "m = Not(n)", "b = Where(m, X, c)", "r = Reshape(X, square)",
                                               "h = Transpose<perm=[0, 2, 1]>(r)", "k = IsNaN(h)", "d = Where(k, c0, h)", "e = Reshape(d, line)",
                                               "o = Concat<axis=1>(a, b, e)", "f = ReduceSum<keepdims=1>(o, one)")]],
            {"X": x}, ["y", "t", "f"], {"c": np.float32([1, 2, 3, 4]), "c0": np.float32(-1), "square": np.int64([-1, 2, 2]), "line": np.int64([-1, 4]),
                                         "one": np.int64([1])}, ml=3)


def boosted(to):
    """Trees trained on rows with missing values."""
    import lightgbm
    import onnxmltools
    import xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(29)
    x = rng.standard_normal((600, 5)).astype(np.float32)
    # What is missing says something, so that both directions of a split are learned.
    lost = rng.random(x.shape) < 0.2
    y = (x[:, 0] + x[:, 1] * x[:, 2] + np.where(lost[:, 3], 1.0, -0.3) - lost[:, 1] > 0).astype(int)
    x[lost] = np.nan
    types = {"initial_types": [("X", FloatTensorType([None, 5]))], "target_opset": 15}
    rows = np.concatenate([x[:30], np.full((1, 5), np.nan, np.float32), np.zeros((1, 5), np.float32)])
    lgb = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, verbose=-1, n_jobs=1).fit(x, y)
    to.keep("missing_lightgbm", onnxmltools.convert_lightgbm(lgb, zipmap=False, **types), {"X": rows}, ["probabilities"], lgb.predict_proba(rows))
    xgb = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y)
    to.keep("missing_xgboost", onnxmltools.convert_xgboost(xgb, **types), {"X": rows}, ["probabilities"], xgb.predict_proba(rows))


def refusals(to):
    x, ids = {"x": f(ROWS, 4)}, {"ids": ints(5, ROWS, 4)}
    to.refuse("lstm", "y, h = LSTM<hidden_size=2>(x3, w, r)\nz = Squeeze(h, i)", {"x3": f(ROWS, 2, 3)}, ["z"], {"w": f(1, 8, 3), "r": f(1, 8, 2), "i": np.int64([0])})
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["s", "s"], ["s2"])], "body",
                             [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                              helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
                             [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("s2", TensorProto.FLOAT, None)])
    to.refuse("loop", [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body, name="bags")], x, ["y"], {"n": np.int64(3), "t": np.bool_(True)})
    branch = lambda op: helper.make_graph([helper.make_node(op, ["x"], ["out"])], op, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])
    nodes = [parser.parse_node("m = ReduceMax<keepdims=0>(c)"), parser.parse_node("b = Greater(m, z)")]
    nodes.append(helper.make_node("If", ["b"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")))
    to.refuse("if_of_inputs", nodes[1:], {**x, "m": f(ROWS)}, ["y"], {"z": np.float32(0)})
    cases = {
        "mean_over_rows": ("y = ReduceMean<axes=[0], keepdims=1>(x)\nz = Sub(x, y)", x, ["z"], {}),
        "sum_of_everything": ("y = ReduceSum<keepdims=0>(x)\nz = Sub(x, y)", x, ["z"], {}),
        "softmax_over_rows": ("y = Softmax<axis=0>(x)", x, ["y"], {}),
        "first_row": ("y = Gather<axis=0>(x, i)\nz = Sub(x, y)", x, ["z"], {"i": np.int64(0)}),
        "slice_of_rows": ("y = Slice(x, a, b)\nz = ReduceSum<keepdims=0>(y, b)", x, ["z"], {"a": np.int64([0]), "b": np.int64([1])}),
        "concat_of_rows": ("y = Concat<axis=0>(x, x)", x, ["y"], {}),
        "gram_matrix": ("t = Transpose<perm=[1, 0]>(x)\ny = MatMul(x, t)", x, ["y"], {}),
        "outer_of_rows": ("s = ReduceSum<keepdims=0>(x, o)\nc = Unsqueeze(s, o)\ny = Mul(s, c)", x, ["y"], {"o": np.int64([1])}),
        "mixing_reshape": ("y = Reshape(x, r)", x, ["y"], {"r": np.int64([2, -1])}),
        "batch_statistics": ("y, m, v = BatchNormalization<training_mode=1>(x, a, a, a, b)", x, ["y"], {"a": f(4), "b": np.abs(f(4))}),
        "number_of_rows": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nc = Cast<to=1>(n)\ny = Div(x, c)", x, ["y"], {"i": np.int64(0)}),
        "range_over_rows": ("s = Shape(x)\nn = Gather<axis=0>(s, i)\nr = Range(i, n, o)\nc = Cast<to=1>(r)\ny = Mul(c, c)", x, ["y"],
                            {"i": np.int64(0), "o": np.int64(1)}),
        "cumsum_over_rows": ("y = CumSum(x, i)", x, ["y"], {"i": np.int64(0)}),
        "gather_of_rows": ("y = GatherElements<axis=0>(x, k)", {**x, "k": ints(ROWS, ROWS, 4)}, ["y"], {}),
        "row_by_row_gather": ("y = Gather<axis=1>(x, k)", {**x, "k": ints(4, ROWS)}, ["y"], {}),
        "dropout_in_training": ("y = Dropout(x, r, t)", x, ["y"], {"r": np.float32(0.5), "t": np.bool_(True)}),
        "random_numbers": ("r = RandomNormalLike(x)\ny = Add(x, r)", x, ["y"], {}),
        "scatter": ("y = ScatterElements<axis=1>(x, k, x)", {**x, "k": ints(4, ROWS, 4)}, ["y"], {}),
        "constant_output": ("y = Add(w, w)\nz = Identity(x)", x, ["y", "z"], {"w": f(3)}),
        "vector_output": ("y = MatMul(x, w)", x, ["y"], {"w": f(4, 65)}),
        "transposed_output": ("y = Transpose<perm=[1, 0]>(x)", x, ["y"], {}),
        "integer_division": ("k = Div(ids, two)\ny = Cast<to=1>(k)", ids, ["y"], {"two": np.int64(2)}),
    }
    for name, (nodes, inputs, outputs, weights) in cases.items():
        to.refuse(name, nodes, inputs, outputs, weights)
    to.refuse("old_opset", "y = Relu(x)", x, ["y"], opset=12)
    to.refuse("unknown_domain", [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", name="fused")], x, ["y"], {"w": f(4, 2)},
              domains=["com.microsoft"])
    made = model("y = Relu(x)", x, ["y"], {})
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(made, to.refused / "dynamic_axis.onnx")
    made = model("y = Relu(x)", x, ["y"], {})
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    onnx.save(made, to.refused / "strings.onnx")
    made = model("y = MatMul(x, w)", x, ["y"], {"w": f(4, 2)})
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], location="../../Cargo.toml", offset=0, length=32)
    made.graph.initializer[0].ClearField("raw_data")
    (to.refused / "outside_folder.onnx").write_bytes(made.SerializeToString())


def strip(graph):
    """Without the exporter's traces, which are longer than the model."""
    for key in ("value_info", "metadata_props", "doc_string"):
        graph.ClearField(key)
    for value in [*graph.input, *graph.output]:
        value.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                strip(attribute.g)


def bags(to):
    """nn.EmbeddingBag, as both exporters of torch write it."""
    import tempfile

    import torch
    from torch import nn

    torch.manual_seed(5)
    torch.set_num_threads(1)

    class Bags(nn.Module):
        def __init__(self, mode="sum", padding=None, flat=False):
            super().__init__()
            self.bag, self.flat = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding), flat
            if padding is not None and mode != "sum":
                nn.init.normal_(self.bag.weight)
            self.top = nn.Linear(4, 2)

        def forward(self, ids, weights=None):
            if self.flat:
                parts = [self.bag(ids[:, j], torch.arange(ids.shape[0])) for j in range(ids.shape[1])]
                return self.top(torch.cat(parts, 1).view(-1, ids.shape[1], 4).sum(1))
            return self.top(self.bag(ids, per_sample_weights=weights))

    class Weighted(Bags):
        def forward(self, ids, weights):
            return super().forward(ids, weights)

    class Keyed(nn.Module):
        """Ids feature by feature with lengths, as torchrec's KeyedJaggedTensor holds them."""

        def __init__(self):
            super().__init__()
            self.tables, self.top = nn.ModuleList(nn.EmbeddingBag(10, 4, include_last_offset=True) for _ in range(3)), nn.Linear(12, 2)

        def forward(self, ids):
            values = ids.t().reshape(-1)
            lengths = torch.ones(3 * ids.shape[0], dtype=torch.int32).view(3, -1)
            offsets = torch.cat([lengths.new_zeros(3, 1), lengths.cumsum(1).to(torch.int32)], 1)
            parts = values.split([ids.shape[0]] * 3)
            return self.top(torch.cat([table(part, offset.long()) for table, part, offset in zip(self.tables, parts, offsets)], 1))

    ids, weights = ints(10, ROWS, 5), f(ROWS, 5)
    ids[0], ids[1, :3] = 0, 0
    columns = {"ids": ints(10, ROWS, 3)}
    dynamo = lambda opset: {"dynamo": True, "opset_version": opset, "verbose": False}
    legacy = {"dynamo": False, "opset_version": 17}
    cases = [
        ("sum", Bags(), {"ids": ids}, dynamo(20)), ("mean", Bags("mean"), {"ids": ids}, dynamo(18)), ("max", Bags("max"), {"ids": ids}, dynamo(20)),
        ("one", Bags("mean"), {"ids": ids[:, :1]}, dynamo(20)), ("weights", Weighted(), {"ids": ids, "weights": weights}, dynamo(18)),
        ("sum_padded", Bags("sum", 0), {"ids": ids}, dynamo(20)), ("mean_padded", Bags("mean", 3), {"ids": ids}, dynamo(20)),
        ("max_padded", Bags("max", 0), {"ids": ids}, dynamo(19)), ("weights_padded", Weighted("sum", 0), {"ids": ids, "weights": weights}, dynamo(20)),
        ("columns", Bags(flat=True), columns, dynamo(20)), ("keyed", Keyed(), columns, dynamo(20)),
        ("sum_legacy", Bags(), {"ids": ids}, legacy), ("mean_legacy", Bags("mean"), {"ids": ids}, legacy), ("max_legacy", Bags("max"), {"ids": ids}, legacy),
        ("weights_legacy", Weighted(), {"ids": ids, "weights": weights}, legacy),
    ]
    for name, module, inputs, options in cases:
        given = tuple(torch.from_numpy(array) for array in inputs.values())
        if options["dynamo"]:
            options["dynamic_shapes"] = tuple({0: torch.export.Dim("N")} for _ in inputs)
        else:
            options["dynamic_axes"] = {key: {0: "N"} for key in inputs}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "bags.onnx"
            torch.onnx.export(module.eval(), given, path, input_names=list(inputs), output_names=["y"], **options)
            made = onnx.load(path)
        strip(made.graph)
        to.keep(f"bags_{name}", made, inputs, ["y"], module(*given).detach().numpy())
    bags_of_others(to)


def bags_of_others(to):
    """Loops that are nearly those of nn.EmbeddingBag, and compute something else."""
    def change(name, source, edit):
        made = onnx.load(to.ok / f"bags_{source}.onnx")
        loop = next(node for node in made.graph.node if node.op_type == "Loop")
        edit(made.graph, loop, loop.attribute[0].g)
        onnx.checker.check_model(made)
        onnx.save(made, to.refused / f"bags_{name}.onnx")

    def number(graph, value):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"n{len(graph.initializer)}"))
        return graph.initializer[-1].name

    first = lambda graph, op, count=0: [node for node in graph.node if node.op_type == op][count]

    def reads(graph, node, at, value):
        node.input[at] = number(graph, np.int64(value))

    def branch(body, name):
        return next(attribute.g for attribute in first(body, "If").attribute if attribute.name == name)

    def longer(graph, loop, body):
        # Each bag and the next one.
        last = [node for node in body.node if node.op_type == "Add"]
        for add in last[1:3]:
            add.input[1] = number(graph, np.int64(2 if add is last[1] else 3))

    def whole(graph, loop, body):
        # The rows of all bags.
        inner = branch(body, "else_branch")
        first(inner, "ReduceSum").input[0] = first(inner, "Slice").input[0]

    def least_of_all(graph, loop, body):
        # The last iteration does not take place.
        body.node.append(helper.make_node("Add", [first(body, "Less").input[0], number(graph, np.int64(1))], ["later"]))
        less = first(body, "Less")
        less.input[0] = "later"
        body.node.append(helper.make_node("Less", list(less.input), list(less.output)))
        body.node.remove(less)

    def other_mean(graph, loop, body):
        inner = next(attribute.g for attribute in first(branch(body, "else_branch"), "If").attribute if attribute.name == "then_branch")
        shape = first(inner, "Shape")
        shape.input[0] = loop.input[1]
        shape.ClearField("attribute")
        subtract = first(inner, "Sub")
        subtract.input[0] = number(graph, np.int64([10 ** 6]))

    def padded(graph, loop, body):
        # Ids that are padding, not the others.
        inner = first(body, "Loop").attribute[0].g
        first(inner, "Not").op_type = "Identity"

    # The exporter writes what the inner loop carries in any order.
    made = onnx.load(to.ok / "bags_max_padded.onnx")
    loop = first(first(made.graph, "Loop").attribute[0].g, "Loop")
    for values in (loop.input, loop.output, loop.attribute[0].g.input, loop.attribute[0].g.output):
        a, b = (type(values[-1]).FromString(value.SerializeToString()) if hasattr(value, "name") else value for value in values[-2:])
        del values[-2:]
        values.extend([b, a])
    inputs = load_file(to.ok / "bags_max_padded.safetensors")
    onnx.checker.check_model(made)
    to.keep("bags_max_padded_swapped", made, {"ids": inputs["ids"]}, ["y"], inputs["y"])

    change("from_one", "sum", lambda graph, loop, body: reads(graph, loop, 2, 1))
    change("longer", "sum", longer)
    change("of_all", "sum", whole)
    change("but_one", "sum", least_of_all)
    change("uneven", "sum", lambda graph, loop, body: reads(graph, first(graph, "Range"), 2, 1))
    change("other_mean", "mean", other_mean)
    change("of_padding", "sum_padded", padded)


def beyond_f32(to):
    """The absolute value, by squares that no f32 holds."""
    nodes = """large = Mul(x, scale)
        square = Mul(large, large)
        root = Sqrt(square)
        y = Div(root, scale)"""
    scale = {"scale": np.array(1e20, np.float32)}
    onnx.save(model(nodes, {"x": np.ones((ROWS, 1), np.float32)}, ["y"], scale), to.engine / "overflow.onnx")


def golden(to, folder):
    for case in ("deepfm", "dcn", "dcn_matrix", "wdl", "mmoe"):
        source = folder / case
        inputs, outputs = load_file(source / "inputs.safetensors"), load_file(source / "outputs.safetensors")
        made = onnx.load(source / "model.onnx")
        name = made.graph.output[0].name
        rows = {graph_input.name: inputs[graph_input.name][:32] for graph_input in made.graph.input}
        expected = np.asarray(outputs[f"{name}_f64"], dtype=np.float64)[:32].reshape(32, -1)
        onnx.save(made, to.ok / f"golden_{case}.onnx")
        save_file({**rows, name: expected}, to.ok / f"golden_{case}.safetensors")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--golden", type=pathlib.Path)
    arguments.add_argument("--torch", action="store_true", help="also export the files that torch writes")
    arguments.add_argument("--boosted", action="store_true", help="also train trees on rows with missing values")
    given = arguments.parse_args()
    to = Fixtures(given.out)
    for make in (elementwise, wrapping, shapes, products, sequences, lookups, structure, trees, refusals, missing, beyond_f32):
        make(to)
    if given.torch:
        bags(to)
    if given.boosted:
        boosted(to)
    if given.golden:
        golden(to, given.golden)


if __name__ == "__main__":
    main()
