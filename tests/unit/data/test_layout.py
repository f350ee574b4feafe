"""Pages as text: tables keep their columns, turned pages read as upright ones, nothing is lost."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdtrain.data.layout import PlacedLine, find_grid, upright
from tdtrain.data.sample.page import make_page
from tdtrain.data.serialise import Serialisation, in_order_of_page, serialise
from tdtrain.data.timetable import TimeBlock, Timetable


def placed(text: str, x: float, y: float, width: float = 60, height: float = 12, angle: float = 0) -> PlacedLine:
    """A line whose middle is at (x, y), on a page that is turned by an angle, degrees."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2] + [x, y]
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return PlacedLine(text, tuple((corners @ np.array([[cosine, sine], [-sine, cosine]])).reshape(-1)))


def page(angle: float = 0) -> list[PlacedLine]:
    """A title, days across, a cell of two lines, an empty cell, and a note."""
    table = [["Time", "Mon", "Tue", "Wed"], ["8-9", "Art", "", "Music"], ["9-10", "French", "Sport", "Art"]]
    lines = [placed("Class 5a", 110, 30, 150, 18, angle), placed("Bring your books.", 120, 260, 200, 12, angle)]
    for row, texts in enumerate(table):
        for column, text in enumerate(texts):
            if text:
                lines.append(placed(text, 60 + 100 * column, 90 + 50 * row, 40 + 4 * len(text), 12, angle))
    lines.append(placed("Room 12", 160, 204, 50, 12, angle))
    return lines


EXPECTED = "Class 5a\nTime|Mon|Tue|Wed\n8-9|Art||Music\n9-10|French / Room 12|Sport|Art\nBring your books."


@pytest.mark.parametrize("angle", [0, 3, -7])
def test_a_table_keeps_its_columns_however_the_page_lies(angle: float) -> None:
    assert serialise(page(angle)[::-1], "markdown").replace("|||", "") == EXPECTED
    order = serialise(page(angle), "reading_order").split("\n")
    assert order[:5] == ["Class 5a", "Time", "Mon", "Tue", "Wed"] and order[-1] == "Bring your books."


def test_cells_stand_after_what_heads_them() -> None:
    said = serialise(page(), "headings")
    rows = ["Time=8-9|Mon=Art|Wed=Music", "Time=9-10|Mon=French / Room 12|Tue=Sport|Wed=Art"]
    assert said.split("\n") == ["Class 5a", *rows, "Bring your books."]


def test_blocks_come_in_the_order_of_the_page() -> None:
    first = (("Mon", "Art", "8"), ("Wed", "Music", "8"))
    shown = (*first, ("Mon", "French", "9"), ("Tue", "Sport", "9"), ("Wed", "Art", "9"))
    told = [TimeBlock(day=day, name=name, startTime=start, endTime="-") for day, name, start in sorted(shown)]
    said = in_order_of_page(Timetable(year="2026", timeblocks=tuple(told)), page(3))
    assert said.year == "2026"
    assert [(block.day, block.name, block.startTime) for block in said.timeblocks] == list(shown)


def test_a_name_is_found_where_it_is_best() -> None:
    texts = ("Time", "Mon", "8-9", "Early shift", "9-10", "Late shift", "10-11", "Early shift")
    lines = [placed(text, 60 + 100 * (i % 2), 90 + 50 * (i // 2), 80) for i, text in enumerate(texts)]
    told = [("Early shift", "08"), ("Early shift", "10"), ("Late shift", "09")]
    blocks = tuple(TimeBlock(day="Mon", name=name, startTime=start, endTime="-") for name, start in told)
    said = in_order_of_page(Timetable(timeblocks=blocks), lines)
    assert [block.startTime for block in said.timeblocks] == ["08", "09", "10"]


def test_blocks_that_the_page_does_not_show_stay_where_they_were() -> None:
    told = [TimeBlock(day="Mon", name=name, startTime="8", endTime="-") for name in ("Art", "Nowhere", "French")]
    assert in_order_of_page(Timetable(timeblocks=tuple(told)), page()).timeblocks == tuple(told)
    assert in_order_of_page(Timetable(timeblocks=tuple(told)), []).timeblocks == tuple(told)


def test_coordinates_say_where_a_line_stands() -> None:
    said = dict(reversed(line.split(" ", 1)) for line in serialise(page(), "coordinates").split("\n"))
    assert said["Mon"].split(",")[1] == said["Wed"].split(",")[1]
    assert said["Art"].split(",")[0] == said["Wed"].split(",")[0]


def test_upright_boxes_of_a_turned_page_are_those_of_the_page() -> None:
    for box, turned in zip(upright(page()), upright(page(10)), strict=True):
        assert turned.height == pytest.approx(box.height) and turned.x1 - turned.x0 >= box.x1 - box.x0 - 1e-6


@pytest.mark.parametrize("way", get_args(Serialisation))
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900), st.floats(5, 400)), max_size=20))
def test_no_line_is_lost_wherever_it_stands(way: Serialisation, places: list[tuple[float, float, float]]) -> None:
    lines = [placed(f"<{i}>", x, y, width) for i, (x, y, width) in enumerate(places)]
    said = serialise(lines, way)
    assert all(said.count(line.text) == 1 or (way == "headings" and line.text in said) for line in lines)


@pytest.mark.parametrize("layout", ["by_day", "by_period", "blocks", "merged"])
def test_days_across_a_drawn_page_are_columns_of_their_own(layout: str) -> None:
    for index in range(3):
        _, truth = make_page(5, index, layout=layout)
        boxes = upright([PlacedLine(line.text, tuple(np.ravel(line.quad))) for line in truth.boxes.lines])
        column_of = {
            id(box): cell.column for row in find_grid(boxes).rows for cell in row.values() for box in cell.boxes
        }
        lines = zip(truth.boxes.lines, boxes, strict=True)
        columns = [column_of[id(box)] for line, box in lines if line.field == "day"]
        assert len(set(columns)) == len(columns) > 2
