"""Row-wise quantised tables: as fbgemm and torchrec store them, written and read in numpy.

A row is codes with its scale and bias: value = code * scale + bias. "int8_rowwise": codes, f32 scale, f32 bias; "int4_rowwise",
"int2_rowwise": packed codes (low bits first), f16 scale, f16 bias; "int8_tbe", "int4_tbe", "int2_tbe": f16 scale, f16 bias, then codes.
"""

import numpy as np

BITS = {"int8": 8, "int4": 4, "int2": 2}


def quantize(values, dtype):
    """Rows [rows, bytes] of `dtype` ("int8_rowwise", "int4_rowwise", "int2_rowwise") for f32 values [rows, dim]."""
    values = np.asarray(values, np.float32)
    bits = BITS[dtype.partition("_")[0]]
    low, high = values.min(1), values.max(1)
    if bits == 8:
        # A constant row has scale 0 here and codes 0.
        scale = (high - low) / np.float32(255)
        inverse = np.float32(255) / (high - low + np.float32(1e-8))
        codes = np.rint((values - low[:, None]) * inverse[:, None]).clip(0, 255).astype(np.uint8)
        return np.concatenate([codes, bytes_of(scale.astype(np.float32)), bytes_of(low.astype(np.float32))], 1)
    levels = (1 << bits) - 1
    bias = low.astype(np.float16)
    spread = high - bias.astype(np.float32)
    scale = np.where(spread == 0, np.float32(1), spread / np.float32(levels)).astype(np.float16)
    scale = np.where(scale == 0, np.float16(1), scale)
    codes = np.rint((values - bias.astype(np.float32)[:, None]) / scale.astype(np.float32)[:, None]).clip(0, levels).astype(np.uint8)
    return np.concatenate([packed(codes, bits), bytes_of(scale), bytes_of(bias)], 1)


def dequantize(rows, dtype, dim):
    """f32 values [rows, dim] of rows of bytes."""
    name, _, form = dtype.partition("_")
    bits, width = BITS[name], -(-dim * BITS[name] // 8)
    if form == "tbe":
        scale, bias, codes = half(rows[:, 0:2]), half(rows[:, 2:4]), rows[:, 4 : 4 + width]
    elif bits == 8:
        codes = rows[:, :width]
        scale, bias = (np.ascontiguousarray(rows[:, at : at + 4]).view(np.float32) for at in (width, width + 4))
    else:
        codes, scale, bias = rows[:, :width], half(rows[:, width : width + 2]), half(rows[:, width + 2 : width + 4])
    # Rounded once, as a fused multiply-add does.
    return (unpacked(codes, bits)[:, :dim].astype(np.float64) * scale + bias).astype(np.float32)


def bytes_of(x):
    return np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)


def half(x):
    return np.ascontiguousarray(x).view(np.float16).astype(np.float32)


def packed(codes, bits):
    per = 8 // bits
    codes = np.pad(codes, [(0, 0), (0, -codes.shape[1] % per)])
    codes = codes.reshape(len(codes), -1, per)
    return sum((codes[:, :, i] << (bits * i)).astype(np.uint8) for i in range(per)).astype(np.uint8)


def unpacked(codes, bits):
    if bits == 8:
        return codes
    parts = [(codes >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)]
    return np.stack(parts, 2).reshape(len(codes), -1)
