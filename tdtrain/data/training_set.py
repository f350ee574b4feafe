"""The lines one model learns from: a packed corpus, with or without a teacher's labels of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tdtrain.data.batches import SELECTED, Recipe, load_window, open_table, select
from tdtrain.data.manifest import load_manifest
from tdtrain.data.plan import Plan, Shard
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
        told = open_table(label_path, ["id", "text", "confidence"]) if label_path else None
        texts, reasons = select(open_table(path, SELECTED), told, recipe)
        left_out.update(reasons)
        shards.append(Shard(path, label_path, sum(text is not None for text in texts)))
    usable = sum(shard.num_usable for shard in shards)
    if usable < batch_size:
        aside = "".join(f"; {count:,} lines left out: {reason}" for reason, count in sorted(left_out.items()))
        raise ValueError(
            f"optimisation.batch_size={batch_size} is more than the {usable} lines there are to learn from{aside}; use "
            "a smaller batch_size, annotate more pages or lower min_confidence"
        )
    return TrainingSet(Plan(tuple(shards), batch_size, recipe.seed, recipe.parts), dict(left_out))


def stream(plan: Plan, recipe: Recipe, first_step: int, last_step: int) -> Iterator[dict]:
    """All micro batches from `first_step` up to `last_step`, in this process."""
    for window in plan.windows(first_step, last_step):
        yield from load_window(window, recipe, first_step, last_step)
