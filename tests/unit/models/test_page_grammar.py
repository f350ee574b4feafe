"""Who writes about a page with drafts keeps to them, in their order, and invents no others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from tdtrain.data.timetable import TimeBlock, Timetable
from tdtrain.models.page_grammar import grammar_of

BYTES = LLTokenizer("byte")


def block(day: str, name: str, start: str, end: str) -> TimeBlock:
    return TimeBlock(day=day, name=name, startTime=start, endTime=end)


MON, TUE, ANY = (
    block("Mon", "Art", "08:00", "08:45"),
    block("Tue", 'P. "E" \\ Åsa', "08:50", "09:35"),
    block("?", "Music", "09:40", "10:25"),
)
PAGE = f"""Class 5a 2026/27
{MON.model_dump_json()}|R 1
{TUE.model_dump_json()}
{ANY.model_dump_json()}|R 2
10.30-11.15=Lunch|Fri=Choir
1. 8.00-8.45
no times here, {{"day": nor any draft
{{"day":
{{"day":1,"name":"of the page's own"}}"""


def allowed(page: str, blocks: Sequence[TimeBlock], **header: str) -> bool:
    grammar = LLMatcher.grammar_from_lark(grammar_of(page))
    matcher = LLMatcher(BYTES, grammar)
    assert not matcher.get_error(), matcher.get_error()
    text = Timetable(timeblocks=tuple(blocks), **header).canonical()
    return bool(matcher.consume_tokens(list(text.encode()))) and matcher.is_accepting()


def test_drafts_may_be_taken_or_left_out_and_be_on_any_day_where_it_is_unknown() -> None:
    some_day = ANY.model_copy(update={"day": "Wednesday"})
    for blocks in ([], [MON], [TUE], [MON, TUE], [MON, TUE, some_day], [MON, some_day]):
        assert allowed(PAGE, blocks), blocks
    assert allowed(PAGE, [MON], teacher="Ms Ward", className="5a", term="2", year="2026/27")
    assert not allowed(f"{PAGE}\n{MON.model_dump_json()}", [MON, TUE, MON])  # drafted twice, and written once


@pytest.mark.parametrize(
    "blocks",
    [
        [TUE, MON],
        [MON, MON],
        [block("Tue", "Art", "08:00", "08:45")],
        [block("Mon", "Art", "08:00", "09:35")],
        [block("Mon", "Music", "08:00", "08:45")],
        [block("Mon", "Art", "13:00", "13:45")],
        [MON, TUE, ANY, block("Mon", "Art", "08:00", "08:45")],
        [MON, TUE, block("Fri", "Lunch", "10:30", "11:15")],
    ],
)
def test_other_days_times_and_orders_may_not_be_written(blocks: list[TimeBlock]) -> None:
    assert not allowed(PAGE, blocks)


def test_without_drafts_times_of_lines_may_be_written_on_any_day_a_week_s_worth() -> None:
    page = "1. 8.00-8.45\n10.30-11.15=Lunch|Fri=Choir"
    lunch = [block(day, "Lunch", "10:30", "11:15") for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Mon")]
    assert allowed(page, lunch[:7]) and allowed(page, [block("Mon", "Art", "08:00", "08:45"), *lunch[:2]])
    assert not allowed(page, lunch) and not allowed(page, [block("Fri", "Choir", "13:00", "13:45")])
    assert allowed("Mon=Art\nTue=French", []) and not allowed("Mon=Art\nTue=French", [MON])


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
drafts = st.lists(
    st.builds(block, texts, texts, st.sampled_from(["08:00", "09:05"]), st.sampled_from(["09:00", "10:35"])), max_size=8
)


@given(drafts, st.data())
def test_whatever_drafts_say_some_of_them_in_their_order_may_be_written(blocks: list[TimeBlock], data) -> None:
    page = "\n".join(one.model_dump_json() for one in blocks)
    kept = [one for one in dict.fromkeys(blocks) if data.draw(st.booleans())]
    assert allowed(page, kept)
