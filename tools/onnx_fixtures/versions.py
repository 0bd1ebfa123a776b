"""Old versions of ONNX."""

import numpy as np

from .build import ROWS


def versions(to):
    own = np.random.default_rng(43)
    x = own.standard_normal((ROWS, 6)).astype(np.float32)
    to.take("opset_9", """
        a = Slice<starts=[1], ends=[3], axes=[1]>(x)
        b = Pad<pads=[0, 1, 0, 1], value=2.0, mode="constant">(a)
        c, d = Split<axis=1, split=[1, 3]>(b)
        e = Unsqueeze<axes=[1]>(d)
        g = ReduceMean<axes=[1], keepdims=0>(e)
        h = Squeeze<axes=[1]>(e)
        i = Dropout<ratio=0.5>(h)
        j = Clip<min=-0.5, max=0.25>(i)
        k = Softmax(x)
        y = Concat<axis=1>(c, g, j, k)""", {"x": x}, ["y"], opset=9)
    f = lambda *shape: own.standard_normal(shape).astype(np.float32)
    to.take("opset_23", """
        a = Attention(q, k, v)
        b = Attention<is_causal=1, scale=0.7>(q, k, v)
        c = Attention(q, k, v, mask)
        d = Attention(q, k, v, bias)
        e = Attention<q_num_heads=2, kv_num_heads=2>(flat, flat, flat)
        g = RMSNormalization(e, weight)
        h = RMSNormalization<axis=1, epsilon=0.01>(e, weights)
        abcd = Concat<axis=3>(a, b, c, d)
        gh = Concat<axis=2>(g, h)
        y = ReduceSum<keepdims=0>(abcd, last)
        ys = Flatten(y)
        z = Flatten(gh)""",
            {"q": f(ROWS, 2, 3, 4), "k": f(ROWS, 2, 3, 4), "v": f(ROWS, 2, 3, 2), "flat": f(ROWS, 3, 4),
             "mask": np.arange(ROWS * 9).reshape(ROWS, 1, 3, 3) % 4 > 0}, ["ys", "z"],
            {"bias": f(3, 3), "weight": f(4), "weights": f(3, 4), "last": np.int64([3])}, opset=23)
    # repeat_interleave as the TorchScript exporter writes it: repeats by a one-hot row.
    to.take("repeats", """
        u = Unsqueeze(x, last)
        hot = OneHot(place, depth, values)
        row = Reshape(hot, flat)
        t = Tile(u, row)
        y = Flatten(t)""", {"x": x}, ["y"],
            {"last": np.int64([2]), "place": np.int64([2]), "depth": np.int64(3), "values": np.int64([1, 4]), "flat": np.int64([-1])})
    # A label by an op that is not taken, and that no score needs.
    to.take("dead_label", "p = Sigmoid(x)\nh = Hardmax(p)\nlabel = Cast<to=7>(h)", {"x": x}, ["p"], labels=["label"], opset=9)
