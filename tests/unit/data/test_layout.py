"""Pages as text: tables keep their columns, turned pages read as upright ones, nothing is lost."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdtrain.data.grid import find_grid
from tdtrain.data.layout import PlacedLine, upright
from tdtrain.data.order import in_order_of_page
from tdtrain.data.sample.page import make_page
from tdtrain.data.serialise import Serialisation, serialise
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


def test_times_tell_where_a_block_is_whose_name_cannot_be_read() -> None:
    texts = ("Time", "Mon", "Tue", "8.00-8.45", "qb12", "Art", "8.50-9.35", "Art", "#", "9.40-10.25", "French", "Art")
    lines = [placed(text, 60 + 100 * (i % 3), 90 + 50 * (i // 3), 80) for i, text in enumerate(texts)]
    first, second, third = ("08:00", "08:45"), ("08:50", "09:35"), ("09:40", "10:25")
    told = [("Mon", "Art", second), ("Mon", "French", third), ("Mon", "Physics", first)]
    told += [("Tue", "Art", third), ("Tue", "Sport", second), ("Tue", "Art", first)]
    blocks = tuple(TimeBlock(day=day, name=name, startTime=at[0], endTime=at[1]) for day, name, at in told)
    said = in_order_of_page(Timetable(timeblocks=blocks), lines).timeblocks
    assert [(block.day, block.name) for block in said] == [
        ("Mon", "Physics"), ("Tue", "Art"), ("Mon", "Art"), ("Tue", "Sport"), ("Mon", "French"), ("Tue", "Art"),
    ]  # fmt: skip


def test_days_that_are_much_alike_are_told_apart() -> None:
    texts = ("Day", "8-9", "9-10", "Tuesday", "Art", "French", "Thursday", "French", "Art")
    lines = [placed(text, 60 + 100 * (i % 3), 90 + 50 * (i // 3), 80) for i, text in enumerate(texts)]
    told = [("Tuesday", "Art"), ("Thursday", "Art"), ("Tuesday", "French"), ("Thursday", "French")]
    blocks = tuple(TimeBlock(day=day, name=name, startTime="-", endTime="-") for day, name in told)
    said = in_order_of_page(Timetable(timeblocks=blocks), lines).timeblocks
    assert [(block.day, block.name) for block in said] == [told[0], told[2], told[3], told[1]]


def test_a_block_is_found_where_marks_over_letters_were_misread() -> None:
    texts = ("Tid", "Män", "Tis", "8-9", "Sprak", "Art", "9-10", "Art", "Sprak")
    lines = [placed(text, 60 + 100 * (i % 3), 90 + 50 * (i // 3), 80) for i, text in enumerate(texts)]
    told = [("Mån", "Språk", "8"), ("Mån", "Art", "9"), ("Tis", "Art", "8"), ("Tis", "Språk", "9")]
    blocks = tuple(TimeBlock(day=day, name=name, startTime=start, endTime="-") for day, name, start in told)
    said = in_order_of_page(Timetable(timeblocks=blocks), lines).timeblocks
    assert [(block.day, block.startTime) for block in said] == [("Mån", "8"), ("Tis", "8"), ("Mån", "9"), ("Tis", "9")]


def test_times_are_sorted_as_times() -> None:
    texts = ("Time", "Mon", "8:00", "Art", "9:00", "French", "10:00", "Art")
    lines = [placed(text, 60 + 100 * (i % 2), 90 + 50 * (i // 2), 80) for i, text in enumerate(texts)]
    told = [("Art", "10:00"), ("Art", "8:00"), ("French", "9:00")]
    blocks = tuple(TimeBlock(day="Mon", name=name, startTime=start, endTime="-") for name, start in told)
    said = in_order_of_page(Timetable(timeblocks=blocks), lines)
    assert [block.startTime for block in said.timeblocks] == ["8:00", "9:00", "10:00"]


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
@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 900), st.floats(5, 400)), max_size=20))
def test_no_line_is_lost_wherever_it_stands(way: Serialisation, places: list[tuple[float, float, float]]) -> None:
    lines = [placed(f"<{i}>", x, y, width) for i, (x, y, width) in enumerate(places)]
    said = serialise(lines, way)
    assert all(
        said.count(line.text) == 1 or (way in ("headings", "cells", "blocks") and line.text in said) for line in lines
    )


LIST = (("Day", "Time", "Subject"), ("", "8-9", "Art"), ("", "9-10", "French"), ("", "8-9", "Music"),
        ("", "9-10", "Sport"), ("", "10-11", "Art"))  # fmt: skip


def listed(labels: dict[str, float], notes: str = "") -> list[PlacedLine]:
    """A list of five blocks in rows of 30 pixels, and labels in its first column, at places in rows."""
    lines = [
        placed(text, 60 + 100 * column, 90 + 30 * row)
        for row, texts in enumerate(LIST)
        for column, text in enumerate(texts)
        if text
    ]
    lines += [placed(label, 60, 90 + 30 * row) for label, row in labels.items()]
    return lines + ([placed(notes, 70, 290, 80)] if notes else [])


@pytest.mark.parametrize(
    "labels",
    [{"Mon": 1.5, "Tue": 4}, {"Mon": 1.45, "Tue": 4.1}, {"Mon": 1, "Tue": 3}],
    ids=["in the middle", "nearly", "at the top"],
)
@pytest.mark.parametrize("notes", ["", "Be on time."])
def test_a_label_that_is_merged_over_rows_is_said_in_each(labels: dict[str, float], notes: str) -> None:
    said = serialise(listed(labels, notes), "headings").split("\n")
    assert [row.partition("|")[0] for row in said[:5]] == [*["Day=Mon"] * 2, *["Day=Tue"] * 3]
    assert said[5:] == ([notes] if notes else [])


@pytest.mark.parametrize("labels", [{"Tue": 4}, {"1": 1, "2": 2, "3": 4}])
def test_labels_that_do_not_fit_the_rows_stay_where_they_are(labels: dict[str, float]) -> None:
    said = serialise(listed(labels), "headings")
    assert all(said.count(f"={label}|") == 1 for label in labels)


@pytest.mark.parametrize("labels", [{"Mon": 1.9, "Tue": 4}, {"Mon": 1.5, "Tue": 3.6}])
def test_labels_that_nearly_fit_belong_to_the_rows_they_are_nearest_to(labels: dict[str, float]) -> None:
    said = serialise(listed(labels), "headings").split("\n")
    assert [row.partition("|")[0] for row in said] == [*["Day=Mon"] * 2, *["Day=Tue"] * 3]


def test_a_page_with_more_labels_than_a_table_has_is_not_matched_for_ever() -> None:
    lines = [placed(f"x{row}", 160, 90 + 10 * row) for row in range(300)]
    lines += [placed("abcdefghij"[row % 10], 60, 93 + 20 * row) for row in range(149)]
    assert serialise(lines, "headings").count("x299") == 1


TIMES = ("8-9", "9-10", "10-11", "11-12")


def timed(cells: dict[tuple[int, float], str]) -> list[PlacedLine]:
    """Days across, four rows of times 40 pixels apart, and cells by their column and their place in rows."""
    heads = [placed(text, 60 + 100 * column, 90) for column, text in enumerate(("Time", "Mon", "Tue")) if text]
    rows = [placed(text, 60, 130 + 40 * row) for row, text in enumerate(TIMES)]
    return heads + rows + [placed(text, 60 + 100 * column, 130 + 40 * row) for (column, row), text in cells.items()]


def test_a_cell_that_stands_between_two_empty_ones_fills_both() -> None:
    lines = timed({(1, 0): "Art", (1, 1.5): "Music", (2, 0.4): "Sport", (2, 2): "French"})
    said = serialise(lines, "markdown").split("\n")[1:]
    assert said == ["8-9|Art|Sport", "9-10|Music|^", "10-11|^|French", "11-12"]
    assert "Time=9-10|Mon=Music|Tue=^" in serialise(lines, "headings")
    told = [("Tue", "Sport", "08"), ("Mon", "Art", "08"), ("Mon", "Music", "09"), ("Tue", "French", "10")]
    blocks = tuple(TimeBlock(day=day, name=name, startTime=start, endTime="-") for day, name, start in told)
    order = in_order_of_page(Timetable(timeblocks=blocks), lines).timeblocks
    assert [block.name for block in order] == ["Art", "Sport", "Music", "French"]


def test_what_stands_in_a_wide_gap_is_a_row_of_its_own() -> None:
    lines = [*timed({(1, 0): "Art", (2, 1): "Sport"}), placed("12-13", 60, 330), placed("Lunch", 160, 290)]
    assert serialise(lines, "markdown").split("\n")[-2:] == ["|Lunch|", "12-13"]


def test_headings_need_no_corner() -> None:
    heads = [placed(text, 160 + 100 * i, 90 + 16 * row) for i, two in enumerate((("1.", "8-9"), ("2.", "9-10")))
             for row, text in enumerate(two)]  # fmt: skip
    days = [placed(text, 60, 140 + 40 * row) for row, text in enumerate(("Monday", "Tuesday", "Wednesday"))]
    cells = [placed("Art", 160, 132), placed("Room 4", 160, 148), placed("Sport", 260, 180), placed("Music", 160, 220)]
    said = serialise([*heads, *days, *cells], "markdown").split("\n")
    assert said == ["|1. / 8-9|2. / 9-10", "Monday|Art / Room 4|", "Tuesday||Sport", "Wednesday|Music|"]


@pytest.mark.parametrize("also", [[], [("(new)", 290, 132)]], ids=["alone", "beside another line"])
@pytest.mark.parametrize("step", [14, 17, 20])
def test_rows_that_stand_close_are_rows_all_the_same(step: int, also: list[tuple[str, float, float]]) -> None:
    cells = [(row, column, text) for row, texts in enumerate(LIST) for column, text in enumerate(texts) if text]
    lines = [placed(text, 60 + 100 * column, 90 + step * row) for row, column, text in cells]
    lines += [placed(*one, width=20) for one in also]
    assert "10-11|Art" in serialise(lines, "markdown").split("\n")


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
