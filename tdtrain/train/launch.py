"""From a training run to a trained folder: plans the data, starts the workers, in this process or under Ray Train."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tdtrain.compute import micro_batches
from tdtrain.data.batches import Recipe
from tdtrain.data.manifest import annotated_lines, load_manifest
from tdtrain.data.rows import Split
from tdtrain.data.training_set import training_set
from tdtrain.models.load import load_reader
from tdtrain.models.trocr_inputs import codec_of
from tdtrain.teachers.cache import memory_of
from tdtrain.train.checkpoint import progress
from tdtrain.train.in_process import fit_here
from tdtrain.train.language import LanguageJob, plan_language
from tdtrain.train.runs import LanguageRun, TrainRun
from tdtrain.train.state import State
from tdtrain.train.worker import Job, Watch

TRAINING_LINES_READ = 200


def side_by_side(calls: Sequence[Callable[[], object]]) -> None:
    """Runs them at once. The first error is raised at once, and so is Ctrl-C; the others then end with this process."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # raised below, in the caller's thread
            ended.put(error)
        else:
            ended.put(None)

    for call in calls:
        threading.Thread(target=run, args=(call,), daemon=True).start()
    for _ in calls:
        if (error := ended.get()) is not None:
            raise error


def plan_job(run: TrainRun) -> Job:
    """Everything about a run that is decided before a worker starts. Raises ValueError on what cannot work."""
    reader = load_reader(run.model)
    accumulation = micro_batches(run.optimisation, run.compute)
    stored = run.labels is not None and run.teacher is None and run.alpha > 0
    theirs = None
    if run.bridge != "same" and run.labels is not None:
        assert run.spelt_by is not None, "a bridge leads from a teacher"
        theirs = codec_of(run.spelt_by)
    memory = memory_of(run.labels, theirs or reader.codec, run.temperature) if stored and run.labels else None
    recipe = Recipe(
        kind=reader.kind,
        pixels=reader.pixels,
        codec=reader.codec,
        targets=run.targets,
        min_confidence=run.min_confidence,
        min_agreement=run.min_agreement,
        max_teacher_wer=run.max_teacher_wer,
        parts=accumulation * max(run.compute.num_workers, 1),
        seed=run.optimisation.seed,
        memory=memory,
        teacher_codec=theirs,
        streamed=run.streamed,
        augment_seed=run.optimisation.seed if run.augment else None,
        views=memory.views if memory else run.views,
        ctc_codec=getattr(reader, "ctc_codec", None),
        ctc_columns=getattr(reader.module, "num_columns", 0),
    )
    data = training_set(run.lines, run.labels, recipe, run.optimisation.batch_size)
    manifest = load_manifest(run.lines)

    def some(split: Split, limit: int) -> tuple[tuple[bytes, str], ...]:
        return tuple((line.image, line.text or "") for line in annotated_lines(manifest, split, limit))

    return Job(
        run,
        data.plan,
        recipe,
        run.max_steps or data.plan.steps(run.optimisation.epochs),
        some("validation", run.max_evaluation_lines),
        some("train", TRAINING_LINES_READ),
        data.left_out,
    )


def fit(run: TrainRun | LanguageRun, output: Path, watch: Watch, planned: Job | LanguageJob | None = None) -> State:
    """Trains a model and leaves the best weights in `output`; the same run again resumes, or returns at once.

    Args:
        planned: `plan_job(run)` or `plan_language(run)`, where it was planned already.

    Raises: ValueError on what cannot work, Diverged where the loss is no longer a number.
    """
    done = output / "progress.json"
    if done.exists():
        return progress(output)
    job = planned or (plan_job(run) if isinstance(run, TrainRun) else plan_language(run))
    if run.compute.num_workers == 0:
        fit_here(job, output, watch)
    else:
        from tdtrain.train.on_ray import fit_on_ray  # Ray only where it is used: it takes seconds to import

        fit_on_ray(job, output, watch)
    return progress(output)
