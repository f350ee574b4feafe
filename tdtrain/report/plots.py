"""The report's pictures, as SVG that takes the page's font and colours.

matplotlib cannot draw with CSS variables, so it draws with stand-in colours that are replaced by `var(--...)`
afterwards: the same picture is then right on a light and on a dark page. Text stays text: it can be searched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from tdtrain.evaluate.score import Scores
from tdtrain.report.results import CurvePoint, role_names

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
ROLE_COLOURS: dict[str, str] = {
    "student": "#050505",
    "student_undistilled": "#060606",
    "teacher": "#070707",
    "student_before": "#080808",
    "teacher_before": "#090909",
    "baseline": "#0a0a0a",
    "rules": "#0b0b0b",
    "student_true_text": "#0c0c0c",
    "rules_true_text": "#0d0d0d",
}
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"} | {
    colour: f"--{role.replace('_', '-')}" for role, colour in ROLE_COLOURS.items()
}
_RUN_ROLES = {"student": "student", "control": "student_undistilled", "teacher": "teacher"}
_SIZE = 9.0
_LEGEND_COLUMNS = 2
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": _SIZE,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
}


def cer_bars(readers: Mapping[str, Scores]) -> str:
    """Character error rate of every reader, with its 95 % interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 0.5 + 0.44 * len(readers)), layout="constrained")
        axes = figure.add_subplot()
        longest = max(_upper(scores) for scores in readers.values()) or 0.01
        for row, (role, scores) in enumerate(readers.items()):
            axes.barh(row, 100 * scores.cer, height=0.58, color=ROLE_COLOURS[role])
            if scores.cer_ci:
                ends = [100 * scores.cer_ci.low, 100 * scores.cer_ci.high]
                # The paper-coloured casing keeps the line readable where it crosses the bar.
                axes.plot(ends, [row, row], color=PAPER, linewidth=4)
                axes.plot(ends, [row, row], color=INK, linewidth=1.2)
            axes.text(100 * (_upper(scores) + 0.02 * longest), row, f"{100 * scores.cer:.2f} %", va="center")
        axes.set_yticks(range(len(readers)), list(role_names(readers).values()))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 118 * longest)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("character error rate, %  (line: 95 % interval)")
        grid(axes, "x")
        return svg(figure, "Character error rate by reader")


def speed_accuracy(readers: Mapping[str, Scores]) -> str | None:
    """Milliseconds a line against error rate, lower left is better; None where nothing was timed."""
    timed = {role: scores for role, scores in readers.items() if scores.ms_per_line_p50}
    if not timed:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.0), layout="constrained")
        axes = figure.add_subplot()
        speeds = [scores.ms_per_line_p50 or 0 for scores in timed.values()]
        rates = [100 * scores.cer for scores in timed.values()]
        axes.set_xscale("log")
        axes.set_xlim(min(speeds) / 2, max(speeds) * 2)
        axes.set_ylim(0, (max(rates) or 1) * 1.18)
        # Names go towards the middle, where there is room; readers of about the same speed have it on the right.
        middle = (min(speeds) * max(speeds)) ** 0.5 if max(speeds) > 2 * min(speeds) else max(speeds)
        for side in ("left", "right"):
            here = [
                (rate, speed, role)
                for rate, speed, role in zip(rates, speeds, timed, strict=True)
                if (side == "left") == (speed <= middle)
            ]
            _labelled_points(axes, here, side, role_names(readers))
        axes.xaxis.set_major_locator(_of_log(speeds))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ms a line, one at a time, median (log)")
        axes.set_ylabel("character error rate, %")
        grid(axes, "both")
        return svg(figure, "Speed against error rate")


def loss_curves(points: Sequence[CurvePoint]) -> str | None:
    """Training loss by step, per run; None without points."""
    series = {run: [(p.step, p.loss) for p in points if p.run == run and p.loss is not None] for run in _RUN_ROLES}
    return _curves(
        {run: (found, "-") for run, found in series.items() if found}, "training loss", "Training loss by step"
    )


