"""How sure a figure is: intervals by bootstrap and a paired test, both by page.

Lines of one page share its paper, camera and hand, so their errors come together: pages are what is independent, and
pages are what is resampled. Sources: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"
(paired resampling of units); Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP"
(permutation tests for corpus-level metrics); Phipson and Smyth 2010 (never p = 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

_CHUNK_CELLS = 4_000_000
"""Resamples times pages held at once: 32 MB of int64, whatever the size of the corpus."""


class Interval(BaseModel):
    """A confidence interval, both ends included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators), resampling whole clusters.

    For the difference of two readers' rates on the same lines pass the differences of their edits as numerators: each
    resample then draws the same pages for both.

    Args:
        numerators: one a line, such as its character edits.
        denominators: one a line, such as its reference characters.
        clusters: the line's page id; lines with equal ids are drawn together.
        confidence: the interval's coverage. With few pages the percentile interval is too narrow: treat fewer than
            about 20 pages as a hint.

    Returns: the interval, or None where there are fewer than two clusters or no denominator: nothing can be said then.
    """
    top_P = _by_cluster("numerators", numerators, clusters)
    bottom_P = _by_cluster("denominators", denominators, clusters)
    pages = len(top_P)
    if pages < 2 or bottom_P.sum() == 0:
        return None
    rng = np.random.default_rng(seed)
    ratios = []
    for size in _chunks(resamples, pages):
        draws_RP = rng.multinomial(pages, np.full(pages, 1 / pages), size=size)
        bottoms_R = draws_RP @ bottom_P
        ratios.append((draws_RP @ top_P)[bottoms_R > 0] / bottoms_R[bottoms_R > 0])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def paired_permutation_p(
    edits_a: Sequence[int],
    edits_b: Sequence[int],
    clusters: Sequence[str],
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p that two readers with this CER difference are equally good: a sign-flip test over pages.

    Under the null a page's two edit counts could as well belong to the other reader. Each permutation swaps them for a
    random half of the pages; the reference length is the same for both, so the difference of edit sums orders the
    permutations as the CER difference does. p = (b + 1) / (n + 1), with b permutations at least as extreme as what was
    measured: never 0, and never far below 2 / 2^pages, so fewer than six pages cannot reach 0.05.

    Args:
        edits_a: character edits of one reader, one a line.
        edits_b: those of the other, same lines, same order.
        clusters: the line's page id.
    """
    difference_P = _by_cluster("edits_a", edits_a, clusters) - _by_cluster("edits_b", edits_b, clusters)
    difference_P = difference_P[difference_P != 0]
    observed = abs(difference_P.sum())
    rng = np.random.default_rng(seed)
    extreme = 0
    for size in _chunks(permutations, max(len(difference_P), 1)):
        signs_RP = rng.integers(0, 2, size=(size, len(difference_P)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs_RP @ difference_P) >= observed).sum())
    return (extreme + 1) / (permutations + 1)


def _by_cluster(name: str, values: Sequence[float], clusters: Sequence[str]) -> np.ndarray:
    """Sums per cluster, in the order of the sorted cluster names."""
    if len(values) != len(clusters):
        raise ValueError(f"{name} ({len(values)}) and clusters ({len(clusters)}) must pair up; give one page id a line")
    if not len(values):
        return np.zeros(0)
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(place, weights=np.asarray(values, dtype=np.float64))


def _chunks(total: int, pages: int) -> Iterator[int]:
    size = max(1, _CHUNK_CELLS // pages)
    for start in range(0, total, size):
        yield min(size, total - start)
