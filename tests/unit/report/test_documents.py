"""The report on documents: it says what was measured, loads nothing, and escapes what pages say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdtrain.data.documents import PageText
from tdtrain.data.timetable import TimeBlock, Timetable
from tdtrain.evaluate.documents import DocumentEvaluation
from tdtrain.evaluate.fields import count
from tdtrain.evaluate.score_documents import compare_documents, score_documents
from tdtrain.report.document_words import verdict
from tdtrain.report.documents import DocumentResults, render, shown_blocks

from .demo import demo_card
from .pages import Page, assert_inert

HOSTILE = "<script>alert(1)</script>"


def block(name: str, start: str = "08:00") -> TimeBlock:
    return TimeBlock(day="Mo", name=name, startTime=start, endTime="08:45")


@pytest.fixture
def evaluation() -> DocumentEvaluation:
    pages = []
    for number in range(8):
        truth = Timetable(timeblocks=(block(HOSTILE), block("Art", f"0{number}:10")))
        pages.append(PageText(f"images/{number}.png", str(number), "test", truth))
    right = [page.truth.canonical() for page in pages if page.truth]
    answers = {
        "student": right, "baseline": ["no"] * 8, "student_true_text": right,
        "rules": [Timetable(timeblocks=(block("Art"),)).canonical()] * 8, "rules_true_text": right,
    }  # fmt: skip
    ids = [page.page_id for page in pages]
    counts = {
        role: [count(page.truth, answer) for page, answer in zip(pages, own, strict=True) if page.truth]
        for role, own in answers.items()
    }
    scores = {role: score_documents(own, ids, ["list"] * 8) for role, own in counts.items()}
    compared = [compare_documents("student", role, counts["student"], counts[role], ids) for role in ("rules",)]
    return DocumentEvaluation(pages, answers, scores, compared)


def test_the_report_is_one_inert_file(evaluation: DocumentEvaluation, tmp_path: Path) -> None:
    left_out = {"train": {"longer than 9 tokens": 2}}
    results = DocumentResults(
        writers=evaluation.scores, comparisons=evaluation.comparisons, created=datetime.now(UTC), timings_s={"read": 3},
        run={"output_dir": str(tmp_path)}, versions={}, left_out=left_out, command="python",
    )  # fmt: skip
    page = Page(html := render(results, evaluation, demo_card()))
    assert_inert(page)
    text = " ".join(page.text.split())
    assert "F1 of 100" in text and "2 pages were too long" in text and HOSTILE in text and HOSTILE not in html
    assert "it is better than rules" in text


def test_blocks_are_paired_as_they_are_counted() -> None:
    shown = shown_blocks([block("Art"), block("Art"), block("French")], [block("Art "), block("Sport")])
    kinds = [(found.block.name, found.kind) for found in shown]
    assert kinds == [("Art", "right"), ("Art", "missing"), ("French", "missing"), ("Sport", "extra")]


def test_what_to_do_next_follows_the_figures(evaluation: DocumentEvaluation) -> None:
    scores, compared = evaluation.scores, evaluation.comparisons
    assert "rayjobs/predict.py" in verdict(scores, compared, {})[-1]
    cut = scores | {"student": scores["student"].model_copy(update={"ended": 0.5})}
    assert "max_answer_tokens" in verdict(cut, compared, {})[-1]
    poor = scores | {"student": scores["student"].model_copy(update={"block_f1": 0.6})}
    assert "adapt the reader" in verdict(poor, compared, {})[-1]
    worse = [compared[0].model_copy(update={"difference": -0.2})]
    assert "train longer" in verdict(scores, worse, {})[-1]
    assert any("Only 8 test pages" in line for line in verdict(scores, compared, {}))
