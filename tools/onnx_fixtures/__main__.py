"""Makes the ONNX files in tests/onnx, with rows whose outputs onnxruntime computed.

    cd tools && python3 -m onnx_fixtures --out ../tests/onnx [--golden DIR] [--torch] [--boosted]

Needs onnx, onnxruntime, numpy and safetensors. `ok/NAME.onnx` are imported, with `ok/NAME.safetensors` holding inputs and outputs by name;
`refused/NAME.onnx` are refused, for the reason that tests/onnx_import.rs states, `engine/NAME.onnx` only because the engine computes
something else than float64 arithmetic does. `--golden` also copies the files of trained models,
`--torch` (needs torch and onnxscript) exports nn.EmbeddingBag, `--boosted` (needs lightgbm, xgboost and onnxmltools) trains trees.
"""

import argparse
import pathlib

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

from .arithmetic import beyond_f32, curves, elementwise, integers, wrapping
from .build import Fixtures
from .lookups import by_row, lookups, written
from .missing import boosted, missing
from .refusals import refusals
from .recurrent import recurrent
from .shapes import products, sequences, shapes
from .structure import structure
from .torch_bags import bags
from .trees import trees
from .versions import versions


def golden(to, folder):
    for case in ("deepfm", "dcn", "dcn_matrix", "wdl", "mmoe"):
        source = folder / case
        inputs, outputs = load_file(source / "inputs.safetensors"), load_file(source / "outputs.safetensors")
        made = onnx.load(source / "model.onnx")
        name = made.graph.output[0].name
        rows = {graph_input.name: inputs[graph_input.name][:32] for graph_input in made.graph.input}
        expected = np.asarray(outputs[f"{name}_f64"], dtype=np.float64)[:32].reshape(32, -1)
        onnx.save(made, to.ok / f"golden_{case}.onnx")
        save_file({**rows, name: expected}, to.ok / f"golden_{case}.safetensors")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("--golden", type=pathlib.Path)
    arguments.add_argument("--torch", action="store_true", help="also export the files that torch writes")
    arguments.add_argument("--boosted", action="store_true", help="also train trees on rows with missing values")
    given = arguments.parse_args()
    to = Fixtures(given.out)
    for make in (elementwise, wrapping, shapes, products, sequences, lookups, structure, trees, refusals, missing, beyond_f32):
        make(to)
    for make in (integers, curves, recurrent, by_row, written, versions):
        make(to)
    if given.torch:
        bags(to)
    if given.boosted:
        boosted(to)
    if given.golden:
        golden(to, given.golden)


main()
