"""The main job, stage by stage. Each stage leaves its result in a folder and is not repeated when that is there.

pages -> packed lines -> (adapted) teacher -> labels -> student and control -> readings -> results.json, report.html
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tdtrain.admission import check_models, claim, claim_corpus
from tdtrain.config import Compute, DistillRun, TrainRun
from tdtrain.data.batches import decode
from tdtrain.data.manifest import Manifest, check_learnable, check_measurable, load_manifest, read_lines, some_lines
from tdtrain.data.prepare import prepare
from tdtrain.data.rows import content_id
from tdtrain.data.storage import open_folder
from tdtrain.evaluate.test_split import evaluate
from tdtrain.models.load import load_reader
from tdtrain.models.students import alphabet, build_student
from tdtrain.report.finish import report_distillation
from tdtrain.report.results import Results
from tdtrain.report.tracking import Tracker
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.teachers.labels import confident
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.progress import Display
from tdtrain.train.state import Record

TRACK_EVERY_STEPS = 10
FITTED_LINES = 400
"""Lines that the middle of a stitched student is fitted to: some nine thousand frames for 161 unknowns each."""


class Job:
    """A distillation under way: its run, its folders, and who watches."""

    def __init__(self, run: DistillRun, display: Display, tracker: Tracker) -> None:
        self.run = run
        self.display = display
        self.tracker = tracker
        self.output = run.output_dir.absolute()
        self.on_ray = run.compute.num_workers > 0
        least = 1 if run.compute.gpus_per_worker else 2  # one GPU serves one reader
        self.actors = max(least, run.compute.num_workers) if self.on_ray else 0
        self.corpus = ""
        self.left_out: dict[str, dict[str, int]] = {}
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        """Says what is done, and remembers how long it took."""
        self.display.say(f"[bold]{name}[/bold]: {words}")
        started = time.perf_counter()
        yield
        self.timings_s[name] = round(time.perf_counter() - started, 1)

    def watch(self, name: str, record: Record, total: int) -> None:
        """Shows and tracks a training step."""
        self.display(name, record, total)
        if record.step % TRACK_EVERY_STEPS == 0 or record.validation_cer is not None:
            figures = {key: value for key, value in vars(record).items() if key != "step"}
            self.tracker.log_metrics({f"{name}/{key}": value for key, value in figures.items()}, record.step)


def distill(run: DistillRun) -> Results:
    """Distils, trains the control, evaluates and reports. The same run again resumes where it was.

    Raises: ValueError on what cannot work, before anything is trained.
    """
    claim(run)
    check_models(run)
    if run.compute.num_workers > 0:
        from tdtrain.ray_start import connect

        connect()
    with Tracker(run.output_dir, run.tracking_uri, run_name=run.output_dir.name) as tracker, Display() as display:
        tracker.log_run(run.model_dump(mode="json"))
        job = Job(run, display, tracker)
        with job.stage("corpus", "pages into lines"):
            manifest = pack_corpus(job)
        teacher = adapt_teacher(job, manifest)
        with job.stage("label", "the teacher reads every training line"):
            labelling = plan_labels(teacher, manifest.root, str(job.output / "labels"), run.optimisation.precision)
            label(labelling, job.actors, display.counting("label", "lines"), run.compute.gpus_per_worker)
        before = start_of_student(job, manifest, labelling.folder, teacher)
        with job.stage("train", "the student" + (", and its control without the teacher" if run.control else "")):
            models = train(job, manifest, labelling.folder, teacher, before)
        with job.stage("evaluate", "every reader reads the test lines"):
            limit, counting = run.corpus.max_evaluation_lines, display.counting("evaluate", "shards, by reader")
            evaluation = evaluate(models, manifest, limit, job.actors, counting, gpus=run.compute.gpus_per_worker)
        return report_distillation(run, evaluation, manifest, job.timings_s, job.left_out, tracker, display.say)


def pack_corpus(job: Job) -> Manifest:
    """The packed corpus of a run, packed if it is not yet, and checked."""
    run, source = job.run, job.run.corpus.dataset_path
    if source is not None and open_folder(source).exists("manifest.json"):
        packed = source
    else:
        packed = str(job.output / "lines")
        pages, annotated = run.corpus.sample_pages, run.corpus.annotated_pages
        prepare(packed, source, pages, annotated, run.corpus.sample_seed, use_ray=job.on_ray)
    manifest = load_manifest(packed)
    claim_corpus(run.output_dir, manifest.fingerprint)
    job.corpus = manifest.fingerprint
    check_learnable(manifest, need_labels=run.control)
    check_measurable(manifest)
    return manifest


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
        storage=storage(job),
        augment=run.corpus.augment,
        max_evaluation_lines=run.corpus.max_evaluation_lines,
        optimisation=run.optimisation.model_copy(update=changes),
        compute=_alone_on_the_machine(run),
    )
    with job.stage("adapt", "the teacher learns from the annotated pages"):
        fit(adapting, job.output / "teacher", job.watch)
    return str(job.output / "teacher")


def _alone_on_the_machine(run: DistillRun) -> Compute:
    """While the teacher is adapted, one CPU worker has the CPU that the control will need."""
    compute = run.compute
    if compute.num_workers != 1 or compute.gpus_per_worker or not run.control:
        return compute
    return compute.model_copy(update={"cpus_per_worker": 2 * compute.cpus_per_worker})


def storage(job: Job) -> str:
    """Where checkpoints go: a folder by content, so that runs that share a storage_path never resume each other."""
    elsewhere = {"output_dir", "storage_path", "tracking_uri", "register_model", "dry_run"}
    content = content_id(job.run.model_dump_json(exclude=elsewhere), job.corpus)[:12]
    return f"{job.run.storage_path or job.output / 'checkpoints'}/{content}"


def start_of_student(job: Job, manifest: Manifest, labels: str, teacher: str) -> str:
    """The folder of the student before training. Raises ValueError where the teacher cannot teach it."""
    folder, teaching = job.output / "student_before", job.run.teaching
    if not folder.exists():
        annotated = (line.text or "" for line in read_lines(manifest, "train"))
        build_student(
            job.run.student_model,
            alphabet(annotated, confident(manifest, labels, teaching.min_confidence)),
            job.run.optimisation.seed,
            folder,
            (decode(line.image) for line in some_lines(manifest, "train", FITTED_LINES)),
            job.run.ctc_head,
        )
    return str(folder)


def train(job: Job, manifest: Manifest, labels: str, teacher: str, before: str) -> dict[str, str]:
    """The student and its control, side by side where Ray has room for both. Returns all models by role."""
    run, teaching = job.run, job.run.teaching
    soft = teaching.targets != "sequence" and teaching.alpha > 0
    live = teaching.teacher_signal == "live" or (
        teaching.teacher_signal == "auto" and load_reader(before).kind == "autoregressive"
    )
    student = TrainRun(
        name="student",
        model=before,
        lines=manifest.root,
        labels=labels,
        teacher=teacher if live and soft else None,
        storage=storage(job),
        temperature=teaching.temperature,
        alpha=teaching.alpha if soft else 0.0,
        targets=teaching.targets,
        min_confidence=teaching.min_confidence,
        augment=run.corpus.augment,
        max_evaluation_lines=run.corpus.max_evaluation_lines,
        optimisation=run.optimisation,
        compute=run.compute,
    )
    folders = {"student": job.output / "student"}
    runs = [(student, folders["student"])]
    if run.control:
        budget = {"max_steps": plan_job(student).total_steps}
        alone = {"name": "control", "labels": None, "teacher": None, "alpha": 0.0}
        folders["student_undistilled"] = job.output / "student_undistilled"
        runs.append((student.model_copy(update=alone | budget), folders["student_undistilled"]))
    for one, _ in runs:
        planned = plan_job(one)  # here already, so that none is refused after the other was trained
        job.left_out[one.name] = planned.left_out
        aside = "".join(f"; {count:,} left out: {reason}" for reason, count in sorted(planned.left_out.items()))
        job.display.say(f"  {one.name}: {planned.plan.num_lines:,} lines an epoch{aside}")
    with ThreadPoolExecutor(len(runs) if job.on_ray else 1) as pool:
        for done in [pool.submit(fit, one, output, job.watch) for one, output in runs]:
            done.result()
    adapted = {"teacher_before": run.teacher_model} if teacher != run.teacher_model else {}
    trained = {role: str(folder) for role, folder in folders.items()}
    return {"teacher": teacher, **adapted, "student_before": before, **trained}
