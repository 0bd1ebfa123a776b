#!/usr/bin/env python3
"""Exports a zoo of ranking models and checks each bundle with the server's own loader and engine.

    python3 clients/python/tests/zoo.py --out DIR --gavel target/release/gavel [--only deepctr. dlrm ..]

Models come from torch alone, deepctr-torch, torch-rechub and torchrec; a library that is not installed is skipped with a line. Weights
are random but alive: no layer is near zero, batch norms have statistics, so that a wrong step shows in the outputs.
"""

import argparse
import importlib.util
import inspect
import pathlib
import subprocess
import sys
import time
import traceback

import numpy as np
import torch
from torch import nn

import gavel

ZOO = {}


def entry(name, needs=None):
    def register(function):
        ZOO[name] = (function, needs)
        return function

    return register


def missing(needs):
    return needs is not None and importlib.util.find_spec(needs) is None


def enliven(model, seed=0):
    """Random weights of a healthy size, and statistics for batch norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dtype == torch.float32:
                fan = p.shape[-1] if p.dim() > 1 else 4
                p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if "embed" in name else min(1.0, 1.2 / fan**0.5)))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=generator) * 0.2)
            elif name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=generator) + 0.5)
    return model.eval()


# deepctr-torch: one float matrix, ids as floats.

DENSE, SPARSE, VOCABULARY, DIM = 3, 5, 30, 8


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


# torch-rechub: a dict of inputs.


def rechub_inputs(n=24, steps=6):
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature

    rng = np.random.default_rng(3)
    user = [SparseFeature("user_id", 40, DIM), SparseFeature("city", 12, DIM), DenseFeature("age")]
    item = [SparseFeature("item_id", 50, DIM, padding_idx=0), SparseFeature("brand", 15, DIM)]
    history = [SequenceFeature("hist_item", 50, DIM, pooling="concat", shared_with="item_id", padding_idx=0)]
    pooled = [SequenceFeature("tags", 20, DIM, pooling="mean", padding_idx=0)]
    there = np.arange(steps) < rng.integers(1, steps + 1, (n, 1))
    rows = {
        "user_id": rng.integers(0, 40, n),
        "city": rng.integers(0, 12, n),
        "age": rng.random(n).astype(np.float32),
        "item_id": rng.integers(1, 50, n),
        "brand": rng.integers(0, 15, n),
        "hist_item": np.where(there, rng.integers(1, 50, (n, steps)), 0),
        "tags": np.where(there, rng.integers(1, 20, (n, steps)), 0),
    }
    return user, item, history, pooled, {key: torch.as_tensor(x) for key, x in rows.items()}


def rechub(build, only=None):
    def make():
        user, item, history, pooled, rows = rechub_inputs()
        model, names = build(user, item, history, pooled)
        return enliven(model), ({name: rows[name] for name in names},), {}

    return make


def add_rechub(name, build):
    ZOO[f"rechub.{name}"] = (rechub(build), "torch_rechub")


def names_of(*groups):
    return [feature.name for group in groups for feature in group]


MLP = {"dims": [16, 8], "activation": "relu", "dropout": 0.1}


def dssm(user, item, history, pooled):
    from torch_rechub.models.matching import DSSM

    params = {"dims": [16, 8], "activation": "prelu"}
    return DSSM(user[:2], item, user_params=dict(params), item_params=dict(params)), names_of(user[:2], item)


def rechub_ranking(cls, *arguments, **options):
    def build(user, item, history, pooled):
        import torch_rechub.models.ranking as ranking

        given = {
            "sparse": user[:2] + item,
            "dense": [user[2]],
            "all": user[:2] + item,
            "history": history,
            "target": item[:1],
            "pooled": pooled,
        }
        used = [given[a] for a in arguments]
        return getattr(ranking, cls)(*used, **options), dict.fromkeys(names_of(*used))

    return build


add_rechub("dssm", dssm)
add_rechub("widedeep", rechub_ranking("WideDeep", "dense", "sparse", mlp_params=MLP))
add_rechub("deepfm", rechub_ranking("DeepFM", "sparse", "sparse", mlp_params=MLP))
add_rechub("dcn", rechub_ranking("DCN", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("dcn_v2", rechub_ranking("DCNv2", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("edcn", rechub_ranking("EDCN", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("fibinet", rechub_ranking("FiBiNet", "sparse", mlp_params=MLP))
add_rechub(
    "din",
    rechub_ranking(
        "DIN", "sparse", "history", "target", mlp_params={"dims": [16]}, attention_mlp_params={"dims": [16], "activation": "dice"}
    ),
)
add_rechub(
    "bst", rechub_ranking("BST", "sparse", "history", "target", mlp_params={"dims": [16], "activation": "leakyrelu"}, nhead=2, num_layers=1)
)
add_rechub("autoint", rechub_ranking("AutoInt", "sparse", "dense", mlp_params=MLP))


def rechub_tasks(cls, **options):
    def build(user, item, history, pooled):
        import torch_rechub.models.multi_task as multi

        features = user[:2] + item + pooled
        return getattr(multi, cls)(features, **options), names_of(features)

    return build


TWO = ["classification", "classification"]
TOWERS = [{"dims": [8]}, {"dims": [8]}]
add_rechub("shared_bottom", rechub_tasks("SharedBottom", task_types=TWO, bottom_params={"dims": [16]}, tower_params_list=TOWERS))
add_rechub("mmoe", rechub_tasks("MMOE", task_types=TWO, n_expert=3, expert_params={"dims": [16]}, tower_params_list=TOWERS))
add_rechub(
    "ple",
    rechub_tasks(
        "PLE", task_types=TWO, n_level=2, n_expert_specific=2, n_expert_shared=1, expert_params={"dims": [16]}, tower_params_list=TOWERS
    ),
)


def rechub_esmm(user, item, history, pooled):
    from torch_rechub.models.multi_task import ESMM

    return ESMM(user[:2], item, cvr_params={"dims": [16, 8]}, ctr_params={"dims": [16, 8]}), names_of(user[:2], item)


def rechub_aitm(user, item, history, pooled):
    from torch_rechub.models.multi_task import AITM

    return AITM(user[:2] + item, 2, {"dims": [16, 8]}, [{"dims": [8]}, {"dims": [8]}]), names_of(user[:2], item)


add_rechub("esmm", rechub_esmm)
add_rechub("aitm", rechub_aitm)


# torchrec: a KeyedJaggedTensor.


def torchrec_inputs(n=24, keys=4, longest=4, weighted=False):
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    rng = np.random.default_rng(4)
    lengths = rng.integers(0, longest + 1, (keys, n))
    lengths[:, 0] = longest
    total = int(lengths.sum())
    features = KeyedJaggedTensor(
        keys=[f"f{i}" for i in range(keys)],
        values=torch.as_tensor(rng.integers(0, 20, total)),
        lengths=torch.as_tensor(lengths.reshape(-1).astype(np.int32)),
        weights=torch.as_tensor(rng.random(total).astype(np.float32)) if weighted else None,
    )
    return torch.as_tensor(rng.random((n, 5)).astype(np.float32)), features


def bag_collection(keys=4, mean=(), weighted=False, shared=False):
    from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    configs = [
        EmbeddingBagConfig(
            name=f"t{i}",
            embedding_dim=DIM,
            num_embeddings=20 + i,
            feature_names=["f0", "f1"] if shared and i == 0 else [f"f{i}"],
            pooling=PoolingType.MEAN if i in mean else PoolingType.SUM,
        )
        for i in range(keys)
        if not (shared and i == 1)
    ]
    return EmbeddingBagCollection(tables=configs, is_weighted=weighted)


class Sigmoid(nn.Module):
    """A torchrec model with the sigmoid that its trainer has in the loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, dense_features, sparse_features):
        return torch.sigmoid(self.model(dense_features, sparse_features))


