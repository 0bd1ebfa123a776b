"""Elements of each row at the row's own indices, and whole numbers beyond what f32 holds."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to export")

from torch import nn  # noqa: E402
from zoo_models import enliven  # noqa: E402

import gavel  # noqa: E402

N, STEPS, DIM = 16, 5, 4


class History(nn.Module):
    """`function` of (embedded history [batch, STEPS, DIM], history, a number of 0 to STEPS - 1 per row, a table). `short`: whether the
    history holds ids of the table."""

    def __init__(self, function, short):
        super().__init__()
        self.function, self.items, self.short = function, nn.Embedding(30, DIM), short

    def forward(self, history, at):
        out = self.function(self.items(history) if self.short else history, history, at, self.items)
        out = out if out.is_floating_point() else out.float()
        return out.flatten(1).sum(1) if out.dim() > 1 else out


def exported(function, tmp_path, wide=None):
    g = torch.Generator().manual_seed(0)
    history = torch.randint(0, 30, (N, STEPS), generator=g) if wide is None else wide
    at = torch.randint(0, STEPS, (N,), generator=g)
    return gavel.export(enliven(History(function, wide is None)), (history, at), out=tmp_path / "bundle", name="m", selftest_rows=32)


def put(x, indices, value):
    x = x.clone()
    x[indices] = value
    return x * x


def rows(x):
    return torch.arange(len(x))


PICKS = {
    "last": lambda x, h, at, t: x[rows(x), at],
    "from_the_end": lambda x, h, at, t: x[rows(x), at - 1],
    "clamped": lambda x, h, at, t: x[torch.arange(x.size(0), device=x.device), (at - 1).clamp(min=0), :],
    "of_a_mask": lambda x, h, at, t: x[rows(x), (h > 9).sum(1) - 1],
    "two_axes": lambda x, h, at, t: x[rows(x), at - 1, (at + 1) % DIM],
    "last_axis": lambda x, h, at, t: x[rows(x), :, at % DIM - 1],
    "several": lambda x, h, at, t: x[rows(x).unsqueeze(1), torch.stack([at, at * 0, at - 1], 1)],
    "several_fixed": lambda x, h, at, t: x[rows(x)[:, None], torch.tensor([[1, 3]])],
    "expanded": lambda x, h, at, t: x[rows(x).view(-1, 1).expand(-1, 2), torch.stack([at, at - 1], 1)],
    "fixed": lambda x, h, at, t: x[rows(x), -1],
    "all": lambda x, h, at, t: x[rows(x)],
    "ids": lambda x, h, at, t: t(h[rows(h), at]),
    "best": lambda x, h, at, t: x[rows(x), x.sum(-1).argmax(1)],
    "put": lambda x, h, at, t: put(x, (rows(x), at), 0.0),
    "put_computed": lambda x, h, at, t: put(x, (rows(x), at - 1), x[:, 0] * 2),
    "mask_of_pairs": lambda x, h, at, t: (x @ x.transpose(1, 2))[:, torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)],
    "fixed_places": lambda x, h, at, t: put(x, (slice(None), [0, 2]), 1.0) + put(x, (slice(None), slice(0, None, 2)), 2.0),
}


@pytest.mark.parametrize("name", PICKS)
def test_pick(name, tmp_path):
    assert exported(PICKS[name], tmp_path).max_difference <= 1e-6


REFUSED = {
    "numbers": (lambda x, h, at, t: x.sum((1, 2)) * rows(x), "x[torch.arange(len(x)), i]"),
    "shifted": (lambda x, h, at, t: x[rows(x) - 1], "x.gather(1, i)"),
    "without_the_first": (lambda x, h, at, t: torch.cat([x[:1], x[rows(x)[1:]]]), ""),
    "merged": (lambda x, h, at, t: x.reshape(-1, DIM)[rows(x) * STEPS + at], "x.gather(1, i)"),
    "of_the_batch": (lambda x, h, at, t: x[at], "let every operation leave the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name, tmp_path):
    function, remedy = REFUSED[name]
    with pytest.raises(gavel.ExportError) as caught:
        exported(function, tmp_path)
    assert remedy in caught.value.remedy and "fault of the exporter" not in str(caught.value)


WIDE = torch.randint(-(2**31), 2**31 - 1, (N, STEPS), generator=torch.Generator().manual_seed(5))

INTEGERS = {
    "odd": lambda x, h, at, t: h // 7 % 97,
    "even": lambda x, h, at, t: h // 1000 % 97,
    "negative": lambda x, h, at, t: h // -86400 % 97,
    "towards_zero": lambda x, h, at, t: torch.div(h, 3600, rounding_mode="trunc") % 97,
    "hour": lambda x, h, at, t: t((h.abs() + 1_700_000_000) // 3600 % 24),
    "shifts": lambda x, h, at, t: (h >> 5) % 13 + (h & 1023) % 7 + (h << 3) % 11,
    "powers": lambda x, h, at, t: (h % 100_000) ** 3 % 101 + h**0,
    "rest": lambda x, h, at, t: torch.fmod(h, 5),
    "sorted": lambda x, h, at, t: torch.sort(h, 1).values % 7 * torch.arange(STEPS) + torch.topk(h, 2, 1).values[:, :1] % 5,
    "best": lambda x, h, at, t: (h + 2**31 - h % 3).argmax(1) + h.max(1).indices,
    "wide_factors": lambda x, h, at, t: h * 7_046_029_254_386_353_131 % 1009,
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_stay_whole(name, tmp_path):
    """Nothing of this may pass through f32, which the checks in float64 would not see."""
    report = exported(INTEGERS[name], tmp_path, WIDE)
    assert report.max_difference == 0 and "div" not in report.ops and "pow" not in report.ops


def test_small_integers_divide_as_floats(tmp_path):
    report = exported(lambda x, h, at, t: h.clamp(0, 1000) // at.clamp(1, 50).unsqueeze(1), tmp_path)
    assert report.ops["div"] == 1 and report.max_difference == 0


def test_large_integers_by_computed_ones_are_refused(tmp_path):
    with pytest.raises(gavel.ExportError, match="too large for f32") as caught:
        exported(lambda x, h, at, t: h // (at.unsqueeze(1) + 1), tmp_path, WIDE)
    assert "2^24" in caught.value.remedy
