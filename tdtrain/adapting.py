"""The job that adapts a reader to a corpus: pages -> lines -> (labels) -> adapters -> merged -> readings -> report."""

from __future__ import annotations

import os
import shutil

from tdtrain.compute import Compute
from tdtrain.config import LoraOcrRun
from tdtrain.data.manifest import Manifest
from tdtrain.data.training_set import left_out_words
from tdtrain.evaluate.test_split import evaluate
from tdtrain.models.bridges import bridge_of
from tdtrain.models.load import is_trocr, load_reader
from tdtrain.models.lora import adapt as put_adapters_on
from tdtrain.models.reader import Kind
from tdtrain.options import Kept
from tdtrain.report.finish import report_training
from tdtrain.report.results import Results
from tdtrain.stages import Stages, opened
from tdtrain.teachers.cache import keep_of
from tdtrain.teachers.label_pass import begin, label, plan_labels
from tdtrain.teachers.live import check_pair
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.reader_fits import check_reader_fits
from tdtrain.train.runs import TrainRun

ADAPTER, MERGED = "adapter", "merged"


def adapt(run: LoraOcrRun) -> Results | None:
    """Trains adapters, merges them, and compares the reader with what it was. The same run again resumes where it was.

    Leaves `adapter/`, which plain peft loads, and `merged/`, which plain transformers loads.

    Returns: None where no page of the test split is annotated, so that nothing could be measured.
    Raises: ValueError on what cannot work, before anything is trained.
    """
    words = put_adapters_on(load_reader(run.model_name).module, run.model_name, run.lora).words()
    check_teacher(run)
    with opened(run) as place:
        job = Stages(run, place)
        check_reader_fits("model_name", run.model_name, job.compute, run.optimisation.precision, adapters=True)
        job.display.say(words)
        manifest = job.pack_corpus(need_labels=run.teacher.teacher_model is None)
        labels = label_lines(run, job, manifest)
        training = adapter_run(run, manifest, labels, job.storage, job.compute)
        with job.stage("train", f"the adapters of {run.model_name}"):
            planned = plan_job(training)
            job.left_out["student"] = planned.left_out
            job.display.say(f"  {planned.plan.num_lines:,} lines an epoch{left_out_words(planned.left_out)}")
            fit(training, job.output / ADAPTER, job.watch, planned)
            merge(job)
        if not manifest.num_annotated("test"):
            job.display.say("Nothing was measured, for no page of the test split is annotated.")
            return None
        models = {"student": str(job.output / MERGED), "baseline": run.model_name}
        if run.teacher.teacher_model:
            models["teacher"] = run.teacher.teacher_model
        with job.stage("evaluate", "every reader reads the test lines"):
            limit, counting = run.corpus.max_evaluation_lines, job.display.counting("evaluate", "shards, by reader")
            evaluation = evaluate(models, manifest, limit, job.actors, counting, gpus=job.compute.gpus)
        done = run.model_copy(update={"compute": job.compute})
        rest = (job.timings_s, job.left_out, job.tracker, job.display.say)
        return report_training(
            done, evaluation, manifest, *rest, folder=MERGED, notes=[f"{words[0].upper()}{words[1:]}."]
        )


def adapter_run(run: LoraOcrRun, manifest: Manifest, labels: str | None, storage: str, compute: Compute) -> TrainRun:
    """The adapters' training.

    Args:
        labels: folder of a teacher's; None where there is none.
        storage: where its checkpoints go.
    """
    soft = _teaches_by_distribution(run)
    return TrainRun(
        name="student",
        model=run.model_name,
        lines=manifest.root,
        corpus=manifest.fingerprint,
        labels=labels,
        storage=storage,
        lora=run.lora,
        temperature=run.teacher.temperature,
        alpha=run.teacher.distil_alpha if soft else 0.0,
        targets=run.teacher.targets if soft else "sequence",
        min_confidence=run.teacher.min_confidence,
        augment=run.corpus.augment,
        max_evaluation_lines=run.corpus.max_evaluation_lines,
        optimisation=run.optimisation,
        compute=compute,
    )


def merge(job: Stages) -> None:
    """The adapters added to the weights of their model, in a folder of its own that appears at once."""
    adapter, merged = job.output / ADAPTER, job.output / MERGED
    if merged.exists():
        return
    partial = merged.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    load_reader(str(adapter)).save(partial)
    shutil.copy(adapter / "run.json", partial / "run.json")
    os.replace(partial, merged)


def _teaches_by_distribution(run: LoraOcrRun) -> bool:
    """Whether there is a teacher whose distributions the reader learns."""
    told = run.teacher
    return told.teacher_model is not None and told.distil_alpha > 0 and told.targets != "sequence"


def check_teacher(run: LoraOcrRun) -> None:
    """Raises ValueError where a teacher's distributions cannot teach the reader."""
    teacher = run.teacher.teacher_model
    if teacher is None or not _teaches_by_distribution(run):
        return
    if bridge_of("auto", teacher, run.model_name) != "same":
        raise ValueError(
            f"teacher_model {teacher} writes other tokens than model_name {run.model_name}, whose tokenizer adapters "
            "keep; its text can teach: use --targets sequence"
        )
    check_pair(load_reader(teacher), load_reader(run.model_name), live=False)


def label_lines(run: LoraOcrRun, job: Stages, manifest: Manifest) -> str | None:
    """The folder of the teacher's labels; None where there is no teacher."""
    teacher = run.teacher.teacher_model
    if teacher is None:
        return None
    kind: Kind = "autoregressive" if is_trocr(teacher) else "ctc"
    keep = keep_of(Kept(), kind, run.teacher.temperature)
    labelling = plan_labels(teacher, manifest.root, str(job.output / "labels"), run.optimisation.precision, keep)
    begin(labelling)
    with job.stage("label", "the teacher reads every training line"):
        label(labelling, job.actors, job.display.counting("label", "lines"), job.compute.gpus)
    return labelling.folder
