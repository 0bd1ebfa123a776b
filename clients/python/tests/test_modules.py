"""Whole modules as people write them: attention, sequences, towers, experts, interactions; each with all the exporter's checks."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from zoo_models import enliven  # noqa: E402

import gavel  # noqa: E402

N = 16
RNG = np.random.default_rng(0)


def ids(high, *shape):
    return torch.as_tensor(RNG.integers(0, high, shape))


def numbers(*shape):
    return torch.as_tensor(RNG.random(shape).astype(np.float32))


class Attention(nn.Module):
    """Sequence first, padded, heads merged with the batch inside torch."""

    def __init__(self):
        super().__init__()
        self.items, self.attention, self.head = nn.Embedding(30, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 1)

    def forward(self, history):
        x = self.items(history).transpose(0, 1)
        y, _ = self.attention(x, x, x, key_padding_mask=history == 0)
        return torch.sigmoid(self.head(y.mean(0)))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.gru, self.lstm, self.rnn = nn.Embedding(30, 8), nn.GRUCell(8, 6), nn.LSTMCell(8, 6), nn.RNNCell(8, 6)

    def forward(self, history):
        x = self.items(history)
        a = b = m = r = torch.zeros(len(history), 6)
        for t in range(history.size(1)):
            a, (b, m), r = self.gru(x[:, t], a), self.lstm(x[:, t], (b, m)), self.rnn(x[:, t], r)
        return (a + b + r).sum(1)


def tower(width):
    return nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.PReLU(), nn.Linear(16, 8))


class TwoTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)
        self.user_tower, self.item_tower, self.temperature = tower(11), tower(8), nn.Parameter(torch.tensor(0.07))

    def forward(self, user_id, user_dense, item_id):
        u = F.normalize(self.user_tower(torch.cat([self.users(user_id), user_dense], -1)), dim=-1)
        v = F.normalize(self.item_tower(self.items(item_id)), dim=-1)
        return torch.sigmoid((u * v).sum(-1) / self.temperature)


class SelfAttentive(nn.Module):
    """SASRec's shape: causal attention, point-wise convolutions, learned positions."""

    def __init__(self, dim=16, steps=6):
        super().__init__()
        self.items, self.positions = nn.Embedding(40, dim, padding_idx=0), nn.Embedding(steps, dim)
        self.attention = nn.ModuleList(nn.MultiheadAttention(dim, 2, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dense = nn.ModuleList(nn.Sequential(nn.Conv1d(dim, dim, 1), nn.ReLU(), nn.Conv1d(dim, dim, 1)) for _ in range(2))

    def forward(self, history, item):
        x = self.items(history) * math.sqrt(16)
        x = x + self.positions(torch.arange(history.size(1)).unsqueeze(0).expand(history.size(0), -1))
        keep = (history != 0).unsqueeze(-1)
        ahead = ~torch.tril(torch.ones((history.size(1),) * 2, dtype=torch.bool))
        for attention, norm, dense in zip(self.attention, self.norms, self.dense):
            x = x + attention(norm(x), x, x, attn_mask=ahead)[0]
            x = (x + dense(x.transpose(1, 2)).transpose(1, 2)) * keep
        return (self.norms[2](x)[:, -1] * self.items(item)).sum(-1)


class TargetAttention(nn.Module):
    """DIN: a history attended to by the candidate."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(50, 8)
        self.attention = nn.Sequential(nn.Linear(32, 16), nn.Sigmoid(), nn.Linear(16, 1))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, history, length, target):
        keys = self.items(history)
        query = self.items(target).unsqueeze(1).expand_as(keys)
        weights = self.attention(torch.cat([query, keys, query - keys, query * keys], -1)).squeeze(-1)
        weights = weights.masked_fill(~(torch.arange(history.shape[1])[None, :] < length[:, None]), -1e9).softmax(1)
        return self.head(torch.cat([(weights.unsqueeze(1) @ keys).squeeze(1), query[:, 0]], 1)).squeeze(-1).sigmoid()


class HashInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.bag = nn.Embedding(17, 4), nn.EmbeddingBag(17, 4, mode="sum")

    def forward(self, raw, x):
        buckets = torch.bucketize(x, torch.tensor([0.2, 0.5, 0.7]))
        return self.table(raw % 17).sum(1) + self.table(buckets[:, 0]).sum(1) + self.bag((raw % 17).unsqueeze(1).repeat(1, 2)).sum(1)


class SparseExperts(nn.Module):
    """The two best experts of four, their weights scattered back."""

    def __init__(self):
        super().__init__()
        self.experts, self.gate = nn.Parameter(torch.randn(4, 6, 5)), nn.Linear(6, 4)

    def forward(self, x):
        best = torch.topk(self.gate(x), 2, dim=-1)
        weights = torch.zeros(x.shape[0], 4).scatter(1, best.indices, torch.softmax(best.values, -1))
        weights = weights + torch.zeros(x.shape[0], 4).scatter_add(1, best.indices, best.values).scatter(1, best.indices[:, :1], 0.5)
        return torch.einsum("be,eio,bi->bo", weights, self.experts, x)


class GatedExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts, self.bias = nn.Parameter(torch.randn(4, 6, 5)), nn.Parameter(torch.randn(4, 5))
        self.gates, self.towers = (nn.ModuleList(nn.Linear(*size) for _ in range(2)) for size in ((6, 4), (5, 1)))

    def forward(self, x):
        h = F.relu(torch.einsum("bi,eio->beo", x, self.experts) + self.bias)
        return [torch.sigmoid(t(torch.einsum("be,beo->bo", torch.softmax(g(x), 1), h))) for g, t in zip(self.gates, self.towers)]


class Compressed(nn.Module):
    """xDeepFM's compressed interaction."""

    def __init__(self):
        super().__init__()
        self.fields, self.layers = nn.Embedding(40, 8), nn.ModuleList([nn.Conv1d(25, 6, 1), nn.Conv1d(30, 6, 1)])

    def forward(self, x):
        h = x0 = self.fields(x)
        out = []
        for layer in self.layers:
            h = F.relu(layer((x0.unsqueeze(2) * h.unsqueeze(1)).reshape(x.shape[0], -1, 8)))
            out.append(h.sum(2))
        return torch.cat(out, 1).sum(1)


class Squeeze(nn.Module):
    """FiBiNET: fields weighed by their means, then bilinear pairs; a dict of inputs."""

    def __init__(self):
        super().__init__()
        self.fields = nn.ModuleDict({f"f{i}": nn.Embedding(10 + i, 8) for i in range(6)})
        self.squeeze, self.mix = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 6), nn.Sigmoid()), nn.Parameter(torch.randn(8, 8))

    def forward(self, features):
        x = torch.stack([self.fields[key](value) for key, value in features.items()], 1)
        y = x * self.squeeze(x.mean(-1)).unsqueeze(-1)
        i, j = zip(*[(a, b) for a in range(6) for b in range(a + 1, 6)])
        return ((y @ self.mix)[:, list(i)] * y[:, list(j)]).sum((1, 2))


