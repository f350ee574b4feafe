"""Cells are found with their day and times in each form of table, and what is not found is still said."""

from __future__ import annotations

import json

import pytest

from tdtrain.data.known import Known
from tdtrain.data.layout import PlacedLine
from tdtrain.data.serialise import serialise
from tdtrain.evaluate.rules import parse_page

Table = list[list[str]]


def drawn(table: Table, pitch: float = 40, **moved: float) -> list[PlacedLine]:
    """Lines of a table, 12 pixels high; `moved`: how many rows a text stands lower, by the text."""
    lines = []
    for r, row in enumerate(table):
        for c, cell in enumerate(row):
            for number, text in enumerate(cell.split("\n") if cell else []):
                x, y = 60 + 120 * c, 100 + pitch * (r + moved.get(text, 0.0)) + 14 * number
                lines.append(PlacedLine(text, (x, y, x + 80, y, x + 80, y + 12, x, y + 12)))
    return lines


def test_days_head_columns_and_a_cell_fills_two_rows() -> None:
    table = [
        ["Time", "Mon", "Tue", "Wed"],
        ["8.00-8.45", "Art", "Sport", ""],
        ["8.50-9.35", "", "Music", "French"],
        ["9.40-10.25", "French", "", "Music"],
    ]
    said = serialise(drawn(table, Sport=0.0, Art=0.5), "cells").split("\n")
    assert said == [
        "Mon|Art|08:00|09:35",
        "Tue|Sport|08:00|08:45",
        "Tue|Music|08:50|09:35",
        "Wed|French|08:50|09:35",
        "Mon|French|09:40|10:25",
        "Wed|Music|09:40|10:25",
    ]


def test_times_head_columns() -> None:
    table = [["", "8.00-8.45", "8.50-9.35", "9.40-10.25"], ["Mon", "Art", "", "Sport"], ["Tue", "French", "Art", ""]]
    said = serialise(drawn(table), "cells").split("\n")
    assert said[0] == "Mon|Art|08:00|08:45" and said[-1] == "Tue|Art|08:50|09:35" and len(said) == 4


@pytest.mark.parametrize("pitch", [18, 40])
def test_a_list_keeps_its_rows_however_close_they_are(pitch: float) -> None:
    """Days are merged over rows, and stand in the middle of these."""
    times = [f"{hour}:00-{hour}:45" for hour in range(8, 14)]
    table = [
        ["Day", "Time", "Subject", "Room"],
        *([["", time, f"Art{'abcdef'[i]}", "R1"] for i, time in enumerate(times)]),
    ]
    table[1][0], table[4][0] = "Monday", "Tuesday"
    lines = drawn(table, pitch, Monday=1.0, Tuesday=1.0)
    said = serialise(lines, "cells").split("\n")
    assert said[0] == "Monday|Arta|R1|08:00|08:45"
    assert [line.split("|")[0] for line in said] == ["Monday"] * 3 + ["Tuesday"] * 3


def test_a_list_without_days_has_the_only_one_that_is_known() -> None:
    saturdays = Known(days={"saturdays": ["Saturdays"]}, names={"harbour": ["Harbour"]}, only_day="Saturdays")
    rows = [
        [f"{hour}:05-{hour}:45", f"S{hour}", stop, "4a"] for hour, stop in ((8, "Harbour"), (9, "Castle"), (10, "Port"))
    ]
    lines = drawn([["Time", "Line", "To", "Track"], *rows])
    assert "|Harbour|S8|4a|08:05|08:45" in serialise(lines, "cells").split("\n")
    assert "Saturdays|Harbour|S8|4a|08:05|08:45" in serialise(lines, "cells", saturdays).split("\n")
    assert parse_page(lines).timeblocks == ()
    told = parse_page(lines, saturdays).timeblocks
    assert [(block.day, block.name, block.startTime) for block in told] == [
        ("Saturdays", "Harbour", "08:05"), ("Saturdays", "Castle", "09:05"), ("Saturdays", "Port", "10:05")
    ]  # fmt: skip


