"""Several teachers' lines of one page -> one set: where they find the same line, they vote on what it says."""

from __future__ import annotations

from collections.abc import Sequence

from tdtrain.data.spelling import word_error_rate
from tdtrain.teachers.services.service import SpokenLine

SAME_PLACE = 0.5
"""Share of the area that two boxes have together from which they hold the same line (intersection over union)."""


def vote(teachers: Sequence[Sequence[SpokenLine]], max_wer: float = 0.0) -> list[SpokenLine]:
    """The first teacher's lines, each with the text that most confidence stands behind.

    A text's confidence is the sum of those of the teachers that say it, over the number of all teachers that were
    asked: where one is sure and another is not there, or says something else, half of it is left. So it is the first
    teacher's own where there is no other. (Agreement by word error rate: Gandhi et al. 2023, Distil-Whisper, sec. 3.)

    Args:
        teachers: the lines of each. One that did not answer is left out by whoever asks.
        max_wer: up to which word error rate two texts are the same.
    """
    first, *others = teachers
    matched = [same_lines(first, lines) for lines in others]
    return [
        _elected([line, *(found[place] for found in matched if place in found)], len(teachers), max_wer)
        for place, line in enumerate(first)
    ]


def same_lines(lines: Sequence[SpokenLine], others: Sequence[SpokenLine]) -> dict[int, SpokenLine]:
    """Which of the others lies where a line does, by the line's place in `lines`; each is taken once."""
    pairs = [
        (overlap, place, number)
        for place, line in enumerate(lines)
        for number, other in enumerate(others)
        if (overlap := _overlap(line, other)) >= SAME_PLACE
    ]
    found: dict[int, SpokenLine] = {}
    taken: set[int] = set()
    for _, place, number in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if place not in found and number not in taken:
            found[place] = others[number]
            taken.add(number)
    return found


def _elected(voters: list[SpokenLine], num_teachers: int, max_wer: float) -> SpokenLine:
    def behind(text: str) -> float:
        return sum(_weight(other) for other in voters if word_error_rate(text, other.text) <= max_wer)

    chosen = max(voters, key=lambda line: behind(line.text))  # the first of equals
    if num_teachers == 1:
        return chosen
    confidence = min(1.0, behind(chosen.text) / num_teachers)
    return voters[0].model_copy(update={"text": chosen.text, "confidence": confidence})


def _weight(line: SpokenLine) -> float:
    return 1.0 if line.confidence is None else line.confidence


def _overlap(line: SpokenLine, other: SpokenLine) -> float:
    """Intersection over union of the upright boxes around two lines; 0 where one has no place."""
    if line.quad is None or other.quad is None:
        return 0.0
    (a, b, c, d), (e, f, g, h) = (
        (min(q[::2]), min(q[1::2]), max(q[::2]), max(q[1::2])) for q in (line.quad, other.quad)
    )
    shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    whole = (c - a) * (d - b) + (g - e) * (h - f) - shared
    return shared / whole if whole > 0 else 0.0
