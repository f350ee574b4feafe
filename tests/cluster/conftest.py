"""One cluster of three hosts serves the whole folder: starting Ray three times is what costs."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from cluster.local.hosts import Hosts
from cluster.local.network import missing

SECRETS = ("ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD")
SECRET = secrets.token_hex(16)
"""In the environment of every host, under these names; it must be on no disk."""


@pytest.fixture(scope="session")
def permitted() -> None:
    """Skips, and says why, where there cannot be several hosts on this machine."""
    if (lacks := missing()) is not None:
        pytest.skip(f"several hosts on this machine: {lacks}")


@pytest.fixture(scope="package")
def hosts(permitted: None) -> Iterator[Hosts]:
    """Three hosts; afterwards there is nothing of them."""
    niceness = {name: value for name, value in os.environ.items() if name == "RAY_worker_niceness"}
    with Hosts(3, cpus=3, env=dict.fromkeys(SECRETS, SECRET) | niceness) as running:
        yield running
    assert not running.root.exists() and running.network.name not in namespaces()


def namespaces() -> str:
    """Names of this machine's network namespaces."""
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
