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
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling

torch.set_num_threads(1)


class ByFiles(LoadScopeScheduling):
    """Files are dealt out to processes as they come, those that start clusters first; the cluster of several hosts is
    one for its whole folder."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "tests/cluster" if file.startswith("tests/cluster/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """pytest-xdist asks for it."""
    return ByFiles(config, log)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
