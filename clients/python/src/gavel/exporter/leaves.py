"""Modules that torch.export cannot trace as they are, replaced before tracing by ones that call the ops of leaf_ops.py."""

import copy

import torch

from .encoder_leaf import Encoder, packs
from .errors import ExportError
from .recurrent_leaves import Recurrent, dien_leaf, packed_sequences  # noqa: F401 (packed_sequences: for whoever traces)
from .torchrec_leaves import torchrec_leaf


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
        if not any(_replaced(module) for module in model.modules()):
            return model, rows
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
    if packs(module):
        return Encoder(module)
    if limited(module):
        return renormed(module)
    dien = dien_leaf(module)
    if dien is not None:
        return dien(module)
    return None


def _replaced(module):
    recurrent = type(module) in (torch.nn.GRU, torch.nn.LSTM) or bool(dien_leaf(module))
    return recurrent or torchrec_leaf(module) is not None or packs(module) or limited(module)


def limited(module):
    """Whether a table shortens rows that are longer than max_norm, in place, as they are looked up."""
    return type(module) in (torch.nn.Embedding, torch.nn.EmbeddingBag) and module.max_norm is not None


def renormed(module):
    """The same table with all rows shortened at once."""
    with torch.no_grad():
        weight = module.weight.detach().clone()
        torch.embedding_renorm_(weight, torch.arange(len(weight)), module.max_norm, module.norm_type)
    module = copy.copy(module)
    module._parameters = dict(module._parameters, weight=torch.nn.Parameter(weight, requires_grad=False))
    module.max_norm = None
    return module


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


class loose_views:
    """`view` as `reshape` where a traced tensor lies otherwise in memory than the real one does: tracing is strict about strides that it
    only guesses."""

    def __enter__(self):
        view, self.before = torch.Tensor.view, vars(torch.Tensor).get("view")

        def loose(tensor, *shape):
            try:
                return view(tensor, *shape)
            except (RuntimeError, ValueError):
                if len(shape) == 1 and isinstance(shape[0], torch.dtype):
                    raise
                return tensor.reshape(*shape)

        torch.Tensor.view = loose

    def __exit__(self, *_):
        if self.before is None:
            del torch.Tensor.view
        else:
            torch.Tensor.view = self.before


class no_fast_paths:
    """Attention and encoder layers traced as plain operations, instead of the fused ones that torch picks in eval mode."""

    def __enter__(self):
        self.before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *_):
        torch.backends.mha.set_fastpath_enabled(self.before)
