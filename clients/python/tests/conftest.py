"""What the tests share: a small export with all its checks, and skips with a reason."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


def pytest_configure(config):
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: nothing to export")
