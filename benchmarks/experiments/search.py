"""What a search costs with and without ASHA: temperature, alpha and learning rate of the default distillation.

The job as it was given has the guide's values (temperature 5, alpha 0.5, learning rate 5e-5), and a quarter of the
default's steps, so that sixteen trials take twenty minutes of two cores. Both searches try as many combinations, picked
by the same searcher; compute is the time in trials, added up. Each winner is then trained with fresh seeds beside the
guide's values, and measured on the test split. Both stay in output/search_benchmark; the same command goes on there.

What a trial costs beyond its steps is told of short trials, in the process that Ray Tune gave them (as searches do) and
by Ray Train's workers in each (as with several workers): seconds of the clock for each, and those outside steps.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean

from harness import Measured, Row, Settings

from tdtrain.config import DistillRun
from tdtrain.data.manifest import annotated_lines, load_manifest
from tdtrain.evaluate.significance import paired_permutation_p
from tdtrain.search.outcome import FITTED, Fitted
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import put
from tdtrain.searching import search_job

GUIDE = {"teaching.temperature": 5.0, "teaching.alpha": 0.5, "optimisation.learning_rate": 5e-5}
FOLDER = Path(__file__).resolve().parents[2] / "output" / "search_benchmark"
SHORT = 6
"""Short trials of which overhead is told."""
EVALUATIONS = 9
"""So that reduction 3 has rungs after a ninth and a third."""


def measure(settings: Settings) -> Measured:
    """Searches twice on the sample corpus, its teacher and labels made once."""
    small = {
        "corpus.sample_pages": 10, "corpus.annotated_pages": 6, "corpus.max_evaluation_lines": 40,
        "optimisation.epochs": 0.1, "teaching.adapt_teacher": False,
    }  # fmt: skip
    given = {"optimisation.evaluations": EVALUATIONS, "optimisation.epochs": 0.5}
    job = put(DistillRun(), GUIDE | given | (small if settings.quick else {}))
    rows: list[Row] = []
    compute = {}
    with tempfile.TemporaryDirectory() if settings.quick else nullcontext(FOLDER) as root:
        for scheduler in ("asha", "none"):
            search = SearchRun(
                output_dir=Path(root) / scheduler,
                scheduler=scheduler,  # type: ignore[arg-type]
                num_trials=2 if settings.quick else 16,
                fit_best=not settings.quick,
            )
            if rows:
                share_with(search.output_dir, Path(root) / "asha")
            outcome = search_job(search, job)
            fitted = None if settings.quick else Fitted.model_validate_json((search.output_dir / FITTED).read_text())
            compute[scheduler] = sum(row.in_trial_s for row in outcome.rows)
            steps = sum(row.in_steps_s for row in outcome.rows)
            picked = outcome.rows[outcome.pick or 0]
            rows.append({
                "scheduler": scheduler,
                "trials": len(outcome.rows),
                "whole trials": sum(row.status == "finished" for row in outcome.rows),
                "compute_s": round(compute[scheduler]),
                "wall_s": round(outcome.wall_s),
                "outside steps": round(1 - steps / max(compute[scheduler], 1e-9), 3),
                "temperature": round(float(picked.values["teaching.temperature"] or 0), 2),
                "alpha": round(float(picked.values["teaching.alpha"] or 0), 2),
                "learning rate": round(float(picked.values["optimisation.learning_rate"] or 0), 6),
                "validation CER": round(picked.points[-1].score, 4) if picked.points else None,
                **({} if fitted is None else {
                    "again": round((fitted.optimism or 0.0) + fitted.searched, 4),
                    "test CER": round(fmean(fitted.best_test), 4),
                    "test CER, guide's": round(fmean(fitted.given_test), 4),
                    "p": fitted.p_value,
                }),
            })  # fmt: skip
    figures = {"search_compute_asha_over_none": round(compute["asha"] / compute["none"], 3)}
    if not settings.quick:
        figures["search_p_of_the_two_winners"] = winners_p(job)
        short = [overhead(job, workers) for workers in (1, 2)]
        rows += short
        figures["search_seconds_a_short_trial_over_workers"] = round(short[0]["s a trial"] / short[1]["s a trial"], 3)
    return Measured(rows, figures, __doc__ or "")


def share_with(folder: Path, done: Path) -> None:
    """Begins a search's folder with what trials of another one share: corpus, teacher, labels."""
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        # Without the run that made it, which may have had other steps or workers.
        shutil.copytree(done / "shared", partial / "shared", ignore=shutil.ignore_patterns("run.json"))
        partial.rename(folder)


def winners_p(job: DistillRun) -> float:
    """Two-sided paired permutation test over pages: whether the winners read the test split differently."""
    manifest = load_manifest(str(FOLDER / "asha" / "shared" / "0" / "lines"))
    pages = [line.page_id for line in annotated_lines(manifest, "test", job.corpus.max_evaluation_lines)]
    ours, theirs = (Fitted.model_validate_json((FOLDER / name / FITTED).read_text()) for name in ("asha", "none"))
    return round(paired_permutation_p([*map(round, ours.best_edits)], [*map(round, theirs.best_edits)], pages), 4)


def overhead(job: DistillRun, workers: int) -> Row:
    """What short trials cost beyond their steps."""
    search = SearchRun(
        output_dir=FOLDER / f"short_{workers}", scheduler="none", searcher="random", num_trials=SHORT, trials_at_once=1
    )
    share_with(search.output_dir, FOLDER / "asha")
    few = {"optimisation.epochs": 0.05, "optimisation.evaluations": 1, "compute.num_workers": workers}
    outcome = search_job(search, put(job, few))
    return {
        "scheduler": f"none, short trials {'by 2 workers each' if workers > 1 else 'in their own process'}",
        "trials": len(outcome.rows),
        "whole trials": sum(row.status == "finished" for row in outcome.rows),
        "compute_s": round(sum(row.in_trial_s for row in outcome.rows)),
        "wall_s": round(outcome.wall_s),
        "s a trial": round(outcome.wall_s / len(outcome.rows), 1),
        "s outside steps": round(fmean(row.in_trial_s - row.in_steps_s for row in outcome.rows), 1),
    }
