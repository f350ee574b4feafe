"""The lines one model learns from: a packed corpus, with or without a teacher's labels of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tdtrain.data.batches import READ, SELECTED, UNREAD, Recipe, open_labels, open_table, select
from tdtrain.data.manifest import load_manifest
from tdtrain.data.plan import Loader, Plan, Shard
from tdtrain.data.storage import absolute


@dataclass(frozen=True)
class TrainingSet:
    """A plan over the usable lines, and why the others are left out."""

    plan: Plan
    left_out: dict[str, int]


def training_set(lines: str, labels: str | None, recipe: Recipe, batch_size: int) -> TrainingSet:
    """Looks at every training line once (not at its picture) and plans the run.

    Args:
        lines: folder of a packed corpus.
        labels: folder of a teacher's labels of it; None: annotated lines only.

    Raises: ValueError where fewer lines are usable than a batch holds.
    """
    shards, left_out = [], Counter[str]()
    manifest = load_manifest(lines)
    for shard in manifest.shards_of("train"):
        path = f"{manifest.root}/{shard.path}"
        label_path = f"{absolute(labels)}/{shard.path.rsplit('/', 1)[-1]}" if labels else None
        told = open_labels(label_path, READ) if label_path and not recipe.streamed else None
        texts, reasons = select(open_table(path, SELECTED), told, recipe)
        hoped_for = reasons.pop(UNREAD, 0) if recipe.streamed and labels else 0
        left_out.update(reasons)
        shards.append(Shard(path, label_path, sum(text is not None for text in texts) + hoped_for))
    try:
        plan = Plan(tuple(shards), batch_size, recipe.seed, recipe.parts)
    except ValueError as error:
        raise ValueError(f"{error}{left_out_words(left_out)}") from None
    return TrainingSet(plan, dict(left_out))


def left_out_words(left_out: Mapping[str, int]) -> str:
    """How many lines are not learnt from and why, to be added to a sentence; empty where there are none."""
    return "".join(f"; {count:,} left out: {reason}" for reason, count in sorted(left_out.items()))


def stream(plan: Plan, recipe: Loader, first_step: int, last_step: int) -> Iterator[dict]:
    """All micro batches from `first_step` up to `last_step`, in this process."""
    for window in plan.windows(first_step, last_step):
        yield from recipe.load(window, first_step, last_step)