def torchrec_dlrm(cls, **options):
    def make():
        from torchrec.models import dlrm

        model = getattr(dlrm, cls)(
            embedding_bag_collection=bag_collection(),
            dense_in_features=5,
            dense_arch_layer_sizes=[16, DIM],
            over_arch_layer_sizes=[16, 1],
            **options,
        )
        return Sigmoid(enliven(model)), torchrec_inputs(), {}

    return make


ZOO["torchrec.dlrm"] = (torchrec_dlrm("DLRM"), "torchrec")
ZOO["torchrec.dlrm_dcn"] = (torchrec_dlrm("DLRM_DCN", dcn_num_layers=2, dcn_low_rank_dim=6), "torchrec")
ZOO["torchrec.dlrm_projection"] = (
    torchrec_dlrm("DLRM_Projection", interaction_branch1_layer_sizes=[16, 2 * DIM], interaction_branch2_layer_sizes=[16, 2 * DIM]),
    "torchrec",
)


class Pooled(nn.Module):
    """A collection and a linear layer."""

    def __init__(self, collection, width, weighted=False):
        super().__init__()
        self.collection, self.linear = collection, nn.Linear(width, 1)

    def forward(self, dense, features):
        pooled = self.collection(features)
        return torch.sigmoid(self.linear(torch.cat([dense, pooled.values()], 1)))


@entry("torchrec.mean", "torchrec")
def torchrec_mean():
    return enliven(Pooled(bag_collection(mean=(1, 3)), 5 + 4 * DIM)), torchrec_inputs(), {}


@entry("torchrec.shared", "torchrec")
def torchrec_shared():
    return enliven(Pooled(bag_collection(shared=True), 5 + 4 * DIM)), torchrec_inputs(), {}


