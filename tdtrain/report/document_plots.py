"""Pictures of runs on documents, in the manner of `tdtrain.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tdtrain.evaluate.score_documents import DocumentScores
from tdtrain.report.document_words import NAMES
from tdtrain.report.plots import INK, PAPER, ROLE_COLOURS, STYLE, grid, svg
from tdtrain.report.results import CurvePoint


def f1_bars(writers: Mapping[str, DocumentScores]) -> str:
    """Block F1 of every writer, with its 95 % interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 0.5 + 0.44 * len(writers)), layout="constrained")
        axes = figure.add_subplot()
        for row, (role, scores) in enumerate(writers.items()):
            axes.barh(row, 100 * scores.block_f1, height=0.58, color=ROLE_COLOURS[role])
            end = scores.block_f1
            if scores.block_f1_ci:
                ends, end = [100 * scores.block_f1_ci.low, 100 * scores.block_f1_ci.high], scores.block_f1_ci.high
                axes.plot(ends, [row, row], color=PAPER, linewidth=4)
                axes.plot(ends, [row, row], color=INK, linewidth=1.2)
            axes.text(100 * end + 2, row, f"{100 * scores.block_f1:.1f} %", va="center")
        axes.set_yticks(range(len(writers)), [NAMES[role] for role in writers])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 120)
        axes.set_xlabel("block F1, %  (line: 95 % interval)")
        grid(axes, "x")
        return svg(figure, "Block F1 by writer")


def language_curves(points: Sequence[CurvePoint]) -> str | None:
    """The student's loss by step: of training, and of validation pages dashed; None without points."""
    points = [point for point in points if point.run == "student"]
    training = [(p.step, p.loss) for p in points if p.loss is not None]
    unseen = [(p.step, p.validation_loss) for p in points if p.validation_loss is not None]
    if not training:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 2.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*training, strict=True), color=ROLE_COLOURS["student"], label="training")
        if unseen:
            axes.plot(*zip(*unseen, strict=True), "--o", color=INK, linewidth=1.3, markersize=3, label="validation")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("nats a token of the answer")
        axes.legend(frameon=False, labelcolor=INK)
        grid(axes, "y")
        return svg(figure, "Loss by step")
