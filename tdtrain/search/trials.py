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
from tdtrain.search.paths import is_shared
from tdtrain.search.space import Axis, Scalar, put
from tdtrain.train.language import LanguageJob, plan_language
from tdtrain.train.launch import plan_job
from tdtrain.train.runs import LanguageRun, TrainRun
from tdtrain.train.worker import Job

Searched = DistillRun | LoraOcrRun | LoraDocumentRun


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
