"""What a model may be wrapped in, what it may take and return, and what is refused of it: always with an ExportError."""

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

from torch import nn  # noqa: E402
from zoo_models import enliven  # noqa: E402

import gavel  # noqa: E402

N = 12
RNG = np.random.default_rng(0)


def ids(high, *shape):
    return torch.as_tensor(RNG.integers(0, high, shape))


def numbers(*shape):
    return torch.as_tensor(RNG.standard_normal(shape).astype(np.float32))


def exported(model, example, tmp_path, **options):
    return gavel.export(model, example, out=tmp_path / "bundle", name="m", selftest_rows=24, **options)


class Function(nn.Module):
    """A function as a module, with the modules that it uses."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *arguments):
        return self.function(self, *arguments)


def mlp():
    return enliven(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)))


class Autocast(nn.Module):
    def __init__(self, enabled):
        super().__init__()
        self.mlp, self.enabled = mlp(), enabled

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            return self.mlp(x).float() * 5


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.mlp, self.lock = mlp(), threading.Lock()

    def forward(self, x):
        return self.mlp(x)


def normed(old):
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    return enliven(nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), norm(nn.Linear(8, 1))))


WRAPPED = {
    "compiled": lambda: torch.compile(mlp()),
    "compiled_parallel": lambda: torch.compile(nn.DataParallel(mlp())),
    "compiled_inside": lambda: Function(lambda m, x: m.a(x) + m.b(x), a=torch.compile(mlp()), b=nn.DataParallel(mlp())),
    "double": lambda: mlp().double(),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(1)),
    "no_gradients": lambda: Function(lambda m, x: torch.no_grad()(m.mlp)(x) + torch.enable_grad()(m.mlp)(x), mlp=mlp()),
    "no_autocast": lambda: Autocast(False),
    "locked": Locked,
    "weight_norm": lambda: normed(False),
    "weight_norm_old": lambda: normed(True),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 1)),
    "orthogonal": lambda: Function(lambda m, x: m.linear(x).sum(1), linear=nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))),
    "inverse": lambda: Function(
        lambda m, x: (x @ torch.linalg.inv(m.linear.weight) * torch.hann_window(6)).sum(1), linear=enliven(nn.Linear(6, 6))
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped(name, tmp_path):
    torch.manual_seed(0)
    report = exported(WRAPPED[name](), numbers(N, 6), tmp_path)
    assert report.max_difference <= 1e-6 and not report.warnings


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_half_models_are_widened(narrow, tmp_path):
    report = exported(mlp().to(narrow), numbers(N, 6), tmp_path)
    assert "widened" in report.warnings[0] and report.atol < 1e-4


class Pair(NamedTuple):
    user: torch.Tensor
    item: torch.Tensor


@dataclass
class Batch:
    user: torch.Tensor
    item: torch.Tensor
    training: bool = False


@dataclass
class Scores:
    click: torch.Tensor
    buy: torch.Tensor


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(30, 4), nn.Embedding(40, 4)

    def score(self, user, item):
        return (self.users(user) * self.items(item)).sum(-1)


class OfObject(Towers):
    def forward(self, batch):
        return self.score(batch.user, batch.item)


class OfKeywords(Towers):
    def forward(self, user, context=None, *, item, scale=2.0):
        return self.score(user, item) * scale


class OfAnything(Towers):
    def forward(self, **features):
        return Scores(click=self.score(features["user"], features["item"]), buy=self.users(features["user"]).sum(-1))


FORMS = {
    "named_tuple": (OfObject, lambda: Pair(ids(30, N), ids(40, N)), ["score"]),
    "dataclass": (OfObject, lambda: Batch(ids(30, N), ids(40, N)), ["score"]),
    "keywords": (OfKeywords, lambda: {"item": ids(40, N), "user": ids(30, N)}, ["score"]),
    "any_keywords": (OfAnything, lambda: {"item": ids(40, N), "user": ids(30, N)}, ["click", "buy"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name, tmp_path):
    build, example, outputs = FORMS[name]
    report = exported(enliven(build()), example(), tmp_path)
    assert [output["name"] for output in report.outputs] == outputs
    assert {feature["name"].removeprefix("batch.") for feature in report.features} == {"user", "item"}


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_tables_with_a_largest_norm(layer, tmp_path):
    model = Function(lambda m, x: m.table(x).flatten(1).sum(1), table=enliven(layer(30, 4, max_norm=0.7)))
    report = exported(model, ids(30, N, 3), tmp_path)
    assert report.max_difference <= 1e-6 and not report.unused


def weighted_bags(n=N):
    lengths = RNG.integers(0, 4, n)
    lengths[0] = 4
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return ids(20, lengths.sum()), torch.as_tensor(starts), torch.as_tensor(RNG.random(lengths.sum()).astype(np.float32))


@pytest.mark.parametrize("dense", [False, True])
def test_weighted_bags_are_found(dense, tmp_path):
    bag = enliven(nn.EmbeddingBag(20, 4, mode="sum"))
    if dense:
        model = Function(lambda m, x, i, o, w: m.bag(i, o, per_sample_weights=w).sum(1) + x.sum(1), bag=bag)
        report = exported(model, (numbers(N, 3), *weighted_bags()), tmp_path)
    else:
        report = exported(Function(lambda m, i, o, w: m.bag(i, o, w).sum(1), bag=bag), weighted_bags(), tmp_path)
    assert [feature.get("weighted") for feature in report.features if feature["kind"] == "sparse"] == [True]


def test_numbers_that_were_parameters_count_as_used(tmp_path):
    model = Function(lambda m, x: torch.sigmoid(m.linear(x) + m.scale.bias).squeeze(1), linear=nn.Linear(6, 1), scale=nn.Linear(1, 1))
    report = exported(enliven(model), numbers(N, 6), tmp_path)
    assert report.unused == ["scale.weight"]


def test_a_vector_looked_up_is_a_table(tmp_path):
    model = Function(lambda m, x: m.wide.bias[x].sum(1), wide=enliven(nn.Linear(1, 50)))
    report = exported(model, ids(50, N, 3), tmp_path)
    assert [feature["kind"] for feature in report.features] == ["sparse"] and report.unused == ["wide.weight"]


def test_negative_indices_count_from_the_end(tmp_path):
    model = Function(lambda m, x: m.table.weight[x].sum((1, 2)), table=enliven(nn.Embedding(30, 4)))
    report = exported(model, ids(60, N, 3) - 30, tmp_path)
    assert [feature["kind"] for feature in report.features] == ["integer"] and report.max_difference <= 1e-6


REFUSED = {
    # The model, its example, words of the refusal, words of the way out.
    "script": (lambda: torch.jit.script(mlp()), lambda: numbers(N, 6), "TorchScript", "Python module"),
    "script_inside": (lambda: nn.Sequential(torch.jit.script(mlp())), lambda: numbers(N, 6), "0 is a TorchScript", "Python module"),
    "autocast": (lambda: Autocast(True), lambda: numbers(N, 6) * 9, "half precision", "autocast(enabled=False)"),
    "object": (mlp, lambda: object(), "is a object", "pass tensors"),
    "no_rows": (mlp, lambda: numbers(0, 6), "no rows", "a few real rows"),
    "nan": (mlp, lambda: numbers(N, 6) * float("nan"), "hold NaN", "nan=NUMBER"),
    "not_a_model": (lambda: 3, lambda: numbers(N, 6), "a int", "torch.nn.Module"),
    "numpy": (lambda: Function(lambda m, x: torch.from_numpy(x.numpy().sum(1))), lambda: numbers(N, 6), "cannot trace", "instead of numpy"),
    "loop_over_rows": (lambda: Function(lambda m, x: torch.stack([r.sum() for r in x])), lambda: numbers(N, 6), "cannot trace", "loops"),
    "returns_an_object": (
        lambda: Function(lambda m, x: torch.distributions.Bernoulli(x.sum(1).sigmoid())),
        lambda: numbers(N, 6),
        "returns a Bernoulli",
        "return tensors",
    ),
    "fails": (lambda: Function(lambda m, x: {}["missing"]), lambda: numbers(N, 6), "fails on its example inputs: 'missing'", "pass inputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    build, example, reason, remedy = REFUSED[name]
    with pytest.raises(gavel.ExportError) as caught:
        exported(build(), example(), tmp_path)
    assert reason in caught.value.reason and remedy in caught.value.remedy
    assert "fault of the exporter" not in str(caught.value) and not (tmp_path / "bundle").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_modules_are_refused(tmp_path):
    from torch.ao.quantization import quantize_dynamic

    with pytest.raises(gavel.ExportError, match="quantised by torch") as caught:
        exported(quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8), numbers(N, 6), tmp_path)
    assert caught.value.module == "0" and "--precision int8" in caught.value.remedy


def test_nan_that_is_replaced(tmp_path):
    x = numbers(N, 6)
    x[x > 1] = float("nan")
    report = exported(mlp(), x, tmp_path, features=[gavel.Dense("input", nan=0.5)])
    assert report.features[0]["nan"] == {"value": 0.5}


def test_what_is_there_stays(tmp_path):
    (tmp_path / "bundle").mkdir()
    exported(mlp(), numbers(N, 6), tmp_path)
    before = (tmp_path / "bundle" / "manifest.json").read_text()
    with pytest.raises(gavel.ExportError, match="exists already") as caught:
        exported(mlp(), numbers(N, 6), tmp_path, description="another")
    assert "overwrite=True" in caught.value.remedy and (tmp_path / "bundle" / "manifest.json").read_text() == before
    exported(mlp(), numbers(N, 6), tmp_path, description="another", overwrite=True)
    assert "another" in (tmp_path / "bundle" / "manifest.json").read_text()


@pytest.mark.parametrize("options", [{"tables": "int3"}, {"selftest_rows": 0}, {"name": "a/b"}, {"features": 3}])
def test_options_are_checked(options, tmp_path):
    with pytest.raises(gavel.ExportError):
        gavel.export(mlp(), numbers(N, 6), out=tmp_path / "bundle", **options)


def test_what_no_translator_foresaw(tmp_path, monkeypatch):
    """Whatever a translator raises names the operation, the module and the line."""
    from gavel.exporter import canonical

    def broken(c, node, a):
        return a["missing"]

    monkeypatch.setitem(canonical.OPERATORS, "tanh", broken)
    with pytest.raises(gavel.ExportError) as caught:
        exported(Function(lambda m, x: torch.tanh(x).sum(1)), numbers(N, 6), tmp_path)
    error = caught.value
    assert error.op == "aten.tanh.default" and error.module and "test_forms.py" in error.source and "other operations" in error.remedy
    assert isinstance(error.__cause__, KeyError)
