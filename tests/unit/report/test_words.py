"""The verdict says what the figures say: helped, hurt, not shown, too few pages, one reader."""

from __future__ import annotations

import pytest

from tdtrain.evaluate.score import Comparison, GroupScores, Scores
from tdtrain.evaluate.significance import Interval
from tdtrain.report.results import Results, build_results
from tdtrain.report.words import p_words, percent, points, verdict


def scores(cer: float, pages: int = 40, ms: float = 10.0, damage: dict[str, GroupScores] | None = None) -> Scores:
    return Scores(
        cer=cer,
        wer=2 * cer,
        accuracy=1 - 5 * cer,
        cer_digits=cer,
        cer_ci=Interval(low=0.8 * cer, high=1.2 * cer),
        wer_ci=None,
        accuracy_ci=None,
        cer_digits_ci=None,
        ms_per_line_p50=ms,
        num_parameters=int(ms * 1000),
        size_mb=1.0,
        num_lines=300,
        num_pages=pages,
        num_characters=5000,
        by_damage=damage or {},
    )


def run(p: float = 0.001, against: str = "student_undistilled", **cers: float | Scores) -> Results:
    readers = {role: cer if isinstance(cer, Scores) else scores(cer) for role, cer in cers.items()}
    comparisons = []
    if against in readers and "student" in readers:
        difference = readers["student"].cer - readers[against].cer
        interval = Interval(low=difference - 0.004, high=difference + 0.004)
        comparisons = [Comparison(a="student", b=against, difference=difference, difference_ci=interval, p_value=p)]
    return build_results(readers, comparisons, run={})


@pytest.mark.parametrize(
    ("student", "headline"),
    [
        (0.012, "The teacher more than halved the student’s errors."),
        (0.015, "The teacher halved the student’s errors."),
        (0.021, "The teacher removed 30\u00a0% of the student’s errors."),
        (0.045, "The teacher hurt: without it the student reads better."),
    ],
)
def test_a_shown_difference_is_named(student: float, headline: str) -> None:
    said = verdict(run(student=student, student_undistilled=0.030, teacher=scores(0.010, ms=50)))
    assert said[0] == headline
    assert f"{percent(student)} of the characters wrong" in said[1] and "p = 0.001" in said[1]
    assert any("5.0 times faster than the teacher" in line and "20\u00a0% of its parameters" in line for line in said)
    assert any("one training run" in line for line in said)


@pytest.mark.parametrize("student", [0.001, 0.030, 0.099])
def test_nothing_is_claimed_where_nothing_was_shown(student: float) -> None:
    said = verdict(run(0.051, student=student, student_undistilled=0.030, teacher=0.010))
    assert said[0] == "No difference shown between learning with and without the teacher."
    untested = run(student=student, student_undistilled=0.030).model_copy(update={"comparisons": []})
    assert verdict(untested)[0].startswith("No difference shown") and "was not tested" in verdict(untested)[1]


@pytest.mark.parametrize(
    ("p", "cers", "advice"),
    [
        (0.001, {"student": 0.012, "student_undistilled": 0.03, "teacher": 0.010}, "use the distilled student"),
        (
            0.001,
            {"student": 0.020, "student_undistilled": 0.03, "teacher": 0.010},
            "add pages (they need no annotation), or train longer",
        ),
        (0.4, {"student": 0.008, "student_undistilled": 0.009, "teacher": 0.005}, "no teacher is needed here"),
        (0.4, {"student": 0.030, "student_undistilled": 0.031, "teacher": 0.040}, "--adapt_teacher"),
        (
            0.4,
            {"student": 0.030, "student_undistilled": 0.031, "teacher": 0.040, "teacher_before": 0.1},
            "even adapted it has little to teach: use the student without it, and annotate more pages",
        ),
        (0.4, {"student": 0.030, "student_undistilled": 0.031, "teacher": 0.010}, "teach by other targets"),
        (0.001, {"student": 0.080, "student_undistilled": 0.2, "teacher": 0.07}, "annotate more pages"),
    ],
)
def test_what_to_do_next(p: float, cers: dict[str, float], advice: str) -> None:
    last = verdict(run(p, **cers))[-1]
    assert last.startswith("Next: ") and advice in last


