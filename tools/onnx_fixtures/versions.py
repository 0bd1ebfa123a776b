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
    # A label by an op that is not taken, and that no score needs.
    to.take("dead_label", "p = Sigmoid(x)\nh = Hardmax(p)\nlabel = Cast<to=7>(h)", {"x": x}, ["p"], labels=["label"], opset=9)
