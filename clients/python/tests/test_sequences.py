"""Models of histories as public repositories write them: last items, masks, capsules, hashes, gates."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from zoo_models import enliven  # noqa: E402

import gavel  # noqa: E402

N, STEPS, DIM = 16, 6, 8
RNG = np.random.default_rng(0)


def histories():
    """(history padded behind its end, its length, an item)."""
    lengths = torch.as_tensor(RNG.integers(1, STEPS + 1, N))
    history = torch.as_tensor(RNG.integers(1, 50, (N, STEPS))) * (torch.arange(STEPS)[None] < lengths[:, None])
    return history, lengths, torch.as_tensor(RNG.integers(1, 50, N))


class Gru4Rec(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.gru, self.head = nn.Embedding(52, DIM, padding_idx=0), nn.GRU(DIM, 12, batch_first=True), nn.Linear(12, DIM)

    def forward(self, history, length, item):
        states, _ = self.gru(self.items(history))
        return (self.head(states[torch.arange(len(states)), length - 1]) * self.items(item)).sum(-1)


class Stamp(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.weights = nn.Embedding(52, DIM, padding_idx=0), nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.score, self.bias = nn.Linear(DIM, 1, bias=False), nn.Parameter(torch.zeros(DIM))

    def forward(self, history, length, item):
        x = self.items(history)
        last = x[torch.arange(len(x)).long(), length - 1]
        mean = x.sum(1) / length.unsqueeze(1).float()
        steps = history.size(1)
        both = [v.repeat(1, steps).view(-1, steps, DIM) for v in (mean, last)]
        hidden = self.weights[0](x) + self.weights[1](both[0]) + self.weights[2](both[1]) + self.bias
        pooled = torch.matmul(self.score(torch.sigmoid(hidden)).squeeze(-1).unsqueeze(1), x).squeeze(1) + mean
        return ((torch.tanh(pooled) * torch.tanh(last)).unsqueeze(1) @ self.items(item).unsqueeze(2)).view(-1)


class Bert4Rec(nn.Module):
    """The item asked for is masked behind the history."""

    def __init__(self):
        super().__init__()
        self.items, self.positions = nn.Embedding(52, 16, padding_idx=0), nn.Embedding(STEPS + 1, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, "gelu", batch_first=True)
        self.encoder, self.norm, self.bias = nn.TransformerEncoder(layer, 1), nn.LayerNorm(16), nn.Parameter(torch.zeros(52))

    def forward(self, history, length, item):
        history = F.pad(history, (0, 1)).scatter(1, length.unsqueeze(1), 51)
        place = torch.arange(history.size(1), dtype=torch.long, device=history.device).unsqueeze(0).expand_as(history)
        h = self.encoder(self.norm(self.items(history) + self.positions(place)), src_key_padding_mask=history == 0)
        return (h[torch.arange(h.size(0)), length] * self.items(item)).sum(-1) + self.bias[item]


class Capsules(nn.Module):
    """MIND: interests by dynamic routing, the best one for the item."""

    def __init__(self):
        super().__init__()
        self.items, self.map = nn.Embedding(52, DIM, padding_idx=0), nn.Parameter(torch.randn(DIM, DIM))
        self.register_buffer("start", torch.randn(1, 3, STEPS))

    def forward(self, history, length, item):
        x, target = self.items(history) @ self.map, self.items(item)
        mask, logits = (history != 0).unsqueeze(1).expand(-1, 3, -1), self.start.expand(history.size(0), -1, -1)
        for _ in range(2):
            weights = torch.softmax(torch.where(mask, logits, torch.full_like(logits, -1e9)), -1) * mask
            z = torch.bmm(weights, x)
            size = (z**2).sum(-1, keepdim=True)
            v = size / (1 + size) / torch.sqrt(size + 1e-9) * z
            logits = logits + torch.bmm(v, x.transpose(1, 2))
        best = torch.argmax((v * target.unsqueeze(1)).sum(-1), -1)
        return (v[torch.arange(v.size(0)), best] * target).sum(-1)


class Hstu(nn.Module):
    """Gated attention without softmax, relative positions."""

    def __init__(self):
        super().__init__()
        self.items, self.uvqk, self.out = nn.Embedding(52, DIM), nn.Parameter(torch.randn(DIM, 4 * DIM)), nn.Linear(DIM, DIM)
        self.relative = nn.Embedding(2 * STEPS + 1, 1)

    def forward(self, history, length, item):
        x, steps = self.items(history), history.shape[1]
        u, v, q, k = torch.split(F.silu(F.layer_norm(x, [DIM], eps=1e-6) @ self.uvqk), DIM, dim=-1)
        at = torch.arange(steps)
        bias = self.relative((at[None] - at[:, None]).clamp(-STEPS, STEPS) + STEPS).squeeze(-1)
        scores = F.silu(torch.einsum("bnd,bmd->bnm", q, k) + bias) / steps * torch.tril(torch.ones(steps, steps))
        y = self.out(u * F.layer_norm(torch.einsum("bnm,bmd->bnd", scores, v), [DIM])) + x
        y = y / torch.clamp(torch.linalg.norm(y, dim=-1, keepdim=True), min=1e-6)
        return (y[torch.arange(y.shape[0]), length - 1] * F.normalize(self.items(item), dim=-1)).sum(-1) / 0.05


class Hashed(nn.Module):
    """ETA: the nearest items of the history by random signs, then attention."""

    def __init__(self):
        super().__init__()
        self.items, self.attention = nn.Embedding(52, DIM), nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.register_buffer("planes", torch.randn(DIM, 16))

    def forward(self, history, length, item):
        x, target = self.items(history), self.items(item).unsqueeze(1)
        apart = ((x @ self.planes > 0).float() - (target @ self.planes > 0).float()).abs().sum(-1)
        nearest = (torch.arange(STEPS) * 1e-3 - apart).topk(3, 1).indices
        keys = x[torch.arange(len(x)).unsqueeze(1), nearest]
        return (self.attention(target, keys, keys)[0] * target).sum((1, 2))


class CoAction(nn.Module):
    """CAN: an item's embedding is the weights of a network over the history."""

    def __init__(self):
        super().__init__()
        self.weights, self.feed, self.head = nn.Embedding(52, 24), nn.Embedding(52, 4), nn.Linear(7, 1)

    def forward(self, history, length, item):
        first, second = torch.split(self.weights(item), [12, 12], dim=-1)
        h = torch.tanh(torch.matmul(self.feed(history), first.view(-1, 4, 3)))
        o = torch.tanh(torch.matmul(h, second.view(-1, 3, 4)))
        mask = (history != 0).unsqueeze(-1).float()
        return torch.sigmoid(self.head(torch.cat([(h * mask).sum(1), (o * mask).sum(1)], -1))).squeeze(-1)