def cer_curves(points: Sequence[CurvePoint]) -> str | None:
    """CER by step: validation solid, training dashed; None without points."""
    series = {}
    for run in _RUN_ROLES:
        for key, dash in (("validation_cer", "-"), ("train_cer", "--")):
            found = [(p.step, 100 * getattr(p, key)) for p in points if p.run == run and getattr(p, key) is not None]
            if found:
                series[f"{run} {key}"] = (found, dash)
    return _curves(series, "character error rate, %", "Error rate on training and validation lines by step")


def _curves(series: dict[str, tuple[list[tuple[int, float]], str]], label: str, title: str) -> str | None:
    if not series:
        return None
    with matplotlib.rc_context(STYLE):
        rows = -(-len(series) // _LEGEND_COLUMNS)
        figure = Figure(figsize=(4.5, 2.6 + 0.2 * rows), layout="constrained")
        axes = figure.add_subplot()
        for name, (found, dash) in series.items():
            colour = ROLE_COLOURS[_RUN_ROLES[name.split()[0]]]
            steps, values = zip(*found, strict=True)
            axes.plot(
                steps,
                values,
                dash,
                color=colour,
                label=_legend(name),
                linewidth=1.3 if dash == "--" else 1.8,
                marker="o" if len(found) < 25 else "",
                markersize=3,
            )
        drawn = [value for found, _ in series.values() for _, value in found]
        if min(drawn) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_major_locator(_of_log(drawn))
            axes.yaxis.set_minor_locator(NullLocator())
            label += " (log)"
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        figure.legend(
            loc="outside upper left", ncols=_LEGEND_COLUMNS, frameon=False, labelcolor=INK, handlelength=2.2,
            fontsize=_SIZE - 0.5,
        )  # fmt: skip
        grid(axes, "y")
        return svg(figure, title)


def _of_log(values: Sequence[float]) -> matplotlib.ticker.LogLocator:
    """Ticks at powers of ten; within two of them also at 2 and 5 times these."""
    return matplotlib.ticker.LogLocator(subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,))


def _legend(name: str) -> str:
    run, _, key = name.partition(" ")
    who = {"student": "with teacher", "control": "no teacher", "teacher": "teacher, adapting"}[run]
    return f"{who}, {key.removesuffix('_cer')}" if key else who


def _labelled_points(axes: Axes, here: list[tuple[float, float, str]], side: str, names: Mapping[str, str]) -> None:
    """Points with their names beside them, the names pushed apart where points lie close."""
    gap = 0.075 * axes.get_ylim()[1]
    places: list[float] = []
    for rate, _, _ in sorted(here):
        places.append(max(rate, places[-1] + gap) if places else max(rate, gap / 2))
    for (rate, speed, role), place in zip(sorted(here), places, strict=True):
        axes.plot(speed, rate, "o", markersize=7, color=ROLE_COLOURS[role], markeredgecolor=PAPER)
        beside = (7 if side == "left" else -7, 0)
        axes.annotate(names[role], (speed, place), beside, textcoords="offset points", va="center", ha=side, color=INK)


def _upper(scores: Scores) -> float:
    return max(scores.cer, scores.cer_ci.high if scores.cer_ci else 0)


def grid(axes: Axes, axis: str) -> None:
    """Lines behind the data, at the major ticks of an axis (x, y or both)."""
    axes.grid(True, axis=axis, which="major")  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element for inlining: no XML head, no fixed size, ids of its own, the page's colours."""
    buffer = io.StringIO()
    # The salt makes ids repeatable, and different between the pictures of one page.
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.id": "chart-" + re.sub(r"\W+", "-", title.lower())}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": title})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Its ids on groups would repeat from picture to picture, and its style element would rule the whole page.
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    # A group that is named after a trial becomes one of all its marks in all pictures.
    drawn = re.sub(r'<g id="(trial-\d+)[^"]*"', r'<g class="\1"', drawn)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = drawn.replace("<svg", '<svg role="img"', 1)
    drawn = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", drawn)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn
