#!/usr/bin/env python3
"""Makes the bundles of tests/bundles whose tables are not f32.

    python3 tools/make_table_bundles.py --golden DIR --out tests/bundles

`dlrm_int8` is `dlrm` with tables of int8_rowwise rows; `dlrm_multihot_formats` is `dlrm_multihot` with every format in turn, some with padded
rows, and layers stored as F16, BF16 and F64. What the selftests expect is the float64 evaluation of the numbers that the coded tables hold
(code * scale + bias, rounded once to f32), not of those that were trained.
"""

import argparse
import pathlib

import numpy as np

from bundles.case import Case
from bundles.evaluate import evaluate
from make_bundles import FAMILIES

FORMATS = ["f32", "f16", "bf16", "int8_rowwise", "int4_rowwise", "int2_rowwise", "int8_tbe", "int4_tbe", "int2_tbe"]


def bf16(values):
    """The upper halves of f32, rounded to nearest even, as u16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def of_bf16(halves):
    return (halves.astype(np.uint32) << 16).view(np.float32)


def coded(values, dtype, padded):
    """Rows as bytes, and the numbers that they hold."""
    bits = int(dtype[3])
    tbe = dtype.endswith("tbe")
    header = np.float32 if dtype == "int8_rowwise" else np.float16
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    levels = 2**bits - 1
    scale, bias = ((high - low) / levels).astype(header), low.astype(header)
    scale[scale == 0] = 1
    codes = np.clip(np.rint((values - bias.astype(np.float32)) / scale.astype(np.float32)), 0, levels).astype(np.uint8)
    # A product of a code and a scale is exact in f64; its sum with the bias is rounded by f64, then by f32: as good as once here.
    held = (codes.astype(np.float64) * scale.astype(np.float64) + bias.astype(np.float64)).astype(np.float32)
    per_byte = 8 // bits
    packed = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_byte))).reshape(len(codes), -1, per_byte)
    packed = sum(packed[:, :, i].astype(np.uint8) << (bits * i) for i in range(per_byte)).astype(np.uint8)
    numbers = np.concatenate([scale, bias], 1).view(np.uint8)
    rows = np.concatenate([numbers, packed] if tbe else [packed, numbers], 1)
    if padded:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 16)), constant_values=0xAA)
    return rows, held


def store_tables(bundle, formats):
    """Replaces the bundle's tables by tables of these formats, in turn. Gives the numbers that they hold, by tensor."""
    held = {}
    for at, table in enumerate(bundle.tables):
        dtype = formats[at % len(formats)]
        name, values = table["tensor"], bundle.tensors[table["tensor"]]
        if dtype == "f16":
            bundle.tensors[name] = values.astype(np.float16)
            held[name] = bundle.tensors[name].astype(np.float32)
        elif dtype == "bf16":
            bundle.tensors[name] = bf16(values)
            held[name] = of_bf16(bundle.tensors[name])
        elif dtype != "f32":
            bundle.tensors[name], held[name] = coded(values, dtype, padded=at >= len(formats))
        if dtype != "f32":
            table["dtype"] = dtype
    return held


def store_layers(bundle):
    """Stores the layers' tensors as F16, BF16 and F64 in turn. Gives the numbers that they hold."""
    tables, held, brains = {table["tensor"] for table in bundle.tables}, {}, set()
    for at, name in enumerate(sorted(set(bundle.tensors) - tables)):
        values = bundle.tensors[name]
        if at % 3 == 0:
            bundle.tensors[name] = values.astype(np.float16)
            held[name] = bundle.tensors[name].astype(np.float32)
        elif at % 3 == 1:
            bundle.tensors[name] = bf16(values)
            held[name] = of_bf16(bundle.tensors[name])
            brains.add(name)
        else:
            bundle.tensors[name] = values.astype(np.float64)
    return held, brains


def make(case_name, name, description, formats, layers, golden, out):
    family, _, _ = FAMILIES[case_name]
    case = Case(golden / case_name)
    bundle = family(case, name, set())
    bundle.name, bundle.description = name, description
    inputs = case.feature_inputs()
    trained = evaluate(bundle, inputs)
    held = store_tables(bundle, formats)
    brains = {table["tensor"] for table in bundle.tables if table.get("dtype") == "bf16"}
    if layers:
        of_layers, more = store_layers(bundle)
        held |= of_layers
        brains |= more
    stored, bundle.tensors = bundle.tensors, bundle.tensors | held
    expected = evaluate(bundle, inputs)
    bundle.tensors = stored
    bundle.brain_floats = brains
    shift = max(np.abs(trained[output] - expected[output]).max() for output in expected)
    bundle.write(out / name, inputs, expected, case.case["tolerance"]["f32"]["prob_atol"])
    print(f"{name}: {len(bundle.graph)} steps, {shift:.1e} from the trained model")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True, help="folder of the reference cases")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write the bundles to")
    arguments = parser.parse_args()
    paths = (arguments.golden, arguments.out)
    make("dlrm", "dlrm_int8", "dlrm with tables of int8_rowwise rows", ["int8_rowwise"], False, *paths)
    make("dlrm_multihot", "dlrm_multihot_formats", "dlrm_multihot with every table format in turn", FORMATS, True, *paths)


if __name__ == "__main__":
    main()
