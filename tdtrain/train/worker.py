"""The composition root: it alone knows every room. It builds the parts of a training run and calls the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.distributed as dist

from tdtrain.compute import evaluation_steps
from tdtrain.data.batches import Recipe, decode
from tdtrain.data.plan import Plan
from tdtrain.data.storage import Folder
from tdtrain.evaluate.metrics import cer
from tdtrain.losses.across import across
from tdtrain.losses.divergence import Divergence
from tdtrain.losses.objective import Objective
from tdtrain.machine import give_back_memory
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader, read_images
from tdtrain.models.trocr import TrOCRReader
from tdtrain.options import Optimisation
from tdtrain.precision import Precision, autocast
from tdtrain.teachers.live import Asked, LiveTeacher
from tdtrain.teachers.stored import StoredTeacher
from tdtrain.train import checkpoint
from tdtrain.train.engine import Engine, build_engine, schedule, shard_frozen
from tdtrain.train.learner import Learner, of_student
from tdtrain.train.loop import Batch, Schedule, Teacher, train
from tdtrain.train.notice import Notice
from tdtrain.train.on_policy import OwnReadings
from tdtrain.train.runs import TrainRun
from tdtrain.train.state import Record, State

if TYPE_CHECKING:
    from tdtrain.models.lora import Adapters

Whole = Callable[[], contextlib.AbstractContextManager[Reader]]
Watch = Callable[[str, Record, int], None]
"""Told of every step: the run's name, the step's record, the total number of steps."""


class Context(Protocol):
    """Where a worker runs: alone in this process, or in a Ray Train worker group."""

    rank: int
    world_size: int
    device: torch.device
    notice: Notice

    @property
    def storage(self) -> Folder | None:
        """Where the checkpoints of the run lie; None where another than this package looks after them."""
        ...

    def batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """This worker's micro batches, in order, from `first_step` on."""
        ...

    def track(self, record: Record) -> None:
        """Tells whoever watches about a step."""
        ...

    def commit(self, state: State, fill: Callable[[Path], None]) -> None:
        """Has `fill` write a checkpoint into a folder, and keeps it (every worker must call)."""
        ...

    def resume(self) -> contextlib.AbstractContextManager[Path | None]:
        """The newest whole checkpoint, the same for all workers; None at the start."""
        ...


@dataclass(frozen=True)
class Job:
    """All that workers of one training run share, picklable.

    Attributes:
        validation, training: the lines to read during training: (encoded image, text) of these splits.
        left_out: how many training lines are not learnt from, by reason.
    """

    run: TrainRun
    plan: Plan
    recipe: Recipe
    total_steps: int
    validation: tuple[tuple[bytes, str], ...]
    training: tuple[tuple[bytes, str], ...]
    left_out: dict[str, int]

    def work(self, context: Context) -> State:
        """See `work`."""
        return work(self, context)