@entry("torchrec.weighted", "torchrec")
def torchrec_weighted():
    return enliven(Pooled(bag_collection(weighted=True), 5 + 4 * DIM)), torchrec_inputs(weighted=True), {}


class Sequences(nn.Module):
    def __init__(self, collection):
        super().__init__()
        self.collection, self.linear = collection, nn.Linear(DIM, 1)

    def forward(self, dense, features):
        rows = self.collection(features)
        steps = rows["f0"].to_padded_dense(4)
        mask = torch.arange(4) < rows["f0"].lengths().unsqueeze(1)
        scores = (steps * rows["f1"].to_padded_dense(3)[:, :1]).sum(-1).masked_fill(~mask, -1e9).softmax(-1)
        return torch.sigmoid(self.linear(torch.bmm(scores.unsqueeze(1), steps).squeeze(1))) + 0 * dense[:, :1]


@entry("torchrec.sequences", "torchrec")
def torchrec_sequences():
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    configs = [EmbeddingConfig(name=f"t{i}", embedding_dim=DIM, num_embeddings=20, feature_names=[f"f{i}"]) for i in range(2)]
    return enliven(Sequences(EmbeddingCollection(tables=configs))), torchrec_inputs(keys=2), {}


def quantised(kind):
    def make():
        from torchrec.inference.modules import quantize_embeddings

        model = enliven(Pooled(bag_collection(mean=(1,)), 5 + 4 * DIM))
        return quantize_embeddings(model, dtype=kind, inplace=False), torchrec_inputs(), {}

    return make


for _name, _dtype in (("int8", torch.qint8), ("int4", torch.quint4x2), ("f16", torch.float16)):
    ZOO[f"torchrec.quantised_{_name}"] = (quantised(_dtype), "torchrec")


# torch alone.


