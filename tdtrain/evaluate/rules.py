"""A timetable by rules alone: the grid of a page, and what looks like a time. What a language model has to beat.

No words of any language are known: days are what heads the columns (or rows) of a table whose rows (or columns) have
times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tdtrain.data.found import Found, find_blocks
from tdtrain.data.grid import find_grid
from tdtrain.data.known import NOTHING, Known
from tdtrain.data.layout import PlacedLine, upright
from tdtrain.data.merged_cells import with_labels
from tdtrain.data.timetable import TimeBlock, Timetable

_YEAR = re.compile(r"\b20\d\d\s?[/-]\s?(?:20)?\d\d\b")
_CLASS = re.compile(r"(?:^|\s)(\d{1,2}\s?/?\s?[a-dA-D])(?=\s|$)")


def parse_page(lines: Sequence[PlacedLine], known: Known = NOTHING) -> Timetable:
    """What the rules make of a page: of lists, and of tables with days across or down; else no blocks.

    Args:
        known: days and names that may stand on it.
    """
    boxes = upright(lines)
    grid = with_labels(find_grid(boxes))
    blocks = tuple(block for found in known.with_days(find_blocks(grid)) for block in _block(found, known))
    text = [box.text for box in boxes]
    return Timetable(
        className=next((found[1] for line in text if (found := _CLASS.search(line))), None),
        year=next((found[0] for line in text if (found := _YEAR.search(line))), None),
        timeblocks=blocks,
    )


def _block(found: Found, known: Known) -> Iterator[TimeBlock]:
    name, _ = known.named(found)
    if name and found.day:
        yield TimeBlock(day=found.day, name=name, startTime=found.times[0], endTime=found.times[1])
