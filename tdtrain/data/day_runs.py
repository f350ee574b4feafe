"""Days of a list by its times: where they go back, another day has begun."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

from tdtrain.data.found import Found


def days_by_runs(blocks: Sequence[Found], days: Collection[str]) -> list[Found]:
    """The blocks of a list, whose days stand beside some of its rows: where there are as many runs of later and later
    times as days, each run has its day; else what has no day has that of its run, if it is one.

    Args:
        blocks: of a page; returned as they are where two share a row, which no list has.
        days: texts that are days. What else stands for one is none.
    """
    rows = sorted(blocks, key=lambda one: one.row)
    if len({one.row for one in rows}) < len(rows) or not any(one.day in days for one in rows):
        return list(blocks)
    runs: list[list[Found]] = []
    for one in rows:
        if not runs or one.times[0] <= runs[-1][-1].times[0]:
            runs.append([])
        runs[-1].append(one)
    said = [list(dict.fromkeys(one.day for one in run if one.day in days)) for run in runs]
    order = list(dict.fromkeys(itertools.chain.from_iterable(said)))
    if len(order) == len(runs):
        return [replace(one, day=day) for run, day in zip(runs, order, strict=True) for one in run]
    return [
        replace(one, day=own[0]) if len(own) == 1 and one.day not in days else one
        for run, own in zip(runs, said, strict=True)
        for one in run
    ]