class Dlrm(nn.Module):
    """Naumov et al. 2019, arXiv:1906.00091, bags as ids and offsets; lower triangle."""

    def __init__(self, tables=4, dim=DIM):
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(20 + i, dim, mode="sum") for i in range(tables))
        self.bot_l = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, dim), nn.ReLU())
        n = tables + 1
        self.top_l = nn.Sequential(nn.Linear(dim + n * (n - 1) // 2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, dense_x, lS_o, lS_i):
        x = self.bot_l(dense_x)
        ly = [bag(i, o) for bag, i, o in zip(self.emb_l, lS_i, lS_o)]
        t = torch.cat([x] + ly, dim=1).view(x.shape[0], -1, x.shape[1])
        z = torch.bmm(t, torch.transpose(t, 1, 2))
        _, n, m = z.shape
        li = torch.tensor([i for i in range(n) for j in range(i)])
        lj = torch.tensor([j for i in range(m) for j in range(i)])
        return self.top_l(torch.cat([x, z[:, li, lj]], dim=1))


@entry("torch.dlrm")
def torch_dlrm():
    rng, n = np.random.default_rng(5), 24
    ids, offsets = [], []
    for i in range(4):
        lengths = rng.integers(0, 5, n)
        lengths[0] = 4
        ids.append(torch.as_tensor(rng.integers(0, 20, lengths.sum())))
        offsets.append(torch.as_tensor(np.concatenate([[0], np.cumsum(lengths)[:-1]])))
    features = [gavel.Jagged(f"C{i}", input=f"lS_i.{i}", offsets=f"lS_o.{i}") for i in range(4)]
    return enliven(Dlrm()), (torch.as_tensor(rng.random((n, 5)).astype(np.float32)), offsets, ids), {"features": features}


class Transformer(nn.Module):
    """Encoder layers over a history, with padding."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(50, 16, padding_idx=0)
        self.position = nn.Parameter(torch.zeros(1, 6, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 1)

    def forward(self, history, item):
        mask = history == 0
        h = self.encoder(self.items(history) + self.position, src_key_padding_mask=mask)
        pooled = (h * (~mask).unsqueeze(-1)).sum(1) / (~mask).sum(1, keepdim=True).clamp(min=1)
        return torch.sigmoid(self.head(torch.cat([pooled, self.items(item)], 1))).squeeze(1)


@entry("torch.transformer")
def torch_transformer():
    rng = np.random.default_rng(6)
    history = np.where(np.arange(6) < rng.integers(1, 7, (24, 1)), rng.integers(1, 50, (24, 6)), 0)
    return enliven(Transformer()), (torch.as_tensor(history), torch.as_tensor(rng.integers(1, 50, 24))), {}


class FieldAware(nn.Module):
    """Many fields in one table: ids plus the offset of their field, as in pytorch-fm."""

    def __init__(self, sizes=(10, 20, 30)):
        super().__init__()
        self.embedding = nn.Embedding(sum(sizes), 4)
        self.linear = nn.Embedding(sum(sizes), 1)
        self.bias = nn.Parameter(torch.zeros(1))
        self.offsets = np.array((0, *np.cumsum(sizes)[:-1]), dtype=np.int64)

    def forward(self, x):
        x = x + x.new_tensor(self.offsets).unsqueeze(0)
        e = self.embedding(x)
        fm = (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True) * 0.5
        return torch.sigmoid((self.linear(x).sum(1) + self.bias + fm).squeeze(1))


@entry("torch.fm_offsets")
def torch_fm():
    rng = np.random.default_rng(7)
    return enliven(FieldAware()), torch.as_tensor(np.stack([rng.integers(0, n, 24) for n in (10, 20, 30)], 1)), {}


class Gru4Rec(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(50, 8, padding_idx=0)
        self.gru = nn.GRU(8, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(30, 2)

    def forward(self, history):
        e = self.items(history)
        h, last = self.gru(e)
        out, (memory, _) = self.lstm(e)
        return torch.softmax(self.head(torch.cat([h[:, -1], memory[-1]], 1)), -1)


@entry("torch.recurrent")
def torch_recurrent():
    return enliven(Gru4Rec()), torch.as_tensor(np.random.default_rng(8).integers(0, 50, (24, 5))), {}


class LastItem(nn.Module):
    """The last item of a history, by its length; the hour and the day of timestamps; weighted tags; an encoder over padded steps."""

    def __init__(self):
        super().__init__()
        self.items, self.hours, self.days = nn.Embedding(50, 8, padding_idx=0), nn.Embedding(24, 4), nn.Embedding(7, 4)
        self.tags = nn.EmbeddingBag(20, 8, mode="sum")
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, norm=nn.LayerNorm(8))
        norm = nn.utils.parametrizations.weight_norm
        self.head = nn.Sequential(norm(nn.Linear(6 * 8 + 8 + 8 + 8, 8)), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, history, length, timestamp, tags, starts, weights):
        x = self.items(history)
        x = self.encoder(x, src_key_padding_mask=history == 0)
        parts = [x.flatten(1), x[torch.arange(len(x)), length - 1], self.tags(tags, starts, weights)]
        parts += [self.hours(timestamp // 3600 % 24), self.days(timestamp // 86400 % 7)]
        return torch.sigmoid(self.head(torch.cat(parts, 1))).squeeze()


@entry("torch.last_item")
def torch_last_item():
    rng, n = np.random.default_rng(9), 24
    length, tags = rng.integers(1, 7, n), rng.integers(0, 4, n)
    history = np.where(np.arange(6) < length[:, None], rng.integers(1, 50, (n, 6)), 0)
    starts = np.concatenate([[0], np.cumsum(tags)[:-1]])
    weights = rng.random(tags.sum()).astype(np.float32)
    rows = (history, length, rng.integers(1_600_000_000, 1_900_000_000, n), rng.integers(0, 20, tags.sum()), starts, weights)
    return enliven(LastItem()), tuple(map(torch.as_tensor, rows)), {}


# The run.


def run(name, out, binary, options):
    build, needs = ZOO[name]
    if missing(needs):
        return "skipped", f"{needs} is not installed", 0.0
    began = time.time()
    try:
        torch.manual_seed(0)
        model, example, more = build()
        report = gavel.export(model, example, out=out / name.replace(".", "_"), overwrite=True, name=name, **more, **options)
    except gavel.ExportError as error:
        return "REFUSED", str(error), time.time() - began
    except Exception:
        return "FAILED", traceback.format_exc(limit=-4), time.time() - began
    spent = time.time() - began
    line = f"{sum(report.ops.values()):4} steps, graph {report.max_difference:.0e}, f32 {report.f32_difference:.0e}"
    if binary:
        done = subprocess.run([binary, "check", str(out / name.replace(".", "_"))], capture_output=True, text=True)
        said = [text for text in (done.stdout + done.stderr).splitlines() if text.strip() and "engine auto" not in text]
        if done.returncode:
            return "CHECK", line + " | " + " ".join(said[-2:])[:300], spent
        line += " | " + (said[-1].strip()[:80] if said else "checked")
    return "ok", line, spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write the bundles to")
    parser.add_argument("--gavel", help="the server's binary: checks each bundle")
    parser.add_argument("--tables", default="f32", help="how tables are stored")
    parser.add_argument("--only", nargs="*", default=[""], help="starts of names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = {}
    for name in [name for name in ZOO if any(name.startswith(start) for start in arguments.only)]:
        state, line, spent = run(name, arguments.out, arguments.gavel, {"tables": arguments.tables})
        counts[state] = counts.get(state, 0) + 1
        print(f"{name:28} {state:8} {spent:5.1f} s  {line}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 1 if set(counts) - {"ok", "skipped"} else 0


if __name__ == "__main__":
    sys.exit(main())
