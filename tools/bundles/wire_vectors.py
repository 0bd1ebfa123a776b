"""The model behind the protocol's vectors."""

import numpy as np

from .evaluate import evaluate
from .writer import Bundle


def dyadic(shape, step, seed):
    """Multiples of `step` between -1 and 1: sums and products of a few of them are exact in f32, in any order."""
    n = int(1 / step)
    return np.random.default_rng(seed).integers(-n, n + 1, shape).astype(np.float32) * np.float32(step)


def make_wire_vectors(out):
    """One feature of every kind the wire can carry; no division, no transcendental function: every engine gives the same bits."""
    bundle = Bundle("wire_vectors", "Tiny model with exact scores, one feature of every kind: for protocol vectors and tests")
    for seed, (table, rows, dim) in enumerate([("segments", 32, 4), ("ad", 16, 4), ("advertiser", 8, 4), ("word", 16, 4), ("seq", 8, 2)]):
        bundle.table(table, f"table.{table}", dyadic((rows, dim), 1 / 8, seed))
    bundle.dense("age", width=2, scope="context", nan={"value": 0.0})
    bundle.sparse("segments", "segments", "context", max_len=4, id_type="u64", hash={"fn": "fnv1a64", "mod": 31, "add": 1})
    bundle.integer("slot", scope="context")
    bundle.dense("ctr")
    bundle.sparse("ad", "ad")
    bundle.sparse("advertiser", "advertiser", missing={"row": 0}, out_of_range={"row": 1})
    bundle.sparse("words", "word", max_len=3, weighted=True)
    bundle.sparse("seq", "seq", max_len=2, pool="none")

    bundle.op("dense", "age", features=["age"])
    bundle.op("lookup", "segments", feature="segments")
    bundle.op("integer", "slot.id", feature="slot")
    bundle.op("cast", "slot", in_="slot.id", to="f32")
    bundle.op("concat", "context", in_=["age", "segments", "slot"], axis=0)
    bundle.op("dense", "ctr", features=["ctr"])
    bundle.op("lookup", "pooled", features=["ad", "advertiser", "words"])
    bundle.op("reshape", "pooled.flat", in_="pooled", shape=[12])
    bundle.op("lookup", "seq", feature="seq")
    bundle.op("reshape", "seq.flat", in_="seq", shape=[4])
    bundle.op("length", "seq.length.id", feature="seq")
    bundle.op("cast", "seq.length.f32", in_="seq.length.id", to="f32")
    bundle.op("reshape", "seq.length", in_="seq.length.f32", shape=[1])
    bundle.op("concat", "x", in_=["context", "ctr", "pooled.flat", "seq.flat", "seq.length"], axis=0)
    width = 7 + 1 + 12 + 4 + 1
    weight, bias = bundle.tensor("hidden.weight", dyadic((4, width), 1 / 4, 10)), bundle.tensor("hidden.bias", dyadic(4, 1 / 4, 11))
    bundle.op("linear", "hidden", in_="x", weight=weight, bias=bias)
    bundle.op("relu", "hidden.relu", in_="hidden")
    bundle.op("linear", "head", in_="hidden.relu", weight=bundle.tensor("head.weight", dyadic((2, 4), 1 / 4, 12)))
    bundle.op("slice", "ad.row", in_="pooled", axis=0, start=0, end=1)
    bundle.op("mul", "match.products", a="segments", b="ad.row")
    bundle.op("reduce_sum", "match", in_="match.products", axes=[0, 1])
    bundle.op("slice", "head.score", in_="head", axis=0, start=0, end=1)
    bundle.op("slice", "head.value", in_="head", axis=0, start=1, end=2)
    bundle.op("add", "score", a="head.score", b="match")
    bundle.op("mul", "value", a="head.value", b=0.5)
    bundle.output("score", "score", "logit")
    bundle.output("value", "value", "value")

    rows, rng = 16, np.random.default_rng(99)

    def bags(most, high):
        lengths = rng.integers(0, most + 1, rows)
        lengths[:2] = 0, most
        return rng.integers(0, high, lengths.sum()), lengths

    inputs = {
        "age": dyadic((rows, 2), 1 / 8, 20),
        "segments": bags(4, 2**62),
        "slot": rng.integers(-4, 9, rows),
        "ctr": dyadic(rows, 1 / 16, 21),
        "ad": rng.integers(0, 16, rows),
        "advertiser": rng.integers(0, 8, rows),
        "words": None,
        "seq": bags(2, 8),
    }
    ids, lengths = bags(3, 16)
    inputs["words"] = (ids, lengths, dyadic(len(ids), 1 / 8, 22))
    expected = evaluate(bundle, inputs)
    for name, values in expected.items():
        if (values.astype(np.float32) != values).any():
            raise SystemExit(f"wire_vectors: {name} is not exact in f32")
    bundle.write(out / "wire_vectors", inputs, expected, 0.0)
    print(f"wire_vectors: {len(bundle.graph)} steps, exact")
