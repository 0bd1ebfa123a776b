"""Models of deepctr-torch: DeepFM, DCN, Wide & Deep, MMoE."""

from .case import copy, layers, new_bundle


def deepctr(case, name, context):
    """What the deepctr-torch models share: embeddings, the flat input of the MLP, the wide (linear) part."""
    bundle = new_bundle(case, name, context, lambda feature: f"embedding_dict.{feature}.weight")
    sparse = [feature["name"] for feature in case.sparse]
    bundle.op("dense", "dense", features=case.dense)
    bundle.op("lookup", "embedded", features=sparse)
    bundle.op("reshape", "embedded.flat", in_="embedded", shape=[len(sparse) * case.case["embedding_dim"]])
    bundle.op("concat", "flat", in_=["embedded.flat", "dense"], axis=0)
    if "linear_model.weight" in case.weights:
        for feature in sparse:
            tensor = f"linear_model.embedding_dict.{feature}.weight"
            bundle.table(f"{feature}.wide", tensor, case.weights[tensor])
        bundle.op("lookup", "wide.rows", features=sparse, tables=[f"{feature}.wide" for feature in sparse])
        bundle.op("reduce_sum", "wide.sparse", in_="wide.rows", axes=[0])
        bundle.op("linear", "wide.dense", in_="dense", weight=bundle.tensor("linear_model.weight.T", case.weights["linear_model.weight"].T))
        bundle.op("add", "wide", a="wide.sparse", b="wide.dense")
    return bundle


def stack_of(path, count):
    return [(f"{path}.linears.{i}.weight", f"{path}.linears.{i}.bias") for i in range(count)]


def finish(case, bundle, terms):
    """Sum of logit terms, bias, sigmoid."""
    copy(bundle, case, "out.bias")
    bundle.op("const", "out.bias", tensor="out.bias")
    total = terms[0]
    for i, term in enumerate(terms[1:] + ["out.bias"]):
        total = bundle.op("add", f"logit.{i}", a=total, b=term)
    bundle.output("prob", bundle.op("sigmoid", "prob", in_=total))


