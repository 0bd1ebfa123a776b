"""Modules that torch.export cannot trace as they are, replaced before tracing by ones that call ops of our own.

`gavel::bag`, `gavel::sequence`, `gavel::lengths`: lookups of jagged features, whose ids are traced as a padded matrix [batch, length],
-1 behind the end. `gavel::gru`: a GRU with lengths and attention. Each computes what it stands for, so that the replaced model can be
run and compared.
"""

import copy

import torch

from .errors import ExportError

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


# torchrec: jagged features.


class TracedJagged:
    """One key of a TracedKJT: torchrec's JaggedTensor, as far as a model may use it."""

    def __init__(self, ids, weights=None):
        self.ids, self.id_weights = ids, weights

    def lengths(self):
        return torch.ops.gavel.lengths(self.ids)

    def __getattr__(self, name):
        raise ExportError(
            f"the model reads `{name}` of a jagged feature: its size depends on data",
            "use an EmbeddingBagCollection, or to_padded_dense of an EmbeddingCollection's result",
        )


class TracedKJT:
    """torchrec's KeyedJaggedTensor with each key as a padded matrix of ids [batch, length]."""

    def __init__(self, features):
        self.features = features  # key -> TracedJagged

    def keys(self):
        return list(self.features)

    def stride(self):
        return next(iter(self.features.values())).ids.shape[0]

    def __getitem__(self, key):
        return self.features[key]

    def to_dict(self):
        return dict(self.features)

    def device(self):
        return next(iter(self.features.values())).ids.device

    def weights_or_none(self):
        return True if any(f.id_weights is not None for f in self.features.values()) else None

    def permute(self, indices, *_):
        keys = self.keys()
        return TracedKJT({keys[i]: self.features[keys[i]] for i in indices})

    def split(self, segments):
        keys, out = iter(self.keys()), []
        for n in segments:
            names = [next(keys) for _ in range(n)]
            out.append(TracedKJT({name: self.features[name] for name in names}))
        return out

    def to(self, *_, **__):
        return self

    pin_memory = sync = unsync = to

    def __getattr__(self, name):
        raise ExportError(
            f"the model reads `{name}` of its KeyedJaggedTensor: a size depends on data",
            "use the KeyedJaggedTensor in an EmbeddingBagCollection or EmbeddingCollection alone",
        )


class JaggedRows:
    """What an EmbeddingCollection gives for a key: vectors per id."""

    def __init__(self, weight, feature):
        self.weight, self.feature = weight, feature

    def lengths(self):
        return self.feature.lengths()

    def to_padded_dense(self, desired_length=None, padding_value=0.0):
        if padding_value != 0.0:
            raise ExportError("a jagged feature is padded with something else than zero", "pad with zeros")
        length = self.feature.ids.shape[1] if desired_length is None else desired_length
        return torch.ops.gavel.sequence(self.weight, self.feature.ids, int(length))

    def __getattr__(self, name):
        raise ExportError(f"the model reads `{name}` of a jagged lookup: its size depends on data", "use to_padded_dense(length)")


class Tables(torch.nn.Module):
    """The weights of a collection under the names that it has in the state dict."""

    def __init__(self, folder, weights):
        super().__init__()
        holder = torch.nn.ModuleDict()
        for name, weight in weights.items():
            table = torch.nn.Module()
            table.weight = torch.nn.Parameter(weight, requires_grad=False)
            holder[name.replace(".", "_")] = table
        setattr(self, folder, holder)
        self.folder = folder

    def table(self, name):
        return getattr(self, self.folder)[name.replace(".", "_")].weight


class Bags(Tables):
    """An EmbeddingBagCollection over a TracedKJT."""

    def __init__(self, configs, weights, weighted):
        super().__init__("embedding_bags", weights)
        self.configs, self.weighted = configs, weighted

    def embedding_bag_configs(self):
        return self.configs

    def is_weighted(self):
        return self.weighted

    def forward(self, features):
        from torchrec.sparse.jagged_tensor import KeyedTensor

        if not isinstance(features, TracedKJT):
            raise ExportError(
                "an EmbeddingBagCollection is fed with a KeyedJaggedTensor that the model builds itself",
                "let forward take the KeyedJaggedTensor as an argument",
            )
        keys, dims, out = [], [], []
        shared = [key for config in self.configs for key in config.feature_names]
        for config in self.configs:
            pool = config.pooling.name.lower()
            if pool not in ("sum", "mean"):
                raise ExportError(f"table {config.name} pools by {pool}", "use sum or mean")
            for key in config.feature_names:
                feature = features[key]
                weights = feature.id_weights if self.weighted else None
                out.append(torch.ops.gavel.bag(self.table(config.name), feature.ids, weights, pool))
                keys.append(f"{key}@{config.name}" if shared.count(key) > 1 else key)
                dims.append(config.embedding_dim)
        return KeyedTensor(keys, dims, torch.cat(out, 1))


