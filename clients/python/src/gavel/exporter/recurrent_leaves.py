"""Recurrent layers over packed sequences: a GRU with a length per row instead; deepctr-torch's DIEN."""

import torch

from . import leaf_ops  # noqa: F401 (registers the ops)
from .errors import ExportError

# Packed sequences: a padded tensor with lengths, which recurrent layers run over up to each row's own end.


class TracedPacked:
    """What pack_padded_sequence gives while a model is traced: `x` [batch, steps, size], `lengths` [batch]."""

    def __init__(self, x, lengths):
        self.x, self.lengths = x, lengths

    def __getattr__(self, name):
        raise ExportError(
            f"the model reads `{name}` of a packed sequence: it depends on the batch", "use the padded sequence and its lengths"
        )


def pack_padded_sequence(input, lengths, batch_first=False, enforce_sorted=True):
    lengths = torch.as_tensor(lengths)
    return TracedPacked(input if batch_first else input.transpose(0, 1), lengths.to(torch.int64))


def pad_packed_sequence(sequence, batch_first=False, padding_value=0.0, total_length=None):
    x = sequence.x
    if padding_value != 0.0:
        there = torch.arange(x.shape[1]) < sequence.lengths.unsqueeze(1)
        x = torch.where(there.unsqueeze(-1), x, torch.full((), padding_value, dtype=x.dtype))
    if total_length is not None and total_length > x.shape[1]:
        x = torch.nn.functional.pad(x, (0, 0, 0, total_length - x.shape[1]))
    return (x if batch_first else x.transpose(0, 1)), sequence.lengths


class Recurrent(torch.nn.Module):
    """An nn.GRU or nn.LSTM that also takes a TracedPacked."""

    def __init__(self, original):
        super().__init__()
        self.original = original

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)

    def forward(self, input, hx=None):
        layer = self.original
        if not isinstance(input, TracedPacked):
            return layer(input, hx)
        if layer.proj_size:
            raise ExportError("a recurrent layer with projections over packed sequences", "use a layer without proj_size")
        gated = isinstance(layer, torch.nn.GRU)
        x, lengths, states = input.x, input.lengths, []
        directions = 2 if layer.bidirectional else 1
        for i in range(layer.num_layers * directions):
            if i % directions == 0:
                outs, source = [], x
            suffix = f"l{i // directions}" + ("_reverse" if i % directions else "")
            parts = [getattr(layer, f"{name}_{suffix}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            if gated:
                out, state = torch.ops.gavel.gru(source, *parts, None if hx is None else hx[i], lengths, None, "gru", i % directions == 1)
            else:
                out, *state = lstm_steps(source, parts, lengths, None if hx is None else (hx[0][i], hx[1][i]), i % directions == 1)
            outs.append(out)
            states.append(state)
            if i % directions == directions - 1:
                x = torch.cat(outs, -1)
        last = torch.stack(states) if gated else tuple(torch.stack([s[k] for s in states]) for k in (0, 1))
        return TracedPacked(x, lengths), last


def lstm_steps(x, parts, lengths, hx, reverse):
    """(outputs, last h, last c) of an LSTM with lengths, step by step."""
    w_ih, w_hh, b_ih, b_hh = parts
    h, c = (x.new_zeros(x.shape[0], w_hh.shape[1]),) * 2 if hx is None else hx
    outs = [None] * x.shape[1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        gates = torch.nn.functional.linear(x[:, t], w_ih, b_ih) + torch.nn.functional.linear(h, w_hh, b_hh)
        i, f, g, o = gates.chunk(4, 1)
        memory = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        new = torch.sigmoid(o) * torch.tanh(memory)
        taken = (lengths > t).unsqueeze(1)
        outs[t] = torch.where(taken, new, torch.zeros_like(new))
        h, c = torch.where(taken, new, h), torch.where(taken, memory, c)
    return torch.stack(outs, 1), h, c


class packed_sequences:
    """Puts the two functions above in the place of torch's, also where a model imported them by name."""

    def __enter__(self):
        import sys

        rnn = torch.nn.utils.rnn
        swaps = {id(rnn.pack_padded_sequence): pack_padded_sequence, id(rnn.pad_packed_sequence): pad_packed_sequence}
        self.originals = []
        for module in list(sys.modules.values()):
            for name in ("pack_padded_sequence", "pad_packed_sequence"):
                found = getattr(module, "__dict__", {}).get(name)
                if id(found) in swaps and module.__name__ != __name__:
                    self.originals.append((module, name, found))
                    setattr(module, name, swaps[id(found)])

    def __exit__(self, *_):
        for module, name, found in self.originals:
            setattr(module, name, found)


def gru_leaf(module, x, length, attention=None, kind="gru", h0=None):
    """(outputs [B, T, H], last state [B, H]) of an nn.GRU of one layer and direction, or of a cell with the same parameters."""
    module = module.original if isinstance(module, Recurrent) else module
    if isinstance(module, torch.nn.GRU):
        if module.num_layers != 1 or module.bidirectional:
            raise ExportError("a GRU over packed sequences with several layers or directions", "use one layer and one direction a module")
        parts = [getattr(module, f"{name}_l0", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    else:
        parts = [module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh]
    return torch.ops.gavel.gru(x, *parts, h0, length, attention, kind, False)


# deepctr-torch's DIEN: its GRUs run over packed sequences of the rows that have a history. Per row, that is a GRU with a length; a row
# without history gets zeros at the end, whatever the layers in between make of it.


class InterestExtractor(torch.nn.Module):
    def __init__(self, original):
        super().__init__()
        self.gru = original.gru

    def forward(self, keys, keys_length, neg_keys=None):
        interests, _ = gru_leaf(self.gru, keys, keys_length)
        return interests, keys.new_zeros(1)


class InterestEvolving(torch.nn.Module):
    def __init__(self, original):
        super().__init__()
        self.gru_type, self.interest_evolution, self.attention = original.gru_type, original.interest_evolution, original.attention

    def forward(self, query, keys, keys_length, mask=None):
        query = query.unsqueeze(1)
        lengths = keys_length.unsqueeze(1)
        if self.gru_type == "GRU":
            interests, _ = gru_leaf(self.interest_evolution, keys, keys_length)
            out = self.attention(query, interests, lengths).squeeze(1)
        elif self.gru_type == "AIGRU":
            scores = self.attention(query, keys, lengths)
            _, out = gru_leaf(self.interest_evolution, keys * scores.transpose(1, 2), keys_length)
        else:
            scores = self.attention(query, keys, lengths).squeeze(1)
            _, out = gru_leaf(self.interest_evolution.rnn, keys, keys_length, scores, self.gru_type.lower())
        return torch.where(keys_length.unsqueeze(1) > 0, out, torch.zeros_like(out))


def dien_leaf(module):
    if type(module).__module__ == "deepctr_torch.models.dien":
        return {"InterestExtractor": InterestExtractor, "InterestEvolving": InterestEvolving}.get(type(module).__name__)
    return None
