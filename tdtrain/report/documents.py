"""What a run on documents measured: results.json, report.html, a model card, MLflow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, JsonValue

from tdtrain.config import LoraDocumentRun
from tdtrain.data.card import Card, load_card
from tdtrain.data.manifest import Manifest
from tdtrain.data.timetable import TimeBlock
from tdtrain.evaluate.documents import DocumentEvaluation
from tdtrain.evaluate.fields import parse_answer
from tdtrain.evaluate.metrics import normalize
from tdtrain.evaluate.score_documents import DocumentComparison, DocumentScores
from tdtrain.report.document_plots import f1_bars, language_curves
from tdtrain.report.document_words import NAMES, verdict
from tdtrain.report.finish import command, corpus_name, write_curves
from tdtrain.report.html import environment
from tdtrain.report.results import read_curves, versions
from tdtrain.report.tracking import Tracker

SHOWN_PAGES = 6
FIGURES = (
    "block_f1",
    "field_f1",
    "anls",
    "tree_accuracy",
    "exact",
    "valid_json",
    "valid_schema",
    "ended",
    "seconds_per_page",
)


class DocumentResults(BaseModel):
    """Everything that results.json holds. `writers`: figures by role; the others as in `tdtrain.report.results`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    writers: dict[str, DocumentScores]
    comparisons: list[DocumentComparison]
    run: dict[str, JsonValue]
    versions: dict[str, str]
    created: datetime
    timings_s: dict[str, float]
    left_out: dict[str, dict[str, int]]
    command: str


@dataclass(frozen=True)
class ShownBlock:
    """A block of the truth or of an answer, and what became of it."""

    block: TimeBlock
    kind: Literal["right", "missing", "extra"]


def report_documents(
    run: LoraDocumentRun,
    evaluation: DocumentEvaluation,
    manifest: Manifest,
    timings_s: Mapping[str, float],
    left_out: Mapping[str, Mapping[str, int]],
    tracker: Tracker,
    say: Callable[[str], None],
) -> DocumentResults:
    """Writes everything a run leaves for people and for other tools, and says where it is."""
    output = run.output_dir
    write_curves(output)
    results = DocumentResults(
        writers=evaluation.scores,
        comparisons=evaluation.comparisons,
        run=run.model_dump(mode="json"),
        versions=versions(),
        created=datetime.now(UTC).replace(microsecond=0),
        timings_s=dict(timings_s),
        left_out={split: {why: n for why, n in reasons.items() if n} for split, reasons in left_out.items()},
        command=command(),
    )
    _write(output / "results.json", results.model_dump_json(indent=2) + "\n")
    _write(output / "answers.json", json.dumps(_answers(evaluation), ensure_ascii=False, indent=1) + "\n")
    _write(output / "report.html", render(results, evaluation, load_card(manifest.root)))
    _write(output / "merged" / "README.md", _card(results))
    for role, scores in results.writers.items():
        figures = {key: getattr(scores, key) for key in FIGURES if getattr(scores, key) is not None}
        tracker.log_metrics({f"test/{role}/{key}": value for key, value in figures.items()})
    for name in ("results.json", "answers.json", "report.html"):
        tracker.log_artifact(output / name)
    if run.register_model:
        tracker.register_model(output / "merged", run.register_model)
    for line in verdict(results.writers, results.comparisons, results.left_out):
        say(line)
    say(f"report: {output / 'report.html'}")
    return results


def render(results: DocumentResults, evaluation: DocumentEvaluation, card: Card | None) -> str:
    """The report as HTML. Every text in it is escaped; only the pictures drawn here are taken as they are."""
    said = verdict(results.writers, results.comparisons, results.left_out)
    output = Path(str(results.run["output_dir"]))
    charts = (f1_bars(results.writers), language_curves(read_curves(output / "curves.jsonl")))
    return (
        environment()
        .get_template("documents.html.jinja")
        .render(
            results=results,
            writers=results.writers,
            names=NAMES,
            headline=said[0],
            details=said[1:-1],
            next_step=said[-1].removeprefix("Next: "),
            charts=[Markup(chart) for chart in charts if chart],
            groups=[
                ("By size", _groups(results.writers, "by_blocks")),
                ("By layout", _groups(results.writers, "by_layout")),
            ],
            examples=_examples(evaluation),
            card=card,
            corpus=f"{len(evaluation.pages)} pages of {corpus_name(results.run)}",
            run_json=json.dumps(results.run, indent=2, ensure_ascii=False),
        )
    )


def shown_blocks(truth: Sequence[TimeBlock], said: Sequence[TimeBlock]) -> list[ShownBlock]:
    """The truth's blocks, right or missing, then what the answer has beside them."""
    left = Counter(map(_key, said))
    shown: list[ShownBlock] = []
    for block in truth:
        found = left[_key(block)] > 0
        left[_key(block)] -= found
        shown.append(ShownBlock(block, "right" if found else "missing"))
    for block in said:
        if left[_key(block)] > 0:
            left[_key(block)] -= 1
            shown.append(ShownBlock(block, "extra"))
    return shown


def _key(block: TimeBlock) -> tuple[str, ...]:
    return tuple(normalize(value) for value in (block.day, block.name, block.startTime, block.endTime))


def _examples(evaluation: DocumentEvaluation) -> list[tuple[str, list[ShownBlock]]]:
    """Pages from all over the test split: their image's path, and the student's blocks beside the truth's."""
    step = max(1, len(evaluation.pages) // SHOWN_PAGES)
    shown = []
    for page, answer in list(zip(evaluation.pages, evaluation.answers["student"], strict=True))[::step][:SHOWN_PAGES]:
        said, _ = parse_answer(answer)
        truth = page.truth.timeblocks if page.truth else ()
        shown.append((page.source, shown_blocks(truth, said.timeblocks if said else ())))
    return shown


def _groups(writers: Mapping[str, DocumentScores], attribute: str) -> list[tuple[str, int, int, dict[str, float]]]:
    """Rows: kind, pages, blocks, F1 by role."""
    kinds = getattr(next(iter(writers.values())), attribute)
    return [
        (
            kind,
            group.num_pages,
            group.num_blocks,
            {role: getattr(scores, attribute)[kind].block_f1 for role, scores in writers.items()},
        )
        for kind, group in kinds.items()
    ]


def _answers(evaluation: DocumentEvaluation) -> list[dict[str, str]]:
    return [
        {"source": page.source, "truth": page.truth.canonical() if page.truth else "",
         **{role: own[place] for role, own in evaluation.answers.items()}}
        for place, page in enumerate(evaluation.pages)
    ]  # fmt: skip


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _card(results: DocumentResults) -> str:
    rows = "\n".join(
        f"| {NAMES[role]} | {scores.block_f1:.3f} | {scores.field_f1:.3f} | {scores.valid_schema:.0%} |"
        for role, scores in results.writers.items()
    )
    student = results.writers["student"]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {results.run["model_name"]}
tags: [timetables, lora]
---

# {Path(str(results.run["output_dir"])).name}

Writes a timetable as JSON from the text of its page, as {results.run["reader"]} reads it and
`tdtrain.data.serialise` ({results.run["serialisation"]}) lays it out. Trained with tdtrain
{results.versions.get("tdtrain", "")}.

| writer | block F1 | field F1 | fits the schema |
|---|---|---|---|
{rows}

Measured on {student.num_pages} test pages ({student.num_blocks} time blocks) that no model learnt from.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("merged"), AutoTokenizer.from_pretrained("merged")
```

It was made for the kind of page of its corpus; on anything else, measure first. The run that made it is in `run.json`.
"""
