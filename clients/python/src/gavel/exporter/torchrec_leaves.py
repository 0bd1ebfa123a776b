"""torchrec's collections over jagged features: lookups of padded ids while a model is traced."""

import torch

from . import leaf_ops  # noqa: F401 (registers the ops)
from .errors import ExportError


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