def test_cells_are_said_as_the_json_that_is_to_be_written() -> None:
    table = [["", "8.00-8.45", "8.50-9.35", "9.40-10.25"], ["Mon", "Art", "", "Sport"], ["Tue", "French", "Art", ""]]
    said = serialise(drawn(table), "blocks").split("\n")
    blocks = [block.model_dump_json() for block in parse_page(drawn(table)).timeblocks]
    assert sorted(said) == sorted(blocks) and json.loads(said[0])["startTime"] == "08:00"
    rows = [
        [f"{hour}:05-{hour}:45", f"S{hour}", stop, "4a"] for hour, stop in ((8, "Harbour"), (9, "Port"), (10, "Zoo"))
    ]
    said = serialise(drawn([["Time", "Line", "To", "Track"], *rows]), "blocks").split("\n")
    assert '{"day":"?","name":"Harbour","startTime":"08:05","endTime":"08:45"}|S8|4a' in said
    table[1][1], table[2][1] = "Art\nAB\nR 12", "French (R 7)"
    said = serialise(drawn(table, 60), "blocks").split("\n")
    blocks = {block.model_dump_json() for block in parse_page(drawn(table, 60)).timeblocks}
    assert {line.partition("}")[0] + "}" for line in said} == blocks
    assert [line.partition("}")[2] for line in said if "Art" in line or "French" in line] == ["|AB R 12", "|(R 7)", ""]


@pytest.mark.parametrize("legend", [("1. 8.00-8.45", "2. 8.50-9.35"), ("1.8.00-8.45", "2:8.50-9.35")])
def test_numbers_are_looked_up_in_a_legend(legend: tuple[str, str]) -> None:
    lines = drawn([["No", "Mon", "Tue"], ["1", "Art", "Sport"], ["2,", "French", "Art"]])
    for number, text in enumerate(legend):
        y = 300 + 40 * number
        lines.append(PlacedLine(text, (60, y, 140, y, 140, y + 12, 60, y + 12)))
    said = serialise(lines, "cells").split("\n")
    assert said[:2] == ["Mon|Art|08:00|08:45", "Tue|Sport|08:00|08:45"]
    assert said[2:4] == ["Mon|French|08:50|09:35", "Tue|Art|08:50|09:35"]


@pytest.mark.parametrize("seen", [set(), {"2"}, {"1", "4"}])
def test_rows_are_numbered_by_their_place_where_no_number_is_seen(seen: set[str]) -> None:
    rows = [[str(number) if str(number) in seen else "", "Art", "Sport"] for number in (1, 2, 4)]
    table = [["No", "Mon", "Tue"], *rows[:2], ["", "", ""], rows[2]]
    lines = drawn(table)
    for number in range(1, 5):
        y = 300 + 16 * number
        lines.append(PlacedLine(f"{number}. {7 + number}.00-{7 + number}.45", (60, y, 140, y, 140, y + 12, 60, y + 12)))
    said = serialise(lines, "cells").split("\n")
    assert [line for line in said if line.startswith("Tue|")] == [
        f"Tue|Sport|{hour}:00|{hour}:45" for hour in ("08", "09", "11")
    ]


def test_starts_and_ends_below_each_other_are_rows_two_by_two() -> None:
    """However close they stand: 8.45 is an end and a start."""
    clocks = ["8.00", "8.45", "8.45", "9.30", "9.40", "10.25"]
    lines = [
        PlacedLine(clock, (60, 128 + 16 * i, 100, 128 + 16 * i, 100, 140 + 16 * i, 60, 140 + 16 * i))
        for i, clock in enumerate(clocks)
    ]
    cells = drawn(
        [["Time", "Mon", "Tue"], ["", "Art", "Sport"], ["", "French", "Art"], ["", "Music", "French"]], pitch=32
    )
    said = serialise([*lines, *cells], "cells").split("\n")
    assert (
        said[0] == "Mon|Art|08:00|08:45" and said[2] == "Mon|French|08:45|09:30" and said[5] == "Tue|French|09:40|10:25"
    )


def test_cells_that_begin_with_their_times_need_no_rows() -> None:
    columns = [
        ["8.00-8.45", "Art", "8.45-9.30", "French", "9.40-10.25", "Music"],
        ["8.00-9.30", "Sport", "9.40-10.25", "Art"],
    ]
    lines = drawn([["Mon", "Tue"]])
    for column, texts in enumerate(columns):
        for i, text in enumerate(texts):
            x, y = 60 + 120 * column, 140 + 16 * i
            lines.append(PlacedLine(text, (x, y, x + 80, y, x + 80, y + 12, x, y + 12)))
    said = set(serialise(lines, "cells").split("\n"))
    assert {
        "Mon|Art|08:00|08:45",
        "Mon|French|08:45|09:30",
        "Mon|Music|09:40|10:25",
        "Tue|Sport|08:00|09:30",
        "Tue|Art|09:40|10:25",
    } <= said


