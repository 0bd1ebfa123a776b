"""Missing values."""

import numpy as np
from onnx import TensorProto, helper, parser


def missing(to):
    """NaN as a missing value: every mode of a branch, imputers, choices by IsNaN."""
    rng = np.random.default_rng(23)
    x = rng.standard_normal((16, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.4] = np.nan
    x[0], x[1] = np.nan, 0.25
    modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    # A tree of one split for each mode, with and without the flag.
    keys = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids", "nodes_falsenodeids",
            "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids", "target_weights")
    stumps = {key: [] for key in keys}
    for tree in range(2 * len(modes)):
        for row in ([tree, 0, tree % 4, 0.25, modes[tree // 2], 1, 2, tree % 2], [tree, 1, 0, 0.0, "LEAF", 0, 0, 0], [tree, 2, 0, 0.0, "LEAF", 0, 0, 0]):
            for key, value in zip(keys[:8], row):
                stumps[key].append(value)
        for leaf in (1, 2):
            for key, value in zip(keys[8:], (tree, leaf, tree, float(leaf))):
                stumps[key].append(value)
    node = lambda op, source, out, **attributes: helper.make_node(op, [source], [out], domain="ai.onnx.ml", **attributes)
    to.take("missing_modes", [node("TreeEnsembleRegressor", "X", "y", n_targets=2 * len(modes), **stumps)], {"X": x}, ["y"], ml=3)
    tensor = lambda name, values, kind: helper.make_tensor(name, kind, [len(values)], values)
    count = 2 * len(modes)
    modern = dict(nodes_splits=tensor("s", [0.25] * count, TensorProto.FLOAT), nodes_featureids=[i % 4 for i in range(count)],
                  nodes_modes=tensor("m", [i // 2 for i in range(count)], TensorProto.UINT8), nodes_truenodeids=[2 * i for i in range(count)],
                  nodes_falsenodeids=[2 * i + 1 for i in range(count)], nodes_trueleafs=[1] * count, nodes_falseleafs=[1] * count,
                  nodes_missing_value_tracks_true=[i % 2 for i in range(count)], leaf_targetids=[i // 2 for i in range(2 * count)],
                  leaf_weights=tensor("w", [float(i % 2 + 1) for i in range(2 * count)], TensorProto.FLOAT), tree_roots=list(range(count)),
                  n_targets=count)
    to.take("missing_modes_modern", [node("TreeEnsemble", "X", "y", **modern)], {"X": x}, ["y"], opset=21, ml=5)
    linear = dict(coefficients=[0.5, -1.0, 2.0, 0.25], intercepts=[0.5], targets=1)
    to.take("missing_imputed", [
        node("Imputer", "X", "i", imputed_value_floats=[0.5, 1.5, -0.5, 2.0], replaced_value_float=float("nan")), node("LinearRegressor", "i", "y", **linear),
        # Scaled, then split; chosen by IsNaN, by its contrary, and in a matrix that is moved about.
        node("Scaler", "X", "s", offset=[0.1], scale=[2.0]), node("TreeEnsembleRegressor", "s", "t", n_targets=count, **stumps),
        *[parser.parse_node(line) for line in ("n = IsNaN(X)", "a = Where(n, c, X)", "m = Not(n)", "b = Where(m, X, c)", "r = Reshape(X, square)",
                                               "h = Transpose<perm=[0, 2, 1]>(r)", "k = IsNaN(h)", "d = Where(k, c0, h)", "e = Reshape(d, line)",
                                               "o = Concat<axis=1>(a, b, e)", "f = ReduceSum<keepdims=1>(o, one)")]],
            {"X": x}, ["y", "t", "f"], {"c": np.float32([1, 2, 3, 4]), "c0": np.float32(-1), "square": np.int64([-1, 2, 2]), "line": np.int64([-1, 4]),
                                         "one": np.int64([1])}, ml=3)


def boosted(to):
    """Trees trained on rows with missing values."""
    import lightgbm
    import onnxmltools
    import xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(29)
    x = rng.standard_normal((600, 5)).astype(np.float32)
    # What is missing says something, so that both directions of a split are learned.
    lost = rng.random(x.shape) < 0.2
    y = (x[:, 0] + x[:, 1] * x[:, 2] + np.where(lost[:, 3], 1.0, -0.3) - lost[:, 1] > 0).astype(int)
    x[lost] = np.nan
    types = {"initial_types": [("X", FloatTensorType([None, 5]))], "target_opset": 15}
    rows = np.concatenate([x[:30], np.full((1, 5), np.nan, np.float32), np.zeros((1, 5), np.float32)])
    lgb = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, verbose=-1, n_jobs=1).fit(x, y)
    to.keep("missing_lightgbm", onnxmltools.convert_lightgbm(lgb, zipmap=False, **types), {"X": rows}, ["probabilities"], lgb.predict_proba(rows))
    xgb = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y)
    to.keep("missing_xgboost", onnxmltools.convert_xgboost(xgb, **types), {"X": rows}, ["probabilities"], xgb.predict_proba(rows))
