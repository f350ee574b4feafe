"""What a teacher behind an API is asked and says, whichever it is.

A service makes one attempt at a time, without retries of its own: `asking` decides what is tried again, and when.
"""

from __future__ import annotations

import os
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from tdtrain.data.timetable import Timetable

ANSWER_S = 300.0
"""A model that writes 8,192 tokens takes minutes. Who stops waiting for it pays all the same."""


def secret(name: str) -> str:
    """A key as the environment has it, empty where it has none; one that came out of a file ends in a newline there."""
    return os.environ.get(name, "").strip()


class Fixed(BaseModel):
    """Immutable, and nothing but its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Usage(Fixed):
    """What an attempt is billed by."""

    pages: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    batched_input_tokens: int = 0
    """Of those, in batches, which take less."""
    batched_output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: value + getattr(other, name) for name, value in self})

    def in_batch(self) -> Usage:
        """The same in a batch."""
        told = {"batched_input_tokens": self.input_tokens, "batched_output_tokens": self.output_tokens}
        return self.model_copy(update=told)


NOTHING = Usage(pages=0)


class SpokenLine(Fixed):
    """A line of text that a service found. `quad`: corners clockwise from the top left (x, y, x, y, ...), pixels."""

    text: str
    confidence: float | None = None
    quad: tuple[float, ...] | None = None

    def scaled(self, scale: float) -> SpokenLine:
        """The same line of a picture that is 1 / `scale` as large."""
        if self.quad is None or scale == 1:
            return self
        return self.model_copy(update={"quad": tuple(value / scale for value in self.quad)})


class Answer(Fixed):
    """What a service says of one picture: lines, a document, or both; `raw` is its answer as it came, JSON."""

    lines: tuple[SpokenLine, ...] = ()
    document: Timetable | None = None
    usage: Usage = Usage()
    raw: str


class Question(Fixed):
    """All that an answer depends on, but for the picture."""

    service: str
    """Service and model, such as openai/qwen2.5-vl."""
    prompt: str = ""
    form: str = ""
    """The schema that the answer has to fit."""


class Service(Protocol):
    """A teacher behind an API."""

    question: Question

    def ask(self, image: bytes, complaint: str | None = None) -> Answer:
        """One attempt.

        Args:
            image: a PNG or JPEG file.
            complaint: why the answer before could not be used, for those who can be told.

        Raises: Busy, Unusable, Refused or Denied.
        """
        ...


class Busy(Exception):
    """It may answer later: too many calls, an error of its own, no connection, no answer in time."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unusable(Exception):
    """It answered, and is paid, but the answer is no JSON, or does not fit the schema. `raw` is it as it came, JSON."""

    def __init__(self, reason: str, usage: Usage = NOTHING, raw: str = "") -> None:
        super().__init__(reason)
        self.usage, self.raw = usage, raw


class Refused(Exception):
    """It will never answer this: a picture that it does not take, a model that will not, an answer that is too long.
    `raw` is what it said, as it came, JSON."""

    def __init__(self, reason: str, usage: Usage = NOTHING, raw: str = "") -> None:
        super().__init__(reason)
        self.usage, self.raw = usage, raw


class Denied(Exception):
    """It answers nobody like us: a key or a model that it does not know, an address where it is not."""
