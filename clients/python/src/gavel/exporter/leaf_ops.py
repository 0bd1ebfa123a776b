"""Operations of our own, which stand in a traced model for what torch.export cannot trace.

`gavel::bag`, `gavel::sequence`, `gavel::lengths`: lookups of jagged features, whose ids are traced as a padded matrix [batch, length],
-1 behind the end. `gavel::gru`: a GRU with lengths and attention. Each computes what it stands for, so that the replaced model can be run
and compared.
"""

import torch

LIBRARY = torch.library.Library("gavel", "DEF")
LIBRARY.define("bag(Tensor weight, Tensor ids, Tensor? weights, str pool) -> Tensor")
LIBRARY.define("sequence(Tensor weight, Tensor ids, int length) -> Tensor")
LIBRARY.define("lengths(Tensor ids) -> Tensor")
LIBRARY.define(
    "gru(Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? h0, Tensor? length, "
    "Tensor? attention, str kind, bool reverse)"
    " -> (Tensor, Tensor)"
)


def _bag(weight, ids, weights, pool):
    there = ids >= 0
    rows = weight[ids.clamp(min=0)] * there.unsqueeze(-1)
    if pool == "max":
        rows = rows.masked_fill(~there.unsqueeze(-1), float("-inf")).amax(1)
        return torch.where(there.any(1, keepdim=True), rows, torch.zeros_like(rows))
    if weights is not None:
        rows = rows * weights.unsqueeze(-1)
    total = rows.sum(1)
    return total / there.sum(1, keepdim=True).clamp(min=1) if pool == "mean" else total


def _sequence(weight, ids, length):
    ids = ids[:, :length]
    ids = torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=-1)
    return weight[ids.clamp(min=0)] * (ids >= 0).unsqueeze(-1)


def _lengths(ids):
    return (ids >= 0).sum(1)


def _gru(x, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reverse):
    batch, steps, hidden = x.shape[0], x.shape[1], w_hh.shape[1]
    h = x.new_zeros(batch, hidden) if h0 is None else h0
    out = x.new_zeros(batch, steps, hidden)
    for t in reversed(range(steps)) if reverse else range(steps):
        gi, gh = torch.nn.functional.linear(x[:, t], w_ih, b_ih), torch.nn.functional.linear(h, w_hh, b_hh)
        (ir, iz, i_n), (hr, hz, hn) = gi.chunk(3, 1), gh.chunk(3, 1)
        z, new = torch.sigmoid(iz + hz), torch.tanh(i_n + torch.sigmoid(ir + hr) * hn)
        if kind == "gru":
            after = (1 - z) * new + z * h
        else:
            u = attention[:, t, None] if kind == "agru" else attention[:, t, None] * z
            after = (1 - u) * h + u * new
        if length is not None:
            taken = (t < length)[:, None]
            out[:, t] = torch.where(taken, after, torch.zeros_like(after))
            h = torch.where(taken, after, h)
        else:
            out[:, t] = h = after
    return out, h


for _name, _function in (("bag", _bag), ("sequence", _sequence), ("lengths", _lengths), ("gru", _gru)):
    LIBRARY.impl(_name, _function, "CPU")


@torch.library.register_fake("gavel::bag")
def _(weight, ids, weights, pool):
    return weight.new_empty(ids.shape[0], weight.shape[1])


@torch.library.register_fake("gavel::sequence")
def _(weight, ids, length):
    return weight.new_empty(ids.shape[0], length, weight.shape[1])


@torch.library.register_fake("gavel::lengths")
def _(ids):
    return ids.new_empty(ids.shape[0])


@torch.library.register_fake("gavel::gru")
def _(x, w_ih, w_hh, b_ih, b_hh, h0, length, attention, kind, reverse):
    hidden = w_hh.shape[1]
    return x.new_empty(x.shape[0], x.shape[1], hidden), x.new_empty(x.shape[0], hidden)
