"""What this process takes of the machine."""

from __future__ import annotations

import ctypes

import psutil
import pytest

from tdtrain.machine import give_back_memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_memory_between_what_is_still_needed_goes_back_to_the_system() -> None:
    def held() -> int:
        return psutil.Process().memory_info().rss

    parts = [bytes(5_000) for _ in range(40_000)]
    needed = parts[::100]
    del parts
    before = held()
    give_back_memory()
    assert held() < before - 100e6 and len(needed) == 400