FALLING = ["8:00-8:45", "9:00-9:45", "10:00-10:45", "8:00-8:45", "9:00-9:45", "8:00-8:45", "9:00-9:45"]


@pytest.mark.parametrize("moved", [{}, {"Mon": 0.4, "Wed": 0.1}, {"Tue": 0.3, "Wed": 0.3}])
def test_days_change_where_times_go_back(moved: dict[str, float]) -> None:
    """The day in the middle of whose rows a label would stand is not always seen where it is."""
    table = [["Day", "Time", "Subject"], *(["", time, "Art"] for time in FALLING)]
    table[2][0], table[4][0], table[6][0] = "Mon", "Tue", "Wed"
    said = serialise(drawn(table, **({"Tue": 0.5, "Wed": 0.5} | moved)), "cells").split("\n")
    assert [line.split("|")[0] for line in said] == ["Mon"] * 3 + ["Tue"] * 2 + ["Wed"] * 2


def test_a_day_that_was_not_seen_has_none_of_another() -> None:
    table = [["Day", "Time", "Subject"], *(["", time, "Art"] for time in FALLING)]
    table[2][0], table[6][0] = "Mon", "Wed"
    said = serialise(drawn(table, Wed=0.5), "cells").split("\n")
    assert [line.split("|")[0] for line in said] == ["Mon"] * 3 + [""] * 2 + ["Wed"] * 2


def test_specks_beside_headings_and_lines_in_two_parts_make_no_columns() -> None:
    rows = [[f"{hour}:05-{hour}:30", f"Bus {hour}", "Harbour"] for hour in range(8, 13)]
    lines = drawn([["Time", "Line", "To"], *rows])
    x, y = 10, 100
    lines.append(PlacedLine("n", (x, y, x + 8, y, x + 8, y + 12, x, y + 12)))  # left of all, in the headings' row
    first = next(line for line in lines if line.text == "8:05-8:30")
    x, y = first.quad[:2]
    parts = [
        PlacedLine(text, (at, y, at + 38, y, at + 38, y + 12, at, y + 12))
        for text, at in (("8:05", x), ("8:30", x + 42))
    ]
    lines = [line for line in lines if line is not first] + parts
    said = serialise(lines, "cells")
    assert all(f"|Harbour|Bus {hour}|{hour:02}:05|{hour:02}:30" in said for hour in range(9, 13))


@pytest.mark.parametrize("holes", [(), (2,)])
def test_departures_say_their_day_above_the_table(holes: tuple[int, ...]) -> None:
    rows = [
        [f"{hour}:05-{hour}:30", f"Bus {hour}", "", "Harbour", "" if hour - 8 in holes else "2"]
        for hour in range(8, 16)
    ]
    rows[5][2] = "II"  # of a crease
    above = ("Departures", "Castle", "Sundays", "valid from 2 May 2030")
    lines = [
        PlacedLine(text, (60, 20 * i, 160, 20 * i, 160, 20 * i + 12, 60, 20 * i + 12)) for i, text in enumerate(above)
    ]
    told = parse_page([*lines, *drawn([["Time", "Line", "", "To", "Track"], *rows])]).timeblocks
    assert [(block.day, block.name) for block in told] == [("Sundays", "Harbour")] * 8
    monday = Known(days={"monday": ["Monday"]}, only_day="Monday")
    told = parse_page([*lines, *drawn([["Time", "Line", "", "To", "Track"], *rows])], monday).timeblocks
    assert {block.day for block in told} == {"Monday"}


def test_a_speck_that_looks_like_a_number_numbers_no_rows() -> None:
    times = [f"{hour}:00-{hour}:45" for hour in range(8, 14)]
    table = [["", "Day", "Time", "Subject"], *(["", "Mon", time, "Art"] for time in times)]
    table[3][0] = "3"
    told = parse_page(drawn(table)).timeblocks
    assert [(block.day, block.startTime[:2]) for block in told] == [("Mon", f"{hour:02}") for hour in range(8, 14)]


