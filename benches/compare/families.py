#!/usr/bin/env python3
"""Writes common families of ranking models as ONNX, as torch exports them, with random weights: for `compare.py --onnx`.

    python benches/compare/families.py FOLDER

Needs torch and onnxscript.
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import nn


class Fields(nn.Module):
    """One embedding per field: [N, fields] ids → [N, fields, dim]."""

    def __init__(self, fields, dim, rows=10_000):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, dim) for _ in range(fields))

    def forward(self, ids):
        return torch.stack([table(ids[:, at]) for at, table in enumerate(self.tables)], 1)


def mlp(*widths, last=None):
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.Linear(widths[-1], last)] if last else []))


class DeepFm(nn.Module):
    def __init__(self, fields=26, dim=16):
        super().__init__()
        self.vectors, self.weights, self.deep = Fields(fields, dim), Fields(fields, 1), mlp(fields * dim, 400, 400, last=1)

    def forward(self, ids):
        v = self.vectors(ids)
        pairs = 0.5 * (v.sum(1) ** 2 - (v * v).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(pairs + self.weights(ids).sum(1) + self.deep(v.flatten(1)))


class Cross(nn.Module):
    """DCN v2."""

    def __init__(self, fields=26, dim=16, layers=3):
        super().__init__()
        width = fields * dim
        self.vectors, self.cross, self.deep = Fields(fields, dim), nn.ModuleList(nn.Linear(width, width) for _ in range(layers)), mlp(width, 400, last=1)

    def forward(self, ids):
        x0 = self.vectors(ids).flatten(1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        return torch.sigmoid(self.deep(x))


class XDeepFm(nn.Module):
    def __init__(self, fields=20, dim=16, widths=(64, 64)):
        super().__init__()
        self.vectors, self.deep = Fields(fields, dim), mlp(fields * dim, 256, last=1)
        self.layers = nn.ModuleList(nn.Conv1d(before * fields, width, 1) for before, width in zip((fields, *widths), widths))
        self.last = nn.Linear(sum(widths), 1)

    def forward(self, ids):
        x0 = self.vectors(ids)
        x, sums = x0, []
        for layer in self.layers:
            x = torch.relu(layer(torch.einsum("bhd,bmd->bhmd", x, x0).flatten(1, 2)))
            sums.append(x.sum(2))
        return torch.sigmoid(self.last(torch.cat(sums, 1)) + self.deep(x0.flatten(1)))


class AutoInt(nn.Module):
    def __init__(self, fields=26, dim=16):
        super().__init__()
        self.vectors, self.layers = Fields(fields, dim), nn.ModuleList(nn.MultiheadAttention(dim, 2, batch_first=True) for _ in range(3))
        self.last = nn.Linear(fields * dim, 1)

    def forward(self, ids):
        x = self.vectors(ids)
        for layer in self.layers:
            x = torch.relu(layer(x, x, x)[0] + x)
        return torch.sigmoid(self.last(x.flatten(1)))


class Mmoe(nn.Module):
    def __init__(self, fields=20, dim=16, experts=6, tasks=3):
        super().__init__()
        width = fields * dim
        self.vectors, self.experts = Fields(fields, dim), nn.ModuleList(mlp(width, 256, 64) for _ in range(experts))
        self.gates, self.towers = nn.ModuleList(nn.Linear(width, experts) for _ in range(tasks)), nn.ModuleList(mlp(64, 32, last=1) for _ in range(tasks))

    def forward(self, ids):
        x = self.vectors(ids).flatten(1)
        experts = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = [torch.bmm(torch.softmax(gate(x), 1).unsqueeze(1), experts).squeeze(1) for gate in self.gates]
        return torch.sigmoid(torch.cat([tower(x) for tower, x in zip(self.towers, mixed)], 1))


class Din(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.items, self.deep = nn.Embedding(1000, dim), mlp(2 * dim, 200, 80, last=1)
        self.attention = nn.Sequential(nn.Linear(4 * dim, 80), nn.Sigmoid(), nn.Linear(80, 40), nn.Sigmoid(), nn.Linear(40, 1))

    def forward(self, history, item):
        keys, target = self.items(history), self.items(item)
        query = target.expand(-1, history.shape[1], -1)
        weights = self.attention(torch.cat([query, keys, query - keys, query * keys], -1))
        return torch.sigmoid(self.deep(torch.cat([(weights * keys).sum(1), target[:, 0]], 1)))


class Gru(nn.Module):
    def __init__(self, dim=32, hidden=64):
        super().__init__()
        self.items, self.layer, self.last = nn.Embedding(1000, dim), nn.GRU(dim, hidden, batch_first=True), nn.Linear(hidden + dim, 1)

    def forward(self, history, item):
        return torch.sigmoid(self.last(torch.cat([self.layer(self.items(history))[0][:, -1], self.items(item)[:, 0]], 1)))


class Transformer(nn.Module):
    """BST: the candidate behind the history."""

    def __init__(self, dim=64, length=20):
        super().__init__()
        self.items, self.places = nn.Embedding(1000, dim), nn.Parameter(torch.randn(length + 1, dim) * 0.1)
        self.layer = nn.TransformerEncoderLayer(dim, 4, 256, batch_first=True, dropout=0.0)
        self.deep = mlp(dim * (length + 1), 256, last=1)

    def forward(self, history, item):
        x = torch.cat([self.items(history), self.items(item)], 1) + self.places
        return torch.sigmoid(self.deep(self.layer(x).flatten(1)))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    fields = lambda count: (torch.randint(0, 10_000, (8, count)),)
    history = (torch.randint(0, 1000, (8, 20)), torch.randint(0, 1000, (8, 1)))
    families = dict(deepfm=(DeepFm(), fields(26)), dcnv2=(Cross(), fields(26)), xdeepfm=(XDeepFm(), fields(20)), autoint=(AutoInt(), fields(26)))
    families |= dict(mmoe=(Mmoe(), fields(20)), din=(Din(), history), gru=(Gru(), history), bst=(Transformer(), history))
    for name, (model, example) in families.items():
        # As after training, not torch's unit variance: scores stay away from 0 and 1.
        for table in (part for part in model.modules() if isinstance(part, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.1)
        rows = tuple({0: torch.export.Dim("N")} for _ in example)
        torch.onnx.export(
            model.eval(), example, folder / f"{name}.onnx", dynamo=True, dynamic_shapes=rows, external_data=False, opset_version=20, verbose=False
        )
        print(folder / f"{name}.onnx")


main()
