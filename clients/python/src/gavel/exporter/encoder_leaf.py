"""nn.TransformerEncoder as it scores in eval mode: torch then packs the steps that are not padding into nested tensors, and gives zeros
for the others, where its plain operations give numbers."""

import copy

import torch


def packs(module):
    """Whether an encoder may take torch's path over nested tensors."""
    return (
        type(module) is torch.nn.TransformerEncoder
        and getattr(module, "use_nested_tensor", False)
        and all(type(layer) is torch.nn.TransformerEncoderLayer for layer in module.layers)
    )


class Encoder(torch.nn.Module):
    def __init__(self, original):
        super().__init__()
        self.original = copy.copy(original)
        self.original._modules = dict(original._modules, norm=None)
        self.norm = original.norm
        self.checks = getattr(original, "mask_check", True)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
        out = self.original(src, mask, src_key_padding_mask, is_causal)
        if mask is None and src_key_padding_mask is not None and src.dim() == 3:
            padding = src_key_padding_mask if src_key_padding_mask.dtype == torch.bool else src_key_padding_mask != 0
            zero = padding
            if self.checks and padding.shape[1] > 1:
                # Torch looks whether all padding is behind a row's end, in any row of the batch: here, in the row itself.
                between = (padding[:, :-1] & ~padding[:, 1:]).any(1, keepdim=True)
                zero = padding & ~between
            out = torch.where(zero.unsqueeze(-1), torch.zeros_like(out), out)
        return out if self.norm is None else self.norm(out)
