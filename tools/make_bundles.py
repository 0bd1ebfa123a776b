#!/usr/bin/env python3
"""Makes the bundles in tests/bundles from reference cases of trained models.

    python3 tools/make_bundles.py --golden DIR --out tests/bundles

Needs numpy and safetensors, no PyTorch: each family's graph is written by hand in tools/bundles, as docs/bundle.md describes it, and reads the
case's weights by name. Every bundle is evaluated in float64, by a small numpy interpreter of the graph, and refused unless it reproduces the
case's stored float64 outputs. Each case becomes NAME (all features of the candidate) and NAME_scoped (some of the context).
`wire_vectors` is made from nothing: a tiny model whose scores are exact in f32.
"""

import argparse
import pathlib

import numpy as np

from bundles.case import Case
from bundles.deepctr import dcn, dcn_matrix, deepfm, mmoe, wdl
from bundles.dlrm import dlrm_reference, dlrm_torchrec
from bundles.evaluate import evaluate
from bundles.wire_vectors import make_wire_vectors

# Largest difference to the stored float64 outputs. torchrec rounds pooled vectors to f32, also in its float64 run: one rounding of
# a sum of a few ids, seen through the model, stays below 1e-7; everything else is the same arithmetic in another order.
EXACT, ROUNDED_POOLS = 1e-9, 1e-7

CRITEO_CONTEXT = {f"I{i}" for i in range(1, 14)} | {f"C{i}" for i in range(1, 14)}
OPEN_BANDIT_CONTEXT = {f"user_feature_{i}" for i in range(4)} | {"campaign", "policy", "position", "hour", "affinity_total"}
ADULT_CONTEXT = {"race", "gender", "native-country", "age"}

FAMILIES = {
    "dlrm": (dlrm_reference, CRITEO_CONTEXT, EXACT),
    "dlrm_torchrec": (dlrm_torchrec, CRITEO_CONTEXT, ROUNDED_POOLS),
    "dlrm_multihot": (dlrm_torchrec, CRITEO_CONTEXT, ROUNDED_POOLS),
    "deepfm": (deepfm, OPEN_BANDIT_CONTEXT, EXACT),
    "dcn": (dcn, CRITEO_CONTEXT, EXACT),
    "dcn_matrix": (dcn_matrix, OPEN_BANDIT_CONTEXT, EXACT),
    "wdl": (wdl, OPEN_BANDIT_CONTEXT, EXACT),
    "mmoe": (mmoe, ADULT_CONTEXT, EXACT),
}


def make_case(name, golden, out):
    family, context, bound = FAMILIES[name]
    case = Case(golden / name)
    inputs = case.feature_inputs()
    stored = case.outputs["probs_f64" if "probs_f64" in case.outputs else "prob_f64"]
    atol = case.case["tolerance"]["f32"]["prob_atol"]
    for bundle_name, context in ((name, set()), (f"{name}_scoped", context)):
        bundle = family(case, bundle_name, context)
        names = {feature["name"] for feature in bundle.features}
        if not context <= names:
            raise SystemExit(f"{bundle_name}: no features {sorted(context - names)}")
        expected = {output["name"]: stored[:, i] for i, output in enumerate(bundle.outputs)}
        found = evaluate(bundle, inputs)
        worst = max(np.abs(found[output] - expected[output]).max() for output in expected)
        if not worst <= bound:
            raise SystemExit(f"{bundle_name}: differs from the stored outputs by {worst}, more than {bound}")
        bundle.write(out / bundle_name, inputs, expected, atol)
        print(f"{bundle_name}: {len(bundle.graph)} steps, {worst:.1e} from the stored outputs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True, help="folder of the reference cases")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write the bundles to")
    parser.add_argument("--only", nargs="*", help="names of the cases to make (default: all)")
    arguments = parser.parse_args()
    for name in arguments.only or [*FAMILIES, "wire_vectors"]:
        make_wire_vectors(arguments.out) if name == "wire_vectors" else make_case(name, arguments.golden, arguments.out)


if __name__ == "__main__":
    main()
