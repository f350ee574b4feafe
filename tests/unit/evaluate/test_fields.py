"""Document scores against counts by hand, and the tree distance against a plain recursion."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdtrain.data.timetable import Document, TimeBlock, Timetable
from tdtrain.evaluate.fields import count, parse_answer
from tdtrain.evaluate.tree import tree_edits


def block(day: str = "Mo", name: str = "Art", start: str = "08:00", end: str = "08:45") -> TimeBlock:
    return TimeBlock(day=day, name=name, startTime=start, endTime=end)


TRUTH = Timetable(className="5a", timeblocks=(block(), block("Di"), block("Di", "Music", "09:00", "09:45")))
WORDS = st.sampled_from(["Mo", "Di", "Art", "08:00", "Musik", "a", "ab"])
TABLES = st.builds(
    Timetable,
    teacher=st.none() | WORDS,
    timeblocks=st.lists(
        st.builds(TimeBlock, day=WORDS, name=WORDS, startTime=WORDS, endTime=WORDS), max_size=2
    ).map(tuple),
)  # fmt: skip


def test_the_truth_itself_is_exact_in_any_order() -> None:
    turned = TRUTH.model_copy(update={"timeblocks": TRUTH.timeblocks[::-1]})
    for said in (TRUTH, turned):
        found = count(TRUTH, said.canonical())
        assert found.exact and found.valid_schema and found.anls == pytest.approx(1)
        assert (found.fields_right, found.fields_said, found.fields_true) == (13, 13, 13)
        assert (found.blocks_right, found.blocks_said, found.blocks_true) == (3, 3, 3)
    assert count(TRUTH, TRUTH.canonical()).tree_edits == 0


def test_a_wrong_time_costs_its_block_and_its_field() -> None:
    said = Timetable(className="5b", timeblocks=(block(end="08:40"), *TRUTH.timeblocks[1:]))
    found = count(TRUTH, said.canonical())
    assert (found.fields_right, found.blocks_right, found.exact) == (11, 2, False)
    assert found.tree_edits == 2  # a letter and a digit
    assert 0.8 < found.anls < 1


def test_a_block_that_is_said_twice_counts_once() -> None:
    said = TRUTH.model_copy(update={"timeblocks": (*TRUTH.timeblocks, TRUTH.timeblocks[0])})
    found = count(TRUTH, said.canonical())
    assert (found.blocks_right, found.blocks_said, found.exact) == (3, 4, False)


@pytest.mark.parametrize(
    ("answer", "is_json"),
    [
        ("no", False),
        (TRUTH.canonical()[:-2], False),
        ("{}", True),
        ("[]", True),
        (json.dumps(json.loads(TRUTH.canonical()) | {"room": "5"}), True),
        (TRUTH.canonical().replace('"08:45"', "null", 1), True),
    ],
)
def test_what_does_not_fit_the_schema_says_nothing(answer: str, is_json: bool) -> None:
    assert parse_answer(answer) == (None, is_json)
    found = count(TRUTH, answer)
    assert (found.fields_right, found.fields_said, found.fields_true) == (0, 0, 13)
    assert (found.valid_json, found.valid_schema, found.anls) == (is_json, False, 0.0)
    assert found.tree_edits == found.tree_size > 0


def test_canonical_has_no_place_and_keeps_the_order_of_the_schema() -> None:
    document = Document(image_path="images/a.png", year="2026", className="5a", timeblocks=(block(),))
    one = '{"day":"Mo","name":"Art","startTime":"08:00","endTime":"08:45"}'
    said = f'{{"className":"5a","year":"2026","timeblocks":[{one}]}}'
    assert document.canonical() == said
    assert next(iter(json.loads(document.model_dump_json()))) == "image_path"  # as the format has it


@settings(max_examples=60)
@given(TABLES, TABLES)
def test_tree_edits_are_those_of_the_recursion(said: Timetable, truth: Timetable) -> None:
    edits, size = tree_edits(said, truth)
    mine, theirs = (json.dumps(forest(table)) for table in (said, truth))
    assert edits == distance(mine, theirs)
    assert size == distance("[]", theirs)


def forest(table: Timetable) -> list:
    """[name, is leaf, children] of each root, written down independently of the package."""

    def fields(values: dict) -> list:
        return [[key, False, [[text, True, []]]] for key, text in values.items() if isinstance(text, str)]

    values = table.model_dump()
    by_time = sorted(values.pop("timeblocks"), key=lambda one: [one["day"], one["startTime"], one["name"]])
    blocks = [["block", False, fields(one)] for one in by_time]
    return [["timetable", False, [*fields(values), ["timeblocks", False, blocks]]]]


@cache
def distance(a: str, b: str) -> int:
    """Zhang and Shasha 1989: forests are compared by their last roots."""
    mine, theirs = json.loads(a), json.loads(b)
    if not mine and not theirs:
        return 0
    ways = []
    if mine:
        text, leaf, children = mine[-1]
        ways.append(distance(json.dumps(mine[:-1] + children), b) + (len(text) if leaf else 1))
    if theirs:
        other, other_leaf, others = theirs[-1]
        ways.append(distance(a, json.dumps(theirs[:-1] + others)) + (len(other) if other_leaf else 1))
    if mine and theirs:
        change = letters(text, other) if leaf and other_leaf else float(text != other)
        if leaf != other_leaf:
            change = (len(text) if leaf else 1) + (len(other) if other_leaf else 1)
        inside = distance(json.dumps(children), json.dumps(others))
        ways.append(distance(json.dumps(mine[:-1]), json.dumps(theirs[:-1])) + inside + int(change))
    return min(ways)


@cache
def letters(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(letters(a[1:], b) + 1, letters(a, b[1:]) + 1, letters(a[1:], b[1:]) + (a[0] != b[0]))
