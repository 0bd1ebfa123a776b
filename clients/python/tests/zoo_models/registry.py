"""Where models are entered, and what gives them weights."""

import importlib.util

import torch

# By name: what makes a model with an example, and the library that it needs.
ZOO = {}
# Width of embeddings.
DIM = 8


def entry(name, needs=None):
    def register(function):
        ZOO[name] = (function, needs)
        return function

    return register


def missing(needs):
    return needs is not None and importlib.util.find_spec(needs) is None


def enliven(model, seed=0):
    """Random weights of a healthy size, and statistics for batch norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dtype == torch.float32:
                fan = p.shape[-1] if p.dim() > 1 else 4
                p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if "embed" in name else min(1.0, 1.2 / fan**0.5)))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=generator) * 0.2)
            elif name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=generator) + 0.5)
    return model.eval()
