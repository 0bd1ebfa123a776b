"""Bundles by hand, the interpreter's refusals, quantised rows. Needs no torch."""

import json

import numpy as np
import pytest

import gavel
from gavel.exporter.report import auc
from gavel.quantized import dequantize, quantize
from gavel.rules import InputError


def clicks():
    bundle = gavel.Bundle("clicks")
    bundle.table("ad", np.arange(6).reshape(3, 2), tensor="ad.weight")
    bundle.dense("ctr")
    bundle.sparse("ad", "ad", missing={"row": 0})
    bundle.tensor("w", np.ones((1, 3)))
    bundle.op("dense", "x", features=["ctr"])
    bundle.op("lookup", "e", feature="ad")
    bundle.op("concat", "both", in_=["e", "x"], axis=0)
    bundle.op("linear", "score", in_="both", weight="w")
    bundle.output("score", "score", "value")
    return bundle


def test_by_hand(tmp_path):
    bundle, inputs = clicks(), {"ctr": np.array([0.5, 1.0], np.float32), "ad": np.array([2, -1])}
    assert bundle.evaluate(inputs)["score"].tolist() == [9.5, 2.0]
    bundle.write(tmp_path / "b", inputs, {"score": [9.5, 2.0]})
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["weights"][0]["bytes"] == (tmp_path / "b" / "weights.safetensors").stat().st_size
    assert "rows" not in manifest["selftest"]
    bundle.write(tmp_path / "d", inputs, {"score": [9.5, 2.0]}, rows="made_up")
    assert json.loads((tmp_path / "d" / "manifest.json").read_text())["selftest"]["rows"] == "made_up"
    with pytest.raises(ValueError, match="one of given, mixed, made_up"):
        bundle.write(tmp_path / "c", inputs, {"score": [9.5, 2.0]}, rows="real")
    with pytest.raises(ValueError, match="row 1"):
        bundle.write(tmp_path / "c", inputs, {"score": [9.5, 2.1]})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("ids,ctr,words", [([3, 0], [0, 0], "3 rows"), ([0, 0], [0, np.nan], "NaN")])
def test_refused_inputs(ids, ctr, words):
    with pytest.raises(InputError, match=words):
        clicks().evaluate({"ctr": np.array(ctr, np.float32), "ad": np.array(ids)})


@pytest.mark.parametrize("name", ["", ".x", "a b", "x" * 65])
def test_names(name):
    with pytest.raises(ValueError, match="model name"):
        gavel.Bundle(name)


@pytest.mark.parametrize("dtype,levels", [("int8_rowwise", 255), ("int4_rowwise", 15), ("int2_rowwise", 3)])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8, 13, 64])
def test_quantised_rows(dtype, levels, dim):
    values = np.random.default_rng(dim).normal(size=(50, dim)).astype(np.float32)
    values[3] = 0.25  # a constant row
    values[4] = 0
    rows = quantize(values, dtype)
    bits = {255: 8, 15: 4, 3: 2}[levels]
    assert rows.shape == (50, -(-dim * bits // 8) + (8 if bits == 8 else 4))
    back = dequantize(rows, dtype, dim)
    step = (values.max(1) - values.min(1)) / levels
    assert (np.abs(back - values) <= 0.51 * step[:, None] + 4e-3 * np.abs(values).max(1, keepdims=True)).all()
    assert (back[3] == 0.25).all() and (back[4] == 0).all()


def test_auc():
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auc([1, 1, 1], [0, 1, 1]) == 0.5
    assert auc([1, 2], [1, 1]) is None
