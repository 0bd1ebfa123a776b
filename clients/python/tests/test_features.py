"""How inputs become features: names, kinds, bags, rules, scopes; and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

from torch import nn  # noqa: E402

import gavel  # noqa: E402


def rows(n=12, seed=0):
    return np.random.default_rng(seed)


def export(model, example, tmp_path, **options):
    torch.manual_seed(0)
    report = gavel.export(model.eval(), example, out=tmp_path / "bundle", overwrite=True, name="m", selftest_rows=32, **options)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    return report, manifest, {f["name"]: f for f in manifest["features"]}


def ops(manifest):
    return [step["op"] for step in manifest["graph"]]


class Packed(nn.Module):
    """Two dense columns and three ids in one float matrix; the first two ids share a table."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(20, 4), nn.Embedding(30, 4)
        self.linear = nn.Linear(14, 1)

    def forward(self, X):
        ids = X[:, 2:].long()
        e = [self.a(ids[:, 0]), self.a(X[:, 3].to(torch.int64)), self.b(ids[:, 2])]
        return torch.sigmoid(self.linear(torch.cat([X[:, :2]] + e, 1)))


def packed_rows():
    rng = rows()
    return torch.as_tensor(np.concatenate([rng.random((12, 2)), rng.integers(0, 20, (12, 3))], 1).astype(np.float32))


def test_ids_in_a_float_matrix(tmp_path):
    _, manifest, features = export(Packed(), packed_rows(), tmp_path)
    kinds = {name: f["kind"] for name, f in features.items()}
    assert kinds == {"X.0-1": "dense", "X.2": "sparse", "X.3": "sparse", "X.4": "sparse"}
    assert features["X.2"]["table"] == features["X.3"]["table"] == "a.weight"
    assert "cast" not in ops(manifest)
    stored = load_file(tmp_path / "bundle" / "selftest.safetensors")
    assert stored["in.X.2"].dtype == np.int64 and stored["out.prob"].dtype == np.float64


def test_columns_get_names_and_scopes(tmp_path):
    features = [
        gavel.Dense("age", columns=0, scope="context"),
        gavel.Dense("price", input="X", columns=1),
        gavel.Sparse("user", columns=(2, 3)),
        gavel.Sparse("friend", columns=[3], missing={"row": 0}, out_of_range={"row": 1}),
    ]
    _, manifest, found = export(Packed(), packed_rows(), tmp_path, features=features, context=["user"])
    assert list(found) == ["age", "price", "user", "friend", "X.4"]
    assert [f["scope"] for f in found.values()] == ["context", "candidate", "context", "candidate", "candidate"]
    stored = load_file(tmp_path / "bundle" / "selftest.safetensors")
    assert (stored["in.friend"] == -1).any() and (stored["in.friend"] == 25).any()


def test_features_as_dicts(tmp_path):
    _, _, found = export(Packed(), packed_rows(), tmp_path, features={"user": {"kind": "sparse", "columns": 2}})
    assert "user" in found and "X.2" not in found


def test_features_as_names(tmp_path):
    _, _, found = export(Packed(), packed_rows(), tmp_path, features=["age", "price", "user", "friend", "city"])
    assert [f["kind"] for f in found.values()] == ["dense", "dense", "sparse", "sparse", "sparse"] and list(found)[4] == "city"


@pytest.mark.parametrize("fn", ["fnv1a64", "splitmix64", "identity"])
def test_hashed_ids(fn, tmp_path):
    features = [gavel.Sparse("user", columns=2, hash={"fn": fn, "mod": 19, "add": 1}, missing={"row": 0})]
    _, _, found = export(Packed(), packed_rows(), tmp_path, features=features)
    assert found["user"]["id_type"] == "u64" and found["user"]["hash"]["mod"] == 19
    stored = load_file(tmp_path / "bundle" / "selftest.safetensors")
    assert stored["in.user"].max() > 2**32


def test_dense_rules(tmp_path):
    features = [gavel.Dense("count", columns=0, transform="log1p_clamp0", nan=0.0)]
    _, _, found = export(Packed(), packed_rows(), tmp_path, features=features)
    assert found["count"]["transform"] == "log1p_clamp0" and found["count"]["nan"] == {"value": 0.0}
    stored = load_file(tmp_path / "bundle" / "selftest.safetensors")
    assert np.isnan(stored["in.count"]).any()


