"""What the driver, the workers of a training run and Ray Train's controller, which starts them, tell each other."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from tdtrain.train.state import Record

if TYPE_CHECKING:
    from ray.train import Checkpoint

POLL_S = 0.5


@dataclass(frozen=True)
class Start:
    """What all workers that are started together begin with.

    Attributes:
        checkpoint: to go on from; None where there is none.
        suffix: of the names of checkpoints that they leave; those started before or after them have another.
    """

    checkpoint: Checkpoint | None
    suffix: str


@ray.remote(num_cpus=0)
class Board:
    """Where one of them writes, and another reads."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._words: list[str] = []
        self._start: Start | None = None
        self._failure: Exception | None = None

    def begin(self, start: Start) -> None:
        """Says what the next workers begin with."""
        self._start = start

    def start(self) -> Start | None:
        """What `begin` was told."""
        return self._start

    def say(self, words: str) -> None:
        """Something that the user has to know."""
        self._words.append(words)

    def post(self, record: Record) -> None:
        """Adds a step."""
        self._records.append(record)

    def take(self) -> tuple[list[Record], list[str]]:
        """The steps, and what was said, since the last call."""
        taken = self._records, self._words
        self._records, self._words = [], []
        return taken

    def fail(self, error: Exception) -> None:
        """Says that the run cannot go on, and a restart would not help. Of several workers the first is heard."""
        self._failure = self._failure or error

    def failure(self) -> Exception | None:
        """What `fail` was told."""
        return self._failure


@contextlib.contextmanager
def watching(board: Any, watch: Callable[[str, Record, int], None], name: str, total_steps: int) -> Iterator[None]:
    """Tells `watch` of what workers post, and warns of what is said, until the block ends; nothing before is lost."""
    ended = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = ended.wait(POLL_S)
            records, words = ray.get(board.take.remote())
            for said in words:
                warnings.warn(said, stacklevel=2)
            for record in records:
                watch(name, record, total_steps)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
