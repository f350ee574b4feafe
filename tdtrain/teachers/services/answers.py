"""Answers of services, kept for good: what was paid for once is never asked for again.

    answers/3f/3f9a....json    one an answer, written whole and to the disk the moment it arrives
    refused/3f/3f9a....json    one a question that will not be answered, with the reason
    tried/3f/3f9a....json      one a question of which no answer could be used so far, and what those cost

An answer's name is a hash of all that it depends on: the picture, the service and its model, the prompt and the schema.
Jobs that share a folder on a file system wait for each other where they ask the same; on an object store, which has no
locks, two jobs that run at the same time may both ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

from pydantic import ValidationError

from tdtrain.data.storage import Folder
from tdtrain.teachers.services.service import NOTHING, Answer, Fixed, Question, Refused, Unusable, Usage

BATCHES = "batches"
"""What is out in batches lies there; see `tdtrain.teachers.services.batches`."""


class Kept(Fixed):
    """An answer with what it answers; `paid` is what all attempts at it used."""

    question: Question
    image: str
    """SHA-256 of the picture's file."""
    answer: Answer
    paid: Usage
    attempts: int = 1
    seconds: float
    """Of the last attempt."""
    answered: str
    """When, ISO 8601."""
    unused: tuple[str, ...] = ()
    """Answers before it that could not be used, as they came."""


class GaveUp(Fixed):
    """A question that will not be answered, and what was paid for trying."""

    question: Question
    image: str
    reason: str
    paid: Usage
    at: str = ""
    """When, as `moment` writes it."""
    unused: tuple[str, ...] = ()
    """What it said, as it came."""


class Tried(Fixed):
    """A question of which no answer could be used so far; `paid` is what those cost, `unused` what they were."""

    complaint: str | None = None
    unusable: int = 0
    paid: Usage = NOTHING
    unused: tuple[str, ...] = ()

    def after(self, said: Unusable | Refused) -> Self:
        """With one more."""
        return self.model_copy(update={
            "complaint": str(said), "unusable": self.unusable + 1, "paid": self.paid + said.usage,
            "unused": (*self.unused, said.raw) if said.raw else self.unused,
        })  # fmt: skip


Entry = TypeVar("Entry", Kept, GaveUp, Tried)


def moment() -> str:
    """Now, ISO 8601 in UTC; later ones come later in the alphabet."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def key_of(question: Question, image: bytes) -> str:
    """The name of the answer to a question about a picture."""
    asked = json.dumps([*question.model_dump(mode="json").values(), hashlib.sha256(image).hexdigest()])
    return hashlib.sha256(asked.encode()).hexdigest()


class Answers:
    """A folder of answers, local or remote. Picklable."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def get(self, key: str) -> Kept | None:
        """The answer, if there is one. Raises ValueError where the file is not what `put` wrote."""
        return self._read(key, Kept)

    def gave_up(self, key: str) -> GaveUp | None:
        """Why there will be no answer, where that is known. Raises ValueError as `get` does."""
        return self._read(key, GaveUp)

    def tried(self, key: str) -> Tried:
        """What could not be used so far, or before it was given up. Raises ValueError as `get` does."""
        gave_up = self.gave_up(key)
        before = Tried(paid=gave_up.paid, unused=gave_up.unused) if gave_up else Tried()
        return self._read(key, Tried) or before

    def _read(self, key: str, kind: type[Entry]) -> Entry | None:
        name = _name(key, kind)
        if not self._folder.exists(name):
            return None
        try:
            return kind.model_validate_json(self._folder.read(name))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                f"{self._folder.path(name)} is no answer ({first['loc']}: {first['msg']}); remove it to ask again"
            ) from error

    def hopeless(self, key: str, again: str | None = None) -> GaveUp | None:
        """Why it is not to be asked.

        Args:
            again: what was given up before this `moment` is to be asked once more.
        """
        before = self.gave_up(key)
        return None if before is None or (again is not None and before.at < again) else before

    def put(self, key: str, kept: Kept | GaveUp | Tried) -> None:
        """Keeps an answer, that there will be none, or what was tried; returns when it is on the disk."""
        self._folder.write(_name(key, type(kept)), kept.model_dump_json(indent=1).encode(), durable=True)
        tried = _name(key, Tried)
        if not isinstance(kept, Tried) and self._folder.exists(tried):
            self._folder.delete(tried)

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """While this is held, no other job on the file system asks for this answer. A process that dies lets go."""
        with self._lock(key, fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def free(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Those of `keys` that nobody else asks for now, `alone` while this is held."""
        with contextlib.ExitStack() as held:
            free, taken = dict[str, bool](), list[str]()
            for key in keys:
                if (lock := _lock_of(key)) not in free:
                    try:
                        held.enter_context(self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB))
                        free[lock] = True
                    except BlockingIOError:
                        free[lock] = False
                if free[lock]:
                    taken.append(key)
            yield taken

    @contextlib.contextmanager
    def together(self, key: str) -> Iterator[None]:
        """While this is held, nobody has it `alone`, but others may hold it like this. Raises BlockingIOError where
        somebody has it alone."""
        with self._lock(key, fcntl.LOCK_SH | fcntl.LOCK_NB):
            yield

    @contextlib.contextmanager
    def _lock(self, key: str, how: int) -> Iterator[None]:
        if not self._folder.is_local:
            yield
            return
        path = Path(self._folder.path(f"locks/{_lock_of(key)}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, how)
            yield


_PARTS: dict[type[Fixed], str] = {Kept: "answers", GaveUp: "refused", Tried: "tried"}


def _lock_of(key: str) -> str:
    return key[:4]


def _name(key: str, kind: type[Fixed]) -> str:
    return f"{_PARTS[kind]}/{key[:2]}/{key}.json"
