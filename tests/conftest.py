"""Shapes and types of every annotated function are checked while tests run, by jaxtyping with beartype."""

from __future__ import annotations

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever runs beside a cluster goes before its workers

from jaxtyping import install_import_hook

install_import_hook("tdtrain.losses", "beartype.beartype")

import pytest
import torch
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # how long a case takes says more of the machine than of the code
settings.load_profile("untimed")


class OneWithClusters(LoadScopeScheduling):
    """Of several processes one has all tests that start a cluster, of which two would wait for each other's CPUs; the
    others are dealt out by files. (pytest-xdist's own groups do nothing under pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "clusters" if file.startswith(("tests/ray/", "tests/cluster/")) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """pytest-xdist asks for it."""
    config.option.loadscopereorder = False  # else the files with most tests come first, and clusters last
    return OneWithClusters(config, log)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
