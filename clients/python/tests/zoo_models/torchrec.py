"""Models of torchrec: a KeyedJaggedTensor."""

import numpy as np
import torch
from torch import nn

from .registry import DIM, ZOO, enliven, entry


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
