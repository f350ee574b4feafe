"""Annotation files -> checked values: a page's text, its exact boxes, a document."""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from tdtrain.data.crop import side_lengths
from tdtrain.data.rows import LABELLED_BY
from tdtrain.data.times import as_clock
from tdtrain.data.timetable import Document, TimeBlock

__all__ = ["LABELLED_BY", "BadAnnotationError", "Box", "Boxes", "parse_boxes", "parse_document", "parse_text"]

Point = tuple[FiniteFloat, FiniteFloat]


class BadAnnotationError(ValueError):
    """An annotation that cannot be used; the message is the reason, for the quarantine table."""


class Box(BaseModel):
    """One line's place on its page, and what it says where somebody wrote that down."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    quad: tuple[Point, Point, Point, Point]
    """Corners clockwise from the top left, pixels of the upright image."""
    text: str | None = None
    field: str | None = None
    """What kind of text it is, such as `time` or `room`."""

    @property
    def corners(self) -> NDArray[np.float32]:
        return np.asarray(self.quad, np.float32)


class Boxes(BaseModel):
    """boxes/NAME.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    lines: tuple[Box, ...]
    tags: dict[str, str] = Field(default_factory=dict)
    """What is known about the whole page, such as `damage` or `layout`."""


def parse_text(raw: bytes) -> tuple[str, ...]:
    """A page's text -> its lines: Unicode NFC, single spaces, no blank lines.

    Raises: BadAnnotationError: not UTF-8, empty, or with control characters.
    """
    lines = tuple(line for part in re.split(r"\r\n|\r|\n", _decode(raw)) if (line := clean(part)))
    if not lines:
        raise BadAnnotationError("empty; delete the file where a page is not annotated")
    return lines


def clean(text: str) -> str:
    """One line in Unicode NFC with single spaces.

    Raises: BadAnnotationError: control characters.
    """
    if bad := sorted({char for char in text if unicodedata.category(char) == "Cc" and char != "\t"}):
        raise BadAnnotationError(f"holds control characters ({', '.join(f'U+{ord(char):04X}' for char in bad)})")
    return " ".join(unicodedata.normalize("NFC", text).split())


def parse_boxes(raw: bytes, width: int, height: int) -> tuple[Boxes, tuple[str, ...]]:
    """boxes/NAME.json for a page of width by height pixels -> the good boxes, and the reasons of the bad ones.

    Raises: BadAnnotationError, pydantic.ValidationError: the file as a whole cannot be used.
    """
    boxes = Boxes.model_validate_json(_decode(raw))
    good: list[Box] = []
    bad: list[str] = []
    for number, box in enumerate(boxes.lines):
        try:
            text = None if box.text is None else clean(box.text)
            if text == "":
                raise BadAnnotationError("text is empty; leave it out where it is unknown")
            _check_quad(box.corners, width, height)
            good.append(box.model_copy(update={"text": text}))
        except BadAnnotationError as error:
            bad.append(f"lines.{number}: {error}")
    return boxes.model_copy(update={"lines": tuple(good)}), tuple(bad)


def parse_document(raw: bytes, image_path: str = "") -> Document:
    """annotations/NAME.json. Times of day become HH:MM, as writers write them: `8.00`, `8:00 am`.

    Args:
        image_path: of one that does not say; empty: it has to.

    Raises: BadAnnotationError, pydantic.ValidationError.
    """
    text = _decode(raw)
    with contextlib.suppress(ValueError):  # pydantic says what is no JSON
        fields = json.loads(text)
        if image_path and isinstance(fields, dict) and "image_path" not in fields:
            text = json.dumps(fields | {"image_path": image_path})
    document = Document.model_validate_json(text)
    blocks = tuple(_in_hours(block) for block in document.timeblocks)
    document = document.model_copy(update={"timeblocks": blocks})
    if not document.timeblocks:
        raise BadAnnotationError("timeblocks is empty; delete the file where a page is not annotated")
    return document


def _in_hours(block: TimeBlock) -> TimeBlock:
    return block.model_copy(update={"startTime": as_clock(block.startTime), "endTime": as_clock(block.endTime)})


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadAnnotationError(f"not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _check_quad(quad: NDArray[np.float32], width: int, height: int) -> None:
    slack = 0.02 * max(width, height)
    if (quad < -slack).any() or (quad > np.array([width, height]) + slack).any():
        raise BadAnnotationError(f"quad leaves the page of {width}x{height} pixels")
    x, y = quad[:, 0], quad[:, 1]
    if float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) <= 0:
        raise BadAnnotationError("the quad's corners do not go clockwise from the top left")
    if min(side_lengths(quad)) < 2:
        raise BadAnnotationError("quad is thinner than 2 pixels")