class Imputed(nn.Module):
    """What is missing is seen, and replaced."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x):
        missing = torch.isnan(x)
        return torch.sigmoid(self.linear(torch.cat([torch.where(missing, 0.25, x), missing.float()], 1)))


def rows_with_nan():
    x = torch.as_tensor(rows().normal(size=(12, 2)).astype(np.float32))
    x[1, 0] = x[4, 1] = x[7] = torch.nan
    return x


@pytest.mark.parametrize("transform", [None, "log1p_clamp0"])
def test_nan_is_kept(transform, tmp_path):
    _, _, found = export(Imputed(), rows_with_nan().abs(), tmp_path, features=[gavel.Dense("x", nan="keep", transform=transform)])
    assert found["x"]["nan"] == "keep"
    assert np.isnan(load_file(tmp_path / "bundle" / "selftest.safetensors")["in.x"]).sum() >= 4


def test_nan_is_replaced(tmp_path):
    _, _, found = export(nn.Linear(2, 1), rows_with_nan(), tmp_path, features=[gavel.Dense("x", input="input", nan=0.1)])
    assert found["x"]["nan"] == {"value": float(np.float32(0.1))}


def test_kept_nan_reaches_the_graph():
    manifest = {"features": [{"name": "x", "nan": "keep", "transform": "log1p_clamp0"}], "tables": []}
    features = gavel.rules.Features(manifest, {}, {"x": [np.nan, 0.0]})
    assert np.isnan(features.dense("x")).tolist() == [[True], [False]]


@pytest.mark.parametrize("nan,words", [(None, 'nan="keep"'), ("drop", "use \"keep\""), (float("nan"), "use \"keep\""), (1e300, "f32")])
def test_refused_nan_rules(nan, words, tmp_path):
    with pytest.raises(gavel.ExportError, match=words):
        export(Imputed(), rows_with_nan(), tmp_path, features=[gavel.Dense("x", nan=nan)])


REFUSALS = [
    ([gavel.Sparse("x", columns=0)], {}, "cannot be sparse"),
    ([gavel.Dense("x", columns=2)], {}, "cannot be dense"),
    ([gavel.Sparse("x", columns=9)], {}, "columns 9"),
    ([gavel.Sparse("x", input="Y")], {}, "no input Y"),
    ([gavel.Sparse("x", columns=2), gavel.Sparse("y", columns=2)], {}, "both name"),
    ([gavel.Sparse("x", columns=2, hash={"fn": "md5", "mod": 5})], {}, "hash function"),
    ([gavel.Sparse("x", columns=2, hash={"fn": "fnv1a64", "mod": 21})], {}, "rows up to 20"),
    ([gavel.Sparse("x", columns=2, missing={"row": 20})], {}, "missing row 20"),
    ([gavel.Sparse("x", columns=2, scope="user")], {}, "scope"),
    (["x", "y"], {}, "2 names for X"),
    ([3], {}, "features holds"),
    ([], {"context": ["nobody"]}, "nobody"),
    ([], {"tables": "int3"}, "tables"),
    ([], {"output_names": ["a", "b"]}, "output_names"),
    ([], {"output_kinds": "chance"}, "chance"),
]


@pytest.mark.parametrize("features,options,words", REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_refusals(features, options, words, tmp_path):
    with pytest.raises(gavel.ExportError) as caught:
        export(Packed(), packed_rows(), tmp_path, features=features, **options)
    assert words in str(caught.value)


class Bags(nn.Module):
    def __init__(self, mode, padding=None, last=False):
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 5, mode=mode, padding_idx=padding, include_last_offset=last)
        self.linear = nn.Linear(5, 1)

    def forward(self, ids, offsets=None, weights=None):
        return self.linear(self.bag(ids, offsets, weights))


def jagged(last=False, n=12):
    rng = rows()
    lengths = rng.integers(0, 5, n)
    lengths[3] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return torch.as_tensor(rng.integers(0, 20, offsets[-1])), torch.as_tensor(offsets if last else offsets[:-1])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3, -1])
def test_bags_as_a_matrix(mode, padding, tmp_path):
    ids = torch.as_tensor(rows().integers(0, 20, (12, 4)))
    _, manifest, found = export(Bags(mode, padding), (ids,), tmp_path)
    feature = found["ids"]
    assert feature["width"] == 4 and feature.get("pool", "sum") == mode
    assert feature.get("padding") == (None if padding is None else padding % 20)
    assert ops(manifest) == ["lookup", "linear"]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("last", [False, True])
def test_bags_with_offsets(mode, padding, last, tmp_path):
    _, manifest, found = export(Bags(mode, padding, last), jagged(last), tmp_path)
    assert found["ids"]["max_len"] == 4 and "lookup" in ops(manifest)
    stored = load_file(tmp_path / "bundle" / "selftest.safetensors")
    assert (stored["in.ids.lengths"] == 0).any()


def test_weighted_bags(tmp_path):
    ids, offsets = jagged()
    weights = torch.as_tensor(rows().random(len(ids)).astype(np.float32))
    features = [gavel.Jagged("words", input="ids", offsets="offsets", weights="weights", max_len=9)]
    _, _, found = export(Bags("sum"), (ids, offsets, weights), tmp_path, features=features)
    assert found["words"]["weighted"] and found["words"]["max_len"] == 9


def test_weighted_bags_as_a_matrix(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(20, 5, mode="sum")

        def forward(self, ids, weights):
            return self.bag(ids, per_sample_weights=weights).sum(1)

    example = torch.as_tensor(rows().integers(0, 20, (12, 4))), torch.as_tensor(rows().random((12, 4)).astype(np.float32))
    _, _, found = export(Model(), example, tmp_path)
    assert found["ids"]["weighted"] and found["ids"]["max_len"] == 4 and "weights" not in found


def test_one_id_per_bag(tmp_path):
    """Offsets that are the row numbers, made inside the model or given."""

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(20, 5, mode="sum")

        def forward(self, ids):
            return self.bag(ids, torch.arange(ids.shape[0])).sum(1)

    ids = torch.as_tensor(rows().integers(0, 20, 12))
    _, _, found = export(Inside(), (ids,), tmp_path)
    assert found["ids"] == {"name": "ids", "kind": "sparse", "scope": "candidate", "table": "bag.weight"}
    _, _, found = export(Bags("sum"), (ids, torch.arange(12)), tmp_path)
    assert found["ids"]["max_len"] == 1


def test_offsets_by_feature(tmp_path):
    """DLRM's own form: offsets [features, batch], ids as a list."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bags = nn.ModuleList(nn.EmbeddingBag(20, 4, mode="sum") for _ in range(3))
            self.linear = nn.Linear(14, 1)

        def forward(self, dense_x, lS_o, lS_i):
            ly = [bag(lS_i[k], lS_o[k]) for k, bag in enumerate(self.bags)]
            return torch.sigmoid(self.linear(torch.cat([dense_x] + ly, 1)))

    rng, ids, offsets = rows(), [], []
    for _ in range(3):
        lengths = rng.integers(0, 4, 12)
        ids.append(torch.as_tensor(rng.integers(0, 20, lengths.sum())))
        offsets.append(np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    dense = torch.as_tensor(rng.random((12, 2)).astype(np.float32))
    _, manifest, found = export(Model(), (dense, torch.as_tensor(np.stack(offsets)), ids), tmp_path)
    assert list(found) == ["dense_x", "lS_i.0", "lS_i.1", "lS_i.2"]
    assert sorted(ops(manifest)) == ["concat", "dense", "linear", "lookup", "reshape", "sigmoid"]


class Fields(nn.Module):
    """Ids of all fields in one table, each behind the others."""

    sizes = (5, 7, 9)

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(21, 3)
        self.register_buffer("starts", torch.tensor([0, 5, 12]))

    def forward(self, fields):
        return self.table(fields + self.starts).flatten(1).sum(1)


def test_ids_plus_constants(tmp_path):
    ids = torch.as_tensor(np.stack([rows().integers(0, n, 12) for n in Fields.sizes], 1))
    _, manifest, found = export(Fields(), ids, tmp_path)
    assert [t["rows"] for t in manifest["tables"]] == [5, 7, 9]
    assert list(found) == ["fields.0", "fields.1", "fields.2"]
    assert not {"add", "embedding"} & set(ops(manifest))


def test_ids_that_leave_their_field(tmp_path):
    """Examples that reach into the next field's rows: the sum is computed, and looked up as it is."""
    ids = torch.as_tensor(np.stack([rows().integers(0, 8, 12) for n in Fields.sizes], 1))
    _, manifest, found = export(Fields(), ids, tmp_path)
    assert [t["rows"] for t in manifest["tables"]] == [21] and "embedding" in ops(manifest)
    assert [f["kind"] for f in found.values()] == ["sparse", "integer"]


def test_ids_that_are_also_numbers(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.Embedding(20, 4)

        def forward(self, history, item):
            mask = (history != 0).float().unsqueeze(-1)
            mean = (self.items(history) * mask).sum(1) / mask.sum(1).clamp(min=1)
            return (mean * self.items(item)).sum(1)

    example = torch.as_tensor(rows().integers(0, 20, (12, 5))), torch.as_tensor(rows().integers(0, 20, 12))
    _, manifest, found = export(Model(), example, tmp_path)
    assert found["history"]["kind"] == "integer" and found["item"]["kind"] == "sparse"
    assert len(manifest["tables"]) == 1
    with pytest.raises(gavel.ExportError, match="use gavel.Integer"):
        export(Model(), example, tmp_path, features=[gavel.Sparse("history")])


def test_a_table_that_is_read_whole(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.Embedding(20, 4)

        def forward(self, item):
            return torch.softmax(self.items(item) @ self.items.weight.t(), -1)[:, :3]

    report, manifest, _ = export(Tied(), (torch.as_tensor(rows().integers(0, 20, 12)),), tmp_path)
    assert [o["name"] for o in manifest["outputs"]] == ["prob_0", "prob_1", "prob_2"]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.item, self.never, self.linear = nn.Embedding(20, 4), nn.Linear(7, 7), nn.Linear(6, 2)

    def forward(self, batch):
        x = self.linear(torch.cat([self.item(batch["item"]), batch["context"]], 1))
        return {"click": torch.sigmoid(x[:, 0]), "value": x[:, 1], "constant": torch.ones(3)}


def test_dicts_outputs_and_dead_weights(tmp_path):
    example = {"item": torch.as_tensor(rows().integers(0, 20, 12)), "context": torch.randn(12, 2), "unread": torch.randn(12)}
    report, manifest, found = export(Two(), example, tmp_path, context=["context"])
    assert [(o["name"], o["kind"]) for o in manifest["outputs"]] == [("click", "probability"), ("value", "value")]
    assert list(found) == ["item", "context"] and found["context"]["scope"] == "context"
    assert report.unused == ["never.bias", "never.weight"]
    assert any("constant" in w for w in report.warnings)
    text = str(report)
    assert "click (probability)" in text and "never.bias" in text
    export(Two(), example, tmp_path, output_names=["p", "v"], output_kinds=["probability", "logit"])


def test_rows_beside_matter(tmp_path):
    class Ranks(nn.Module):
        """Looks harmless to tracing, but Python decides by the number of rows."""

        def forward(self, x):
            return x.sum(1) if x.shape[0] > 5 else x.sum(1) * 2

    with pytest.raises(gavel.ExportError):
        export(Ranks(), torch.randn(12, 3), tmp_path)


def test_training_mode_is_put_back(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model.train()
    gavel.export(model, torch.randn(12, 3), out=tmp_path / "bundle")
    assert model.training and model[1].training


def test_wide_and_double_precision(tmp_path):
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()).to(dtype)
        export(model, torch.randn(12, 3, dtype=dtype), tmp_path)
        assert next(model.parameters()).dtype == dtype


def test_keyword_examples_and_single_row(tmp_path):
    class Model(nn.Module):
        def forward(self, a, b):
            return (a * b).sum(1)

    _, _, found = export(Model(), {"a": torch.randn(1, 3), "b": torch.randn(1, 3)}, tmp_path)
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize("tables,bound", [("f16", 2e-3), ("int8", 2e-2), ("int4", 0.3), ("int2", 2.0)])
def test_quantised_tables(tables, bound, tmp_path):
    labels = np.arange(12) % 2
    report, manifest, _ = export(Packed(), packed_rows(), tmp_path, tables=tables, labels=labels)
    assert {t["dtype"] for t in manifest["tables"]} == {"f16" if tables == "f16" else f"{tables}_rowwise"}
    assert 0 < report.shift["prob"] < bound and 0 <= report.auc["prob"][0] <= 1
    assert "move by up to" in str(report)


def test_selftest_inputs(tmp_path):
    export(Packed(), packed_rows(), tmp_path, selftest_inputs=packed_rows()[:5])
    assert len(load_file(tmp_path / "bundle" / "selftest.safetensors")["out.prob"]) == 32


def test_the_selftest_says_where_its_rows_come_from(tmp_path):
    """A server that computes in 8 bits decides by these rows, and warns where they are not all real."""
    real = packed_rows().repeat(3, 1)
    hashed = gavel.Sparse("item", columns=2, hash={"fn": "identity", "mod": 20})
    for rows, more, expected in [(real, {}, None), (real[:31], {}, "mixed"), (real, {"features": [hashed]}, "mixed")]:
        report, manifest, _ = export(Packed(), packed_rows(), tmp_path, selftest_inputs=rows, **more)
        assert manifest["selftest"].get("rows") == expected
        assert ("mixed from the examples" in str(report)) == (expected == "mixed")
        assert f"gavel check {tmp_path / 'bundle'}" in str(report)


def test_big_ids_warn(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.Embedding((1 << 24) + 5, 1)

        def forward(self, X):
            return self.items(X[:, 0].long()).squeeze(1) + X[:, 1]

    report, _, _ = export(Model(), packed_rows()[:, [2, 0]].contiguous(), tmp_path)
    assert any("2^24" in w for w in report.warnings)
