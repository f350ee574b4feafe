"""The report holds everything, loads nothing, and runs nothing, whatever a corpus says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tdtrain.models.reader import Reading
from tdtrain.report.examples import choose_examples
from tdtrain.report.html import render_report, write_report

from .demo import RATES, demo_card, demo_curves, demo_lines, demo_readings, demo_results
from .pages import Page, assert_inert


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    lines = demo_lines()
    readings = demo_readings(lines, RATES)
    path: Path = tmp_path_factory.mktemp("report") / "out" / "report.html"
    write_report(
        path,
        demo_results(lines, readings),
        curves=demo_curves(),
        examples=choose_examples(lines, readings),
        card=demo_card(),
        corpus="sample corpus, 300 pages",
    )
    return path.read_text(encoding="utf-8")


def test_the_whole_report_is_one_inert_file_of_modest_size(full: str) -> None:
    page = Page(full)
    assert_inert(page)
    assert not re.search(r"url\((?!#)", full) and "@import" not in full
    assert len(full) < 600_000
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 12
    assert re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", full) is None, "a stand-in colour was left in a picture"


def test_the_whole_report_says_what_it_should(full: str) -> None:
    text = " ".join(Page(full).text.split())
    for expected in (
        "The teacher more than halved the student’s errors.",
        "Student, distilled",
        "Student, no teacher",
        "PP-OCRv6 small, adapted",
        "4.9×",
        "0.56 M",
        "two-sided paired permutation test",
        "low resolution",
        "fixed by the teacher",
        "python rayjobs/distill.py --output_dir output/distill",
        '"learning_rate": 0.001',
        "300 images are below the 1000",
        "95 % interval",
    ):
        assert expected in text, expected
    assert text.index("halved") < text.index("Comparison") < text.index("Examples") < text.index("The run")


def test_ids_in_pictures_do_not_meet(full: str) -> None:
    ids = [attributes["id"] for _, attributes in Page(full).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><b>&amp;{{7*7}}"]
)
def test_hostile_texts_are_only_text(hostile: str) -> None:
    lines = [
        replace(line, text=hostile + str(i), source=hostile, tags={"damage": hostile, hostile: hostile})
        for i, line in enumerate(demo_lines(pages=3, per_page=4))
    ]
    readings = {role: [Reading(hostile[::-1] + hostile, 1.0) for _ in lines] for role in RATES}
    results = demo_results(lines, readings).model_copy(
        update={"run": {hostile: hostile}, "versions": {hostile: hostile}, "command": hostile}
    )
    readers = {role: scores.model_copy(update={"model": hostile}) for role, scores in results.readers.items()}
    card = demo_card().model_copy(update={"warnings": (hostile,), "charset": dict.fromkeys(hostile, 1)})
    page = Page(
        render_report(
            results.model_copy(update={"readers": readers}),
            examples=choose_examples(lines, readings),
            card=card,
            corpus=hostile,
        )
    )
    assert_inert(page)
    assert hostile in page.text
    assert "b" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize("roles", [["student"], ["student", "baseline"], ["teacher"], ["teacher", "student"]])
def test_any_set_of_readers_makes_a_report(roles: list[str]) -> None:
    lines = demo_lines(pages=2, per_page=4)
    readings = demo_readings(lines, dict.fromkeys(roles, 0.03))
    results = demo_results(lines, readings)
    bare = {
        role: s.model_copy(update={"timing": None, "ms_per_line_p50": None, "cer_ci": None, "by_damage": {}})
        for role, s in results.readers.items()
    }
    for one in (results, results.model_copy(update={"readers": bare})):
        page = Page(render_report(one, examples=choose_examples(lines, readings)))
        assert_inert(page)
        assert "The run" in page.text and "Training" not in page.text
