"""Lines to look at: chosen by a stated rule, with the differences between truth and reading marked."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein

from tdtrain.data.batches import decode
from tdtrain.data.rows import Line
from tdtrain.evaluate.metrics import edits, normalize
from tdtrain.models.reader import Reading

MAX_HEIGHT, MAX_WIDTH = 96, 1400
"""Pictures are scaled down to this, pixels, so that a report stays small enough to mail."""

Why = Literal["fixed", "broken", "still wrong", "random"]


@dataclass(frozen=True)
class Piece:
    """A run of characters of a reading: right, wrong (substituted), extra (not in the truth) or missing from it."""

    kind: Literal["equal", "wrong", "extra", "missing"]
    text: str


@dataclass(frozen=True)
class Example:
    """One line as the report shows it.

    Attributes:
        why: which rule chose it.
        picture: PNG, at most MAX_HEIGHT by MAX_WIDTH pixels.
        readings: by role, in the order they were given.
    """

    why: Why
    source: str
    picture: bytes
    width: int
    height: int
    truth: str
    readings: dict[str, str]
    tags: dict[str, str]

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.picture).decode()


def choose_examples(
    lines: Sequence[Line], readings: Mapping[str, Sequence[Reading]], count: int = 12, seed: int = 0
) -> list[Example]:
    """Picks lines for the report, at random within each kind, so that nobody has picked the nice ones.

    With a second reader (the control, else the baseline) a quarter each: the first reader right where the other is
    wrong (`fixed`), the other way round (`broken`), both wrong (`still wrong`), and any line (`random`). With one
    reader half are wrong and half random. A kind with too few lines leaves its places to `random`. No line comes twice.

    Args:
        lines: annotated lines.
        readings: one a line, by role.
    """
    main = next(role for role in ("student", *readings) if role in readings)
    other = next((role for role in ("student_undistilled", "baseline") if role in readings and role != main), None)
    right = _right(lines, readings[main])
    wanted: list[tuple[Why, list[int]]]
    if other is not None:
        other_right = _right(lines, readings[other])
        wanted = [
            ("fixed", np.flatnonzero(right & ~other_right).tolist()),
            ("broken", np.flatnonzero(~right & other_right).tolist()),
            ("still wrong", np.flatnonzero(~right & ~other_right).tolist()),
        ]
    else:
        wanted = [("still wrong", np.flatnonzero(~right).tolist())]
    share = count // (len(wanted) + 1)
    rng = random.Random(seed)
    chosen: dict[int, Why] = {}
    for why, places in wanted:
        chosen |= dict.fromkeys(rng.sample(places, min(share, len(places))), why)
    rest = [place for place in range(len(lines)) if place not in chosen]
    chosen |= dict.fromkeys(rng.sample(rest, min(count - len(chosen), len(rest))), "random")
    return [
        _example(lines[place], why, {r: found[place] for r, found in readings.items()}) for place, why in chosen.items()
    ]


def marked(truth: str, reading: str) -> list[Piece]:
    """A reading cut by a shortest edit script (Levenshtein) from the truth; both are normalised as for the CER."""
    truth, reading = normalize(truth), normalize(reading)
    pieces = []
    for step in Levenshtein.opcodes(truth, reading):
        lost, got = truth[step.src_start : step.src_end], reading[step.dest_start : step.dest_end]
        if step.tag == "delete":
            pieces.append(Piece("missing", lost))
        else:
            kind = {"equal": "equal", "replace": "wrong", "insert": "extra"}[step.tag]
            pieces.append(Piece(kind, got))  # type: ignore[arg-type]
    return pieces


def _right(lines: Sequence[Line], readings: Sequence[Reading]) -> np.ndarray:
    return np.array(
        [edits(line.text or "", found.text).correct for line, found in zip(lines, readings, strict=True)], bool
    )


def _example(line: Line, why: Why, readings: Mapping[str, Reading]) -> Example:
    image = Image.fromarray(decode(line.image))
    image.thumbnail((MAX_WIDTH, MAX_HEIGHT))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Example(
        why=why,
        source=line.source,
        picture=buffer.getvalue(),
        width=image.width,
        height=image.height,
        truth=normalize(line.text or ""),
        readings={role: reading.text for role, reading in readings.items()},
        tags=dict(line.tags),
    )