class Sequences(Tables):
    """An EmbeddingCollection over a TracedKJT."""

    def __init__(self, configs, weights):
        super().__init__("embeddings", weights)
        self.configs = configs

    def embedding_configs(self):
        return self.configs

    def forward(self, features):
        return {key: JaggedRows(self.table(config.name), features[key]) for config in self.configs for key in config.feature_names}


def torchrec_leaf(module):
    """The replacement of a torchrec collection, None if the module is none. Also gives quantised rows by table: name -> (dtype, codes)."""
    home = type(module).__module__
    name = type(module).__name__
    if not home.startswith("torchrec."):
        return None
    if home == "torchrec.modules.embedding_modules" and name == "EmbeddingBagCollection":
        weights = {table: bag.weight.detach() for table, bag in module.embedding_bags.items()}
        return Bags(module.embedding_bag_configs(), weights, module.is_weighted()), {}
    if home == "torchrec.modules.embedding_modules" and name == "EmbeddingCollection":
        weights = {table: embedding.weight.detach() for table, embedding in module.embeddings.items()}
        return Sequences(module.embedding_configs(), weights), {}
    if home == "torchrec.quant.embedding_modules" and name in ("EmbeddingBagCollection", "EmbeddingCollection"):
        from .quantized import torchrec_tables

        weights, rows = torchrec_tables(module)
        ordered = [config for group in module._key_to_tables.values() for config in group] if name != "EmbeddingCollection" else None
        if name == "EmbeddingCollection":
            return Sequences(module.embedding_configs(), weights), rows
        return Bags(ordered, weights, module.is_weighted()), rows
    if "EmbeddingBagCollection" in name or "EmbeddingCollection" in name:
        raise ExportError(f"{home}.{name} has no counterpart", "use torchrec's EmbeddingBagCollection or EmbeddingCollection, unsharded")
    return None


# deepctr-torch's DIEN: its GRUs run over packed sequences of the rows that have a history. Per row, that is a GRU with a length; a row
# without
# history gets zeros at the end, whatever the layers in between make of it.


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


def swapped(model):
    """(a model with leaves swapped, sharing all parameters with the given one; quantised rows: path of a tensor -> (dtype, codes))."""
    memo = {}
    for tensor in list(model.parameters()) + list(model.buffers()):
        memo[id(tensor)] = tensor
    rows = {}
    replaced = _replacement(model, "", rows)
    if replaced is not None:
        return replaced, rows
    for module in model.modules():
        # Collections are not copied: quantised ones refuse to be.
        if _is_collection(module):
            memo[id(module)] = module
    try:
        model = copy.deepcopy(model, memo)
    except Exception as error:
        raise ExportError(
            f"the model cannot be copied: {error}", "leave what cannot be copied (files, sockets, loaders) out of the module"
        ) from error
    _swap(model, "", rows)
    return model, rows


def _is_collection(module):
    return type(module).__module__.startswith("torchrec.") and "Collection" in type(module).__name__


def _replacement(module, path, rows):
    found = torchrec_leaf(module)
    if found is not None:
        leaf, own = found
        for name, codes in own.items():
            rows[".".join(filter(None, [path, leaf.folder, name.replace(".", "_"), "weight"]))] = codes
        return leaf
    if type(module) in (torch.nn.GRU, torch.nn.LSTM):
        return Recurrent(module)
    dien = dien_leaf(module)
    if dien is not None:
        return dien(module)
    return None


def _swap(module, path, rows):
    for name, child in list(module._modules.items()):
        if child is None:
            continue
        here = f"{path}.{name}" if path else name
        leaf = _replacement(child, here, rows)
        if leaf is not None:
            module._modules[name] = leaf.eval()
        else:
            _swap(child, here, rows)


class no_fast_paths:
    """Attention and encoder layers traced as plain operations, instead of the fused ones that torch picks in eval mode."""

    def __enter__(self):
        self.before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *_):
        torch.backends.mha.set_fastpath_enabled(self.before)
