"""report.html: one file that explains a run, with nothing to load from elsewhere and nothing that runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tdtrain.data.card import Card
from tdtrain.evaluate.score import GroupScores
from tdtrain.report.examples import Example, Piece, marked
from tdtrain.report.plots import cer_bars, cer_curves, loss_curves, speed_accuracy
from tdtrain.report.results import CurvePoint, Results, role_names
from tdtrain.report.words import p_words, percent, points, signed, times, verdict

WHY_WORDS = {
    "fixed": "fixed by the teacher",
    "broken": "right without the teacher",
    "still wrong": "still wrong",
    "random": "picked at random",
}
_MARKS = {"wrong": "mark", "extra": "ins", "missing": "del"}


def write_report(
    path: Path,
    results: Results,
    *,
    curves: Sequence[CurvePoint] = (),
    examples: Sequence[Example] = (),
    card: Card | None = None,
    corpus: str = "",
) -> None:
    """Writes the report of a run.

    Args:
        path: the HTML file.
        curves: from `read_curves`; sections without data are left out.
        examples: from `choose_examples`.
        card: the packed corpus's data card.
        corpus: what was measured on, for the head of the page.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        render_report(results, curves=curves, examples=examples, card=card, corpus=corpus), encoding="utf-8"
    )


def render_report(
    results: Results,
    *,
    curves: Sequence[CurvePoint] = (),
    examples: Sequence[Example] = (),
    card: Card | None = None,
    corpus: str = "",
) -> str:
    """The report as HTML. Every text in it is escaped; only the pictures drawn here are taken as they are."""
    readers = results.readers
    reference: str | None = next(
        (role for role in ("teacher", "baseline") if role in readers and len(readers) > 1), None
    )
    said = verdict(results)
    charts = (cer_bars(readers) if len(readers) > 1 else None, speed_accuracy(readers) if len(readers) > 1 else None)
    return (
        environment()
        .get_template("readers.html.jinja")
        .render(
            results=results,
            readers=readers,
            student=readers.get("student"),
            control=readers.get("student_undistilled"),
            baseline=readers.get("baseline"),
            names=role_names(readers),
            why_words=WHY_WORDS,
            reference=reference,
            headline=said[0],
            details=said[1:-1],
            next_step=said[-1].removeprefix("Next: "),
            charts=[Markup(chart) for chart in charts if chart],
            training=[Markup(chart) for chart in (loss_curves(curves), cer_curves(curves)) if chart],
            breakdowns=_breakdowns(results),
            examples=examples,
            card=card,
            corpus=corpus,
            run_json=json.dumps(results.run, indent=2, ensure_ascii=False),
            any_reader=next(iter(readers.values())),
            timing=next((scores.timing for scores in readers.values() if scores.timing), None),
        )
    )


def environment() -> Environment:
    """What draws reports from the templates beside this file."""
    made = Environment(
        loader=PackageLoader("tdtrain.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "times": times,
        "p_words": p_words,
        "points": points,
        "signed": signed,
        "pieces": _pieces,
        "short": _short,
    }
    return made


def _breakdowns(results: Results) -> list[tuple[str, list[tuple[str, int, dict[str, GroupScores]]], float]]:
    """For damage and field: title, rows (kind, lines, figures by role) from worst to best, and the highest CER."""
    found = []
    for title, attribute in (("By damage", "by_damage"), ("By field", "by_field")):
        groups: dict[str, dict[str, GroupScores]] = {}
        for role, scores in results.readers.items():
            for kind, group in getattr(scores, attribute).items():
                groups.setdefault(kind, {})[role] = group
        if not groups:
            continue
        rows = [(kind, next(iter(by_role.values())).num_lines, by_role) for kind, by_role in groups.items()]
        rows.sort(key=lambda row: -max(group.cer or 0 for group in row[2].values()))
        highest = max((group.cer or 0 for _, _, by_role in rows for group in by_role.values()), default=0)
        found.append((title, rows, highest or 1.0))
    return found


def _short(name: str) -> str:
    """A model's folder by its end, which says most about it."""
    return name if len(name) <= 34 else "…" + name[-33:]


def _pieces(reading: str, truth: str) -> Markup:
    """A reading with its differences from the truth in `<mark>` (wrong), `<ins>` (extra) and `<del>` (missing)."""
    if not reading:
        return Markup('<span class="nothing">(nothing)</span>')
    return Markup("").join(_piece(piece) for piece in marked(truth, reading))


def _piece(piece: Piece) -> Markup:
    if piece.kind == "equal":
        return Markup("{}").format(piece.text)
    # A lone space would be invisible between the marks.
    text = piece.text.replace(" ", "\u2423")
    return Markup("<{0}>{1}</{0}>").format(Markup(_MARKS[piece.kind]), text)
