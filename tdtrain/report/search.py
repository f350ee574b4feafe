"""report.html of a search: its trials, what matters, and what to do with it. Nothing in it runs or loads."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

from markupsafe import Markup
from pydantic import BaseModel

from tdtrain.report import search_plots as plots
from tdtrain.report.finish import command, corpus_name
from tdtrain.report.html import environment
from tdtrain.report.results import versions
from tdtrain.report.words import SIGNIFICANT_P, p_words, percent
from tdtrain.search.outcome import Fitted, Outcome, Row
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis, Scalar, parse_axis

NAMES = {"parameters": "trained parameters", "ms_per_line": "ms a line"}


def write_search_report(search: SearchRun, run: BaseModel, outcome: Outcome, fitted: Fitted | None) -> list[str]:
    """Writes report.html into the search's folder. Returns what it says first, in sentences."""
    axes = [parse_axis(spec) for spec in search.axes]
    unit = "loss" if search.job == "lora_document" else "CER"
    names = {"score": f"validation {unit}"} | NAMES
    said = words_of(search, axes, outcome, fitted, unit)
    told = run.model_dump(mode="json")
    drawn = (
        plots.by_trial(outcome, names["score"]),
        plots.by_round(outcome, names["score"], rungs_of(search, outcome.rounds)),
        plots.by_time(outcome, names["score"]),
        plots.front(outcome, names),
        plots.importance(outcome),
    )
    html = environment().get_template("search.html.jinja").render(
        headline=said[0], details=said[1:-1], next_step=said[-1],
        outcome=outcome, fitted=fitted, axes=axes, names=names, unit=unit,
        wide=Markup(plots.parallel(outcome, axes, names["score"])),
        charts=[Markup(chart) for chart in drawn if chart],
        value=value_words, figure=lambda name, number: figure_words(name, number, unit),
        results=SimpleNamespace(
            created=datetime.now(UTC), command=command(), timings_s={"search": outcome.wall_s},
            run=told, versions=versions(),
        ),
        run_json=json.dumps({"search": search.model_dump(mode="json"), "run": told}, indent=2, ensure_ascii=False),
        corpus=corpus_name(told), card=None,
    )  # fmt: skip
    (search.output_dir / "report.html").write_text(html, encoding="utf-8")
    return said


def words_of(search: SearchRun, axes: Sequence[Axis], outcome: Outcome, fitted: Fitted | None, unit: str) -> list[str]:
    """What came out, how it came about, and what to do next."""
    counts = Counter(row.status for row in outcome.rows)
    how = f"{len(outcome.rows)} trials: " + ", ".join(f"{number} {status}" for status, number in counts.items())
    steps, whole = (sum(getattr(row, name) for row in outcome.rows) for name in ("in_steps_s", "in_trial_s"))
    time = f"{whole:,.0f} s in trials, {steps:,.0f} s of them in training steps; {outcome.wall_s:,.0f} s by the clock."
    if outcome.shared_s and outcome.rows:
        each = whole / len(outcome.rows)
        time += (
            f" Corpus, teacher and labels took {outcome.shared_s:,.0f} s, once: a trial takes {each:,.0f} s, and "
            f"{each + outcome.shared_s:,.0f} if it made its own."
        )
    if outcome.pick is None:
        reasons = Counter(row.reason for row in outcome.rows if row.reason).most_common(1)
        why = f" Most often: {reasons[0][0]}" if reasons else ""
        return ["No trial could be measured", f"{how}.{why}", "change the space or the job, and search again."]
    best = outcome.rows[outcome.pick]
    figures = ", ".join(f"{figure_words(name, best.figures[name], unit)}" for name in outcome.objectives)
    values = ", ".join(f"{path.rsplit('.', 1)[-1]} {value_words(value)}" for path, value in best.values.items())
    several = f"{len(outcome.front)} that no other beats in all of {len(outcome.objectives)} objectives"
    front = f" It is one of {several}." if len(outcome.objectives) > 1 else ""
    return [
        f"Trial {best.number}: {figures}",
        f"With {values}.{front}",
        f"{how}; {time}",
        *fitted_words(fitted, unit),
        next_words(search, axes, best, fitted),
    ]


def fitted_words(fitted: Fitted | None, unit: str) -> list[str]:
    """What the best is worth with fresh seeds."""
    if fitted is None:
        return ["Its figure was chosen among all trials, so it flatters; --fit_best says by how much."]
    words = []
    if fitted.optimism is not None:
        size = figure_words("score", abs(fitted.optimism), unit)
        way = f"{size} worse than" if fitted.optimism > 0 else f"{size} better than" if fitted.optimism else "equal to"
        words.append(
            f"Trained again with {len(fitted.seeds)} fresh seeds its validation score is on average {way} the search's."
        )
    if fitted.difference is not None and fitted.p_value is not None:
        mean = {arm: sum(values) / len(values) for arm, values in (("b", fitted.best_test), ("g", fitted.given_test))}
        shown = "" if fitted.p_value < SIGNIFICANT_P else "; no difference is shown"
        words.append(
            f"On the test split it has {percent(mean['b'])} CER, the job as it was given {percent(mean['g'])} "
            f"({p_words(fitted.p_value)}{shown})."
        )
    return words


def next_words(search: SearchRun, axes: Sequence[Axis], best: Row, fitted: Fitted | None) -> str:
    """The command that trains the best for good, with the flags that the search was given for its job."""
    given = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    flags = [part for axis in axes if axis.path in best.values for part in flag_of(axis, best.values[axis.path])]
    again = "" if fitted else "; or the same search with --fit_best"
    typed = shlex.join(["python", f"rayjobs/{search.job}.py", *given, *flags])
    return f"its model is in {search.output_dir / 'best'}; {typed} trains it again{again}."


def flag_of(axis: Axis, told: Scalar) -> list[str]:
    """A value as the job's own command takes it."""
    name, value = axis.path.rsplit(".", 1)[-1], axis.value_of(told)
    if value is None:  # as where it is left out
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    several = value if isinstance(value, tuple | list) else [value]
    return [f"--{name}", *(f"{one:.6g}" if isinstance(one, float) else str(one) for one in several)]


def figure_words(name: str, number: float, unit: str) -> str:
    """A figure with its unit."""
    if name == "score":
        return percent(number) + " CER" if unit == "CER" else f"loss {number:.4f}"
    return f"{number:,.0f} parameters" if name == "parameters" else f"{number:.1f} ms a line"


def value_words(value: object) -> str:
    """A value of a trial, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def rungs_of(search: SearchRun, rounds: int) -> Sequence[int]:
    """The evaluations after which ASHA may stop a trial."""
    if search.scheduler != "asha":
        return ()
    found, rung = [], search.grace
    while rung < rounds:
        found.append(rung)
        rung *= search.reduction
    return found
