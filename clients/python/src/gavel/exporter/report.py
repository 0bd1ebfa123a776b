"""What an export did, for people."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Report:
    """`ops`: op -> count; `parameters`: numbers in the bundle; `unused`: tensors of the model that no output needs; `features`,
    `outputs`: as in the manifest; `max_difference`: largest |graph - torch| over the selftest, both in float64 (relative above 1);
    `f32_difference`: the same for torch's own f32; `shift`: largest change of an output by quantised tables; `auc`: (before, after) by
    output, if labels were given; `origin`: "given" if all rows of the selftest are examples, "mixed" if some were made of them."""

    name: str
    folder: str
    ops: Counter
    parameters: int
    bytes: int
    unused: list
    features: list
    outputs: list
    rows: int
    max_difference: float
    f32_difference: float
    atol: float
    tables: str = "f32"
    shift: dict = field(default_factory=dict)
    auc: dict = field(default_factory=dict)
    warnings: list = field(default_factory=list)
    origin: str = "given"

    def __str__(self):
        lines = [f"{self.name}: written to {self.folder} ({size(self.bytes)}, {self.parameters:,} numbers)"]
        lines.append("ops       " + ", ".join(f"{op} {count}" if count > 1 else op for op, count in sorted(self.ops.items())))
        lines.append(f"features  {len(self.features)}:")
        lines += [f"  {line}" for line in grouped(self.features)]
        lines.append("outputs   " + ", ".join(f"{o['name']} ({o['kind']})" for o in self.outputs))
        mixed = ", some mixed from the examples" if self.origin == "mixed" else ""
        lines.append(
            f"selftest  {self.rows} rows{mixed}; graph against torch, both float64: {self.max_difference:.1e}; "
            f"torch's own f32: {self.f32_difference:.1e}; "
            f"atol {self.atol:.1e}"
        )
        if self.tables != "f32":
            lines.append(
                f"tables    {self.tables}: outputs move by up to " + ", ".join(f"{x:.1e} ({name})" for name, x in self.shift.items())
            )
        for name, (before, after) in self.auc.items():
            lines.append(f"AUC       {name}: {before:.4f}" + (f", {after:.4f} with {self.tables} tables" if self.tables != "f32" else ""))
        if self.unused:
            shown = ", ".join(self.unused[:4]) + (", .." if len(self.unused) > 4 else "")
            lines.append(f"left out  {len(self.unused)} tensors that no output needs: {shown}")
        lines += [f"warning   {warning}" for warning in self.warnings]
        lines.append(f"next      gavel check {self.folder}, where it will be served: the selftest on the server's engine")
        return "\n".join(lines)

    __repr__ = __str__


def grouped(features):
    """Features in lines, those that differ by name alone together."""
    groups = {}
    for feature in features:
        rest = {key: value for key, value in feature.items() if key not in ("name", "table")}
        groups.setdefault(repr(rest), (rest, []))[1].append(feature["name"])
    for rest, names in groups.values():
        what = ", ".join([rest.pop("scope"), rest.pop("kind")] + [f"{key} {value}" for key, value in rest.items()])
        shown = ", ".join(names[:8]) + (f", .. {names[-1]}" if len(names) > 8 else "")
        yield f"{len(names)} {what}: {shown}"


def size(count):
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count} {unit}"
        count /= 1000


def auc(scores, labels):
    """Area under the ROC curve, ties counted half; None without both classes."""
    scores, labels = np.asarray(scores), np.asarray(labels) > 0
    if labels.all() or not labels.any():
        return None
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    values, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    positive = labels.sum()
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))
