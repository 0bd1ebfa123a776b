"""Trees, and what stands around them."""

import numpy as np
from onnx import TensorProto, helper

from .build import ROWS, f, ints, random


def trees(to):
    def forest(count, depth, features, kind, targets, modes):
        attributes = {key: [] for key in ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
                                          "nodes_falsenodeids", "nodes_missing_value_tracks_true", f"{kind}_treeids", f"{kind}_nodeids", f"{kind}_ids",
                                          f"{kind}_weights")}
        for tree in range(count):
            inner = 2**depth - 1
            for node in range(2 * inner + 1):
                leaf = node >= inner
                row = [tree, node, 0 if leaf else int(random.integers(features)), 0.0 if leaf else float(np.float32(random.standard_normal())),
                       "LEAF" if leaf else modes[int(random.integers(len(modes)))], 0 if leaf else 2 * node + 1, 0 if leaf else 2 * node + 2,
                       int(random.integers(2)) if not leaf else 0]
                for key, value in zip(list(attributes)[:8], row):
                    attributes[key].append(value)
                if leaf:
                    for target in targets(tree):
                        for key, value in ((f"{kind}_treeids", tree), (f"{kind}_nodeids", node), (f"{kind}_ids", target),
                                           (f"{kind}_weights", float(np.float32(random.standard_normal() * 0.5)))):
                            attributes[key].append(value)
        return attributes

    x = f(ROWS, 5)
    node = lambda op, outputs, attributes, **more: [helper.make_node(op, ["X"], outputs, domain="ai.onnx.ml", **attributes, **more)]
    regressor = forest(4, 3, 5, "target", lambda tree: [0, 1], ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"])
    to.take("tree_regressor", node("TreeEnsembleRegressor", ["y"], regressor, n_targets=2, base_values=[0.25, -1.0]), {"X": x}, ["y"], ml=3)
    leq = forest(3, 2, 5, "target", lambda tree: [0], ["BRANCH_LEQ"])
    to.take("tree_average", node("TreeEnsembleRegressor", ["y"], leq, n_targets=1, aggregate_function="AVERAGE"), {"X": x}, ["y"], ml=3)
    binary = forest(3, 3, 5, "class", lambda tree: [0], ["BRANCH_LEQ"])
    to.take("tree_binary", node("TreeEnsembleClassifier", ["label", "prob"], binary, classlabels_int64s=[0, 1], post_transform="LOGISTIC",
                                base_values=[0.3]), {"X": x}, ["prob"], ml=3)
    several = forest(6, 2, 5, "class", lambda tree: [tree % 3], ["BRANCH_LT"])
    to.take("tree_classes", node("TreeEnsembleClassifier", ["label", "prob"], several, classlabels_int64s=[0, 1, 2], post_transform="SOFTMAX"),
            {"X": x}, ["prob"], ml=3)
    tensor = lambda name, values, kind: helper.make_tensor(name, kind, [len(values)], values)
    modern = dict(nodes_splits=tensor("s", [0.1, -0.3, 0.7], TensorProto.FLOAT), nodes_featureids=[0, 1, 4],
                  nodes_modes=tensor("m", [0, 1, 3], TensorProto.UINT8), nodes_truenodeids=[1, 0, 2], nodes_falsenodeids=[2, 1, 3],
                  nodes_trueleafs=[0, 1, 1], nodes_falseleafs=[0, 1, 1], leaf_targetids=[0, 1, 0, 1],
                  leaf_weights=tensor("w", [0.5, 1.5, -2.0, 3.0], TensorProto.FLOAT), tree_roots=[0], n_targets=2)
    to.take("tree_ensemble", node("TreeEnsemble", ["y"], modern), {"X": x}, ["y"], opset=21, ml=5)
    pipeline = [
        helper.make_node("Imputer", ["a"], ["ai"], domain="ai.onnx.ml", imputed_value_floats=[0.5, 1.5], replaced_value_float=0.0),
        helper.make_node("Scaler", ["ai"], ["as"], domain="ai.onnx.ml", offset=[0.1, 0.2], scale=[2.0, 0.5]),
        helper.make_node("Normalizer", ["as"], ["an"], domain="ai.onnx.ml", norm="L2"),
        helper.make_node("OneHotEncoder", ["k"], ["ko"], domain="ai.onnx.ml", cats_int64s=[0, 2, 5]),
        helper.make_node("Reshape", ["ko", "m3"], ["kf"]),
        helper.make_node("Binarizer", ["a"], ["bin"], domain="ai.onnx.ml", threshold=0.25),
        helper.make_node("FeatureVectorizer", ["an", "kf", "bin"], ["v"], domain="ai.onnx.ml", inputdimensions=[2, 3, 2]),
        helper.make_node("LinearRegressor", ["v"], ["r"], domain="ai.onnx.ml", coefficients=[float(x) for x in f(7)], intercepts=[0.5], targets=1),
        helper.make_node("LinearClassifier", ["v"], ["label", "c"], domain="ai.onnx.ml", coefficients=[float(x) for x in f(21)],
                         intercepts=[0.1, 0.2, 0.3], classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
    ]
    a = f(ROWS, 2)
    a[2, 1] = 0
    to.take("pipeline", pipeline, {"a": a, "k": ints(6, ROWS, 1)}, ["r", "c", "v"], {"m3": np.int64([-1, 3])}, ml=3)