def test_departures_are_a_list() -> None:
    rows = [[f"{hour}:05-{hour}:30", f"Bus {hour}", "Harbour", "2"] for hour in range(8, 12)]
    said = serialise(drawn([["Time", "Line", "To", "Track"], *rows]), "cells").split("\n")
    assert said == [f"|Harbour|Bus {hour}|2|{hour:02}:05|{hour:02}:30" for hour in range(8, 12)]


def test_what_has_times_but_no_cell_is_said() -> None:
    table = [
        ["Time", "Mon", "Tue"],
        ["8.00-8.45", "Art", "Sport"],
        ["Lunch 8.45-9.30", "", ""],
        ["9.40-10.25", "", "Art"],
    ]
    assert "Time=Lunch 8.45-9.30" in serialise(drawn(table), "cells").split("\n")


def test_a_row_whose_times_cannot_be_read_is_said_all_the_same() -> None:
    table = [
        ["Time", "Mon", "Tue"],
        ["8.00-8.45", "Art", "Sport"],
        ["8.S0-9.3S", "Music", ""],
        ["9.40-10.25", "", "Art"],
    ]
    said = serialise(drawn(table), "cells").split("\n")
    assert said == ["Mon|Art|08:00|08:45", "Tue|Sport|08:00|08:45", "Time=8.S0-9.3S|Mon=Music", "Tue|Art|09:40|10:25"]


def test_starts_and_ends_that_stand_apart_are_one() -> None:
    table = [["Day", "Start", "End", "Subject", "Room"]]
    table += [["Mon", f"{hour}.00 -", f"{hour}.45", name, "R 1"] for hour, name in ((8, "Art"), (9, "French"))]
    table += [["Tue", "8.00 -", "8.45", "Sport", "R 2"]]
    said = [block.model_dump().values() for block in parse_page(drawn(table)).timeblocks]
    assert [tuple(values) for values in said] == [
        ("Mon", "Art", "08:00", "08:45"),
        ("Mon", "French", "09:00", "09:45"),
        ("Tue", "Sport", "08:00", "08:45"),
    ]


def test_a_first_row_whose_times_are_half_read_does_not_head_the_columns() -> None:
    table = [["Time", "Mon", "Tue"], ["7.00", "Art", ""], ["8.00-8.45", "", "Music"], ["8.50-9.35", "French", ""]]
    assert {block.day for block in parse_page(drawn(table)).timeblocks} == {"Mon", "Tue"}


def test_numbers_are_found_beside_a_speck_at_the_left() -> None:
    table = [["", "No", "Mon", "Tue"], ["", "1", "Art", "Sport"], ["", "2", "Music", ""], [",", "3", "", "French"]]
    legend = drawn([["1. 8.00-8.45"], ["2. 8.50-9.35"], ["3. 9.40-10.25"]])
    below = [PlacedLine(line.text, tuple(v + 300 * (i % 2) for i, v in enumerate(line.quad))) for line in legend]
    said = [(block.day, block.name, block.startTime) for block in parse_page([*drawn(table), *below]).timeblocks]
    assert said == [
        ("Mon", "Art", "08:00"),
        ("Tue", "Sport", "08:00"),
        ("Mon", "Music", "08:50"),
        ("Tue", "French", "09:40"),
    ]


def test_departures_are_called_by_where_they_go_and_say_from_which_day_to_which() -> None:
    rows = [
        [f"{hour}:05-{hour}:40", f"Bus {hour}", name] for hour, name in ((8, "Harbour"), (9, "Market"), (10, "Mill"))
    ]
    table = [["To", "", ""], ["Mo-Fr", "", ""], ["Time", "Line", "To"], *rows]
    said = [(block.day, block.name) for block in parse_page(drawn(table)).timeblocks]
    assert said == [("Mo-Fr", "Harbour"), ("Mo-Fr", "Market"), ("Mo-Fr", "Mill")]
    sunday = Known(days={"mo": ["Mo"], "fr": ["Fr"]})
    assert {block.day for block in parse_page(drawn(table), sunday).timeblocks} == {"Mo-Fr"}
