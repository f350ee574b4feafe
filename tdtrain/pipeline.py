"""The main job, stage by stage. Each stage leaves its result in a folder and is not repeated when that is there.

pages -> packed lines -> (adapted) teacher -> labels -> student and control -> readings -> results.json, report.html

The readings alone are taken anew each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tdtrain.admission import check_models
from tdtrain.compute import Compute
from tdtrain.config import DistillRun
from tdtrain.data.batches import decode
from tdtrain.data.manifest import Manifest, read_lines, some_lines
from tdtrain.data.training_set import left_out_words
from tdtrain.evaluate.test_split import evaluate
from tdtrain.models.bridges import bridge_of, loss_of
from tdtrain.models.load import is_trocr
from tdtrain.models.reader import Kind
from tdtrain.models.students import BUILT, alphabet, build_student
from tdtrain.report.finish import report_training
from tdtrain.report.results import Results
from tdtrain.stages import Opened, Stages, opened
from tdtrain.teachers.cache import confident, keep_of
from tdtrain.teachers.label_pass import begin, label, plan_labels
from tdtrain.train.launch import fit, plan_job, side_by_side
from tdtrain.train.reader_fits import check_reader_fits
from tdtrain.train.runs import TrainRun

FITTED_LINES = 400
"""Lines that the middle of a stitched student is fitted to: some nine thousand frames for 161 unknowns each."""


Labelling = Callable[[Callable[[], object]], object]
"""Has the teacher label what it has not labelled yet; calls what it is given when the first shard is done."""


@dataclass(frozen=True)
class Prepared:
    """What students of one job share.

    Attributes:
        teacher: folder of the one that teaches.
        labels: folder of what it says.
        before: folder of the student before training.
    """

    manifest: Manifest
    teacher: str
    labels: str
    before: str


class Job(Stages):
    """A distillation under way."""

    def __init__(self, run: DistillRun, opened: Opened) -> None:
        super().__init__(run, opened)
        self.run = run
        self.teachers = run.cache.teacher_actors or self.actors if self.on_ray else 0
        self.teacher_gpus = self.compute.gpus if run.cache.teacher_gpus is None else run.cache.teacher_gpus
        # A student that is made for the corpus's alphabet has to wait for all that the teacher reads.
        self.needs_texts = run.student_model in BUILT or run.ctc_head or run.teaching.trim_vocabulary
        self.streamed = self.on_ray and not self.needs_texts
        self.bridge = bridge_of(run.teaching.vocabulary_bridge, run.teacher_model, run.student_model)
        if self.on_ray:
            from tdtrain.ray_start import check_label

            check_label(run.cache.labels, "teacher_label")


def distill(run: DistillRun) -> Results | None:
    """Distils, trains the control, evaluates and reports. The same run again resumes where it was.

    Returns: None where no page of the test split is annotated, so that nothing could be measured.
    Raises: ValueError on what cannot work, before anything is trained.
    """
    check_models(run)
    with opened(run) as place:
        job, display = Job(run, place), place.display
        if not run.teaching.trim_vocabulary:  # else nobody knows yet how large it is
            live = run.teacher_model if run.teaching.teacher_signal == "live" else None
            check_reader_fits("student_model", run.student_model, job.compute, run.optimisation.precision, live)
        ready, read_all = prepare(job)
        manifest = ready.manifest
        if job.bridge != "same":
            display.say(f"Teacher and student write different tokens; vocabulary_bridge={job.bridge}")
        words = ", and its control without the teacher" if run.control else ""
        with job.stage("train", f"the student{words}{'; the teacher labels meanwhile' if job.streamed else ''}"):
            models = train(job, ready, read_all)
        if not manifest.num_annotated("test"):
            display.say(
                f"Nothing was measured, for no page of the test split is annotated. Student: {models['student']}"
            )
            return None
        with job.stage("evaluate", "every reader reads the test lines"):
            limit, counting = run.corpus.max_evaluation_lines, display.counting("evaluate", "shards, by reader")
            evaluation = evaluate(models, manifest, limit, job.actors, counting, gpus=job.compute.gpus)
        done = run.model_copy(update={"compute": job.compute})
        return report_training(done, evaluation, manifest, job.timings_s, job.left_out, job.tracker, display.say)


def prepare(job: Job) -> tuple[Prepared, Labelling]:
    """Corpus, teacher, labels and the student as it begins; the labels, where they are streamed, by what is returned
    with them."""
    run = job.run
    manifest = job.pack_corpus(need_labels=run.control)
    teacher = adapt_teacher(job, manifest)
    kind: Kind = "autoregressive" if is_trocr(teacher) else "ctc"
    keep = keep_of(run.cache, kind, run.teaching.temperature, agreement=run.teaching.min_agreement > 0)
    caches = run.cache.teacher_cache or str(job.output / "labels")
    labelling = plan_labels(teacher, manifest.root, caches, run.optimisation.precision, keep)
    begin(labelling)

    def read_all(begun: Callable[[], object]) -> None:
        counting = job.display.counting("label", "lines")
        label(
            labelling,
            job.teachers,
            lambda done, total: (begun(), counting(done, total))[1],
            job.teacher_gpus,
            run.cache.labels,
        )
        begun()

    if not job.streamed:
        with job.stage("label", "the teacher reads every training line"):
            read_all(lambda: None)
    before = start_of_student(job, manifest, labelling.folder)
    return Prepared(manifest, teacher, labelling.folder, before), read_all


def adapt_teacher(job: Job, manifest: Manifest) -> str:
    """The teacher that will teach: as it comes, or after a short training on the annotated lines."""
    run, teaching = job.run, job.run.teaching
    if not teaching.adapt_teacher or not manifest.num_annotated("train"):
        return run.teacher_model
    changes = {
        "epochs": teaching.adapt_epochs,
        "learning_rate": teaching.adapt_learning_rate,
        "evaluations": max(1, round(teaching.adapt_epochs)),  # it reads slowly: once an epoch
    }
    adapting = TrainRun(
        name="teacher",
        model=run.teacher_model,
        lines=manifest.root,
        corpus=manifest.fingerprint,
        storage=job.storage,
        augment=run.corpus.augment,
        max_evaluation_lines=run.corpus.max_evaluation_lines,
        optimisation=run.optimisation.model_copy(update=changes),
        compute=_alone_on_the_machine(job),
    )
    check_reader_fits("teacher_model", run.teacher_model, adapting.compute, run.optimisation.precision)
    with job.stage("adapt", "the teacher learns from the annotated pages"):
        fit(adapting, job.output / "teacher", job.watch)
    return str(job.output / "teacher")


def _alone_on_the_machine(job: Job) -> Compute:
    """While the teacher is adapted, one CPU worker has the CPU that the control will need."""
    compute = job.compute
    if compute.num_workers != 1 or compute.gpus or not job.run.control:
        return compute
    return compute.model_copy(update={"cpus_per_worker": 2 * compute.cpus})


def start_of_student(job: Job, manifest: Manifest, labels: str) -> str:
    """The folder of the student before training."""
    folder, teaching = job.output / "student_before", job.run.teaching
    if not folder.exists():
        annotated: list[str] = []
        read: list[str] = []
        if job.needs_texts:
            annotated = [line.text for line in read_lines(manifest, "train", images=False) if line.text]
            read = list(confident(manifest, labels, teaching.min_confidence))
        build_student(
            job.run.student_model,
            alphabet(annotated, read),
            job.run.optimisation.seed,
            folder,
            (decode(line.image) for line in some_lines(manifest, "train", FITTED_LINES)),
            job.run.ctc_head,
            tokens_of=job.run.teacher_model if job.bridge == "rehead" else None,
            texts=[*annotated, *read] if teaching.trim_vocabulary else None,
        )
    return str(folder)


def student_run(run: DistillRun, ready: Prepared, storage: str, streamed: bool, compute: Compute) -> TrainRun:
    """The student's training.

    Args:
        storage: where its checkpoints go.
        streamed: its labels may still be in the making.
    """
    teaching = run.teaching
    bridge = bridge_of(teaching.vocabulary_bridge, run.teacher_model, run.student_model)
    soft = teaching.targets != "sequence" and teaching.alpha > 0 and bridge != "text"
    return TrainRun(
        name="student",
        model=ready.before,
        lines=ready.manifest.root,
        corpus=ready.manifest.fingerprint,
        labels=ready.labels,
        streamed=streamed,
        teacher=ready.teacher if (soft or teaching.hidden_weight) and teaching.teacher_signal == "live" else None,
        storage=storage,
        temperature=teaching.temperature,
        alpha=teaching.alpha if soft else 0.0,
        spelt_by=ready.teacher,
        bridge=loss_of(bridge),
        mix=run.mix,
        on_policy=teaching.on_policy,
        hidden_weight=teaching.hidden_weight,
        targets=teaching.targets if bridge != "text" else "sequence",
        min_confidence=teaching.min_confidence,
        min_agreement=teaching.min_agreement,
        max_teacher_wer=teaching.max_teacher_wer,
        augment=run.corpus.augment,
        views=run.cache.teacher_views if ready.labels and soft and teaching.teacher_signal != "live" else 0,
        max_evaluation_lines=run.corpus.max_evaluation_lines,
        optimisation=run.optimisation,
        compute=compute,
    )


def train(job: Job, ready: Prepared, read_all: Labelling) -> dict[str, str]:
    """The student and its control, side by side where Ray has room for both, and beside the teacher that labels.

    Returns: all models by role.
    """
    run = job.run
    student = student_run(run, ready, job.storage, job.streamed, job.compute)
    planned = {"student": plan_job(student)}
    if run.control:
        alone = {"name": "control", "labels": None, "streamed": False, "teacher": None, "alpha": 0.0, "on_policy": 0.0}
        alone["hidden_weight"] = 0.0
        budget = {"max_steps": planned["student"].total_steps}
        planned["student_undistilled"] = plan_job(student.model_copy(update=alone | budget))
    folders = {role: job.output / role for role in planned}
    for one in planned.values():  # all before any, so that none is refused after the other was trained
        job.left_out[one.run.name] = one.left_out
        job.display.say(f"  {one.run.name}: {one.plan.num_lines:,} lines an epoch{left_out_words(one.left_out)}")
    fits = [partial(fit, one.run, folders[role], job.watch, one) for role, one in planned.items()]
    if job.streamed:
        beside_the_teacher(fits, read_all)
        job.left_out["student"] = plan_job(student.model_copy(update={"streamed": False})).left_out
    elif job.on_ray:
        side_by_side(fits)
    else:
        for one_after_the_other in fits:
            one_after_the_other()
    adapted = {"teacher_before": run.teacher_model} if ready.teacher != run.teacher_model else {}
    trained = {role: str(folder) for role, folder in folders.items()}
    return {"teacher": ready.teacher, **adapted, "student_before": ready.before, **trained}


def beside_the_teacher(fits: Sequence[Callable[[], object]], read_all: Labelling) -> None:
    """Trains while the teacher labels. Training waits for the first shard: from then on a teacher has its CPU, which
    the tasks that wait for more shards could otherwise take away for good."""
    begun = threading.Event()

    def after(fit_one: Callable[[], object]) -> None:
        begun.wait()
        fit_one()

    side_by_side([*(partial(after, one) for one in fits), partial(read_all, begun.set)])
