"""Documents' scores against figures by hand, and writers end to end in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tdtrain.data.documents import PageText
from tdtrain.data.layout import PlacedLine
from tdtrain.data.sample.page import make_page
from tdtrain.data.timetable import TimeBlock, Timetable
from tdtrain.evaluate.documents import count_pages, evaluate_documents
from tdtrain.evaluate.fields import count
from tdtrain.evaluate.score_documents import compare_documents, score_documents
from tests.models_small import small_llama_folder


def timetable(*names: str) -> Timetable:
    blocks = (TimeBlock(day="Mo", name=name, startTime="08:00", endTime="08:45") for name in names)
    return Timetable(year="2026", timeblocks=tuple(blocks))


def test_figures_are_those_counted_by_hand() -> None:
    truths = [timetable("Art", "Music"), timetable("Sport", "Art", "French")]
    said = [timetable("Art", "Mathe"), timetable("Sport")]
    counts = [count(truth, one.canonical()) for truth, one in zip(truths, said, strict=True)]
    scores = score_documents(counts, ["a", "b"], ["list", None], [1.0, 3.0])
    assert (scores.block_precision, scores.block_recall) == (2 / 3, 2 / 5)
    assert scores.block_f1 == pytest.approx(2 * 2 / (3 + 5))
    assert scores.field_f1 == pytest.approx(2 * (8 + 5) / (9 + 5 + 9 + 13))
    assert (scores.exact, scores.valid_json, scores.valid_schema, scores.seconds_per_page) == (0.0, 1.0, 1.0, 2.0)
    assert scores.by_layout["list"].block_f1 == 0.5 and set(scores.by_layout) == {"list"}
    assert (scores.num_pages, scores.num_blocks) == (2, 5)
    assert scores.block_f1_ci and scores.block_f1_ci.low <= scores.block_f1 <= scores.block_f1_ci.high


def test_a_writer_that_is_right_on_every_page_is_told_apart() -> None:
    truths = [timetable("Art", str(i)) for i in range(12)]
    good = [count(truth, truth.canonical()) for truth in truths]
    bad = [count(truth, "no") for truth in truths]
    found = compare_documents("student", "rules", good, bad, [str(i) for i in range(12)])
    assert found.difference == 1.0 and found.p_value < 0.01
    assert compare_documents("student", "rules", good, good, [str(i) for i in range(12)]).p_value == 1.0
    scores = score_documents(bad, [str(i) for i in range(12)], [None] * 12)
    assert (scores.block_f1, scores.block_precision, scores.valid_json) == (0.0, 0.0, 0.0)


def test_a_model_and_rules_write_the_same_pages(tmp_path: Path) -> None:
    pages = []
    for index in (1, 2, 3):
        _, truth = make_page(3, index, layout="list", harms=())
        page = PageText(truth.name, str(index), "test", truth.document)
        page.lines = [PlacedLine(line.text, tuple(np.ravel(line.quad))) for line in truth.boxes.lines]
        page.layout = "list"
        pages.append(page)
    model = str(small_llama_folder(tmp_path / "llama"))
    seen: list[tuple[int, int]] = []
    found = evaluate_documents(
        {"student": model}, pages, pages, "headings", {"student": 24}, 0, 1, 0, lambda *done: seen.append(done)
    )
    assert set(found.scores) == {"student", "student_true_text", "rules", "rules_true_text"}
    assert found.answers["student"] == found.answers["student_true_text"] and seen[-1][0] == seen[-1][1]
    assert found.scores["student"].block_f1 == 0.0 and found.scores["rules"].block_f1 > 0.5
    assert {(pair.a, pair.b) for pair in found.comparisons} == {("student", "rules"), ("student_true_text", "student")}


def test_counts_come_back_in_order() -> None:
    pairs = [(timetable("a" * n), timetable("a" * n, "b").canonical()) for n in range(1, 5)]
    assert count_pages(pairs, 0) == [count(truth, answer) for truth, answer in pairs]
