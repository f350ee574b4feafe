"""Shapes and types of every annotated function are checked while tests run, by jaxtyping with beartype."""

from __future__ import annotations

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("tdtrain.losses", "beartype.beartype")

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two processes one has all tests that start a cluster: two of these would wait for each other's CPUs."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("ray", "cluster")):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
