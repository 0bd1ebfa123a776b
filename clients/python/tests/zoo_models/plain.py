"""Models of torch alone."""

import numpy as np
import torch
from torch import nn

import gavel

from .registry import DIM, enliven, entry


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
