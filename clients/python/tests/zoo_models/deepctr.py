"""Models of deepctr-torch: one float matrix, ids as floats."""

import inspect

import numpy as np
import torch

from .registry import DIM, ZOO, enliven, entry

DENSE, SPARSE, VOCABULARY = 3, 5, 30


def deepctr_columns():
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    return [SparseFeat(f"C{i}", VOCABULARY + i, DIM) for i in range(SPARSE)] + [DenseFeat(f"I{i}", 1) for i in range(DENSE)]


def deepctr_rows(n=24, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, (n, SPARSE))
    return torch.as_tensor(np.concatenate([ids, rng.random((n, DENSE))], 1).astype(np.float32))


def deepctr(module, name, **options):
    from importlib import import_module

    model = getattr(import_module(f"deepctr_torch.models.{module}"), name)
    columns = deepctr_columns()
    if name in ("AFM", "CCPM"):
        columns = columns[:SPARSE]
    parameters = inspect.signature(model.__init__).parameters
    if "dnn_hidden_units" in parameters:
        options.setdefault("dnn_hidden_units", (32, 16))
    if "linear_feature_columns" in parameters:
        return enliven(model(columns, columns, **options)), deepctr_rows(), {}
    if "region_feature_columns" in parameters:
        return enliven(model(columns, columns, **options)), deepctr_rows(), {}
    return enliven(model(columns, **options)), deepctr_rows(), {}


def add_deepctr(name, module, model, **options):
    ZOO[f"deepctr.{name}"] = (lambda: deepctr(module, model, **options), "deepctr_torch")


TASKS = {"task_types": ["binary", "binary"], "task_names": ["click", "buy"]}
add_deepctr("deepfm", "deepfm", "DeepFM")
add_deepctr("deepfm_bn", "deepfm", "DeepFM", dnn_use_bn=True, dnn_activation="prelu")
add_deepctr("dcn", "dcn", "DCN")
add_deepctr("dcn_matrix", "dcn", "DCN", cross_parameterization="matrix")
add_deepctr("dcnmix", "dcnmix", "DCNMix")
add_deepctr("wdl", "wdl", "WDL", dnn_use_bn=True)
add_deepctr("xdeepfm", "xdeepfm", "xDeepFM", cin_layer_size=(16, 8))
add_deepctr("autoint", "autoint", "AutoInt")
add_deepctr("pnn_inner", "pnn", "PNN", use_inner=True, use_outter=False)
add_deepctr("pnn_outer", "pnn", "PNN", use_inner=True, use_outter=True)
add_deepctr("pnn_outer_vec", "pnn", "PNN", use_inner=False, use_outter=True, kernel_type="vec")
add_deepctr("nfm", "nfm", "NFM")
add_deepctr("afm", "afm", "AFM")
add_deepctr("fibinet", "fibinet", "FiBiNET")
add_deepctr("fibinet_all", "fibinet", "FiBiNET", bilinear_type="all")
add_deepctr("ifm", "ifm", "IFM")
add_deepctr("difm", "difm", "DIFM")
add_deepctr("onn", "onn", "ONN")
add_deepctr("ccpm", "ccpm", "CCPM")
add_deepctr("afn", "afn", "AFN")
add_deepctr("mlr", "mlr", "MLR")
add_deepctr("mmoe", "multitask.mmoe", "MMOE", **TASKS)
add_deepctr("ple", "multitask.ple", "PLE", **TASKS)
add_deepctr("esmm", "multitask.esmm", "ESMM")
add_deepctr("shared_bottom", "multitask.sharedbottom", "SharedBottom", **TASKS)


def deepctr_sequence(kind, **options):
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
    from deepctr_torch.models.dien import DIEN
    from deepctr_torch.models.din import DIN

    rng, n, steps = np.random.default_rng(1), 24, 6
    columns = [
        SparseFeat("user", 40, 4),
        SparseFeat("item", 50, DIM),
        SparseFeat("cate", 9, 4),
        DenseFeat("score", 1),
        VarLenSparseFeat(SparseFeat("hist_item", 50, DIM, embedding_name="item"), steps, length_name="seq_length"),
        VarLenSparseFeat(SparseFeat("hist_cate", 9, 4, embedding_name="cate"), steps, length_name="seq_length"),
    ]
    lengths = rng.integers(0 if kind == "DIEN" else 1, steps + 1, n)
    lengths[0] = steps
    there = np.arange(steps) < lengths[:, None]
    parts = [rng.integers(1, 40, (n, 1)), rng.integers(1, 50, (n, 1)), rng.integers(1, 9, (n, 1)), rng.random((n, 1))]
    parts += [np.where(there, rng.integers(1, 50, (n, steps)), 0), lengths[:, None], np.where(there, rng.integers(1, 9, (n, steps)), 0)]
    rows = torch.as_tensor(np.concatenate(parts, 1).astype(np.float32))
    model = {"DIN": DIN, "DIEN": DIEN}[kind](columns, ["item", "cate"], dnn_hidden_units=(16, 8), **options)
    assert list(model.feature_index)[-3:] == ["hist_item", "seq_length", "hist_cate"], model.feature_index
    return enliven(model), rows, {}


ZOO["deepctr.din"] = (lambda: deepctr_sequence("DIN", att_activation="dice"), "deepctr_torch")
ZOO["deepctr.din_norm"] = (lambda: deepctr_sequence("DIN", att_weight_normalization=True), "deepctr_torch")
for _kind in ("GRU", "AIGRU", "AGRU", "AUGRU"):
    ZOO[f"deepctr.dien_{_kind.lower()}"] = (lambda kind=_kind: deepctr_sequence("DIEN", gru_type=kind), "deepctr_torch")


@entry("deepctr.varlen", "deepctr_torch")
def deepctr_varlen():
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
    from deepctr_torch.models.deepfm import DeepFM

    rng, n, steps = np.random.default_rng(2), 24, 5
    columns = [
        SparseFeat("user", 40, DIM),
        DenseFeat("score", 1),
        VarLenSparseFeat(SparseFeat("genres", 12, DIM), steps, combiner="mean"),
        VarLenSparseFeat(SparseFeat("tags", 20, DIM), steps, combiner="sum", length_name="tags_length"),
        VarLenSparseFeat(SparseFeat("words", 20, DIM), steps, combiner="max"),
    ]
    lengths = rng.integers(0, steps + 1, (n, 1))
    ids = lambda high: np.where(np.arange(steps) < rng.integers(1, steps + 1, (n, 1)), rng.integers(1, high, (n, steps)), 0)
    rows = np.concatenate([rng.integers(0, 40, (n, 1)), rng.random((n, 1)), ids(12), ids(20), lengths, ids(20)], 1)
    return enliven(DeepFM(columns, columns, dnn_hidden_units=(16,))), torch.as_tensor(rows.astype(np.float32)), {}
