"""The cells of the label-efficiency surface on disk, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from claim import rows_in
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from pydantic import BaseModel, ConfigDict

COLUMNS = (
    ("none", "-"),
    ("as it comes", "soft"),
    ("as it comes", "sequence"),
    ("as it comes", "both"),
    ("adapted", "soft"),
    ("adapted", "sequence"),
    ("adapted", "both"),
)
_COLOURS = {"none": "#8a8a8a", "as it comes": "#c8742b", "adapted": "#1f6f8b"}
_DASHES = {"-": "-", "soft": ":", "sequence": "--", "both": "-"}


@dataclass(frozen=True)
class Cell:
    """One combination: how a student is trained."""

    annotated: int
    student: str
    teacher: str
    targets: str

    @property
    def name(self) -> str:
        """For a folder."""
        return "-".join((self.student, self.teacher, self.targets)).replace(" ", "_").strip("-")


class Measured(BaseModel):
    """A cell and what came out. Rates are fractions; the interval is 95 %, bootstrapped by page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    annotated: int
    student: str
    teacher: str
    targets: str
    cer: float
    cer_low: float
    cer_high: float
    cer_digits: float | None
    accuracy: float
    cer_before: float
    validation_cer: float | None
    steps: int

    @property
    def cell(self) -> Cell:
        """Which combination this is."""
        return Cell(self.annotated, self.student, self.teacher, self.targets)

    def words(self) -> str:
        """One line for a terminal."""
        taught = f"teacher {self.teacher}" + (f", {self.targets} targets" if self.teacher != "none" else "")
        return f"{self.annotated:4} pages annotated, {self.student} student, {taught}: CER {100 * self.cer:.2f} %"


def read_cells(path: Path) -> dict[Cell, Measured]:
    """What was measured so far; of a cell that was measured twice, the last."""
    return {found.cell: found for found in rows_in(path, Measured)}


def write_report(root: Path, wanted: Sequence[Cell]) -> None:
    """`label_efficiency.md` and `label_efficiency.png` of what there is."""
    found = read_cells(root / "cells.jsonl")
    (root / "label_efficiency.md").write_text(table(found, wanted), encoding="utf-8")
    plot(found).savefig(root / "label_efficiency.png", dpi=120)


def table(found: dict[Cell, Measured], wanted: Sequence[Cell]) -> str:
    """Markdown: a table a student, a row a number of annotated pages, a column a way of teaching; CER in %."""
    text = []
    for student in dict.fromkeys(cell.student for cell in wanted):
        before = next((m.cer_before for m in found.values() if m.student == student), None)
        start = "" if before is None else f" (before training {min(before, 1):.1%})".replace("%", " %")
        text += [f"**{student} student**{start}", ""]
        text += ["| pages annotated | " + " | ".join(_title(*column) for column in COLUMNS) + " |"]
        text += ["|---" * (1 + len(COLUMNS)) + "|"]
        for annotated in dict.fromkeys(cell.annotated for cell in wanted):
            row = [found.get(Cell(annotated, student, *column)) for column in COLUMNS]
            rates = [m.cer for m in row if m]
            shown = [_shown(m, min(rates)) if m else "" for m in row]
            text.append(f"| {annotated} | " + " | ".join(shown) + " |")
        text.append("")
    return "\n".join(text)


def _title(teacher: str, targets: str) -> str:
    return "no teacher" if teacher == "none" else f"{teacher}, {targets}"


def _shown(measured: Measured, best: float) -> str:
    rate = f"{100 * measured.cer:.2f}"
    return f"**{rate}**" if measured.cer == best else rate


def plot(found: dict[Cell, Measured]) -> Figure:
    """CER against annotated pages, a panel a student, a line a way of teaching."""
    students = list(dict.fromkeys(m.student for m in found.values()))
    figure = Figure(figsize=(5.2 * max(len(students), 1), 4.2), layout="constrained")
    levels = sorted({m.annotated for m in found.values()})
    for index, student in enumerate(students):
        axes = figure.add_subplot(1, len(students), index + 1)
        for teacher, targets in COLUMNS:
            points = [
                (levels.index(m.annotated), 100 * m.cer)
                for m in sorted(found.values(), key=lambda m: m.annotated)
                if (m.student, m.teacher, m.targets) == (student, teacher, targets)
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                style = _DASHES[targets]
                axes.plot(xs, ys, style, color=_COLOURS[teacher], marker="o", label=_title(teacher, targets))
        axes.set_title(f"{student} student")
        axes.set_xticks(range(len(levels)), [str(level) for level in levels])
        axes.set_xlabel("annotated pages")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(True, which="both", axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_ylabel("character error rate, % (log)")
    if students:
        figure.axes[0].legend(frameon=False, fontsize=8, handlelength=3.2)
    return figure
