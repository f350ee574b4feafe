"""The pictures of a search. Each trial's marks are one group, `trial-N`, so that the page can show one among all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tdtrain.report.plots import INK, MUTED, ROLE_COLOURS, STYLE, grid, svg
from tdtrain.search.outcome import Outcome, Row
from tdtrain.search.space import Axis

PLAIN, BEST = ROLE_COLOURS["teacher_before"], ROLE_COLOURS["student"]


def by_trial(outcome: Outcome, unit: str) -> str:
    """The score of each trial, and the best so far."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        best, steps = math.inf, []
        for row in outcome.rows:
            if row.points:
                best = min(best, row.points[-1].score)
                _mark(axes, row, outcome, row.number, row.points[-1].score)
            steps.append(best)
        shown = [(number, value) for number, value in enumerate(steps) if math.isfinite(value)]
        axes.step([one for one, _ in shown], [value for _, value in shown], where="post", color=BEST, linewidth=1.2)
        axes.set_xlabel("trial  (line: best so far)")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        grid(axes, "y")
        return svg(figure, "Score by trial")


def by_round(outcome: Outcome, unit: str, rungs: Sequence[int]) -> str:
    """The score of each trial as it is trained, and where trials may be stopped."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for rung in rungs:
            axes.axvline(rung, color=MUTED, linewidth=0.8, linestyle=":")
        for row in outcome.rows:
            if row.points:
                colour, width = (BEST, 2.0) if row.number == outcome.pick else (PLAIN, 1.0)
                (line,) = axes.plot(
                    [one.round for one in row.points], [one.score for one in row.points], color=colour, linewidth=width,
                    marker="o", markersize=2.5,
                )  # fmt: skip
                line.set_gid(f"trial-{row.number}")
        axes.set_xlabel("evaluation" + ("  (dotted: rungs)" if rungs else ""))
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        grid(axes, "y")
        return svg(figure, "Score by evaluation")


def by_time(outcome: Outcome, unit: str) -> str:
    """The score of each trial by the seconds that it took."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for row in outcome.rows:
            if row.points:
                _mark(axes, row, outcome, row.in_trial_s, row.points[-1].score)
        axes.set_xlabel("seconds in the trial")
        axes.set_ylabel(unit)
        grid(axes, "y")
        return svg(figure, "Score by time")


def front(outcome: Outcome, names: Mapping[str, str]) -> str | None:
    """The first objective against the second, with the front as a line; None where there is one objective."""
    if len(outcome.objectives) < 2:
        return None
    y, x = outcome.objectives[:2]
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        for row in outcome.rows:
            if x in row.figures and y in row.figures:
                _mark(axes, row, outcome, row.figures[x], row.figures[y])
        ends = sorted((outcome.rows[number].figures[x], outcome.rows[number].figures[y]) for number in outcome.front)
        axes.step([one for one, _ in ends], [value for _, value in ends], where="post", color=BEST, linewidth=1.2)
        axes.set_xlabel(names[x])
        axes.set_ylabel(names[y])
        grid(axes, "both")
        return svg(figure, "Front of the objectives")


def parallel(outcome: Outcome, axes_of_space: Sequence[Axis], unit: str) -> str:
    """Parallel coordinates: a line a trial through its values to its score."""
    rows = [row for row in outcome.rows if row.points]
    names = [axis.path.rsplit(".", 1)[-1] for axis in axes_of_space] + [unit]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        scales = [_scale_of(axis) for axis in axes_of_space]
        scores = [row.points[-1].score for row in rows]
        low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
        for row in sorted(rows, key=lambda row: -row.points[-1].score):
            places = [scale(row.values[axis.path]) for axis, scale in zip(axes_of_space, scales, strict=True)]
            places.append((row.points[-1].score - low) / ((high - low) or 1.0))
            colour, width = (BEST, 2.2) if row.number == outcome.pick else (PLAIN, 1.0)
            (line,) = axes.plot(range(len(places)), places, color=colour, linewidth=width)
            line.set_gid(f"trial-{row.number}")
        for place, axis in enumerate([*axes_of_space, None]):
            axes.axvline(place, color=MUTED, linewidth=0.8)
            ends = (_short(low), _short(high)) if axis is None else (_short(axis.values[0]), _short(axis.values[-1]))
            for at, end, how in ((0, ends[0], "top"), (1, ends[1], "bottom")):
                axes.text(place, at + (0.03 if at else -0.03), end, ha="center", va=how, color=MUTED)
        axes.set_xticks(range(len(names)), names)
        axes.tick_params(axis="x", length=0, labelcolor=INK, pad=14)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_ylim(-0.12, 1.12)
        return svg(figure, "Values of the trials")


def importance(outcome: Outcome) -> str | None:
    """The share of the score's variance by field; None where it is not known."""
    if not outcome.importance:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 0.7 + 0.34 * len(outcome.importance)), layout="constrained")
        axes = figure.add_subplot()
        for place, share in enumerate(outcome.importance.values()):
            axes.barh(place, 100 * share, height=0.58, color=BEST)
            axes.text(100 * share + 1, place, f"{100 * share:.0f} %", va="center")
        axes.set_yticks(range(len(outcome.importance)), [path.rsplit(".", 1)[-1] for path in outcome.importance])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xlabel("of the score's variance, % (fANOVA)")
        grid(axes, "x")
        return svg(figure, "Importance of the fields")


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    return figure, figure.add_subplot()


def _mark(axes: Axes, row: Row, outcome: Outcome, x: float, y: float) -> None:
    chosen = row.number in outcome.front
    (mark,) = axes.plot(
        [x], [y], "o", color=BEST if chosen else PLAIN, markersize=8 if row.number == outcome.pick else 5
    )
    mark.set_gid(f"trial-{row.number}")


def _scale_of(axis: Axis):  # type: ignore[no-untyped-def]
    """From a value to its place between 0 and 1."""
    if axis.kind == "choice":
        told, most = axis.told, max(1, len(axis.told) - 1)
        return lambda value: told.index(value) / most
    low, high = axis.values
    if axis.kind == "log":
        return lambda value: math.log(value / low) / math.log(high / low)  # type: ignore[operator]
    return lambda value: (value - low) / (high - low)  # type: ignore[operator]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
