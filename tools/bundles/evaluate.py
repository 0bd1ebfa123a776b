"""A numpy interpreter of the graph, batched over rows, float64. Only what the graphs of this folder use."""

import numpy as np


def evaluate(bundle, inputs):
    values, tensors = {}, {name: value.astype(np.float64) for name, value in bundle.tensors.items()}
    tables = {table["name"]: tensors[table["tensor"]] for table in bundle.tables}
    features = {feature["name"]: feature for feature in bundle.features}
    rows = max(len(value[1]) if isinstance(value, tuple) else len(value) for value in inputs.values())

    def bags(name):
        value = inputs[name]
        if isinstance(value, tuple):
            ids, lengths = value[0], value[1]
            weights = value[2] if len(value) > 2 else np.ones(len(ids))
            ends = np.cumsum(lengths)
            return [(ids[e - n : e], weights[e - n : e].astype(np.float64)) for e, n in zip(ends, lengths)]
        return [(row, np.ones(len(row))) for row in np.asarray(value).reshape(rows, -1)]

    def rows_of(feature, ids):
        """Ids as rows of the feature's table: the hash of `segments` in wire_vectors."""
        hash_ = feature.get("hash")
        return [hash_["add"] + fnv1a64(int(i)) % hash_["mod"] for i in ids] if hash_ else ids

    def lookup(name, pool=None, table=None):
        feature = features[name]
        table = tables[table or feature["table"]]
        pool = pool or feature.get("pool", "sum")
        out = []
        for ids, weights in bags(name):
            found = table[np.asarray(rows_of(feature, ids), dtype=np.int64)]
            if pool == "none":
                padded = np.zeros((feature.get("max_len", feature.get("width", 1)), table.shape[1]))
                padded[: len(found)] = found
                out.append(padded)
            elif pool == "sum":
                out.append((weights[:, None] * found).sum(0))
            else:
                raise ValueError(pool)
        return np.stack(out)

    def get(x):
        return values[x] if isinstance(x, str) else np.float64(x)

    def aligned(a, b):
        """Per-row shapes broadcast from the right: a constant has no row axis of its own here, so all values carry one."""
        a, b = get(a), get(b)
        rank = max(np.ndim(a), np.ndim(b))
        return [x if np.ndim(x) == 0 else x.reshape(x.shape[:1] + (1,) * (rank - x.ndim) + x.shape[1:]) for x in (a, b)]

    def axis(x, written):
        return written if written < 0 else written + 1

    for node in bundle.graph:
        op, x = node["op"], node.get("in")
        if op == "dense":
            v = np.concatenate([np.asarray(inputs[f], dtype=np.float64).reshape(rows, -1) for f in node["features"]], 1)
        elif op == "integer":
            v = np.asarray(inputs[node["feature"]]).reshape(rows, -1)
        elif op == "length":
            v = np.array([len(ids) for ids, _ in bags(node["feature"])])
        elif op == "lookup":
            if "feature" in node:
                v = lookup(node["feature"], node.get("pool"), node.get("table"))
            else:
                of_table = node.get("tables", [None] * len(node["features"]))
                v = np.stack([lookup(f, node.get("pool"), t) for f, t in zip(node["features"], of_table)], 1)
        elif op == "const":
            v = np.broadcast_to(tensors[node["tensor"]], (rows,) + tensors[node["tensor"]].shape)
        elif op == "linear":
            v = get(x) @ tensors[node["weight"]].T + (tensors[node["bias"]] if "bias" in node else 0)
        elif op == "matmul":
            a, b = get(node["a"]), get(node["b"])
            v = (a[:, None] if a.ndim == 2 else a) @ (b.swapaxes(-1, -2) if node.get("transpose_b") else b)
            v = v[:, 0] if a.ndim == 2 else v
        elif op in ("add", "sub", "mul", "pow"):
            a, b = aligned(node["a"], node["b"])
            v = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "pow": np.power}[op](a, b)
        elif op == "relu":
            v = np.maximum(get(x), 0)
        elif op == "sigmoid":
            v = 1 / (1 + np.exp(-get(x)))
        elif op == "softmax":
            e = np.exp(get(x) - get(x).max(axis(x, node["axis"]), keepdims=True))
            v = e / e.sum(axis(x, node["axis"]), keepdims=True)
        elif op == "batch_norm":
            v = (get(x) - tensors[node["mean"]]) / np.sqrt(tensors[node["var"]] + node["eps"])
            v = v * tensors[node["weight"]] + tensors[node["bias"]]
        elif op == "reduce_sum":
            v = get(x).sum(tuple(axis(x, a) for a in node["axes"]), keepdims=node.get("keep", False))
        elif op == "concat":
            v = np.concatenate([get(i) for i in x], axis(x, node["axis"]))
        elif op == "slice":
            v = np.take(get(x), np.arange(get(x).shape[axis(x, node["axis"])])[node["start"] : node["end"]], axis(x, node["axis"]))
        elif op == "reshape":
            v = get(x).reshape([rows] + node["shape"])
        elif op == "gather_const":
            v = np.take(get(x), node["indices"], axis(x, node["axis"]))
        elif op == "cast":
            v = get(x).astype({"f32": np.float64, "i64": np.int64}[node["to"]])
        else:
            raise ValueError(f"op {op}")
        values[node["out"]] = v
    return {output["name"]: values[output["value"]].reshape(rows) for output in bundle.outputs}


def fnv1a64(value):
    digest = 0xCBF29CE484222325
    for byte in (value & (2**64 - 1)).to_bytes(8, "little"):
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest
