"""The training loop: read this file to know what tdtrain does.

It knows neither Ray nor DeepSpeed nor MLflow: it gets micro batches, an engine that moves weights, and callables.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tdtrain.losses.ctc import real_frames
from tdtrain.losses.objective import Counts, Objective, hard_labels
from tdtrain.losses.signal import TeacherSignal
from tdtrain.models.reader import IGNORED
from tdtrain.train.engine import Engine
from tdtrain.train.learner import alignment_of
from tdtrain.train.ledger import fingerprint
from tdtrain.train.notice import NEVER, Notice
from tdtrain.train.state import Record, State

Batch = dict[str, Tensor]
Teacher = Callable[[Batch], TeacherSignal]


class Diverged(RuntimeError):
    """The loss or the gradient is no longer a number."""


@dataclass(frozen=True)
class Schedule:
    """When what happens: total steps, steps an epoch, steps to evaluate at, and the learning rate of each step.

    `seed` is of dropout: each step starts from it anew, so that a resumed run drops what the whole one would have.
    """

    total_steps: int
    steps_per_epoch: float
    evaluate_at: frozenset[int]
    learning_rate: Callable[[int], float]
    micro_batches: int
    seed: int = 0
    patience: int | None = None


def train(
    state: State,
    schedule: Schedule,
    engine: Engine,
    objective: Objective,
    batches: Iterator[tuple[Batch, list[str]]],
    teacher: Teacher | None,
    evaluate: Callable[[], dict[str, float | None]],
    track: Callable[[Record], None],
    checkpoint: Callable[[State], None],
    notice: Notice = NEVER,
) -> State:
    """Trains until the schedule ends or patience does.

    Args:
        state: where to start from; step 0, or what a checkpoint held.
        batches: micro batches with the ids of their lines, `schedule.micro_batches` a step, from `state.step` on; one
            without ids counts for nothing.
        teacher: live or stored; None where there is none.
        evaluate: what the weights as they are achieve, by the record's own names; None where there is nothing to read.
        track: told of every step.
        checkpoint: told to save, at every evaluation, and where there is notice.
        notice: of a worker whose node will be taken away.

    Raises: Diverged where loss or gradient is not finite, naming the lines. Weights are left as before that step.
    """
    while state.step < schedule.total_steps and not _patience_spent(state, schedule):
        started = time.perf_counter()
        micro = list(itertools.islice(batches, schedule.micro_batches))
        learning_rate = schedule.learning_rate(state.step)
        torch.manual_seed(schedule.seed + state.step)
        sums, grad_norm = take_step(micro, engine, objective, teacher, learning_rate, state.step, notice.due())
        state.step += 1
        record = Record(
            step=state.step,
            epoch=state.step / schedule.steps_per_epoch,
            loss=sums.losses[0],
            loss_soft=sums.losses[1],
            loss_hard=sums.losses[2],
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            loss_hidden=sums.losses[3],
            images_per_s=sums.rows / (time.perf_counter() - started),
            rows=sums.rows,
            rows_crc=sums.rows_crc,
        )
        if state.step in schedule.evaluate_at:
            record = replace(record, **evaluate())  # type: ignore[arg-type]
            _judge(state, record.score)
        state.history.append(record)
        track(record)
        warned = sums.ask and notice.given()
        if warned or state.step in schedule.evaluate_at:
            checkpoint(state)
    return state


def _patience_spent(state: State, schedule: Schedule) -> bool:
    return schedule.patience is not None and state.evaluations_without_gain >= schedule.patience


class Sums(NamedTuple):
    """What a step's micro batches, of all workers, add up to: total, soft, hard and hidden loss; how many rows, and
    their fingerprint; whether a worker wants to ask for notice."""

    losses: tuple[float, ...]
    rows: int
    rows_crc: int
    ask: bool


def take_step(
    micro: list[tuple[Batch, list[str]]],
    engine: Engine,
    objective: Objective,
    teacher: Teacher | None,
    learning_rate: float,
    step: int,
    ask: bool = False,
) -> tuple[Sums, float]:
    """One optimizer step. Returns what it learnt from and with which losses; and the gradient's norm."""
    counts = _global_counts([count(objective, batch, teacher is not None, len(ids)) for batch, ids in micro])
    sums = torch.zeros(7, dtype=torch.float64)
    sums[6] = float(ask)
    for index, (batch, ids) in enumerate(micro):
        with engine.accumulate(last=index == len(micro) - 1):
            said = teacher(batch) if teacher is not None else None
            parts = torch.stack(engine.module(batch, said, counts)) * (1.0 if ids else 0.0)
            engine.backward(parts[0])
        sums[:4] += parts.detach().double().cpu()
        sums[4:6] += torch.tensor([len(ids), fingerprint(ids)], dtype=torch.float64)
    _add_up(sums)
    if not torch.isfinite(sums).all():
        raise Diverged(_divergence("loss", float(sums[0]), step, micro))
    grad_norm = engine.step(learning_rate)
    if not math.isfinite(grad_norm):
        raise Diverged(_divergence("gradient norm", grad_norm, step, micro))
    *losses, rows, crc, asked = sums.tolist()
    return Sums(tuple(losses), round(rows), round(crc), asked > 0), grad_norm


def count(objective: Objective, batch: Batch, taught: bool, num_lines: int) -> Counts:
    """The positions of one micro batch that the losses are averaged over, see `Counts`; none where nothing counts."""
    if not num_lines:
        return Counts(0.0, 0.0)
    labels, size = batch["labels"], float(num_lines)
    hard = float((hard_labels(labels, batch.get("told")) != IGNORED).sum())
    if not objective.alpha or not taught:
        return Counts(0.0, hard, size)
    lines = batch.get("taught", torch.ones(len(labels), dtype=torch.bool, device=labels.device))[:, None]
    if objective.across is not None:
        alignment = alignment_of(batch)
        assert alignment is not None
        return Counts(objective.across.count(alignment, lines[:, 0]), hard, size)
    if objective.kind == "autoregressive":
        return Counts(float(((labels != IGNORED) & lines).sum()), hard, size)
    frames = batch["frames"]
    return Counts(float((real_frames(frames, int(frames.max())) & lines).sum()), hard, size)


def _global_counts(parts: list[Counts]) -> Counts:
    own = sum(parts, Counts(0.0, 0.0))
    values = torch.tensor([own.soft, own.hard, own.lines], dtype=torch.float64)
    _add_up(values)
    return Counts(*values.tolist())


def _add_up(values: Tensor) -> None:
    """Sums a CPU tensor over the workers, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else values.device
        moved = values.to(device)
        dist.all_reduce(moved)
        values.copy_(moved.cpu())


def _judge(state: State, score: float | None) -> None:
    if score is None:
        return
    better = state.best_score is None or score < state.best_score
    state.best_score = score if better else state.best_score
    state.evaluations_without_gain = 0 if better else state.evaluations_without_gain + 1


def _divergence(what: str, value: float, step: int, micro: list[tuple[Batch, list[str]]]) -> str:
    ids = [row for _, rows in micro for row in rows]
    return (
        f"the {what} is {value} at step {step}; the last checkpoint holds the last good weights. Lines of this batch: "
        f"{', '.join(ids[:8])}{' ...' if len(ids) > 8 else ''}. A lower learning_rate or max_grad_norm usually helps"
    )
