"""Which rows a run has learnt from, so that none is lost or doubled in silence, whatever happened to its workers.

Each step's record has the number of its rows, of all workers together, and the sum of the checksums of their ids,
which travel with the losses. How workers share a step does not matter, and an epoch's sums are those of the corpus.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from tdtrain.train.state import Record


def fingerprint(ids: Iterable[str]) -> int:
    """The sum of the CRC-32 of each id; of 2^21 rows and fewer it is exact in float64."""
    return sum(zlib.crc32(one.encode()) for one in ids)


def amiss(history: Sequence[Record], ids: Sequence[str], steps_per_epoch: int) -> list[str]:
    """What is wrong with the rows of a run's steps, in words; nothing where every whole epoch had each row once.

    Args:
        ids: of the rows of an epoch.
    """
    wrong = []
    if (steps := [record.step for record in history]) != list(range(1, len(history) + 1)):
        wrong.append(f"steps are {steps}")
    rows, crc = len(ids), fingerprint(ids)
    for epoch, records in enumerate(zip(*[iter(history)] * steps_per_epoch, strict=False)):
        seen = sum(record.rows for record in records)
        if (seen, sum(record.rows_crc for record in records)) != (rows, crc):
            wrong.append(f"epoch {epoch} learnt from {seen} rows, which are not the {rows} of the corpus")
    return wrong