def deepfm(case, name, context):
    """Guo et al. 2017, arXiv:1703.04247: wide part, factorization machine, MLP."""
    bundle = deepctr(case, name, context)
    bundle.op("reduce_sum", "fm.sum", in_="embedded", axes=[0])
    bundle.op("pow", "fm.square_of_sum", a="fm.sum", b=2)
    bundle.op("mul", "fm.squares", a="embedded", b="embedded")
    bundle.op("reduce_sum", "fm.sum_of_squares", in_="fm.squares", axes=[0])
    bundle.op("sub", "fm.cross", a="fm.square_of_sum", b="fm.sum_of_squares")
    bundle.op("reduce_sum", "fm.total", in_="fm.cross", axes=[0], keep=True)
    bundle.op("mul", "fm", a="fm.total", b=0.5)
    deep = bundle.mlp("dnn", "flat", layers(bundle, case, stack_of("dnn", 2)))
    deep = bundle.mlp("dnn.logit", deep, layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", "fm", deep])
    return bundle


def cross_and_deep(case, bundle, crossed):
    deep = bundle.mlp("dnn", "flat", layers(bundle, case, stack_of("dnn", 2)))
    bundle.op("concat", "both", in_=[crossed, deep], axis=0)
    logit = bundle.mlp("dnn.logit", "both", layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", logit])


def dcn(case, name, context):
    """Wang et al. 2017, arXiv:1708.05123: x0 (x . w) + b + x."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (kernel, bias) in enumerate(zip(case.weights["crossnet.kernels"], case.weights["crossnet.bias"])):
        bundle.op("linear", f"cross.{i}.dot", in_=x, weight=bundle.tensor(f"crossnet.kernels.{i}", kernel.reshape(1, -1)))
        bundle.op("mul", f"cross.{i}.scaled", a="flat", b=f"cross.{i}.dot")
        bundle.op("const", f"cross.{i}.bias", tensor=bundle.tensor(f"crossnet.bias.{i}", bias.reshape(-1)))
        bundle.op("add", f"cross.{i}.shifted", a=f"cross.{i}.scaled", b=f"cross.{i}.bias")
        x = bundle.op("add", f"cross.{i}", a=f"cross.{i}.shifted", b=x)
    cross_and_deep(case, bundle, x)
    return bundle


def dcn_matrix(case, name, context):
    """Wang et al. 2020, arXiv:2008.13535: x0 * (W x + b) + x."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (kernel, bias) in enumerate(zip(case.weights["crossnet.kernels"], case.weights["crossnet.bias"])):
        weight, bias = bundle.tensor(f"crossnet.kernels.{i}", kernel), bundle.tensor(f"crossnet.bias.{i}", bias.reshape(-1))
        bundle.op("linear", f"cross.{i}.linear", in_=x, weight=weight, bias=bias)
        bundle.op("mul", f"cross.{i}.scaled", a="flat", b=f"cross.{i}.linear")
        x = bundle.op("add", f"cross.{i}", a=f"cross.{i}.scaled", b=x)
    cross_and_deep(case, bundle, x)
    return bundle


def wdl(case, name, context):
    """Cheng et al. 2016, arXiv:1606.07792, with batch norm in the MLP (eps as in the case's graph)."""
    bundle = deepctr(case, name, context)
    x = "flat"
    for i, (weight, bias) in enumerate(layers(bundle, case, stack_of("dnn", 2))):
        norm = {"mean": "running_mean", "var": "running_var", "weight": "weight", "bias": "bias"}
        norm = {key: f"dnn.bn.{i}.{tensor}" for key, tensor in norm.items()}
        copy(bundle, case, *norm.values())
        bundle.op("linear", f"dnn.{i}", in_=x, weight=weight, bias=bias)
        bundle.op("batch_norm", f"dnn.{i}.norm", in_=f"dnn.{i}", eps=1e-5, **norm)
        x = bundle.op("relu", f"dnn.{i}.relu", in_=f"dnn.{i}.norm")
    deep = bundle.mlp("dnn.logit", x, layers(bundle, case, [("dnn_linear.weight", None)]), last_relu=False)
    finish(case, bundle, ["wide", deep])
    return bundle


def mmoe(case, name, context):
    """Ma et al. 2018, doi:10.1145/3219819.3220007: experts, a softmax gate and a tower per task."""
    bundle = deepctr(case, name, context)
    experts, units = 3, case.weights["expert_dnn.0.linears.1.weight"].shape[0]
    for i in range(experts):
        expert = bundle.mlp(f"expert.{i}", "flat", layers(bundle, case, stack_of(f"expert_dnn.{i}", 2)))
        bundle.op("reshape", f"expert.{i}.row", in_=expert, shape=[1, units])
    bundle.op("concat", "experts", in_=[f"expert.{i}.row" for i in range(experts)], axis=0)
    for task in range(2):
        gate = bundle.mlp(f"gate.{task}", "flat", layers(bundle, case, stack_of(f"gate_dnn.{task}", 1)))
        weight = f"gate_dnn_final_layer.{task}.weight"
        gate = bundle.mlp(f"gate.{task}.logit", gate, layers(bundle, case, [(weight, None)]), last_relu=False)
        bundle.op("softmax", f"gate.{task}.softmax", in_=gate, axis=-1)
        bundle.op("matmul", f"mix.{task}", a=f"gate.{task}.softmax", b="experts")
        tower = bundle.mlp(f"tower.{task}", f"mix.{task}", layers(bundle, case, stack_of(f"tower_dnn.{task}", 1)))
        weight = f"tower_dnn_final_layer.{task}.weight"
        tower = bundle.mlp(f"tower.{task}.logit", tower, layers(bundle, case, [(weight, f"out.{task}.bias")]), last_relu=False)
        bundle.output(f"probs_{task}", bundle.op("sigmoid", f"probs_{task}", in_=tower))
    return bundle
