from __future__ import annotations

import pytest

from tdtrain.evaluate.metrics import accuracy, cer, cer_digits, wer
from tdtrain.evaluate.score import compare, read_lines_with, score_lines
from tdtrain.evaluate.timing import Timing
from tdtrain.models.reader import Reading

from .readers import ShadeReader, shade_line

LINES = [
    shade_line(40, 1, "p", "40 1", damage="blur", field="time"),
    shade_line(20, 2, "p", "20 2", damage="blur"),
    shade_line(30, 3, "q", "30 4", damage="clean", field="time"),
    shade_line(10, 9, "r", "Pause", damage="clean", field="name"),
]


def test_readings_keep_the_order_of_the_lines() -> None:
    readings = read_lines_with(ShadeReader(), LINES, batch_size=2)
    assert [reading.text for reading in readings] == ["40 1", "20 2", "30 3", "10 9"]


def test_scores_are_the_metrics_and_the_groups_add_up() -> None:
    readings = read_lines_with(ShadeReader(), LINES)
    timing = Timing(
        ms_per_line_p50=1.5,
        ms_per_line_p95=2.5,
        ms_per_line_batched_p50=0.5,
        ms_per_line_batched_p95=0.6,
        num_lines=4,
        batch_size=4,
        num_threads=1,
        device="cpu",
    )
    scores = score_lines(LINES, readings, timing, num_parameters=2, size_mb=0.1, model="shade")
    texts = [line.text or "" for line in LINES], [reading.text for reading in readings]
    assert (scores.cer, scores.wer, scores.accuracy) == (cer(*texts), wer(*texts), accuracy(*texts))
    assert scores.cer_digits == cer_digits(*texts)
    assert (scores.num_lines, scores.num_pages, scores.num_characters) == (4, 3, 17)
    assert scores.cer_ci and scores.cer_ci.low <= scores.cer <= scores.cer_ci.high
    assert (scores.ms_per_line_p50, scores.ms_per_line_p95, scores.ms_per_line_batched_p50) == (1.5, 2.5, 0.5)
    assert scores.by_damage["blur"].accuracy == 1.0
    assert scores.by_damage["clean"].cer == (1 + 5) / 9
    assert {name: group.num_lines for name, group in scores.by_field.items()} == {"time": 2, "name": 1, "untagged": 1}


def test_no_tags_no_groups_and_one_page_no_interval() -> None:
    line = shade_line(40, 1, "p", "40 1")
    scores = score_lines([line], [Reading("40 1", 1.0)], num_parameters=1, size_mb=1)
    assert scores.by_damage == {} and scores.cer_ci is None and scores.ms_per_line_p50 is None


def test_what_cannot_be_scored_is_refused() -> None:
    bare = shade_line(40, 1, "p", None)
    with pytest.raises(ValueError, match=r"1 of 5 lines carry no text, first images/p\.png"):
        score_lines([*LINES, bare], [Reading("", 0)] * 5, num_parameters=1, size_mb=1)
    with pytest.raises(ValueError, match="add annotated pages"):
        score_lines([shade_line(9, 9, "p", " ")], [Reading("x", 0)], num_parameters=1, size_mb=1)
    with pytest.raises(ValueError, match="pair up"):
        score_lines(LINES, [], num_parameters=1, size_mb=1)


def test_comparison_has_a_sign_and_a_p() -> None:
    lines = [shade_line(40, i, f"p{i}", f"40 {i}") for i in range(30)]
    right = [Reading(line.text or "", 1) for line in lines]
    wrong = [Reading("40", 1) for _ in lines]
    found = compare(lines, {"a": right, "b": wrong}, "a", "b")
    assert found.difference == -score_lines(lines, wrong, num_parameters=1, size_mb=1).cer
    assert found.difference_ci and found.difference_ci.low <= found.difference <= found.difference_ci.high < 0
    assert found.p_value < 0.001
    assert compare(lines, {"a": right, "b": right}, "a", "b").p_value == 1
