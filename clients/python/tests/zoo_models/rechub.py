"""Models of torch-rechub: a dict of inputs."""

import numpy as np
import torch

from .registry import DIM, ZOO, enliven


def rechub_inputs(n=24, steps=6):
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature

    rng = np.random.default_rng(3)
    user = [SparseFeature("user_id", 40, DIM), SparseFeature("city", 12, DIM), DenseFeature("age")]
    item = [SparseFeature("item_id", 50, DIM, padding_idx=0), SparseFeature("brand", 15, DIM)]
    history = [SequenceFeature("hist_item", 50, DIM, pooling="concat", shared_with="item_id", padding_idx=0)]
    pooled = [SequenceFeature("tags", 20, DIM, pooling="mean", padding_idx=0)]
    there = np.arange(steps) < rng.integers(1, steps + 1, (n, 1))
    rows = {
        "user_id": rng.integers(0, 40, n),
        "city": rng.integers(0, 12, n),
        "age": rng.random(n).astype(np.float32),
        "item_id": rng.integers(1, 50, n),
        "brand": rng.integers(0, 15, n),
        "hist_item": np.where(there, rng.integers(1, 50, (n, steps)), 0),
        "tags": np.where(there, rng.integers(1, 20, (n, steps)), 0),
    }
    return user, item, history, pooled, {key: torch.as_tensor(x) for key, x in rows.items()}


def rechub(build, only=None):
    def make():
        user, item, history, pooled, rows = rechub_inputs()
        model, names = build(user, item, history, pooled)
        return enliven(model), ({name: rows[name] for name in names},), {}

    return make


def add_rechub(name, build):
    ZOO[f"rechub.{name}"] = (rechub(build), "torch_rechub")


def names_of(*groups):
    return [feature.name for group in groups for feature in group]


MLP = {"dims": [16, 8], "activation": "relu", "dropout": 0.1}


def dssm(user, item, history, pooled):
    from torch_rechub.models.matching import DSSM

    params = {"dims": [16, 8], "activation": "prelu"}
    return DSSM(user[:2], item, user_params=dict(params), item_params=dict(params)), names_of(user[:2], item)


def rechub_ranking(cls, *arguments, **options):
    def build(user, item, history, pooled):
        import torch_rechub.models.ranking as ranking

        given = {
            "sparse": user[:2] + item,
            "dense": [user[2]],
            "all": user[:2] + item,
            "history": history,
            "target": item[:1],
            "pooled": pooled,
        }
        used = [given[a] for a in arguments]
        return getattr(ranking, cls)(*used, **options), dict.fromkeys(names_of(*used))

    return build


add_rechub("dssm", dssm)
add_rechub("widedeep", rechub_ranking("WideDeep", "dense", "sparse", mlp_params=MLP))
add_rechub("deepfm", rechub_ranking("DeepFM", "sparse", "sparse", mlp_params=MLP))
add_rechub("dcn", rechub_ranking("DCN", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("dcn_v2", rechub_ranking("DCNv2", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("edcn", rechub_ranking("EDCN", "sparse", n_cross_layers=2, mlp_params=MLP))
add_rechub("fibinet", rechub_ranking("FiBiNet", "sparse", mlp_params=MLP))
add_rechub(
    "din",
    rechub_ranking(
        "DIN", "sparse", "history", "target", mlp_params={"dims": [16]}, attention_mlp_params={"dims": [16], "activation": "dice"}
    ),
)
add_rechub(
    "bst", rechub_ranking("BST", "sparse", "history", "target", mlp_params={"dims": [16], "activation": "leakyrelu"}, nhead=2, num_layers=1)
)
add_rechub("autoint", rechub_ranking("AutoInt", "sparse", "dense", mlp_params=MLP))


def rechub_tasks(cls, **options):
    def build(user, item, history, pooled):
        import torch_rechub.models.multi_task as multi

        features = user[:2] + item + pooled
        return getattr(multi, cls)(features, **options), names_of(features)

    return build


TWO = ["classification", "classification"]
TOWERS = [{"dims": [8]}, {"dims": [8]}]
add_rechub("shared_bottom", rechub_tasks("SharedBottom", task_types=TWO, bottom_params={"dims": [16]}, tower_params_list=TOWERS))
add_rechub("mmoe", rechub_tasks("MMOE", task_types=TWO, n_expert=3, expert_params={"dims": [16]}, tower_params_list=TOWERS))
add_rechub(
    "ple",
    rechub_tasks(
        "PLE", task_types=TWO, n_level=2, n_expert_specific=2, n_expert_shared=1, expert_params={"dims": [16]}, tower_params_list=TOWERS
    ),
)


def rechub_esmm(user, item, history, pooled):
    from torch_rechub.models.multi_task import ESMM

    return ESMM(user[:2], item, cvr_params={"dims": [16, 8]}, ctr_params={"dims": [16, 8]}), names_of(user[:2], item)


def rechub_aitm(user, item, history, pooled):
    from torch_rechub.models.multi_task import AITM

    return AITM(user[:2] + item, 2, {"dims": [16, 8]}, [{"dims": [8]}, {"dims": [8]}]), names_of(user[:2], item)


add_rechub("esmm", rechub_esmm)
add_rechub("aitm", rechub_aitm)