def work(job: Job, context: Context) -> State:
    """Trains one model to its end in this worker, resuming where there is something to resume from.

    Raises: Diverged, see `tdtrain.train.loop.train`; ValueError where the teacher is not itself, see `LiveTeacher`, or
    checkpoints will not find room; NotSaved where one did not.
    """
    run = job.run
    torch.manual_seed(run.optimisation.seed)
    if context.device.type == "cpu":
        torch.set_num_threads(run.compute.threads)
    reader, adapters = _student(run)
    reader.module.to(context.device).train()
    accumulation = -(-job.recipe.parts // context.world_size)
    taught = load_reader(run.teacher) if run.teacher else None
    width = taught.module.encoder_width if isinstance(taught, TrOCRReader) else 0
    theirs = job.recipe.teacher_codec
    bridge = None if theirs is None else across(run.bridge, theirs, reader.codec)
    objective = Objective(reader.kind, run.temperature, run.alpha, Divergence(**run.mix.model_dump()), bridge)
    learner = Learner(reader, objective, run.hidden_weight, width)
    ratio = run.lora.lora_plus_ratio if run.lora else 1.0
    engine = build_engine(learner, run.optimisation, run.compute, accumulation, ratio)
    state = checkpoint.start(job, engine, context)
    shard = shard_frozen if run.compute.shard_teacher else None
    precision, device = run.optimisation.precision, context.device
    teacher: Teacher | None = None
    if taught is not None:
        asked: Asked = "encoder" if not run.alpha else "tokens" if bridge is None else "own tokens"
        teacher = LiveTeacher(taught, reader, device, precision, shard, asked)
    elif job.recipe.memory is not None and run.labels:
        teacher = StoredTeacher(run.labels, theirs or reader.codec, run.temperature, device)
    whole = partial(_whole, run, reader, engine, context)
    save = reader.save if adapters is None else adapters.save
    own = OwnReadings(run.on_policy, run.optimisation.seed, whole) if run.on_policy else None
    return train(
        state,
        schedule_of(run.optimisation, job.plan, job.total_steps, accumulation, context.rank),
        engine,
        objective,
        to_device(context.batches(state.step), context.device, state.step, own),
        teacher,
        evaluate=lambda: {
            "validation_cer": _error(job.validation, whole, context, precision),
            "train_cer": _error(job.training, whole, context, precision),
        },
        track=context.track,
        checkpoint=lambda now: context.commit(
            now, lambda path: checkpoint.write(path, run, now, save, engine, context)
        ),
        notice=context.notice,
    )


def schedule_of(optimisation: Optimisation, plan: Plan, total_steps: int, accumulation: int, rank: int) -> Schedule:
    """When what happens in one worker of a run."""
    return Schedule(
        total_steps=total_steps,
        steps_per_epoch=plan.steps(1),
        evaluate_at=evaluation_steps(optimisation, total_steps),
        learning_rate=lambda step: schedule(step, total_steps, optimisation),
        micro_batches=accumulation,
        seed=(optimisation.seed * 1000 + rank) * 10_000_019,
        patience=optimisation.patience,
    )


def to_device(
    batches: Iterator[dict[str, np.ndarray]], device: torch.device, first_step: int, own: OwnReadings | None
) -> Iterator[tuple[Batch, list[str]]]:
    """Batches on the device, with the ids of their lines, from a step on; `own` may replace what they are labelled."""
    for batch in batches:
        if batch["step"] < first_step:
            continue
        ids = batch["ids"].tolist()
        kept = {key: torch.from_numpy(value) for key, value in batch.items() if key not in ("ids", "step")}
        moved = {key: value.to(device, non_blocking=True) for key, value in kept.items()}
        yield (moved if own is None else own(moved, int(batch["step"]), ids)), ids


def _error(lines: tuple[tuple[bytes, str], ...], whole: Whole, context: Context, precision: Precision) -> float | None:
    """The CER of the weights as they are, read in the precision they train in: each worker reads its part."""
    if not lines:
        return None
    with whole() as reader, autocast(precision, context.device.type):
        own = lines[context.rank :: context.world_size]
        readings = read_images(reader, [decode(raw) for raw, _ in own])
    give_back_memory()
    texts = [text for _, text in own]
    sizes = float(sum(map(len, texts)))
    values = torch.tensor([cer(texts, [reading.text for reading in readings]) * sizes if own else 0.0, sizes])
    if context.world_size > 1:
        values = values.to(context.device)
        dist.all_reduce(values)
    return float(values[0] / values[1])


def _student(run: TrainRun) -> tuple[Reader, Adapters | None]:
    """The student as it starts, and its adapters where they alone are trained."""
    reader = load_reader(run.model)
    if run.lora is None:
        return reader, None
    from tdtrain.models.lora import adapt  # peft takes seconds to import

    return reader, adapt(reader.module, reader.name, run.lora)


@contextlib.contextmanager
def _whole(run: TrainRun, reader: Reader, engine: Engine, context: Context) -> Iterator[Reader]:
    """The student with all its weights in this worker: under ZeRO-3 a copy, for its own are scattered."""
    if not any(hasattr(p, "ds_id") for p in reader.module.parameters()):
        yield reader
        return
    weights = of_student(engine.weights(trained_only=run.lora is not None))
    copy, _ = _student(run)
    copy.module.load_state_dict(weights, strict=run.lora is None)
    copy.module.to(context.device)
    yield copy
