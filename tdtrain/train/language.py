"""Training causal language models on packed documents: what is planned on the driver, and what a worker builds of it.

The loop, the engines and the checkpoints are those of readers (`tdtrain.train.worker`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tdtrain.data.plan import Plan
from tdtrain.data.sequences import SequenceRecipe, load_sequences, most_tokens, shards_of
from tdtrain.losses.chunked import distillation_loss
from tdtrain.losses.objective import Counts, Objective
from tdtrain.losses.signal import TeacherSignal
from tdtrain.models.causal import CausalModule, load_causal, save_causal
from tdtrain.models.reader import IGNORED
from tdtrain.precision import Precision, autocast, use_bf16
from tdtrain.train import checkpoint
from tdtrain.train.engine import Engine, build_engine
from tdtrain.train.loop import Batch, train
from tdtrain.train.runs import LanguageRun
from tdtrain.train.state import State
from tdtrain.train.worker import Context, schedule_of

VALIDATION_DOCUMENTS = 200


@dataclass(frozen=True)
class LanguageJob:
    """All that workers of one training run share, picklable. `validation`: micro batches of unseen documents."""

    run: LanguageRun
    plan: Plan
    recipe: SequenceRecipe
    total_steps: int
    validation: tuple[dict[str, np.ndarray], ...]

    def work(self, context: Context) -> State:
        """See `work`."""
        return work(self, context)


class LanguageLearner(nn.Module):
    """A language model and what it minimises: the cross-entropy of answers."""

    def __init__(self, module: CausalModule) -> None:
        super().__init__()
        self.student = module

    def forward(
        self, batch: Batch, teacher: TeacherSignal | None, counts: Counts
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """This micro batch's share of the step's total, soft, hard and hidden loss; the total is the hard one.

        Args:
            batch: see `SequenceRecipe.load`.
            counts: answer tokens of the whole step.
        """
        kept = batch["labels"] != IGNORED
        hidden = self.student.hidden_states(batch["tokens"], batch["lengths"].tolist())[kept]
        share = torch.full((len(hidden),), 1 / max(counts.hard, 1), device=hidden.device)
        head = self.student.head
        losses = distillation_loss(
            hidden, head.weight, head.bias, batch["labels"][kept], None, torch.zeros_like(share), share, alpha=0.0
        )
        return *losses, torch.zeros_like(losses[0])


def plan_language(run: LanguageRun) -> LanguageJob:
    """Everything about a run that is decided before a worker starts.

    Raises: ValueError where there are too few documents, or one alone has more than `max_tokens` tokens.
    """
    workers = max(run.compute.num_workers, 1)
    shards, lengths = shards_of(f"{run.sequences}/train")
    for parts in range(workers, run.optimisation.batch_size + 1, workers):
        plan = Plan(shards, run.optimisation.batch_size, run.optimisation.seed, parts)
        epochs = ceil(run.max_steps / plan.steps(1)) if run.max_steps else ceil(run.optimisation.epochs)
        largest = most_tokens(plan, lengths, parts, epochs)
        if largest <= run.max_tokens:
            break
    else:
        raise ValueError(
            f"max_tokens={run.max_tokens} is less than the {largest} tokens of the longest document; raise it, or "
            "leave such documents out"
        )
    recipe = SequenceRecipe(parts, run.optimisation.seed)
    total_steps = run.max_steps or plan.steps(run.optimisation.epochs)
    unseen = load_sequences(f"{run.sequences}/validation", VALIDATION_DOCUMENTS)
    return LanguageJob(run, plan, recipe, total_steps, tuple(_in_batches(unseen, run.max_tokens)))


def work(job: LanguageJob, context: Context) -> State:
    """Trains one language model to its end in this worker, resuming where there is something to resume from."""
    run = job.run
    torch.manual_seed(run.optimisation.seed)
    if context.device.type == "cpu":
        torch.set_num_threads(run.compute.threads)
    precision = run.optimisation.precision
    # A frozen base needs no more than bf16, where that is quick; adapters are fp32 all the same.
    halves = run.lora is not None and use_bf16(precision, context.device.type)
    module, prompter = load_causal(run.model, torch.bfloat16 if halves else torch.float32, run.four_bit)
    adapters = None
    if run.lora is not None:
        from tdtrain.models.lora import adapt  # peft takes seconds to import

        adapters = adapt(module, run.model, run.lora)
        for trained in (one for one in module.parameters() if one.requires_grad):
            trained.data = trained.data.float()  # the base's own biases too, where they are trained
    if run.gradient_checkpointing:
        module.model.gradient_checkpointing_enable({"use_reentrant": False})
    learner = LanguageLearner(module).to(context.device).train()
    ratio = run.lora.lora_plus_ratio if run.lora else 1.0
    accumulation = -(-job.recipe.parts // context.world_size)
    engine = build_engine(learner, run.optimisation, run.compute, accumulation, ratio)
    state = checkpoint.start(job, engine, context)

    def save(path: Path, weights: dict[str, Tensor]) -> None:
        if adapters is None:
            save_causal(module, prompter, path, weights)
        else:
            adapters.save(path, weights)
            prompter.tokenizer.save_pretrained(path)

    return train(
        state,
        schedule_of(run.optimisation, job.plan, job.total_steps, accumulation, context.rank),
        engine,
        Objective("autoregressive", 1.0, 0.0),
        _to_device(context.batches(state.step), context.device, state.step),
        None,
        evaluate=lambda: {"validation_loss": validation_loss(job.validation, engine, context, precision)},
        track=context.track,
        checkpoint=lambda now: context.commit(
            now, lambda path: checkpoint.write(path, run, now, save, engine, context)
        ),
        notice=context.notice,
    )


@torch.no_grad()
def validation_loss(
    batches: Sequence[dict[str, np.ndarray]], engine: Engine, context: Context, precision: Precision
) -> float | None:
    """Nats a token of the answers; each worker reads its part, all as often, for ZeRO-3 gathers weights as it goes."""
    if not batches:
        return None
    engine.module.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=context.device)
    for turn in range(ceil(len(batches) / context.world_size)):
        place = turn * context.world_size + context.rank
        batch = _tensors(batches[place % len(batches)], context.device)
        with autocast(precision, context.device.type):
            loss = engine.module(batch, None, Counts(0.0, 1.0))[2]
        if place < len(batches):
            sums += torch.stack([loss.double(), (batch["labels"] != IGNORED).sum().double()])
    engine.module.train()
    if context.world_size > 1:
        dist.all_reduce(sums)
    return float(sums[0] / sums[1])


def _to_device(
    batches: Iterator[dict[str, np.ndarray]], device: torch.device, first_step: int
) -> Iterator[tuple[Batch, list[str]]]:
    for batch in batches:
        if batch["step"] >= first_step:
            yield _tensors(batch, device), batch["ids"].tolist()


def _tensors(batch: dict[str, np.ndarray], device: torch.device) -> Batch:
    return {name: torch.from_numpy(batch[name]).to(device) for name in ("tokens", "labels", "lengths")}


def _in_batches(documents: Sequence[dict[str, np.ndarray]], max_tokens: int) -> Iterator[dict[str, np.ndarray]]:
    """Single documents joined to micro batches of at most `max_tokens` tokens."""
    held: list[dict[str, np.ndarray]] = []
    for document in documents:
        if held and sum(len(one["tokens"]) for one in [*held, document]) > max_tokens:
            yield {name: np.concatenate([one[name] for one in held]) for name in ("tokens", "labels", "lengths")}
            held = []
        held.append(document)
    if held:
        yield {name: np.concatenate([one[name] for one in held]) for name in ("tokens", "labels", "lengths")}
