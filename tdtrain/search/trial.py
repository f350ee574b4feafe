"""One trial: a training in the process that Ray Tune gave it, which reports at every evaluation."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from safetensors import safe_open

from tdtrain.data.batches import decode
from tdtrain.data.training_set import stream
from tdtrain.evaluate.timing import time_readers
from tdtrain.models.load import load_reader
from tdtrain.search.trials import Trials
from tdtrain.train.in_process import alone
from tdtrain.train.language import LanguageJob
from tdtrain.train.loop import Diverged
from tdtrain.train.state import Record, State
from tdtrain.train.worker import Job

TIMED_LINES = 16
SEED = "seed"
"""Of a trial that is trained again."""


def run_trial(values: dict[str, Any], trials: Trials, objectives: Sequence[str]) -> None:
    """What Ray Tune runs. A trial that cannot be trained with these values says why, with the worst of figures.

    Args:
        values: by dotted path, as in `Axis.told`; also SEED.
    """
    began = time.perf_counter()
    told = dict(values)
    try:
        job = trials.plan(told, told.pop(SEED, None))
        with alone(job.run.compute):
            job.work(TuneContext(job, objectives, began))
    except (Diverged, ValueError, torch.OutOfMemoryError, MemoryError) as error:
        tune.report(dict.fromkeys({"score", *objectives}, math.inf) | {"failure": str(error) or type(error).__name__})


class TuneContext:
    """One worker, which is the trial's only one."""

    rank = 0
    world_size = 1

    def __init__(self, job: Job | LanguageJob, objectives: Sequence[str], began: float) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._job, self._objectives, self._began = job, objectives, began
        self._in_steps_s = 0.0
        self._about: dict[str, float] = {}

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        return stream(self._job.plan, self._job.recipe, first_step, self._job.total_steps)

    def track(self, record: Record) -> None:
        self._in_steps_s += self._job.run.optimisation.batch_size / max(record.images_per_s, 1e-9)

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        last = state.history[-1]
        if state.best_score is None:
            raise ValueError(
                "score is never reported, for no page of the validation split is annotated; annotate some pages"
            )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(folder)
            if not self._about:
                self._about = self._measure(folder / "model")
            figures = {
                "score": state.best_score,
                "now": last.score,
                "loss": last.loss,
                "images_per_s": last.images_per_s,
                "epoch": last.epoch,
                "step": state.step,
                "in_steps_s": self._in_steps_s,
                "in_trial_s": time.perf_counter() - self._began,
            }
            tune.report(figures | self._about, checkpoint=tune.Checkpoint.from_directory(name))

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        committed = tune.get_checkpoint()
        if committed is None:
            yield None
        else:
            with committed.as_directory() as folder:
                yield Path(folder)

    def _measure(self, model: Path) -> dict[str, float]:
        """What does not change while a model is trained."""
        about: dict[str, float] = {"parameters": num_stored(model)}
        if "ms_per_line" in self._objectives and isinstance(self._job, Job):
            images = [decode(raw) for raw, _ in self._job.validation[:TIMED_LINES]]
            timing = time_readers({"it": load_reader(str(model)).frozen()}, images)["it"]
            about["ms_per_line"] = timing.ms_per_line_p50
        return about


def num_stored(folder: Path) -> int:
    """Numbers in a folder's safetensors: the parameters of a model, or of its adapters alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total
