"""The rules read times and drawn tables; what they cannot know they leave out."""

from __future__ import annotations

import numpy as np
import pytest

from tdtrain.data.layout import PlacedLine
from tdtrain.data.sample.page import make_page
from tdtrain.data.times import times_of
from tdtrain.data.timetable import TimeBlock, Timetable
from tdtrain.evaluate.fields import count
from tdtrain.evaluate.rules import parse_page


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("08:00-08:45", ("08:00", "08:45")),
        ("7.55 / 8.40", ("07:55", "08:40")),
        ("12:05 pm-1:08 pm", ("12:05", "13:08")),
        ("11.35am - 12.00am", ("11:35", "00:00")),
        ("7h30-8h15", ("07:30", "08:15")),
        ("1. 8:35-9:20", ("08:35", "09:20")),
        ("08:00", None),
        ("Room 4.24", None),
        ("25:10-26:10", None),
    ],
)
def test_times_are_read_in_many_spellings(text: str, times: tuple[str, str] | None) -> None:
    assert times_of(text) == times


def f1(layout: str, pages: int = 3) -> float:
    """Of time blocks, on the true lines of clean pages."""
    found = []
    for index in range(pages):
        _, truth = make_page(9, index, layout=layout, harms=())
        lines = [PlacedLine(line.text, tuple(np.ravel(line.quad))) for line in truth.boxes.lines]
        found.append(count(truth.document, parse_page(lines).canonical()))
    right, said, true = (sum(getattr(one, f"blocks_{name}") for one in found) for name in ("right", "said", "true"))
    return 2 * right / (said + true)


@pytest.mark.parametrize("layout", ["by_day", "by_period", "blocks"])
def test_plain_tables_are_read_by_rules(layout: str) -> None:
    assert f1(layout) > 0.8


def test_a_page_in_two_columns_of_days() -> None:
    rows = [["Time", "Mon", "Tue"], ["8:00-8:45", "Art", "Music (12)"], ["9:00-9:45", "", "French"]]
    lines = [
        PlacedLine(text, (x, y, x + 60, y, x + 60, y + 12, x, y + 12))
        for y, row in zip((100, 140, 180), rows, strict=True)
        for x, text in zip((50, 150, 250), row, strict=True)
        if text
    ]
    lines.append(PlacedLine("Class 7b 2026/27", (50, 60, 150, 60, 150, 75, 50, 75)))
    mon, tue = ("Mon", "Art", "08:00", "08:45"), ("Tue", "Music", "08:00", "08:45")
    blocks = [mon, tue, ("Tue", "French", "09:00", "09:45")]
    said = [TimeBlock(day=day, name=name, startTime=start, endTime=end) for day, name, start, end in blocks]
    assert parse_page(lines) == Timetable(className="7b", year="2026/27", timeblocks=tuple(said))


def test_a_page_without_a_table_has_no_blocks() -> None:
    assert parse_page([]).timeblocks == ()
    assert parse_page([PlacedLine("Hello", (0, 0, 50, 0, 50, 12, 0, 12))]).timeblocks == ()
