"""Tests that start clusters run beside these, and are what the whole run waits for."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _after_the_clusters() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.setpriority(os.PRIO_PROCESS, 0, 10)
