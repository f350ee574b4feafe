"""How a training run's first worker tells the driver how it goes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray

from tdtrain.train.state import Record

POLL_S = 0.5


@ray.remote(num_cpus=0)
class Board:
    """Where a run's first worker writes how it goes, and the driver reads it."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._failure: Exception | None = None

    def post(self, record: Record) -> None:
        """Adds a step."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """The steps since the last call."""
        records, self._records = self._records, []
        return records

    def fail(self, error: Exception) -> None:
        """Says that the run cannot go on, and a restart would not help. Of several workers the first is heard."""
        self._failure = self._failure or error

    def failure(self) -> Exception | None:
        """What `fail` was told."""
        return self._failure


@contextlib.contextmanager
def watching(board: Any, watch: Callable[[str, Record, int], None], name: str, total_steps: int) -> Iterator[None]:
    """Tells `watch` of what workers post, until the block ends; nothing posted before is lost."""
    ended = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = ended.wait(POLL_S)
            for record in ray.get(board.take.remote()):
                watch(name, record, total_steps)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
