"""Ranking models of several libraries, small, with random weights that are alive."""

from . import deepctr, plain, rechub, torchrec
from .registry import ZOO, enliven, missing

__all__ = ["ZOO", "deepctr", "enliven", "missing", "plain", "rechub", "torchrec"]
