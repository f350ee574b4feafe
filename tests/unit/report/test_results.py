from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdtrain.report.results import CurvePoint, Results, append_curve, build_results, read_curves, role_names

from .demo import RATES, demo_lines, demo_readings, demo_results
from .test_words import run, scores


def test_results_json_holds_the_fixed_keys_as_plain_numbers(tmp_path: Path) -> None:
    lines = demo_lines(pages=30, per_page=6)
    results = demo_results(lines, demo_readings(lines, RATES))
    results.write(tmp_path / "deep" / "results.json")
    written = json.loads((tmp_path / "deep" / "results.json").read_text())
    for role in ("teacher", "student_before", "student_undistilled", "student"):
        for key in ("cer", "wer", "accuracy", "cer_digits", "ms_per_line_p50", "ms_per_line_p95", "num_parameters"):
            assert isinstance(written["readers"][role][key], float | int), (role, key)
    assert isinstance(written["gap_closed"], float)
    assert 0 < written["p_value_student_vs_undistilled"] <= 1
    assert written["run"]["teaching"]["alpha"] == 0.5
    assert {"tdtrain", "python", "torch", "ray", "transformers", "deepspeed", "peft", "jiwer"} < set(
        written["versions"]
    )
    assert Results.read(tmp_path / "deep" / "results.json") == results
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]


def test_gap_closed() -> None:
    assert run(student=0.015, student_undistilled=0.03, teacher=0.01).gap_closed == pytest.approx(0.75)
    assert run(student=0.005, student_undistilled=0.03, teacher=0.01).gap_closed == pytest.approx(1.25)
    no_gap = run(student=0.02, student_undistilled=0.03, teacher=0.03)
    assert no_gap.gap_closed is None and "no worse than the teacher" in (no_gap.gap_closed_reason or "")
    assert run(student=0.02).gap_closed_reason == "not measured: student_undistilled, teacher"


def test_the_p_value_is_the_one_against_the_control() -> None:
    assert run(0.02, student=0.01, student_undistilled=0.03).p_value_student_vs_undistilled == 0.02
    assert run(0.02, against="baseline", student=0.01, baseline=0.03).p_value_student_vs_undistilled is None


def test_unknown_roles_and_no_readers_are_refused() -> None:
    with pytest.raises(ValueError, match="'pupil' is no reader's role; it must be one of teacher"):
        build_results({"pupil": scores(0.1)}, run={})
    with pytest.raises(ValueError, match="readers is empty"):
        build_results({}, run={})


def test_a_student_is_called_distilled_only_where_something_was_distilled() -> None:
    assert role_names(["student", "baseline"])["student"] == "Reader"
    assert role_names(["student", "teacher"])["student"] == "Student, distilled"


def test_curves_come_back_in_order_and_a_resumed_step_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "out" / "curves.jsonl"
    for run_name, step, loss in (
        ("student", 20, 3.0),
        ("student", 10, 5.0),
        ("control", 10, 4.0),
        ("student", 20, 2.5),
    ):
        append_curve(path, CurvePoint(run=run_name, step=step, epoch=0.5, loss=loss))  # type: ignore[arg-type]
    found = [(point.run, point.step, point.loss) for point in read_curves(path)]
    assert found == [("control", 10, 4.0), ("student", 10, 5.0), ("student", 20, 2.5)]
    assert read_curves(tmp_path / "none.jsonl") == []
    path.write_text('{"run": "student", "step"')
    with pytest.raises(ValueError, match=r"curves\.jsonl:1 is not a curve point"):
        read_curves(path)
