"""Times are read whatever the language; what readers lose between hours and minutes is made up for, years are none."""

from __future__ import annotations

import pytest

from tdtrain.data.times import as_clock, clocks_of, numbered_times, times_of


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("8.05am - 8.50am", ("08:05", "08:50")),
        ("12.10 PM-1.05 PM", ("12:10", "13:05")),
        ("8 h 30-9 h 15", ("08:30", "09:15")),
        ("1114-12.11", ("11:14", "12:11")),
        ("13:10-13155", ("13:10", "13:55")),
        ("7105-8h04", ("07:05", "08:04")),
        ("10:35-11-15", ("10:35", "11:15")),
        ("9-:15 / 10:00", ("09:15", "10:00")),
        ("11:55 / -:12:40", ("11:55", "12:40")),
        ("８：３０－９：１５", ("08:30", "09:15")),
        ("8:３０ 9．15", ("08:30", "09:15")),
        ("2024-2025", None),
        ("2024 / 2025 8:15", None),
        ("8.15", None),
        ("8.75-9.15", None),
        ("D 1.18 - 2", None),
    ],
)
def test_two_times(text: str, times: tuple[str, str] | None) -> None:
    assert times_of(text) == times


def test_lines_of_legends() -> None:
    assert numbered_times("2.8.50-9.35") == (2, ("08:50", "09:35"))
    assert numbered_times("2 8.50-935") == (2, ("08:50", "09:35"))
    assert numbered_times("8.50-9.35") is None


def test_what_is_a_time_and_nothing_else_is_spelt_as_a_clock() -> None:
    spelt = {"8.00": "08:00", "8:05 pm": "20:05", " 8h30 ": "08:30", "08:00": "08:00", "24:00": "24:00"}
    assert {text: as_clock(text) for text in spelt} == spelt
    for text in ("noon", "8", "8:00-8:45", "8:75", "3rd period 8:00"):
        assert as_clock(text) == text


def test_single_times() -> None:
    assert clocks_of("8.05 Art 9h10") == ["08:05", "09:10"] and clocks_of("8.75") == []
