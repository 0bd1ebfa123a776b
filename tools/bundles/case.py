"""Reference cases of trained models, and what their bundles have in common."""

import json

import numpy as np
from safetensors.numpy import load_file

from .writer import Bundle


class Case:
    def __init__(self, folder):
        self.case = json.loads((folder / "case.json").read_text())
        self.weights = load_file(folder / "weights.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.dense = self.case["features"]["dense"]
        self.sparse = self.case["features"]["sparse"]

    def feature_inputs(self):
        """Columns by feature."""
        inputs = {name: self.inputs["dense"][:, i].astype(np.float32) for i, name in enumerate(self.dense)}
        rows = self.case["rows"]
        if "values" in self.inputs:
            lengths = self.inputs["lengths"].astype(np.int64).reshape(len(self.sparse), rows)
            ends = np.cumsum(lengths.sum(1))
            for feature, count, end in zip(self.sparse, lengths, ends):
                ids = self.inputs["values"][end - count.sum() : end].astype(np.int64)
                if feature["jagged"]:
                    inputs[feature["name"]] = (ids, count)
                else:
                    assert (count == 1).all(), feature
                    inputs[feature["name"]] = ids
        else:
            for i, feature in enumerate(self.sparse):
                inputs[feature["name"]] = self.inputs["sparse"][:, i].astype(np.int64)
        return inputs


def new_bundle(case, name, context, table_tensor):
    """Features dense-then-sparse as the case lists them, a table per sparse feature."""
    c = case.case
    bundle = Bundle(name, DESCRIPTIONS[c["name"]] + (", with a context" if context else ""))
    scope = lambda feature: "context" if feature in context else "candidate"
    for feature in case.sparse:
        tensor = table_tensor(feature["name"])
        assert case.weights[tensor].shape == (feature["vocab"], c["embedding_dim"]), feature
        bundle.table(feature["name"], tensor, case.weights[tensor])
    for feature in case.dense:
        bundle.dense(feature, scope=scope(feature))
    for feature in case.sparse:
        length = {"max_len": 20} if feature.get("jagged") else {}
        bundle.sparse(feature["name"], feature["name"], scope=scope(feature["name"]), **length)
    return bundle


def copy(bundle, case, *names):
    for name in names:
        bundle.tensor(name, case.weights[name])


def layers(bundle, case, pairs):
    """(weight, bias) names, copied; a bias that the case lacks is None."""
    pairs = [(weight, bias if bias in case.weights else None) for weight, bias in pairs]
    copy(bundle, case, *(name for pair in pairs for name in pair if name))
    return pairs


DESCRIPTIONS = {
    "dlrm": "DLRM, pair order of the original reference (lower triangle), trained on synthetic Criteo-shaped rows",
    "dlrm_torchrec": "DLRM of torchrec (upper triangle), trained on synthetic Criteo-shaped rows",
    "dlrm_multihot": "DLRM of torchrec with 6 of 26 features as bags of 0 to 20 ids, trained on synthetic Criteo-shaped rows",
    "deepfm": "DeepFM, trained on Open Bandit impressions",
    "dcn": "DCN with vector cross layers, trained on synthetic Criteo-shaped rows",
    "dcn_matrix": "DCN with matrix cross layers, trained on Open Bandit impressions",
    "wdl": "Wide & Deep with batch norm, trained on Open Bandit impressions",
    "mmoe": "MMoE with 3 experts and 2 tasks (income above 50K, never married), trained on Adult",
}
