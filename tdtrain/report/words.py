"""What a run showed, in plain words: also where the teacher did not help."""

from __future__ import annotations

from collections.abc import Mapping

from tdtrain.evaluate.score import Comparison, GroupScores, Scores
from tdtrain.evaluate.significance import Interval
from tdtrain.report.results import Results

SIGNIFICANT_P = 0.05
FEW_PAGES = 20
"""Below this many test pages intervals by bootstrap are too narrow, and little can be told apart."""
LOW_CER, HIGH_CER = 0.01, 0.05
FEW_GROUP_LINES = 20


def verdict(results: Results) -> list[str]:
    """The run's result as sentences: a short headline, then the figures behind it, cautions, and last what to do next.

    The headline is about the student against the same student without a teacher, else against the baseline or itself
    before training, else about the one reader there is. A difference counts where its two-sided p is below 0.05;
    anything else is "no difference shown", never "equal". Cautions are added below 20 test pages, and for a training
    run, which is one seed.

    What to do next, the first rule that holds:

    1. The teacher helped, and the student's CER is at most 1.5x the teacher's: use the student.
    2. The teacher helped, but still reads better: more pages without annotation, or longer training.
    3. It did not help, and annotations alone give a CER of at most 1 %: no teacher is needed.
    4. It did not help and reads no better than the student without it: adapt the teacher first; where that was done,
       go without a teacher and annotate more pages.
    5. It did not help though it reads better: fewer than 20 test pages, measure on more; else another way of teaching.
    6. Without a control: above 5 % CER, train on annotated pages of this corpus; else use the better reader.
    """
    taught = "student" in results.readers and "student_undistilled" in results.readers
    *said, next_step = _distilled(results) if taught else _evaluated(results)
    return [*said, *results.notes, next_step]


def percent(rate: float) -> str:
    """0.0123 -> `1.2 %`; small rates keep two digits that mean something."""
    points = 100 * rate
    digits = 0 if abs(points) >= 9.95 else 1 if abs(points) >= 1 or points == 0 else 2
    return f"{points:.{digits}f}\u00a0%"


def points(interval: Interval) -> str:
    """An interval of a difference, in percentage points with signs."""
    digits = 1 if max(abs(interval.low), abs(interval.high)) >= 0.01 else 2
    return f"{signed(interval.low, digits)} to {signed(interval.high, digits)} points"


def signed(rate: float, digits: int = 2) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * rate:+.{digits}f}".replace("-", "\u2212")


