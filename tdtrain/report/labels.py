"""labels.html: what teachers said of pages, what of it can be learnt from, what not and why, and how right it is."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tdtrain.data.storage import Folder
from tdtrain.report.html import environment
from tdtrain.report.plots import ROLE_COLOURS, STYLE, grid, svg
from tdtrain.report.results import versions
from tdtrain.report.words import percent
from tdtrain.teachers.services.label_page import STEPS, LabelledPage

REPORT, FIGURES = "labels.html", "labels.json"
MOST_SHOWN = 8
"""Of each kind."""


def write_label_report(
    out: Folder, pages: Sequence[LabelledPage], failed: Sequence[str], run: Mapping[str, Any]
) -> list[str]:
    """Writes labels.html and labels.json.

    Args:
        failed: why pages have no labels, one each.

    Returns: what they say, in sentences.
    """
    figures = figures_of(pages) | {"failed": dict(Counter(failed).most_common(MOST_SHOWN)), "num_failed": len(failed)}
    out.write(FIGURES, (json.dumps(figures | {"run": run}, ensure_ascii=False, indent=1) + "\n").encode())
    kept, lines, documents = figures["kept"], figures["lines"], run["task"] == "document"
    unit = "time blocks" if documents else "lines"
    words = f"{kept:,} of {lines:,} lines can be learnt from"
    if documents:
        words = f"{figures['kept_pages']:,} pages with {kept:,} time blocks can be learnt from"
    dropped = ", ".join(f"{number:,} {why}" for why, number in figures["dropped"].items())
    agreed = [
        f"{percent(found['same'] / found['both'])} with {name}"
        for name, found in figures["same"].items()
        if found["both"]
    ]
    reads, alike = f"reads them. Left without their text: {dropped or 'none'}.", "The same text, spelling aside"
    if documents:
        reads, alike = f"writes them.{f' Left out: {dropped}.' if dropped else ''}", "F1 of the blocks of both"
    right = _right(figures["annotated"], unit)
    shown = [line for page in pages for line in page.shown]
    if documents:
        kinds, shown = ["page"], [page.model_copy(update={"why": "page"}) for page in shown]
    else:
        kinds = sorted({line.why for line in shown}, key=lambda why: (why == "kept", why))
    html = environment().get_template("labels.html.jinja").render(
        headline=words,
        details=[
            f"{unit.capitalize()} of {figures['pages']:,} pages, as {run['service']} ({run['service_model']}) {reads}",
            *([f"{alike}: {'; '.join(agreed)}."] if agreed else []),
            *([f"{right}."] if right else []),
            *([f"{len(failed):,} pages have none."] if failed else []),
        ],
        next_step="python rayjobs/distill.py " + ("--task document " if documents else "")
        + f"--dataset_path {run['output_dir']}",
        figures=figures,
        unit=unit,
        charts=[] if documents else [Markup(_confidences(figures["confidences"], run["min_confidence"]))],
        examples=[line for why in kinds for line in [one for one in shown if one.why == why][:MOST_SHOWN]],
        uri=lambda picture: "data:image/png;base64," + base64.b64encode(picture).decode(),
        results=SimpleNamespace(created=datetime.now(UTC), command=None, timings_s={}, run=run, versions=versions()),
        run_json=json.dumps(run, indent=2, ensure_ascii=False),
        corpus=run["dataset_path"],
        card=None,
    )  # fmt: skip
    out.write(REPORT, html.encode())
    return [*([right] if right else []), f"{words}{f' ({dropped})' if dropped else ''}: {out.path(REPORT)}"]


def _right(annotated: Mapping[str, int], unit: str) -> str:
    """How right the teacher is about annotated pages, in words; empty where none was looked at."""
    if not annotated["pages"]:
        return ""
    f1 = 2 * annotated["right"] / max(1, annotated["said"] + annotated["true"])
    return (
        f"On {annotated['pages']:,} annotated pages its {unit} have an F1 of {percent(f1)} ({annotated['right']:,} are "
        f"right of {annotated['said']:,} said and {annotated['true']:,} annotated)"
    )


def figures_of(pages: Sequence[LabelledPage]) -> dict[str, Any]:
    """Sums over all pages."""
    checked = [page.right for page in pages if page.right is not None]
    pages = [page for page in pages if page.right is None]
    dropped: dict[str, int] = {}
    same: dict[str, dict[str, int]] = {}
    for page in pages:
        for why, number in page.dropped.items():
            dropped[why] = dropped.get(why, 0) + number
        for name, (agreed, both) in page.same.items():
            held = same.setdefault(name, {"same": 0, "both": 0, "lines": 0})
            held["same"] += agreed
            held["both"] += both
            held["lines"] += page.lines
    lines = sum(page.lines for page in pages)
    return {
        "pages": len(pages), "kept_pages": sum(sum(page.dropped.values()) < max(1, page.lines) for page in pages),
        "lines": lines, "kept": lines - sum(dropped.values()), "dropped": dropped, "same": same,
        "confidences": [sum(page.confidences[step] for page in pages) for step in range(STEPS)],
        "annotated": {
            "pages": len(checked), "right": sum(one[0] for one in checked), "said": sum(one[1] for one in checked),
            "true": sum(one[2] for one in checked),
        },
    }  # fmt: skip


def _confidences(counts: Sequence[int], limit: float) -> str:
    """Lines by confidence, and where the limit lies."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 2.4), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(
            [(step + 0.5) / STEPS for step in range(STEPS)], counts, width=0.9 / STEPS, color=ROLE_COLOURS["student"]
        )
        axes.axvline(limit, color=ROLE_COLOURS["student_undistilled"], linewidth=1.4)
        axes.set_xlim(0, 1)
        axes.set_xlabel("confidence  (line: min_confidence)")
        axes.set_ylabel("lines")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid(axes, "y")
        return svg(figure, "Lines by confidence")
