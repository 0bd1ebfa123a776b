"""DLRM, in the pair orders of its two implementations."""

from .case import layers, new_bundle


def dlrm(case, bundle, bottom, top, pairs):
    """Naumov et al. 2019, arXiv:1906.00091. `pairs`: (row, column) of the interaction matrix, in the order of the top MLP's inputs."""
    n, dim = len(case.sparse) + 1, case.case["embedding_dim"]
    bundle.op("dense", "dense", features=case.dense)
    bottom = bundle.mlp("bottom", "dense", layers(bundle, case, bottom))
    bundle.op("reshape", "bottom.row", in_=bottom, shape=[1, dim])
    bundle.op("lookup", "embedded", features=[feature["name"] for feature in case.sparse])
    bundle.op("concat", "vectors", in_=["bottom.row", "embedded"], axis=0)
    bundle.op("matmul", "dots", a="vectors", b="vectors", transpose_b=True)
    bundle.op("reshape", "dots.flat", in_="dots", shape=[n * n])
    bundle.op("gather_const", "pairs", in_="dots.flat", axis=0, indices=[row * n + column for row, column in pairs(n)])
    bundle.op("concat", "interaction", in_=[bottom, "pairs"], axis=0)
    logit = bundle.mlp("top", "interaction", layers(bundle, case, top), last_relu=False)
    bundle.output("prob", bundle.op("sigmoid", "prob", in_=logit))


def lower_triangle(n):
    return [(row, column) for row in range(n) for column in range(row)]


def upper_triangle(n):
    return [(row, column) for row in range(n) for column in range(row + 1, n)]


def dlrm_reference(case, name, context):
    number = {feature["name"]: i for i, feature in enumerate(case.sparse)}
    bundle = new_bundle(case, name, context, lambda feature: f"emb_l.{number[feature]}.weight")
    stack = lambda part: [(f"{part}.{i}.weight", f"{part}.{i}.bias") for i in (0, 2, 4)]
    dlrm(case, bundle, stack("bot_l"), stack("top_l"), lower_triangle)
    return bundle


def dlrm_torchrec(case, name, context):
    bundle = new_bundle(case, name, context, lambda f: f"model.sparse_arch.embedding_bag_collection.embedding_bags.t_{f}.weight")
    mlp = lambda path, n: [(f"{path}._mlp.{i}._linear.weight", f"{path}._mlp.{i}._linear.bias") for i in range(n)]
    top = mlp("model.over_arch.model.0", 2) + [("model.over_arch.model.1.weight", "model.over_arch.model.1.bias")]
    dlrm(case, bundle, mlp("model.dense_arch.model", 2), top, upper_triangle)
    return bundle
