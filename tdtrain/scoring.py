"""The evaluation job: any reader, any corpus, the same results.json and report."""

from __future__ import annotations

from tdtrain.admission import check_place
from tdtrain.config import EvaluateRun
from tdtrain.data.manifest import Manifest, load_manifest, read_lines
from tdtrain.data.prepare import prepare
from tdtrain.data.rows import SPLITS, Split
from tdtrain.data.storage import open_folder
from tdtrain.evaluate.test_split import evaluate
from tdtrain.report.finish import command, write_all
from tdtrain.report.results import Results, build_results
from tdtrain.report.tracking import Tracker
from tdtrain.report.words import verdict
from tdtrain.train.checkpoint import learnt_from, pages_learnt_from
from tdtrain.train.progress import Display


def score(run: EvaluateRun) -> Results:
    """Packs the corpus where it is not packed yet, reads it, and reports.

    Raises: ValueError where none of the lines is annotated.
    """
    check_place(run.output_dir)
    if run.num_workers > 0:
        from tdtrain.ray_start import connect

        connect()
    manifest = _packed(run)
    splits = _splits(run, manifest)
    learnt = {page for model in (run.model, run.baseline) if model for page in pages_learnt_from(model)}
    seen: set[str] = set()
    if learnt:
        there = {line.page_id for split in splits for line in read_lines(manifest, split, images=False) if line.text}
        seen = there & learnt
        if seen == there:
            raise ValueError(f"dataset_path={run.dataset_path} has no annotated page that no model learnt from")
    models = {"student": run.model} | ({"baseline": run.baseline} if run.baseline else {})
    with (
        Tracker(run.output_dir, run.tracking_uri, run_name=run.output_dir.name) as tracker,
        Display(run.output_dir.name) as display,
    ):
        tracker.log_run(run.model_dump(mode="json"))
        if seen:
            display.say(f"{len(seen):,} pages that a model learnt from are left out")
        counting = display.counting("evaluate", "shards, by reader")
        limit, workers, gpus = run.max_evaluation_lines, run.num_workers, run.gpus_per_worker
        evaluation = evaluate(models, manifest, limit, workers, counting, splits, gpus, learnt)
        results = build_results(
            evaluation.scores, evaluation.comparisons, run=run.model_dump(mode="json"), command=command()
        )
        write_all(run.output_dir, results, evaluation, manifest, tracker)
        for line in verdict(results):
            display.say(line)
        display.say(f"report: {run.output_dir / 'report.html'}")
    return results


def _packed(run: EvaluateRun) -> Manifest:
    if open_folder(run.dataset_path).exists("manifest.json"):
        manifest = load_manifest(run.dataset_path)
    else:
        manifest = prepare(run.output_dir / "lines", run.dataset_path, use_ray=run.num_workers > 0)
    return manifest


def _splits(run: EvaluateRun, manifest: Manifest) -> tuple[Split, ...]:
    """The splits to read: those asked for, else all of a corpus that is new to the models."""
    learnt = any(learnt_from(model) == manifest.fingerprint for model in (run.model, run.baseline) if model)
    splits = run.splits or (("test",) if learnt else SPLITS)
    if not any(manifest.num_annotated(split) for split in splits):
        raise ValueError(
            f"dataset_path={run.dataset_path} has no annotated line in its {', '.join(splits)} split, so there is "
            "nothing to compare a reading with; add annotations/NAME.txt for some pages"
        )
    return splits
