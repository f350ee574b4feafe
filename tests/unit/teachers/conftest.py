"""What tests of services share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.teachers.test_services import Server


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()