def p_words(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def times(ratio: float) -> str:
    """A ratio for people: 1.34 -> `1.3`, 12.7 -> `13`."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _distilled(results: Results) -> list[str]:
    readers = results.readers
    student, control, teacher = readers["student"], readers["student_undistilled"], readers.get("teacher")
    comparison = results.comparison("student", "student_undistilled")
    effect = _effect(comparison)
    share = student.cer / control.cer if control.cer else 1.0
    if effect == "better":
        done = "more than halved" if share < 0.5 else "halved" if share < 0.505 else f"removed {percent(1 - share)} of"
        said = [f"The teacher {done} the student\u2019s errors."]
    elif effect == "worse":
        said = ["The teacher hurt: without it the student reads better."]
    else:
        said = ["No difference shown between learning with and without the teacher."]
    said.append(
        f"The distilled student gets {percent(student.cer)} of the characters wrong, the same student trained without "
        f"the teacher {percent(control.cer)}{_evidence(comparison)}."
    )
    said += _against_teacher(results)
    before = readers.get("student_before")
    if before:
        said.append(f"Before training, the student got {percent(before.cer)} wrong.")
    if teacher and "teacher_before" in readers:
        came = readers["teacher_before"].cer
        said.append(f"Adapting the teacher took it from {percent(came)} to {percent(teacher.cer)}.")
    said += _weakest("The student", student)
    said += _left_out(results.left_out.get("student", {}))
    said += _cautions(student)
    said.append("This is one training run; another seed can move the figures. Repeat it before you rely on them.")
    said.append(_next_step(results, effect))
    return said


def _next_step(results: Results, effect: str) -> str:
    readers = results.readers
    student, control, teacher = readers["student"], readers["student_undistilled"], readers.get("teacher")
    more_pages = " Its error rate is still high: annotate more pages." if student.cer > HIGH_CER else ""
    if effect == "better":
        if teacher is None or student.cer <= 1.5 * teacher.cer:
            return f"Next: use the distilled student.{more_pages}"
        return (
            "Next: the teacher still reads better, so there is more to learn from it: add pages (they need no "
            f"annotation), or train longer.{more_pages}"
        )
    if control.cer <= LOW_CER:
        return (
            "Next: no teacher is needed here. Your annotations alone bring the student to "
            f"{percent(control.cer)}; use the student trained without one."
        )
    if teacher is not None and teacher.cer >= control.cer:
        why = f"Next: the teacher reads these pages no better ({percent(teacher.cer)}) than the student without it, so"
        if "teacher_before" in readers:
            return f"{why} even adapted it has little to teach: use the student without it, and annotate more pages."
        return f"{why} it has little to teach: adapt it to your annotated pages first (--adapt_teacher)."
    if student.num_pages < FEW_PAGES:
        few = f"{student.num_pages} test pages cannot tell"
        return f"Next: measure on more pages before you decide; {few}.{more_pages}"
    return (
        "Next: the teacher reads better, but did not pass it on: teach by other targets (--targets), give it more "
        f"pages without annotation, or train longer.{more_pages}"
    )


def _evaluated(results: Results) -> list[str]:
    readers = results.readers
    role = next(role for role in ("student", *readers) if role in readers)
    reader, name = readers[role], "The student" if role == "student" and "teacher" in readers else "The reader"
    other = next((r for r in ("baseline", "student_before") if r in readers and r != role), None)
    better, use = reader, f"use {name.lower()}"
    if other is None:
        said = [f"{percent(reader.cer)} of the characters are read wrong."]
    else:
        comparison = results.comparison(role, other)
        effect = _effect(comparison)
        compared = "the student before training" if other == "student_before" else "the baseline"
        headline = {
            "better": f"{name} reads better than {compared}.",
            "worse": f"{name} reads worse than {compared}.",
            "unclear": f"No difference shown between {name.lower()} and {compared}.",
        }
        said = [
            headline[effect],
            f"{name} gets {percent(reader.cer)} of the characters wrong, {compared} {percent(readers[other].cer)}"
            f"{_evidence(comparison)}.",
        ]
        said += _pace(name, reader, readers[other], compared) if other == "baseline" else []
        if effect == "worse":
            better, use = readers[other], f"keep {compared}"
        elif effect == "unclear":
            use = "use whichever is faster"
    if "teacher" in readers and role != "teacher":
        teacher = readers["teacher"]
        said += [
            f"The teacher gets {percent(teacher.cer)} wrong.",
            *_pace("The student", reader, teacher, "the teacher"),
        ]
        said.append("Without a student trained alike without the teacher, what the teacher was worth is not known.")
    interval = (
        f" (95\u00a0% interval {percent(reader.cer_ci.low)} to {percent(reader.cer_ci.high)})" if reader.cer_ci else ""
    )
    said.append(
        f"{name} was measured on {reader.num_lines:,} lines of {reader.num_pages:,} pages{interval}; "
        f"it reads {percent(reader.accuracy)} of the lines without any error."
    )
    said += _weakest(name, reader) + _cautions(reader)
    if better.cer > HIGH_CER:
        said.append(
            "Next: train on annotated pages of this corpus, and look at the examples in the report for what goes wrong."
        )
    else:
        said.append(f"Next: {use}, if the examples in the report satisfy you.")
    return said


def _effect(comparison: Comparison | None) -> str:
    if comparison is None or comparison.p_value >= SIGNIFICANT_P:
        return "unclear"
    return "better" if comparison.difference < 0 else "worse"


def _evidence(comparison: Comparison | None) -> str:
    if comparison is None:
        return " (the difference was not tested)"
    interval = (
        f"; the difference is {points(comparison.difference_ci)} with 95\u00a0% confidence"
        if comparison.difference_ci
        else ""
    )
    return f" ({p_words(comparison.p_value)}{interval})"


def _against_teacher(results: Results) -> list[str]:
    teacher, student = results.readers.get("teacher"), results.readers["student"]
    if teacher is None:
        return []
    against = results.comparison("student", "teacher")
    if results.gap_closed is None:
        control = percent(results.readers["student_undistilled"].cer)
        said = [f"The teacher gets {percent(teacher.cer)} wrong, no less than the student without it ({control})."]
    elif student.cer <= teacher.cer:
        shown = (
            " and that difference is significant" if _effect(against) == "better" else ", though the two may be equal"
        )
        said = [f"The teacher gets {percent(teacher.cer)} wrong: the student has passed it{shown}."]
    elif results.gap_closed <= 0:
        said = [f"The teacher gets {percent(teacher.cer)} wrong; none of that lead was passed on."]
    else:
        closed = percent(results.gap_closed)
        said = [f"The teacher gets {percent(teacher.cer)} wrong; the student closed {closed} of the gap to it."]
    return said + _pace("The student", student, teacher, "the teacher")


def _pace(name: str, reader: Scores, other: Scores, other_name: str) -> list[str]:
    if not reader.ms_per_line_p50 or not other.ms_per_line_p50:
        return []
    ratio = other.ms_per_line_p50 / reader.ms_per_line_p50
    speed = (
        f"{times(ratio)} times faster"
        if ratio >= 1.05
        else f"{times(1 / ratio)} times slower"
        if ratio < 0.95
        else "as fast"
    )
    than = "as" if speed == "as fast" else "than"
    size = percent(reader.num_parameters / other.num_parameters) if other.num_parameters else "an unknown share"
    return [
        f"{name} reads {speed} {than} {other_name} ({reader.ms_per_line_p50:.1f} against "
        f"{other.ms_per_line_p50:.1f} ms a line) with {size} of its parameters."
    ]


def _weakest(name: str, scores: Scores) -> list[str]:
    """The damage or field kind with the highest CER, where it is at least 1.5x the whole and rests on 20 lines."""
    groups: dict[str, GroupScores] = {}
    for kind, found in (("damage", scores.by_damage), ("field", scores.by_field)):
        groups |= {f"{kind} \u201c{name}\u201d": group for name, group in found.items() if name != "untagged"}
    rated = [
        (group.cer, name, group) for name, group in groups.items() if group.cer and group.num_lines >= FEW_GROUP_LINES
    ]
    if not rated:
        return []
    worst, where, group = max(rated, key=lambda entry: entry[0])
    if worst < 1.5 * scores.cer:
        return []
    return [f"{name} is weakest on {where}: {percent(worst)} wrong over {group.num_lines:,} lines."]


def _left_out(reasons: Mapping[str, int]) -> list[str]:
    if not reasons:
        return []
    parts = "; ".join(f"{count:,}: {reason}" for reason, count in sorted(reasons.items(), key=lambda part: -part[1]))
    return [f"{sum(reasons.values()):,} training lines were left out ({parts})."]


def _cautions(scores: Scores) -> list[str]:
    said = []
    if scores.num_pages < FEW_PAGES:
        said.append(
            f"Careful: only {scores.num_pages} test page{'s' * (scores.num_pages != 1)}; with fewer than {FEW_PAGES} "
            "the intervals are too narrow and small differences cannot be seen."
        )
    if scores.cer == 0:
        most = percent(min(1.0, 3 / scores.num_lines))
        said.append(
            f"No error in {scores.num_lines:,} lines does not mean none at all: up to {most} of lines may still hold "
            "one (95\u00a0% confidence, rule of three)."
        )
    return said
