"""The last stage of a job: from an evaluation to results.json, report.html, a model card and MLflow."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from tdtrain.config import ReaderRun
from tdtrain.data.card import load_card
from tdtrain.data.manifest import Manifest
from tdtrain.evaluate.test_split import Evaluation
from tdtrain.report.examples import choose_examples
from tdtrain.report.html import write_report
from tdtrain.report.model_card import write_model_card
from tdtrain.report.results import CurvePoint, Results, append_curve, build_results, read_curves
from tdtrain.report.tracking import Tracker
from tdtrain.report.words import verdict
from tdtrain.train.checkpoint import progress

CURVES = (
    ("student", "student"),
    ("student", "adapter"),
    ("control", "student_undistilled"),
    ("control", "control/adapter"),
    ("teacher", "teacher"),
)


def report_training(
    run: ReaderRun,
    evaluation: Evaluation,
    manifest: Manifest,
    timings_s: Mapping[str, float],
    left_out: Mapping[str, Mapping[str, int]],
    tracker: Tracker,
    say: Callable[[str], None],
    folder: str = "student",
    notes: Sequence[str] = (),
) -> Results:
    """Writes everything a run leaves for people and for other tools, and says where it is.

    Args:
        folder: of the model that was trained, in the output folder.
        notes: sentences about this run, for the report.
    """
    output = run.output_dir
    write_curves(output)
    results = build_results(
        evaluation.scores,
        evaluation.comparisons,
        run=run.model_dump(mode="json"),
        timings_s=timings_s,
        left_out=left_out,
        curves="curves.jsonl",
        command=command(),
        notes=notes,
    )
    write_all(output, results, evaluation, manifest, tracker)
    write_model_card(output / folder, results, "student")
    if run.register_model:
        tracker.register_model(output / folder, run.register_model)
    for line in verdict(results):
        say(line)
    say(f"report: {output / 'report.html'}")
    return results


def write_all(output: Path, results: Results, evaluation: Evaluation, manifest: Manifest, tracker: Tracker) -> None:
    """results.json and report.html, in the folder and in MLflow."""
    results.write(output / "results.json")
    write_report(
        output / "report.html",
        results,
        curves=read_curves(output / "curves.jsonl"),
        examples=choose_examples(evaluation.lines, evaluation.readings),
        card=load_card(manifest.root),
        corpus=f"{len(evaluation.lines)} lines of {corpus_name(results.run)}",
    )
    for role, scores in results.readers.items():
        figures = {key: getattr(scores, key) for key in ("cer", "wer", "accuracy", "cer_digits", "ms_per_line_p50")}
        tracker.log_metrics({f"test/{role}/{key}": value for key, value in figures.items()})
    for name in ("results.json", "report.html"):
        tracker.log_artifact(output / name)


def corpus_name(run: Mapping[str, JsonValue]) -> str:
    """What a run's lines came from, for people."""
    options = run.get("corpus")
    given = run.get("dataset_path") or (options.get("dataset_path") if isinstance(options, dict) else None)
    return str(given or "the sample corpus")


def command() -> str:
    """What was typed, for people who want it again."""
    return shlex.join(["python", *sys.argv])


def write_curves(output: Path) -> None:
    """curves.jsonl, from what each training left in its folder."""
    path = output / "curves.jsonl"
    path.unlink(missing_ok=True)
    for name, folder in CURVES:
        if (output / folder / "progress.json").exists():
            for record in progress(output / folder).history:
                values = {key: value for key, value in vars(record).items() if key != "grad_norm"}
                append_curve(path, CurvePoint(run=name, **values))  # type: ignore[arg-type]
