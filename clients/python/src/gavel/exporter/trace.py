"""A traced forward: nodes in the order of execution, in plain Python and numpy.

`from_program.py` makes one from a torch.export program; tests make them from stored dumps. Everything behind this file works without torch.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ref:
    """What an earlier node made."""

    node: str


@dataclass(frozen=True)
class Rows:
    """A size that is a multiple of the number of rows: factor * batch."""

    factor: int

    def __repr__(self):
        return "batch" if self.factor == 1 else f"{self.factor}*batch"


@dataclass(frozen=True)
class Unknown:
    """A size that depends on data, or on something else than the number of rows."""

    text: str

    def __repr__(self):
        return self.text


@dataclass
class Node:
    """One node. `op`: "input", "parameter", "output", or the name of an operator such as "aten.linear.default".

    `args`: by the operator's argument names; `shape`: sizes (int, Rows or Unknown), None if the node makes no tensor; `dtype`: as torch
    names it; `size`: what a node makes that is a number (int, Rows, Unknown); `target`: name of a parameter, buffer or constant.
    """

    name: str
    op: str
    args: dict = field(default_factory=dict)
    shape: tuple | None = None
    dtype: str | None = None
    size: object = None
    target: str | None = None
    module: str | None = None
    source: str | None = None


@dataclass
class Trace:
    """`nodes`; `constants`: target -> array of every parameter, buffer and constant; `inputs`: names of the input nodes in order;
    `outputs`: what the output node returns, flat: (name, Ref); `evaluate`: name of a node that depends on no input -> what it makes,
    an array or a list of arrays, None if it makes random numbers; absent where torch is not at hand."""

    nodes: list
    constants: dict
    inputs: list
    outputs: list
    evaluate: object = None
