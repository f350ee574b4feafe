"""Teachers that find the same line vote on what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.data.spelling import alike, word_error_rate
from tdtrain.teachers.services.service import SpokenLine
from tdtrain.teachers.services.vote import same_lines, vote


def line(text: str, confidence: float | None = 1.0, top: float = 0.0, left: float = 0.0) -> SpokenLine:
    quad = (left, top, left + 100, top, left + 100, top + 20, left, top + 20)
    return SpokenLine(text=text, confidence=confidence, quad=quad)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("08:00 \u2013 08:45", "08:00-08:45"),
        ("8.05", "8:05"),
        ("8h05", "8:05"),
        ("It\u2019s  \u201cArt\u201d", 'It\'s "Art"'),
        ("\uff11\uff12", "12"),
        ("Room 1.205", "Room 1.205"),
        ("12.05.2026", "12:05.2026"),
    ],
)
def test_spellings_of_the_same(text: str, same: str) -> None:
    assert alike(text) == same and alike(same) == same


def test_the_text_with_most_confidence_behind_it_wins() -> None:
    teachers = [[line("Ant", 0.9)], [line("Art", 0.6)], [line("Art", 0.5)]]
    (elected,) = vote(teachers)
    assert elected.text == "Art" and elected.confidence == pytest.approx(1.1 / 3)
    (elected,) = vote([[line("Ant", 0.9)], [line("Art", 0.6)]])
    assert elected.text == "Ant" and elected.confidence == pytest.approx(0.45)


def test_spelling_does_not_split_votes_and_the_first_teachers_own_stays() -> None:
    (elected,) = vote([[line("08:00\u201308:45", 0.8)], [line("08:00 - 08:45", 0.9)]])
    assert elected.text == "08:00\u201308:45" and elected.confidence == pytest.approx(0.85)


def test_up_to_a_word_error_rate_texts_are_the_same() -> None:
    one, other = "Mathematics with Ms Hill", "Mathematics with Ms Hall"
    assert word_error_rate(one, other) == 0.25
    assert vote([[line(one)], [line(other)]], max_wer=0.25)[0].confidence == 1.0
    assert vote([[line(one)], [line(other)]], max_wer=0.2)[0].confidence == 0.5


def test_lines_are_the_same_by_their_place_each_once() -> None:
    mine = [line("a", top=0), line("b", top=30), line("c", top=300)]
    theirs = [line("B", top=33), line("A", top=2), line("far", top=600)]
    assert {place: found.text for place, found in same_lines(mine, theirs).items()} == {0: "A", 1: "B"}
    assert same_lines([line("a"), line("b", top=1)], [line("A")])[0].text == "A"
    assert len(same_lines([line("a"), line("b", top=1)], [line("A")])) == 1
    assert same_lines([SpokenLine(text="nowhere")], theirs) == {}


LINES = st.lists(st.builds(line, st.text("ab", max_size=3), st.floats(0, 1), st.integers(0, 200)), max_size=8)


@given(LINES, st.lists(LINES, max_size=3))
def test_nothing_is_lost_or_moved_and_confidence_stays_one(
    mine: list[SpokenLine], others: list[list[SpokenLine]]
) -> None:
    elected = vote([mine, *others])
    assert [found.quad for found in elected] == [found.quad for found in mine]
    assert all(0 <= (found.confidence or 0) <= 1 for found in elected)
    if not others:
        assert elected == mine


@given(LINES)
def test_a_teacher_that_says_the_same_changes_nothing_but_rounding(mine: list[SpokenLine]) -> None:
    apart = [
        found for number, found in enumerate(mine) if all(abs(found.quad[1] - m.quad[1]) > 20 for m in mine[:number])
    ]
    for before, after in zip(apart, vote([apart, apart]), strict=True):
        assert after.text == before.text and after.confidence == pytest.approx(before.confidence)
