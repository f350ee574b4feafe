"""What a module starts of Ray in this process is gone before the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="module", autouse=True)
def _no_ray_afterwards() -> Iterator[None]:
    yield
    ray.shutdown()