class Logarithmic(nn.Module):
    """AFN: its view after a transposed batch norm works on real tensors alone."""

    def __init__(self):
        super().__init__()
        self.items, self.orders = nn.Embedding(52, DIM), nn.Linear(STEPS, 5)
        self.norms, self.head = nn.ModuleList([nn.BatchNorm1d(DIM), nn.BatchNorm1d(5)]), nn.Linear(5 * DIM, 1)

    def forward(self, history, length, item):
        x = torch.clamp(torch.abs(self.items(history)), min=1e-4, max=float("inf"))
        x = torch.exp(self.orders(self.norms[0](torch.log(x).transpose(2, 1))))
        return self.head(self.norms[1](x.transpose(2, 1)).view(x.size(0), -1))


class Domains(nn.Module):
    """STAR: weights picked by the row's domain."""

    def __init__(self):
        super().__init__()
        self.own, self.shared, self.bias = (nn.Parameter(torch.randn(*shape)) for shape in ((STEPS + 1, DIM, 4), (DIM, 4), (STEPS + 1, 4)))
        self.items, self.head = nn.Embedding(52, DIM), nn.Linear(4, 1)

    def forward(self, history, length, item):
        x = torch.bmm(self.items(item).unsqueeze(1), self.own[length] * self.shared).squeeze(1) + self.bias[length]
        return torch.sigmoid(self.head(F.relu(x)))


class Encoder(nn.Module):
    """Reads padded steps too, which torch's nested tensors make zeros of. `ahead`: padding before the history."""

    def __init__(self, ahead=False, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True, **options)
        self.items, self.ahead = nn.Embedding(52, DIM, padding_idx=0), ahead
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(DIM)), nn.Linear(STEPS * DIM, 1)

    def forward(self, history, length, item):
        history = history.flip(1) if self.ahead else history
        return self.head(self.encoder(self.items(history), src_key_padding_mask=history == 0).flatten(1)).squeeze(1)


@pytest.mark.parametrize("empty", [False, True])
def test_padded_steps_of_an_encoder(empty, tmp_path):
    history, length, item = histories()
    history[:3] *= 1 - empty
    report = gavel.export(enliven(Encoder()), (history, length, item), out=tmp_path / "bundle", name="m", selftest_rows=32)
    assert report.max_difference <= 1e-6
    if not empty:
        ahead = enliven(Encoder(ahead=True))
        gavel.export(ahead, (history, length, item), out=tmp_path / "ahead", name="m", selftest_rows=32)


def test_padding_of_both_kinds_is_refused(tmp_path):
    history, length, item = histories()
    history[::3] = history[::3].flip(1)
    with pytest.raises(gavel.ExportError) as caught:
        gavel.export(enliven(Encoder()), (history, length, item), out=tmp_path / "bundle", name="m")
    assert "enable_nested_tensor=False" in caught.value.remedy


def test_made_rows_that_a_model_cannot_score_are_left_out(tmp_path):
    """Columns of different examples together can be a history without an item, which this attention gives NaN for."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.score = nn.Embedding(52, DIM), nn.Linear(DIM, 1)

        def forward(self, a, b):
            history = torch.stack([a, b], 1)
            x = self.items(history)
            weights = self.score(x).squeeze(-1).masked_fill(history == 0, float("-inf")).softmax(1)
            return (weights.unsqueeze(-1) * x).sum((1, 2))

    a, b = torch.tensor([0, 3, 0, 5]), torch.tensor([7, 0, 9, 0])
    report = gavel.export(enliven(Pooled()), (a, b), out=tmp_path / "bundle", name="m", selftest_rows=64)
    assert report.max_difference <= 1e-6 and report.rows == 64
    with pytest.raises(gavel.ExportError, match="gives NaN or an infinity in row 0 of its examples"):
        gavel.export(enliven(Pooled()), (a, a), out=tmp_path / "nan", name="m")


@pytest.mark.parametrize("model", [Gru4Rec, Stamp, Bert4Rec, Capsules, Hstu, Hashed, CoAction, Logarithmic, Domains])
def test_model(model, tmp_path):
    torch.manual_seed(0)
    report = gavel.export(enliven(model()), histories(), out=tmp_path / "bundle", name="m", selftest_rows=32)
    assert report.max_difference <= 1e-6 and not report.unused and not report.warnings
