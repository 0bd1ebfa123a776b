"""LSTM and RNN, which become steps."""

import numpy as np

from .build import ROWS


def recurrent(to):
    own = np.random.default_rng(31)
    f = lambda *shape: own.standard_normal(shape).astype(np.float32)
    h, i, t = 3, 2, 4
    for op, gates in (("LSTM", 4), ("RNN", 1)):
        states = ["yh", "yc"][: 2 if gates == 4 else 1]
        lines = ["x = Transpose<perm=[1, 0, 2]>(seq)", "h0 = Transpose<perm=[1, 0, 2]>(start)", "lengths = Cast<to=6>(n)"]
        results, weights = [], {}
        start = ", ".join(["h0"] * len(states))
        for name, direction, more in (("f", "forward", ""), ("r", "reverse", ", lengths"), ("b", "bidirectional", f", lengths, {start}")):
            d = 2 if direction == "bidirectional" else 1
            weights |= {f"{name}w": f(d, gates * h, i), f"{name}r": f(d, gates * h, h), f"{name}b": f(d, 2 * gates * h)}
            outs = ", ".join(f"{name}{out}" for out in ["y", *states])
            lines.append(f'{outs} = {op}<hidden_size=3, direction="{direction}">(x, {name}w, {name}r, {name}b{more})')
            lines += [f"{name}t = Transpose<perm=[2, 0, 1, 3]>({name}y)", f"{name}flat = Flatten({name}t)"]
            results.append(f"{name}flat")
            for state in states:
                lines += [f"{name}{state}t = Transpose<perm=[1, 0, 2]>({name}{state})", f"{name}{state}f = Flatten({name}{state}t)"]
                results.append(f"{name}{state}f")
        lines.append(f"all = Concat<axis=1>({', '.join(results)})")
        lines.append("y = MatMul(all, mix)")
        width = 4 * t * h + 4 * h * len(states)
        to.take(op.lower(), "\n".join(lines), {"seq": f(ROWS, t, i), "n": own.integers(1, t + 1, ROWS), "start": f(ROWS, 2, h)}, ["y"],
                {**weights, "mix": f(width, 5) / 4})