class FieldAware(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables, self.starts = nn.ModuleList(nn.Embedding(30, 4) for _ in range(3)), torch.tensor([0, 10, 20])

    def forward(self, x):
        x = x + self.starts.unsqueeze(0)
        rows = [table(x) for table in self.tables]
        return torch.stack([rows[j][:, i] * rows[i][:, j] for i in range(2) for j in range(i + 1, 3)], 1).sum((1, 2))


class Assigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        y[:, 1:3] += 1
        y[:, 0] = y[:, 0] * 2
        y[y < 0] = 0
        y /= 2
        return y.sum(1)


class Backwards(nn.Module):
    """Two layers, two directions, steps first."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, num_layers=2, bidirectional=True), nn.Linear(8, 1)

    def forward(self, x):
        _, (h, _) = self.lstm(x.permute(1, 0, 2))
        return self.head(torch.cat([h[-1], h[-2]], 1))


class Packed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, length):
        packed = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
        out, last = self.layer(packed)
        out, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=5)
        last = last[0] if isinstance(last, tuple) else last
        return last.sum((0, 2)) + out.sum((1, 2))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 2, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2, 1),
        )

    def forward(self, x):
        return self.layers(x)


class Indexed(nn.Module):
    """Logistic regression over hashed ids, weights as a vector."""

    def __init__(self):
        super().__init__()
        self.weights, self.bias = nn.Parameter(torch.randn(40)), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return torch.sigmoid(self.weights[x].sum(1) + self.bias)


class Loose(nn.Module):
    """Any number of arguments, an array of numpy."""

    def __init__(self):
        super().__init__()
        self.array = np.linspace(0, 1, 3).astype(np.float32)

    def forward(self, *xs, scale=2.0):
        return sum(x.sum(1) for x in xs) * scale + xs[1] @ torch.from_numpy(self.array)


class Squeezed(nn.Module):
    """Ends in a bare squeeze, which takes a single row's dimension too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x):
        return torch.sigmoid(self.linear(x)).squeeze()


class Wrapping(nn.Module):
    """Integers of fewer than 64 bits, far beyond their range: a hash as it is written in 32 bits."""

    def forward(self, i, x):
        hashed = (i.to(torch.int32) * 1_540_483_477 + 374_761_393).to(torch.int64) % 1000
        small = (i * 37).to(torch.int8).float() + (x * 1000).to(torch.uint8).float() - i.to(torch.int16).float()
        return (hashed.float() + small).sum(1) / 1000


class LeastMasked(nn.Module):
    """Masks with the least float, as attention often does."""

    def __init__(self):
        super().__init__()
        self.items, self.score = nn.Embedding(30, 8), nn.Linear(8, 1)

    def forward(self, history):
        x = self.items(history)
        scores = self.score(x).squeeze(-1).masked_fill(history == 0, torch.finfo(torch.float32).min)
        return (torch.softmax(scores, 1).unsqueeze(-1) * x).sum((1, 2))


MODULES = {
    "attention": (Attention, lambda: ids(29, N, 5) + 1),
    "cells": (Cells, lambda: ids(30, N, 3)),
    "two_tower": (TwoTower, lambda: (ids(50, N), numbers(N, 3), ids(60, N))),
    "self_attentive": (SelfAttentive, lambda: (ids(39, N, 6) + 1, ids(40, N))),
    "target_attention": (TargetAttention, lambda: (ids(50, N, 5), ids(5, N) + 1, ids(50, N))),
    "hash_inside": (HashInside, lambda: (ids(10**6, N), numbers(N, 2))),
    "sparse_experts": (SparseExperts, lambda: numbers(N, 6)),
    "gated_experts": (GatedExperts, lambda: numbers(N, 6)),
    "compressed": (Compressed, lambda: ids(40, N, 5)),
    "squeeze": (Squeeze, lambda: {f"f{i}": ids(10, N) for i in range(6)}),
    "field_aware": (FieldAware, lambda: ids(10, N, 3)),
    "assigning": (Assigning, lambda: numbers(N, 4)),
    "backwards": (Backwards, lambda: numbers(N, 4, 3)),
    "packed_gru": (lambda: Packed(nn.GRU(3, 4, batch_first=True)), lambda: (numbers(N, 5, 3), ids(5, N) + 1)),
    "packed_gru_deep": (lambda: Packed(nn.GRU(3, 4, 2, batch_first=True, bidirectional=True)), lambda: (numbers(N, 5, 3), ids(5, N) + 1)),
    "packed_lstm": (lambda: Packed(nn.LSTM(3, 4, batch_first=True, bidirectional=True)), lambda: (numbers(N, 5, 3), ids(5, N) + 1)),
    "convolutional": (Convolutional, lambda: numbers(N, 1, 8, 8)),
    "indexed": (Indexed, lambda: ids(40, N, 5)),
    "squeezed": (Squeezed, lambda: numbers(N, 4)),
    "wrapping": (Wrapping, lambda: (ids(10**5, N, 3), numbers(N, 3))),
    "least_masked": (LeastMasked, lambda: ids(30, N, 5)),
    "loose": (Loose, lambda: (numbers(N, 2), numbers(N, 3))),
}


@pytest.mark.parametrize("name", MODULES)
def test_module(name, tmp_path):
    build, example = MODULES[name]
    torch.manual_seed(0)
    report = gavel.export(enliven(build()), example(), out=tmp_path / "bundle", name=name, selftest_rows=32)
    assert report.max_difference <= 1e-6 and not report.unused


def test_packed_layers_keep_their_names(tmp_path):
    model = enliven(Packed(nn.GRU(3, 4, batch_first=True)))
    report = gavel.export(model, (numbers(N, 5, 3), ids(5, N) + 1), out=tmp_path / "bundle")
    from safetensors.numpy import load_file

    stored = set(load_file(tmp_path / "bundle" / "weights.safetensors"))
    assert stored == set(dict(model.named_parameters())) and not report.unused


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return x.sum(1) * self.seen


@pytest.mark.parametrize(
    "build,words", [(Counter, "forward changes"), (lambda: torch.jit.script(nn.Linear(3, 1)), "TorchScript"), (lambda: 3, "a int")]
)
def test_refused(build, words, tmp_path):
    with pytest.raises(gavel.ExportError, match=words):
        gavel.export(build(), numbers(N, 3), out=tmp_path / "bundle")
