"""From the values of a trial to a training run, and which fields a space may name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tdtrain.adapting import adapter_run
from tdtrain.adapting_documents import language_run
from tdtrain.compute import Compute
from tdtrain.config import DistillRun, LoraDocumentRun, LoraOcrRun
from tdtrain.data.manifest import Manifest
from tdtrain.pipeline import Prepared, student_run
from tdtrain.search.space import Axis, Scalar, put
from tdtrain.train.language import LanguageJob, plan_language
from tdtrain.train.launch import plan_job
from tdtrain.train.runs import LanguageRun, TrainRun
from tdtrain.train.worker import Job

Searched = DistillRun | LoraOcrRun | LoraDocumentRun
SHARED = (
    "teacher_model", "student_model", "ctc_head", "model_name", "reader", "serialisation", "lexicon", "corpus", "cache",
    "teaching.vocabulary_bridge", "teaching.trim_vocabulary", "teaching.adapt_teacher", "teaching.adapt_epochs",
    "teaching.adapt_learning_rate", "teaching.min_agreement", "teaching.min_confidence", "teacher.teacher_model",
    "optimisation.precision", "max_document_tokens", "max_tokens",
)  # fmt: skip
"""What corpus, teacher, labels and the model as it begins are made by. Trials share them, so they are made before."""
TRAINED = ("corpus.augment",)
SHAPING = ("lora.rank", "lora.target_modules", "lora.bias", "lora.dora")
"""What weights there are: those of one trial fit no other that differs in it."""
COUNTING = ("optimisation.epochs", "optimisation.batch_size")
"""What a step is, and how many there are: a trial goes on at the step of the one whose weights it has."""
OUTSIDE = (
    "output_dir", "storage_path", "tracking_uri", "register_model", "dry_run", "compute", "control", "plan",
    "max_answer_tokens", "corpus.max_evaluation_lines", "corpus.dataset_path", "optimisation.evaluations",
    "optimisation.patience", "optimisation.seed",
)  # fmt: skip
"""What changes where a model is trained or how it is measured, not what it learns."""


@dataclass(frozen=True)
class Adapting:
    """What trials of a LoRA job share: a reader's labels, or documents as tokens."""

    manifest: Manifest
    labels: str | None = None
    sequences: Path | None = None


@dataclass(frozen=True)
class Trials:
    """All that a trial needs beside its values; picklable.

    Attributes:
        run: the job as it was given.
        ready: what trials share, by the values of those axes that change it, see `shared_key`.
        folder: where trials of several workers keep their checkpoints and weights, in a folder of their own each.
    """

    run: Searched
    axes: tuple[Axis, ...]
    compute: Compute
    ready: Mapping[str, Prepared | Adapting]
    folder: Path

    def plan(self, told: Mapping[str, Scalar], seed: int | None = None) -> Job | LanguageJob:
        """The training of a trial, planned. Raises ValueError on what cannot work."""
        values = {axis.path: axis.value_of(told[axis.path]) for axis in self.axes if axis.path in told}
        run = put(self.run, values if seed is None else values | {"optimisation.seed": seed})
        ready = self.ready[shared_key(self.axes, told)]
        training = training_of(run, ready, self.compute)
        if isinstance(training, LanguageRun):
            return plan_language(training)
        # No trial reads training lines to see what it knows by heart: that takes as long as validation does.
        return replace(plan_job(training), training=())


def training_of(run: Searched, ready: Prepared | Adapting, compute: Compute) -> TrainRun | LanguageRun:
    """The one training of a job that a search varies."""
    if isinstance(ready, Prepared):
        assert isinstance(run, DistillRun)
        return student_run(run, ready, "", False, compute)
    if isinstance(run, LoraOcrRun):
        return adapter_run(run, ready.manifest, ready.labels, "", compute)
    assert isinstance(run, LoraDocumentRun) and ready.sequences is not None
    return language_run(run, ready.manifest, ready.sequences, "student", None, "", compute)


def shared_key(axes: Sequence[Axis], told: Mapping[str, Scalar]) -> str:
    """The values, as JSON, of those axes that change what trials share."""
    return json.dumps({axis.path: told[axis.path] for axis in axes if is_shared(axis.path) and axis.path in told})


def is_shared(path: str) -> bool:
    """Whether a field changes what trials share."""
    return _among(path, SHARED) and not _among(path, TRAINED)


def check_paths(axes: Sequence[Axis], exploits: bool = False) -> None:
    """Raises ValueError for fields that cannot be searched, or not in a range.

    Args:
        exploits: trials go on from the weights of others.
    """
    for axis in axes:
        if exploits and (_among(axis.path, (*SHAPING, *COUNTING)) or is_shared(axis.path)):
            other = "are at another step" if _among(axis.path, COUNTING) else "have others"
            raise ValueError(
                f"scheduler=pbt has trials go on from each other's weights, and trials of other {axis.path} {other}; "
                "give a --space without it, or use another scheduler"
            )
        if _among(axis.path, OUTSIDE):
            raise ValueError(
                f"space names {axis.path}, which does not change what is learnt, but where, or how it is measured; "
                "give it as a flag of the job"
            )
        if is_shared(axis.path) and axis.kind != "choice":
            raise ValueError(
                f"space={axis} is a range of what all trials share and what is made before them; use "
                f"{axis.path}=choice(...)"
            )


def _among(path: str, fields: Sequence[str]) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in fields)
