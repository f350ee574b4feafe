"""Which annotation line belongs to which detected line, from a rough reading of both the page and the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from scipy.optimize import linear_sum_assignment

ORDER_WEIGHT = 0.05
"""What being at opposite ends of the page costs; only enough to decide between lines that read alike."""


@dataclass(frozen=True)
class Alignment:
    """A one-to-one matching.

    Attributes:
        line_of: for each reading, the index of its annotation line, or None.
        unmatched: the annotation lines that no reading matches, with the nearest reading's distance, in order.
    """

    line_of: tuple[int | None, ...]
    unmatched: tuple[tuple[int, float], ...]


def align(readings: Sequence[str], lines: Sequence[str], max_distance: float = 0.4) -> Alignment:
    """Matches rough readings of a page's boxes, in reading order, to the lines of its annotation.

    Args:
        readings: R texts as a recogniser saw them, errors included.
        lines: A texts as the annotator wrote them.
        max_distance: pairs whose normalised edit distance (0 alike, 1 nothing in common; case and spaces ignored) is
            above are never matched.

    Source: Kuhn 1955, the assignment problem, by scipy's `linear_sum_assignment`.
    """
    distance = np.ones((len(readings), len(lines)))
    if readings and lines:
        distance = cdist(
            [_key(text) for text in readings],
            [_key(text) for text in lines],
            scorer=Levenshtein.normalized_distance,
            dtype=np.float64,
            workers=1,
        )
    allowed = distance <= max_distance
    place = np.abs(_places(len(readings))[:, None] - _places(len(lines))[None, :])
    # Every refused pair costs the same, so that hopeless lines cannot push good ones out of their places.
    # What reads exactly as a line is that line, rather than one more pair being found for its neighbours.
    cost = np.where(allowed, distance + ORDER_WEIGHT * place - (distance == 0), 2.0)
    line_of: list[int | None] = [None] * len(readings)
    for reading, line in zip(*linear_sum_assignment(cost), strict=True):
        if allowed[reading, line]:
            line_of[reading] = int(line)
    taken = set(line_of)
    nearest = distance.min(axis=0) if readings else np.ones(len(lines))
    return Alignment(tuple(line_of), tuple((i, float(nearest[i])) for i in range(len(lines)) if i not in taken))


def _key(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _places(count: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(count)
