"""Tables of torchrec's quantised collections."""

import numpy as np

from ..quantized import dequantize
from .errors import ExportError

FORMS = {"INT8": "int8_tbe", "INT4": "int4_tbe", "INT2": "int2_tbe", "FP16": "f16", "FP32": "f32"}


def torchrec_tables(module):
    """({table: values as a float tensor}, {table: (dtype, rows as stored)}) of a quantised collection."""
    import torch

    holder = getattr(module, "embedding_bags", None)
    holder = module.embeddings if holder is None else holder
    configs = module.embedding_bag_configs() if hasattr(module, "embedding_bag_configs") else module.embedding_configs()
    values, rows = {}, {}
    for config in configs:
        kind = config.data_type.name
        if kind not in FORMS:
            raise ExportError(f"table {config.name} is stored as {kind}", f"gavel reads {', '.join(FORMS)}")
        if hasattr(holder[config.name], "weight_qscale"):
            raise ExportError(f"table {config.name} keeps scales and codes apart", "quantise with quant_state_dict_split_scale_bias=False")
        stored = holder[config.name].weight
        stored = getattr(stored, "elem", stored)
        stored = stored.detach().cpu()
        if stored.dtype == torch.uint8:
            stored = np.ascontiguousarray(stored.numpy())
        else:
            stored = np.ascontiguousarray(stored.view(torch.uint8).numpy()) if kind.startswith("INT") else stored.numpy()
        form, dim = FORMS[kind], config.embedding_dim
        if form in ("f16", "f32"):
            # The rows of a batched table are bytes, padded to its alignment.
            size = 2 if form == "f16" else 4
            stored = stored.view(np.uint8).reshape(len(stored), -1)[:, : size * dim]
            stored = np.ascontiguousarray(stored).view(np.float16 if form == "f16" else np.float32)
            values[config.name] = torch.from_numpy(stored.astype(np.float32))
        else:
            values[config.name] = torch.from_numpy(dequantize(stored, form, dim))
        if form != "f32":
            rows[config.name] = (form, stored)
    return values, rows
