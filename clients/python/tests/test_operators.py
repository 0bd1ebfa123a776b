"""One small module per operator family, exported with all the exporter's checks: the graph against torch in float64, rows apart, the
written bundle."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import gavel  # noqa: E402

ROWS = 7


class Function(nn.Module):
    """A function of x [batch, 6], y [batch, 4, 3], ids [batch, 5]; `weights` by name; summed to one score where it is not one."""

    def __init__(self, function, weights):
        super().__init__()
        self.function = function
        for name, shape in weights.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))))

    def forward(self, x, y, ids):
        out = self.function(self, x, y, ids)
        out = out.float() if not out.is_floating_point() else out
        return out.flatten(1).sum(1) if out.dim() > 1 else out


def inputs():
    g = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, 6, generator=g), torch.randn(ROWS, 4, 3, generator=g), torch.randint(0, 9, (ROWS, 5), generator=g)


def exported(function, tmp_path, **weights):
    return gavel.export(Function(function, weights).eval(), inputs(), out=tmp_path / "bundle", name="op", selftest_rows=24)


ELEMENTWISE = {
    "abs": lambda m, x, y, i: x.abs(),
    "neg": lambda m, x, y, i: -x,
    "exp": lambda m, x, y, i: torch.exp(x * 0.5),
    "exp2": lambda m, x, y, i: torch.exp2(x * 0.5),
    "expm1": lambda m, x, y, i: torch.expm1(x),
    "log": lambda m, x, y, i: torch.log(x.abs() + 1),
    "log1p": lambda m, x, y, i: torch.log1p(x.abs()),
    "log2": lambda m, x, y, i: torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1),
    "sqrt": lambda m, x, y, i: torch.sqrt(x.abs() + 0.1),
    "rsqrt": lambda m, x, y, i: torch.rsqrt(x.abs() + 0.1),
    "reciprocal": lambda m, x, y, i: 1 / (x.abs() + 0.5) + torch.reciprocal(x.abs() + 1),
    "sin_cos": lambda m, x, y, i: torch.sin(x) * torch.cos(x),
    "erf": lambda m, x, y, i: torch.erf(x),
    "rounding": lambda m, x, y, i: torch.floor(x) + 2 * torch.ceil(x) + 3 * torch.trunc(x),
    "sign": lambda m, x, y, i: torch.sign(x),
    "square": lambda m, x, y, i: torch.square(x) + x**2 + x**3,
    "pow_tensor": lambda m, x, y, i: torch.pow(x.abs() + 0.1, y[:, 0, :1]) + 2.0**x,
    "tanh": lambda m, x, y, i: torch.tanh(x),
    "sigmoid": lambda m, x, y, i: torch.sigmoid(x) + torch.special.expit(x),
    "add_alpha": lambda m, x, y, i: torch.add(x, x * x, alpha=0.3) - torch.sub(x, 2, alpha=3),
    "rsub": lambda m, x, y, i: 1 - x + torch.rsub(x, x, alpha=2),
    "div_modes": lambda m, x, y, i: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, 0.7, rounding_mode="trunc") + x // 0.5,
    "remainder": lambda m, x, y, i: torch.remainder(x, 0.7) + torch.fmod(x, 0.7),
    "maximum": lambda m, x, y, i: torch.maximum(x, x * 2) + torch.minimum(x, y[:, 0, :1]),
    "clamp": lambda m, x, y, i: x.clamp(-0.5, 0.7) + x.clamp(min=0) + x.clamp_max(0.2) + torch.clamp(x, min=y[:, 0, :1]),
    "lerp": lambda m, x, y, i: torch.lerp(x, x * 2, 0.3) + torch.addcmul(x, x, x, value=0.5) + torch.addcdiv(x, x, x.abs() + 1),
    "nan_to_num": lambda m, x, y, i: torch.nan_to_num(x),
    "relu": lambda m, x, y, i: F.relu(x) + F.relu6(x * 4) + F.hardtanh(x),
    "relu_": lambda m, x, y, i: F.relu(x * 1.5, inplace=True),
    "leaky_relu": lambda m, x, y, i: F.leaky_relu(x, 0.2) + F.rrelu(x),
    "prelu": lambda m, x, y, i: F.prelu(x, m.a),
    "prelu_channels": lambda m, x, y, i: F.prelu(y, m.c).sum((1, 2)) + F.prelu(x, m.b).sum(1),
    "elu": lambda m, x, y, i: F.elu(x, 0.7) + F.selu(x) + F.celu(x, 1.3),
    "gelu": lambda m, x, y, i: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "silu": lambda m, x, y, i: F.silu(x) + F.mish(x) + F.softsign(x),
    "softplus": lambda m, x, y, i: F.softplus(x) + F.softplus(x, beta=2, threshold=1) + F.logsigmoid(x),
    "hard": lambda m, x, y, i: F.hardsigmoid(x * 3) + F.hardswish(x * 3) + F.hardshrink(x) + F.softshrink(x) + F.threshold(x, 0.1, 5.0),
    "tanhshrink": lambda m, x, y, i: F.tanhshrink(x),
    "glu": lambda m, x, y, i: F.glu(x),
    "logit": lambda m, x, y, i: torch.logit(torch.sigmoid(x), eps=1e-4),
    "hyperbolic": lambda m, x, y, i: torch.sinh(x) + torch.cosh(x) + torch.tan(x * 0.3) + torch.erfc(x) + torch.sinc(x),
    "round": lambda m, x, y, i: torch.round(x) + torch.round(i[:, :1] * 0.5),
    "bucketize": lambda m, x, y, i: (
        torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])) + torch.searchsorted(torch.tensor([-1.0, 0.2]), x.contiguous(), right=True)
    ),
    "in_place": lambda m, x, y, i: (x * 1).add_(1).mul_(2).clamp_(-1, 1),
}

COMPOSED = {
    "inverse_hyperbolic": lambda m, x, y, i: torch.asinh(x) + torch.atanh(torch.tanh(x) * 0.5) + torch.acosh(x.abs() + 1.5),
    "xlogy": lambda m, x, y, i: torch.xlogy(x.abs(), x.abs() + 1) + torch.special.entr(x.abs()) + torch.hypot(x, x + 1),
    "logaddexp": lambda m, x, y, i: torch.logaddexp(x, x * 2) + torch.logaddexp2(x, x * 3),
    "frac": lambda m, x, y, i: torch.frac(x * 3) + torch.deg2rad(x) + torch.heaviside(x, torch.tensor(0.5)) + torch.signbit(x),
    "isin": lambda m, x, y, i: torch.isin(i, torch.tensor([1, 3, 5])) + 2 * torch.isin(i, torch.tensor([2, 3]), invert=True),
    "diff": lambda m, x, y, i: torch.diff(x, dim=1) * torch.arange(5) + torch.diff(x, n=2).sum(1, keepdim=True),
    "running": lambda m, x, y, i: torch.cumprod(x, 1) + torch.cummax(x, 1).values * torch.arange(6) + torch.cummin(x, 1)[0],
    "aminmax": lambda m, x, y, i: torch.aminmax(y, dim=1).max - torch.aminmax(y, dim=1).min,
    "cdist": lambda m, x, y, i: torch.cdist(y, m.v).sum(1) + torch.cdist(y, y, p=1).sum(1)[:, :1],
    "cross": lambda m, x, y, i: torch.cross(x[:, :3], x[:, 3:], dim=1) * torch.arange(3),
    "index_add": lambda m, x, y, i: torch.zeros(len(x), 4).index_add(1, torch.tensor([0, 1, 1, 3, 2, 2]), x) * torch.arange(4),
    "isclose": lambda m, x, y, i: torch.isclose(x, x.round(), atol=0.2).float(),
    "median": lambda m, x, y, i: y.median(1).values + y.kthvalue(2, 1).values + x.median(1, keepdim=True).indices,
}

LOGIC = {
    "compare": lambda m, x, y, i: (x > 0).float() + (x <= 0.5) * 2.0 + (i[:, :1] == 3) * x + (i[:, 1:2] != 4) * x,
    "where": lambda m, x, y, i: (
        torch.where(x > 0, x, x * 0.1) + torch.where(x > 1, 1.0, -1.0) + torch.where(i[:, :1] > 2, x, torch.zeros(()))
    ),
    "masked_fill": lambda m, x, y, i: x.masked_fill(x > 0.5, -1.0) + x.masked_fill(~(x > 0.5), 2),
    "infinity": lambda m, x, y, i: torch.softmax(y.masked_fill(y > 1.5, float("-inf")), -1),
    "logical": lambda m, x, y, i: ((x > 0) & (x < 1) | (x < -1)).float() + torch.logical_xor(x > 0, x > 1) + torch.logical_not(x > 0),
    "isnan": lambda m, x, y, i: torch.isnan(x) + x + torch.isinf(x) + torch.isfinite(x),
    "any_all": lambda m, x, y, i: (y > 0).any(-1).float() + (y > -1).all(-1).float() + (y > 0).any(-1, keepdim=True).float().squeeze(-1),
    "bool_product": lambda m, x, y, i: ((x > 0) * (x < 1)).float() * x,
    "integers": lambda m, x, y, i: (i * 2 + 1 - i % 3 + i // 2).float().sum(1) + i.clamp(1, 4).sum(1) + torch.abs(i - 4).sum(1),
}

REDUCTIONS = {
    "sum": lambda m, x, y, i: y.sum(1) + y.sum((1, 2)).unsqueeze(-1) + y.sum(-1, keepdim=True).squeeze(-1)[:, :3],
    "mean": lambda m, x, y, i: y.mean(1) + y.mean((1, 2), keepdim=True).squeeze(1),
    "amax": lambda m, x, y, i: y.amax(1) + y.amin(1) + y.max(1)[0] + y.min(dim=1).values,
    "argmax": lambda m, x, y, i: y.argmax(1).float() + y.max(1).indices + y.argmin(-1, keepdim=True).float().squeeze(-1)[:, :3],
    "prod": lambda m, x, y, i: y.prod(1),
    "var": lambda m, x, y, i: y.var(1) + y.std(1) + y.var(1, unbiased=False),
    "norm": lambda m, x, y, i: (
        y.norm(dim=1) + torch.linalg.vector_norm(y, ord=1, dim=1) + y.norm(p=3, dim=1) + torch.linalg.vector_norm(y, ord=math.inf, dim=1)
    ),
    "normalize": lambda m, x, y, i: F.normalize(y, dim=-1) + F.normalize(y, p=1, dim=1),
    "logsumexp": lambda m, x, y, i: torch.logsumexp(y, 1),
    "softmax": lambda m, x, y, i: torch.softmax(y, 1) * y + F.log_softmax(y, -1),
    "cumsum": lambda m, x, y, i: torch.cumsum(y, 1) * y,
    "topk": lambda m, x, y, i: torch.topk(y, 2, dim=1)[0] * m.w + y.topk(2, dim=1, largest=False).indices,
    "sort": lambda m, x, y, i: (torch.sort(x, -1, descending=True)[0] + torch.argsort(x, -1)) * torch.arange(6),
    "cosine": lambda m, x, y, i: F.cosine_similarity(y[:, 0], y[:, 1], dim=-1) + F.pairwise_distance(y[:, 0], y[:, 2]),
    "count_nonzero": lambda m, x, y, i: torch.count_nonzero(i, dim=1).float(),
}

PRODUCTS = {
    "linear": lambda m, x, y, i: F.linear(x, m.w, m.b) + x @ m.w.t() + torch.addmm(m.b, x, m.w.t()),
    "linear_3d": lambda m, x, y, i: F.linear(y, m.v),
    "matmul": lambda m, x, y, i: torch.matmul(y, y.transpose(1, 2)).sum(-1) + (y @ m.k).sum(-1) + (m.l @ y).sum(-1),
    "bmm": lambda m, x, y, i: torch.bmm(y, y.transpose(1, 2)) + torch.baddbmm(m.q, y, y.transpose(1, 2), alpha=0.5, beta=2),
    "vectors": lambda m, x, y, i: torch.mv(x, m.u) + (x @ m.u) + torch.matmul(y, m.t).sum(1),
    "einsum": lambda m, x, y, i: torch.einsum("bij,bkj->bik", y, y) + torch.einsum("bij,jk->bik", y, m.k).sum(-1, keepdim=True),
    "einsum_outer": lambda m, x, y, i: torch.einsum("bi,bj->bij", x, x) + torch.einsum("b...->b", y).view(-1, 1, 1),
    "einsum_three": lambda m, x, y, i: torch.einsum("bij,jk,bil->bikl", y, m.k, y),
    "einsum_dots": lambda m, x, y, i: torch.einsum("...ij,...kj->...ik", y, y),
    "einsum_sum": lambda m, x, y, i: torch.einsum("bij->bj", y) + torch.einsum("bij,bij->bj", y, y),
    "einsum_diagonal": lambda m, x, y, i: torch.einsum("bii->bi", y @ y.mT) * torch.arange(4) + torch.einsum("bii->b", y @ y.mT)[:, None],
    "einsum_heads": lambda m, x, y, i: torch.einsum("bnd,hde->hbne", y, m.heads).permute(1, 0, 2, 3),
    "tensordot": lambda m, x, y, i: torch.tensordot(y, m.k, dims=([-1], [0])).sum(-1) + torch.tensordot(y, m.l, dims=([1], [1])).sum(1),
    "heads_first": lambda m, x, y, i: heads_first(y),
    "outer": lambda m, x, y, i: (x.unsqueeze(2) * x.unsqueeze(1)).sum(-1),
    "bilinear": lambda m, x, y, i: F.bilinear(x, y[:, 0], m.bi),
    "sdpa": lambda m, x, y, i: F.scaled_dot_product_attention(y, y, y) + F.scaled_dot_product_attention(y, y * 2, y, scale=0.3),
    "sdpa_masked": lambda m, x, y, i: F.scaled_dot_product_attention(
        y, y, y, attn_mask=(i[:, :4] > 2).unsqueeze(1) | torch.eye(4, dtype=torch.bool)
    ),
    "sdpa_causal": lambda m, x, y, i: F.scaled_dot_product_attention(y.unsqueeze(1), y.unsqueeze(1), y.unsqueeze(1), is_causal=True),
    "sdpa_bias": lambda m, x, y, i: F.scaled_dot_product_attention(y, y, y, attn_mask=m.q),
}
PRODUCT_WEIGHTS = {
    "w": (5, 6),
    "b": (5,),
    "v": (2, 3),
    "k": (3, 4),
    "l": (4, 4),
    "q": (4, 4),
    "u": (6,),
    "t": (3,),
    "heads": (2, 3, 5),
    "bi": (2, 6, 3),
}


def heads_first(y):
    """Heads moved in front of the batch and merged with it, as some attention layers do."""
    q = torch.stack(torch.split(torch.cat([y, y * 2], -1), 3, dim=-1))
    scores = torch.softmax(torch.einsum("hbik,hbjk->hbij", q, q), -1)
    merged = torch.cat(torch.split(torch.cat([y, -y], -1), 3, dim=2), dim=0)
    back = torch.cat(torch.split(torch.matmul(merged, merged.transpose(1, 2)), y.shape[0], dim=0), dim=2)
    return torch.matmul(scores, q).sum(0).flatten(1).sum(1) + back.flatten(1).sum(1)


LAYOUT = {
    "views": lambda m, x, y, i: y.view(-1, 12) * y.reshape(y.shape[0], -1) + y.flatten(1) + y.unflatten(1, (2, 2)).flatten(1),
    "merge_rows": lambda m, x, y, i: torch.relu(y.reshape(-1, 3) @ m.k).view(-1, 4, 4),
    "squeeze": lambda m, x, y, i: x.unsqueeze(1).squeeze(1) + x[:, None, :].squeeze() + x.unsqueeze(-1).squeeze(-1),
    "permute": lambda m, x, y, i: y.permute(0, 2, 1) @ y + y.transpose(1, 2).matmul(y) + y.movedim(1, 2) @ y + y.mT @ y,
    "rows_last": lambda m, x, y, i: (m.w @ x.t()).t(),
    "expand": lambda m, x, y, i: (
        x.unsqueeze(1).expand(-1, 3, -1) * m.e + x.unsqueeze(1).expand(x.shape[0], 3, 6) + m.e.expand(x.shape[0], 3, 6)
    ),
    "repeat": lambda m, x, y, i: (
        x.repeat(1, 2)[:, :6] + x.unsqueeze(1).repeat(1, 3, 1).sum(1) + m.r.repeat(x.shape[0], 1) + torch.arange(6).repeat(x.shape[0], 1)
    ),
    "repeat_interleave": lambda m, x, y, i: torch.repeat_interleave(x, 2, dim=1) * torch.arange(12),
    "cat_stack": lambda m, x, y, i: (
        torch.cat([x, y.flatten(1), x[:, 1:3]], 1)[:, 3:9] + torch.stack([x, x * 2], 1)[:, 1] + torch.hstack([x, x])[:, 2:8]
    ),
    "split": lambda m, x, y, i: torch.split(x, 2, 1)[1] + x.chunk(3, 1)[2] + torch.split(x, [1, 2, 3], 1)[1] + y.unbind(1)[2][:, :2],
    "slices": lambda m, x, y, i: x[:, 1:5:2] + x[:, -2:] + y[:, 2, :2] + y[:, -1, 1:] + x.narrow(1, 2, 2) + x.select(1, 3).unsqueeze(1),
    "index": lambda m, x, y, i: (
        x[:, [0, 2, 2]] + y[:, [0, 1, 3], [2, 1, 0]] + x.index_select(1, torch.tensor([5, 0, 1])) + y[:, torch.tensor([1]), :][:, 0]
    ),
    "mask_index": lambda m, x, y, i: x[:, torch.tensor([True, False, True, False, True, False])],
    "flip_roll": lambda m, x, y, i: torch.flip(x, [1]) * x + torch.roll(x, 2, 1),
    "triangle": lambda m, x, y, i: torch.tril(y @ y.transpose(1, 2)) + torch.triu(y @ y.transpose(1, 2), 1) * 2,
    "pairs": lambda m, x, y, i: (y @ y.transpose(1, 2))[:, torch.triu_indices(4, 4, 1)[0], torch.triu_indices(4, 4, 1)[1]],
    "diagonal": lambda m, x, y, i: torch.diagonal(y @ y.transpose(1, 2), dim1=1, dim2=2) * torch.arange(4),
    "unfold": lambda m, x, y, i: x.unfold(1, 3, 2) * m.f,
    "factories": lambda m, x, y, i: (
        x + torch.ones_like(x) + x.new_zeros(6) + torch.full((6,), 2.0) + torch.zeros(x.shape[0], 6) + torch.arange(6) + torch.eye(6)[0]
    ),
    "linspace": lambda m, x, y, i: x * torch.linspace(0, 1, 6),
    "pad_modes": lambda m, x, y, i: (
        sum(F.pad(y, (2, 1), mode=mode) for mode in ("replicate", "reflect", "circular")) * torch.arange(6)
        + F.pad(i, (2, 1), value=7).sum(1).view(-1, 1, 1)
    ),
    "splits": lambda m, x, y, i: (
        x.tensor_split(4, 1)[1] + x.tensor_split((1, 3), dim=1)[1] + torch.dstack([x, x])[:, :2, 1] + x.fliplr()[:, :2]
    ),
    "repeats": lambda m, x, y, i: x.repeat_interleave(torch.tensor([1, 2, 3, 1, 2, 3]), dim=1) * torch.arange(12),
    "masked_select": lambda m, x, y, i: (
        torch.masked_select(y @ y.mT, torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)).view(x.shape[0], -1) * torch.arange(6)
    ),
    "rows_stacked": lambda m, x, y, i: (lambda a, b: a * 2 + b)(*torch.relu(torch.cat([x, y.flatten(1)[:, :6]])).chunk(2)),
    "pad": lambda m, x, y, i: (
        F.pad(x, (1, 2), value=3.0)[:, :6] * x + F.pad(y, (0, 0, 1, 0)).sum(-1).sum(1, keepdim=True) + F.pad(x, (-1, 1))
    ),
    "one_hot": lambda m, x, y, i: F.one_hot(i, 9).float() @ m.o,
    "gather": lambda m, x, y, i: torch.gather(x, 1, i.clamp(0, 5)),
    "gather_rows": lambda m, x, y, i: torch.gather(y, 1, i[:, :2].clamp(0, 3).unsqueeze(-1).expand(-1, -1, 3)),
    "take_constant": lambda m, x, y, i: m.o[i].sum(-1) + torch.index_select(m.o, 0, i[:, 0])[:, :1],
    "assignment": lambda m, x, y, i: assigned(x),
    "casts": lambda m, x, y, i: x.to(torch.float64).float() + i[:, :1].to(x.dtype) + i[:, 1:2].type_as(x) + x.double().long().float(),
}
LAYOUT_WEIGHTS = {"k": (3, 4), "w": (5, 6), "e": (3, 6), "r": (6,), "f": (3,), "o": (9, 2)}


def assigned(x):
    out = torch.zeros(x.shape[0], 6)
    out[:, :3] = x[:, :3] * 2
    out[:, 4] = x[:, 0]
    return out * x


LAYERS = {
    "batch_norm": lambda m, x, y, i: F.batch_norm(x, m.mean, m.v.abs() + 0.5, m.g, m.h) + F.batch_norm(x, m.mean, m.v.abs() + 0.5),
    "batch_norm_channels": lambda m, x, y, i: F.batch_norm(y, m.mean[:4], m.v[:4].abs() + 0.5).sum((1, 2)),
    "layer_norm": lambda m, x, y, i: F.layer_norm(x, (6,), m.g, m.h) + F.layer_norm(x, (6,), eps=1e-3),
    "layer_norm_2": lambda m, x, y, i: F.layer_norm(y, (4, 3), m.ln),
    "rms_norm": lambda m, x, y, i: F.rms_norm(x, (6,), m.g),
    "group_norm": lambda m, x, y, i: F.group_norm(y, 2, m.g[:4], m.h[:4]) * y,
    "instance_norm": lambda m, x, y, i: F.instance_norm(y) * y,
    "conv1d": lambda m, x, y, i: (
        F.conv1d(y, m.c1, m.cb) + F.conv1d(y, m.c1, padding=1, stride=2, dilation=1)[:, :, :2].sum(-1, keepdim=True)
    ),
    "conv1d_groups": lambda m, x, y, i: F.conv1d(y, m.cg, groups=2, padding="same"),
    "conv2d": lambda m, x, y, i: F.conv2d(y.unsqueeze(1), m.c2, padding=(1, 0)),
    "max_pool": lambda m, x, y, i: F.max_pool1d(y, 2, 1) + F.max_pool1d(y, 3, 1, padding=1)[:, :, :2],
    "avg_pool": lambda m, x, y, i: F.avg_pool1d(y, 2, 1) + F.avg_pool1d(y, 3, 1, padding=1, count_include_pad=False)[:, :, :2],
    "adaptive": lambda m, x, y, i: (
        F.adaptive_avg_pool1d(y, 1) + F.adaptive_max_pool1d(y, 1) + F.adaptive_avg_pool1d(x.unsqueeze(1), 3).sum(-1, keepdim=True)
    ),
}
LAYER_WEIGHTS = {
    "mean": (6,),
    "v": (6,),
    "g": (6,),
    "h": (6,),
    "ln": (4, 3),
    "c1": (4, 4, 2),
    "cb": (4,),
    "cg": (4, 2, 3),
    "c2": (2, 1, 3, 2),
}

TABLE = [
    (name, function, weights)
    for group, weights in (
        (ELEMENTWISE, {"a": (1,), "b": (6,), "c": (4,)}),
        (COMPOSED, {"v": (2, 3)}),
        (LOGIC, {}),
        (REDUCTIONS, {"w": (2, 3)}),
        (PRODUCTS, PRODUCT_WEIGHTS),
        (LAYOUT, LAYOUT_WEIGHTS),
        (LAYERS, LAYER_WEIGHTS),
    )
    for name, function in group.items()
]


@pytest.mark.parametrize("name,function,weights", TABLE, ids=[name for name, *_ in TABLE])
def test_operator(name, function, weights, tmp_path):
    report = exported(function, tmp_path, **weights)
    assert report.max_difference <= 1e-6
    assert np.isfinite(report.f32_difference)


REFUSED = {
    # What the model does, and words of the refusal.
    "mean_over_rows": (lambda m, x, y, i: x - x.mean(0), "reduces over the batch"),
    "softmax_over_rows": (lambda m, x, y, i: torch.softmax(x, 0), "the batch"),
    "rows_times_rows": (lambda m, x, y, i: (x @ x.t()).sum(1), "other rows"),
    "cumsum_over_rows": (lambda m, x, y, i: torch.cumsum(x, 0), "the batch"),
    "one_row": (lambda m, x, y, i: x - x[0], "takes row"),
    "some_rows": (lambda m, x, y, i: x - torch.cat([x[1:], x[:1]]), "the batch"),
    "flip_rows": (lambda m, x, y, i: torch.flip(x, [0]), "the batch"),
    "row_number": (lambda m, x, y, i: x + torch.arange(x.shape[0]).unsqueeze(1), "number of a row"),
    "batch_size": (lambda m, x, y, i: x / x.shape[0], "size of the batch"),
    "outer_broadcast": (lambda m, x, y, i: (x.unsqueeze(0) * x.unsqueeze(1)).sum((1, 2)), "pairs every row"),
    "fold_rows": (lambda m, x, y, i: x.view(6, -1).t(), "the batch"),
    "data_dependent": (lambda m, x, y, i: x[x[:, 0] > 0].sum(1), "depends on data"),
    "branch": (lambda m, x, y, i: x if x.sum() > 0 else -x, "torch.export cannot trace"),
    "unknown": (lambda m, x, y, i: torch.linalg.inv(y[:, :3]), "no counterpart"),
    "unknown_fft": (lambda m, x, y, i: torch.fft.rfft(x).real, "no counterpart"),
    "atan": (lambda m, x, y, i: torch.atan(x), "no counterpart"),
    "one_hot_open": (lambda m, x, y, i: F.one_hot(i).float().sum((1, 2)), ""),
    "random": (lambda m, x, y, i: x + torch.rand_like(x), "random numbers"),
    "random_weights": (lambda m, x, y, i: x @ torch.randn(6, 6), "random numbers"),
    "rows_by_rows": (lambda m, x, y, i: torch.eye(x.shape[0]) @ x, "rows by rows"),
    "cond": (lambda m, x, y, i: torch.cond(x.sum() > 0, lambda x: x.sum(1), lambda x: -x.sum(1), (x,)), "torch.where"),
    "vmap": (lambda m, x, y, i: torch.vmap(lambda row: row.sum())(x), "torch.vmap"),
    "rows_cut_elsewhere": (lambda m, x, y, i: torch.cat([x, x, x]).chunk(2)[0], "the batch"),
    "train_dropout": (lambda m, x, y, i: F.dropout(x, 0.5, training=True), "dropout"),
    "batch_statistics": (lambda m, x, y, i: F.batch_norm(x, None, None, training=True), "eval"),
    "constant": (lambda m, x, y, i: m.w.sum(1)[:1].expand(x.shape[0]), "no output depends on an input"),
    "infinite": (lambda m, x, y, i: torch.log(x - 100), "gives NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name, tmp_path):
    function, words = REFUSED[name]
    with pytest.raises(gavel.ExportError) as caught:
        exported(function, tmp_path, w=(3, 3))
    assert words in str(caught.value) and "fault of the exporter" not in str(caught.value), caught.value
    assert not (tmp_path / "bundle").exists()


def test_refusal_names_the_place(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 6), Centred())

        def forward(self, x):
            return self.inner(x).sum(1)

    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0, keepdim=True)

    with pytest.raises(gavel.ExportError) as caught:
        gavel.export(Outer(), torch.randn(5, 6), out=tmp_path / "bundle")
    error = caught.value
    assert error.op == "aten.mean.dim" and error.module == "inner.1" and "test_operators.py" in error.source and error.remedy