def test_few_pages_are_a_caution_and_a_reason_to_measure_more() -> None:
    few = {role: scores(cer, pages=7) for role, cer in (("student", 0.030), ("student_undistilled", 0.031))}
    said = verdict(run(0.4, **few, teacher=0.010))
    assert any("only 7 test pages" in line for line in said)
    assert "7 test pages cannot tell" in said[-1]
    assert not any("Careful" in line for line in verdict(run(student=0.01, student_undistilled=0.03)))


def test_against_the_teacher() -> None:
    better = verdict(run(student=0.008, student_undistilled=0.03, teacher=0.010))
    assert any("has passed it, though the two may be equal" in line for line in better)
    closed = verdict(run(student=0.015, student_undistilled=0.03, teacher=0.010))
    assert any("closed 75\u00a0% of the gap" in line for line in closed)
    weak = verdict(run(student=0.015, student_undistilled=0.03, teacher=0.05))
    assert any("no less than the student without it" in line for line in weak)
    worse = verdict(run(student=0.035, student_undistilled=0.03, teacher=0.01))
    assert any("none of that lead was passed on" in line for line in worse)


def test_one_reader_a_baseline_and_training_without_a_control() -> None:
    alone = verdict(run(student=0.02))
    assert alone[0] == "2.0\u00a0% of the characters are read wrong." and "300 lines of 40 pages" in alone[1]
    assert (
        verdict(run(against="baseline", student=0.02, baseline=0.03))[0] == "The reader reads better than the baseline."
    )
    worse = verdict(run(against="baseline", student=0.03, baseline=0.02))
    assert worse[0] == "The reader reads worse than the baseline." and "keep the baseline" in worse[-1]
    unclear = verdict(run(0.3, against="baseline", student=0.03, baseline=0.02))
    assert unclear[0].startswith("No difference shown") and "whichever is faster" in unclear[-1]
    no_control = verdict(run(against="student_before", student=0.03, student_before=0.06, teacher=0.01))
    assert no_control[0] == "The student reads better than the student before training."
    assert any("what the teacher was worth is not known" in line for line in no_control)


def test_the_weakest_kind_is_named_only_where_it_rests_on_enough_lines() -> None:
    kinds = {
        "blur": GroupScores(cer=0.09, accuracy=0.5, num_lines=60),
        "fold": GroupScores(cer=0.50, accuracy=0.1, num_lines=3),
    }
    said = " ".join(verdict(run(student=scores(0.02, damage=kinds))))
    assert "weakest on damage “blur”: 9.0\u00a0% wrong over 60 lines" in said and "fold" not in said


def test_lines_that_were_not_learnt_from_are_counted() -> None:
    left_out = {"student": {"the teacher is not sure of it": 1200, "nobody says what it reads": 3}, "control": {"x": 9}}
    said = verdict(run(student=0.02, student_undistilled=0.04).model_copy(update={"left_out": left_out}))
    expected = (
        "1,203 training lines were left out (1,200: the teacher is not sure of it; 3: nobody says what it reads)."
    )
    assert expected in said
    assert not any("left out" in line for line in verdict(run(student=0.02, student_undistilled=0.04)))


def test_no_error_at_all_is_no_proof() -> None:
    assert any("up to 1.0\u00a0% of lines may still hold one" in line for line in verdict(run(student=0.0)))


def test_numbers() -> None:
    assert [percent(rate) for rate in (0.0, 0.00123, 0.0123, 0.123, 1.0)] == [
        "0.0\u00a0%",
        "0.12\u00a0%",
        "1.2\u00a0%",
        "12\u00a0%",
        "100\u00a0%",
    ]
    assert points(Interval(low=-0.021, high=0.004)) == "−2.1 to +0.4 points"
    assert (p_words(0.0001), p_words(0.012), p_words(0.5)) == ("p < 0.001", "p = 0.012", "p = 0.50")
