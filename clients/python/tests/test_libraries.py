"""Models of deepctr-torch, torch-rechub and torchrec: a few of the zoo always, all with GAVEL_ZOO=1; trained ones against their recorded
outputs."""

import json
import os
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

import zoo_models as zoo  # noqa: E402

import gavel  # noqa: E402

BUNDLES = pathlib.Path(__file__).parents[3] / "tests" / "bundles"
ALWAYS = {
    "deepctr.deepfm",
    "deepctr.dcnmix",
    "deepctr.autoint",
    "deepctr.din",
    "deepctr.dien_augru",
    "deepctr.varlen",
    "rechub.dssm",
    "rechub.bst",
    "torchrec.dlrm",
    "torchrec.mean",
    "torchrec.shared",
    "torchrec.weighted",
    "torchrec.sequences",
    "torchrec.quantised_int8",
    "torchrec.quantised_int4",
    "torch.dlrm",
    "torch.transformer",
    "torch.recurrent",
}


@pytest.mark.parametrize("name", zoo.ZOO)
def test_zoo(name, tmp_path):
    build, needs = zoo.ZOO[name]
    if zoo.missing(needs):
        pytest.skip(f"{needs} is not installed")
    if name not in ALWAYS and not os.environ.get("GAVEL_ZOO"):
        pytest.skip("set GAVEL_ZOO=1 for the whole zoo")
    torch.manual_seed(0)
    model, example, options = build()
    report = gavel.export(model, example, out=tmp_path / "bundle", name=name, **options)
    assert report.max_difference <= 1e-6
    if name.startswith("deepctr."):
        features = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["features"]
        assert {f["name"] for f in features} <= set(model.feature_index)
        assert all(f["kind"] != "dense" or f["name"].startswith(("I", "score")) for f in features)


def selftest(case):
    tensors = load_file(BUNDLES / case / "selftest.safetensors")
    return {key[3:]: x for key, x in tensors.items() if key.startswith("in.")}, {
        key[4:]: x for key, x in tensors.items() if key.startswith("out.")
    }


@pytest.mark.parametrize("case", ["dlrm_torchrec", "dlrm_multihot"])
def test_trained_torchrec(case, tmp_path):
    """torchrec's DLRM with trained weights: the bundle's outputs are those recorded when it was trained."""
    pytest.importorskip("torchrec", reason="torchrec is not installed")
    from torchrec.models.dlrm import DLRM
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    manifest = json.loads((BUNDLES / case / "manifest.json").read_text())
    weights = {name: torch.as_tensor(x) for name, x in load_file(BUNDLES / case / "weights.safetensors").items()}
    tables = manifest["tables"]
    keys = [t["name"] for t in tables]
    configs = [
        EmbeddingBagConfig(name=f"t_{t['name']}", embedding_dim=t["dim"], num_embeddings=t["rows"], feature_names=[t["name"]])
        for t in tables
    ]
    sizes = lambda path: [
        weights[f"model.{path}.{i}._linear.weight"].shape[0] for i in range(9) if f"model.{path}.{i}._linear.weight" in weights
    ]
    dense = [f["name"] for f in manifest["features"] if f["kind"] == "dense"]
    model = DLRM(EmbeddingBagCollection(tables=configs), len(dense), sizes("dense_arch.model._mlp"), sizes("over_arch.model.0._mlp") + [1])
    missing, unexpected = zoo.torchrec.Sigmoid(model).load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    inputs, expected = selftest(case)
    ids, lengths = [], []
    for key in keys:
        flat = inputs[key].reshape(-1)
        lengths.append(inputs.get(f"{key}.lengths", np.ones(len(flat), np.int64)))
        ids.append(flat)
    features = KeyedJaggedTensor(
        keys=keys, values=torch.as_tensor(np.concatenate(ids)), lengths=torch.as_tensor(np.concatenate(lengths).astype(np.int32))
    )
    example = torch.as_tensor(np.stack([inputs[name].reshape(-1) for name in dense], 1)), features
    longest = {f["name"]: f["max_len"] for f in manifest["features"] if "max_len" in f}
    specs = [gavel.Jagged(key, max_len=n) for key, n in longest.items()]
    gavel.export(zoo.torchrec.Sigmoid(model), example, specs, tmp_path / "bundle", name=case)
    found = load_file(tmp_path / "bundle" / "selftest.safetensors")
    # torchrec rounds pooled vectors to f32 also where its model runs in float64.
    assert np.abs(found["out.prob"] - expected["prob"]).max() <= 1e-7


@pytest.mark.parametrize("case", ["deepfm", "wdl", "mmoe", "dcn_matrix"])
def test_trained_deepctr(case, tmp_path):
    """deepctr-torch's models with trained weights, as far as the stored bundle holds them."""
    pytest.importorskip("deepctr_torch", reason="deepctr-torch is not installed")
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models.dcn import DCN
    from deepctr_torch.models.deepfm import DeepFM
    from deepctr_torch.models.multitask.mmoe import MMOE
    from deepctr_torch.models.wdl import WDL
    from test_golden import constants_of

    manifest = json.loads((BUNDLES / case / "manifest.json").read_text())
    weights = constants_of(case, load_file(BUNDLES / case / "weights.safetensors"))
    rows = {t["name"]: (t["rows"], t["dim"]) for t in manifest["tables"]}
    columns = [SparseFeat(f["name"], *rows[f["name"]]) for f in manifest["features"] if f["kind"] == "sparse"]
    columns += [DenseFeat(f["name"], 1) for f in manifest["features"] if f["kind"] == "dense"]
    size = lambda path: tuple(weights[f"{path}.linears.{i}.weight"].shape[0] for i in range(9) if f"{path}.linears.{i}.weight" in weights)
    if case == "mmoe":
        model = MMOE(
            columns,
            num_experts=3,
            expert_dnn_hidden_units=size("expert_dnn.0"),
            gate_dnn_hidden_units=size("gate_dnn.0"),
            tower_dnn_hidden_units=size("tower_dnn.0"),
            task_types=("binary", "binary"),
            task_names=("a", "b"),
        )
    elif case == "dcn_matrix":
        model = DCN(columns, columns, dnn_hidden_units=size("dnn"), cross_num=2, cross_parameterization="matrix")
    else:
        model = {"deepfm": DeepFM, "wdl": WDL}[case](columns, columns, dnn_hidden_units=size("dnn"), dnn_use_bn=case == "wdl")
    state = model.state_dict()
    for name in state:
        if name in weights:
            state[name] = torch.as_tensor(np.array(weights[name])).reshape(state[name].shape)
    model.load_state_dict(state)
    inputs, expected = selftest(case)
    matrix = np.stack([inputs[name].reshape(-1) for name in model.feature_index], 1).astype(np.float32)
    gavel.export(model, torch.as_tensor(matrix), out=tmp_path / "bundle", name=case, output_names=list(expected))
    found = load_file(tmp_path / "bundle" / "selftest.safetensors")
    for name, wanted in expected.items():
        assert np.abs(found[f"out.{name}"] - wanted).max() <= 1e-9
