"""Annotation lines find their boxes again through noise, order and gaps; never two for one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.align import align

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
WORDS = "Maths Biology Geography History Chemistry Physics English Drawing Swimming Assembly Library Choir".split()


@given(st.lists(TEXT, max_size=8), st.lists(TEXT, max_size=8), st.floats(0, 1))
def test_one_to_one_and_complete(readings: list[str], lines: list[str], max_distance: float) -> None:
    found = align(readings, lines, max_distance)
    assert len(found.line_of) == len(readings)
    matched = [line for line in found.line_of if line is not None]
    assert len(set(matched)) == len(matched)
    assert sorted([*matched, *(line for line, _ in found.unmatched)]) == list(range(len(lines)))


@given(st.permutations(range(len(WORDS))), st.integers(0, 2**32), st.sets(st.integers(0, 11), max_size=5))
def test_finds_permuted_noisy_incomplete_readings(order: list[int], seed: int, missed: set[int]) -> None:
    rng = random.Random(seed)
    seen = [index for index in order if index not in missed]

    def noisy(word: str) -> str:
        place = rng.randrange(len(word))
        return rng.choice([word.lower(), word[:place] + "#" + word[place + 1 :], word[:place] + " " + word[place:]])

    readings = [noisy(WORDS[index]) for index in seen] + ["@@@@", "0:0"]
    found = align(readings, WORDS)
    assert list(found.line_of) == [*seen, None, None]
    assert {line for line, _ in found.unmatched} == missed


def test_threshold() -> None:
    assert align(["abcd"], ["abXX"], max_distance=0.5).line_of == (0,)
    assert align(["abcd"], ["abXX"], max_distance=0.49).line_of == (None,)
    assert align(["abcd"], ["abXX"], max_distance=0.49).unmatched == ((0, 0.5),)


def test_equal_lines_are_matched_in_reading_order() -> None:
    assert align(["Art", "Art", "1", "Art"], ["Art", "Art", "1", "Art"]).line_of == (0, 1, 2, 3)


def test_a_hopeless_line_does_not_push_a_good_one_out() -> None:
    found = align(["room 12", "room 21"], ["room 12", "zzzzzzzzz"])
    assert found.line_of == (0, None)


def test_what_reads_exactly_as_a_line_is_that_line() -> None:
    """Though one more pair would be found were all lines shifted by one."""
    assert align(["09:00", "19:00"], ["08:00", "09:00"]).line_of[0] == 1


def test_empty_sides() -> None:
    assert align([], ["a"]).unmatched == ((0, 1.0),)
    assert align(["a"], []).line_of == (None,)
    assert align([""], ["a"]).line_of == (None,)
