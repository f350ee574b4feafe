"""A timetable's blocks in the order in which a page shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rapidfuzz.fuzz import partial_ratio

from tdtrain.data.found import find_blocks
from tdtrain.data.grid import find_grid
from tdtrain.data.layout import Grid, PlacedLine, upright
from tdtrain.data.merged_cells import with_labels
from tdtrain.data.plain import plain
from tdtrain.data.times import times_of
from tdtrain.data.timetable import TimeBlock, Timetable

Place = tuple[int, int]
"""Row and column."""
ALIKE, MISREAD = 80, 10
"""Texts are held for the same from here on, and as well as the best one up to so much less: partial_ratio, of 100."""


def in_order_of_page(truth: Timetable, lines: Sequence[PlacedLine]) -> Timetable:
    """The same timetable, its blocks in the order in which the page's rows show them, as far as they are found there:
    who reads the page as text need not jump from row to row to write them."""
    grid = with_labels(find_grid(upright(lines)))
    order = dict(_with_times(truth.timeblocks, grid))
    places = [one for one in _places(grid) if one[0] not in order.values()]
    alike: dict[tuple[str, str], list[int]] = {}
    for number, block in enumerate(truth.timeblocks):
        if number not in order:
            alike.setdefault((block.day, block.name), []).append(number)
    for (day, name), numbers in alike.items():
        of_day = _best([_alike(day, around) for _, _, around in places])
        among = [place for place, on_it in zip(places, of_day, strict=True) if on_it]  # Tuesday is much like Thursday
        named = _best([_alike(name, text) for _, text, _ in among])
        found = (place for (place, _, _), it_is in zip(among, named, strict=True) if it_is)
        by_time = sorted(numbers, key=lambda number: _clock(truth.timeblocks[number].startTime))
        order |= dict(zip(by_time, found, strict=False))
    last = (-1, -1)
    keys = []
    for number in range(len(truth.timeblocks)):
        last = order.get(number, last)  # what is not found stays behind the block before it
        keys.append((last, number))
    blocks: tuple[TimeBlock, ...] = tuple(truth.timeblocks[number] for _, number in sorted(keys))
    return truth.model_copy(update={"timeblocks": blocks})


def _with_times(blocks: Sequence[TimeBlock], grid: Grid) -> Iterator[tuple[int, Place]]:
    """Number and place of the blocks that are found with their day and times; of several, the one that is named most
    alike."""
    free = list(find_blocks(grid))
    for number, block in enumerate(blocks):
        times = times_of(f"{block.startTime}-{block.endTime}")
        same = [one for one in free if one.times == times and (not one.day or _alike(block.day, one.day) >= ALIKE)]
        if same:
            texts = [" ".join(cell.text for cell in (one.cell, *one.beside)) for one in same]
            found = max(zip(same, texts, strict=True), key=lambda one: _alike(block.name, one[1]))[0]
            free.remove(found)
            yield number, (found.row, found.cell.column)


def _places(grid: Grid) -> list[tuple[Place, str, str]]:
    """(row, column) of each cell, its text, and what heads it: its column's first cell, and its row's, or where that
    is empty the one above."""
    found, label = [], ""
    for r, row in enumerate(grid.rows):
        label = row[0].text if 0 in row else label
        for column, cell in sorted(row.items()):
            if cell.again:
                continue
            heads = grid.rows[0][column].text if column in grid.rows[0] else ""
            found.append(((r, column), cell.text, f"{heads} {label}"))
    return found


def _clock(time: str) -> tuple[list[int], str]:
    """What times are sorted by, as printed: 8:00 before 10:00."""
    return [int(number) for number in re.findall(r"\d+", time)], time


def _best(scores: Sequence[float]) -> list[bool]:
    """Which are as good as the best, if that is good enough."""
    least = max(ALIKE, max(scores, default=0.0) - MISREAD)
    return [score >= least for score in scores]


def _alike(part: str, whole: str) -> float:
    """How well a text is found within another, of 100; readers often miss what stands above or below a letter."""
    return partial_ratio(plain(part), plain(whole)) if len(part) <= len(whole) + 1 else 0.0
