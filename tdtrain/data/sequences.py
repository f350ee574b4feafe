"""Pages and their answers as token sequences, laid one after the other into micro batches without any padding.

A shard is a Parquet file with the columns `id`, `tokens` and `num_prompt`. Which documents make up a step is drawn from
the seed alone, as in `tdtrain.data.plan`; how they are dealt to micro batches follows from their lengths.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tdtrain.data.plan import Plan, Shard, Window
from tdtrain.data.storage import locate, open_folder
from tdtrain.models.reader import IGNORED

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),
        pa.field("num_prompt", pa.int32(), nullable=False),
    ]
)
PER_SHARD = 1024


@dataclass(frozen=True)
class Example:
    """A page and its answer as tokens; the first `num_prompt` are the question."""

    id: str
    tokens: tuple[int, ...]
    num_prompt: int


@dataclass(frozen=True)
class SequenceRecipe:
    """How documents become micro batches. `parts`: micro batches a step is cut into (workers x accumulation)."""

    parts: int
    seed: int

    def load(self, window: Window, first_step: int, last_step: int) -> Iterator[dict[str, np.ndarray]]:
        """The micro batches of a window, in order, from `first_step` up to `last_step`, `parts` a step.

        Yields: `tokens` and `labels` int64 T, the label at a position being the token that follows where that is part
            of an answer, else IGNORED; `lengths` int64 of each document, T together; `ids` str; `step` int64.
        """
        documents = [row for shard in window.shards for row in _read(shard.lines)]
        for number, parts in enumerate(
            deal(window, [len(row["tokens"]) for row in documents], self), window.first_step
        ):
            if first_step <= number < last_step:
                yield from (_micro_batch([documents[i] for i in part], number) for part in parts)


def deal(window: Window, lengths: Sequence[int], recipe: SequenceRecipe) -> Iterator[list[list[int]]]:
    """Step -> part -> indices of documents: each once an epoch, parts of a step as even in tokens as can be.

    Documents come in random pairs of about the same length, so that two workers with one each don't wait for each
    other; which documents make a step doesn't depend on the number of parts.
    """
    rng = np.random.default_rng([recipe.seed, window.epoch, window.first_step])
    blurred = np.argsort(np.asarray(lengths) * rng.uniform(0.85, 1.15, len(lengths)), kind="stable")
    pairs = [blurred[first : first + 2] for first in range(0, len(blurred), 2)]
    order = np.concatenate([pairs[place] for place in rng.permutation(len(pairs))])
    for step in np.array_split(order, window.num_steps):
        yield balanced([lengths[i] for i in step], step.tolist(), recipe.parts)


def balanced(lengths: Sequence[int], indices: Sequence[int], parts: int) -> list[list[int]]:
    """Deals documents to parts, the longest first and each to the lightest part (Graham 1969); no part stays empty."""
    dealt: list[list[int]] = [[] for _ in range(parts)]
    lightest = [(0, part) for part in range(parts)]
    for length, index in sorted(zip(lengths, indices, strict=True), key=lambda document: (-document[0], document[1])):
        tokens, part = heapq.heappop(lightest)
        dealt[part].append(index)
        heapq.heappush(lightest, (tokens + length, part))
    return [sorted(part) for part in dealt]


def most_tokens(plan: Plan, lengths: Sequence[Sequence[int]], parts: int, epochs: int) -> int:
    """Tokens of the largest micro batch in so many epochs, were each step cut into `parts`.

    Args:
        lengths: of the documents, by shard of the plan.
    """
    by_shard = dict(zip((shard.lines for shard in plan.shards), lengths, strict=True))
    largest = 0
    for window in plan.windows(0, epochs * plan.steps(1)):
        own = [length for shard in window.shards for length in by_shard[shard.lines]]
        for step in deal(window, own, SequenceRecipe(parts, plan.seed)):
            largest = max([largest, *(sum(own[i] for i in part) for part in step)])
    return largest


def write_sequences(folder: str, sequences: Sequence[Example]) -> tuple[Shard, ...]:
    """Writes examples as shards below a folder; the same examples give the same files."""
    place = open_folder(folder)
    place.filesystem.create_dir(place.root, recursive=True)
    shards = []
    for start in range(0, len(sequences), PER_SHARD):
        some = sequences[start : start + PER_SHARD]
        path = f"part-{start // PER_SHARD:05d}.parquet"
        pq.write_table(pa.Table.from_pylist([vars(one) for one in some], SCHEMA), place.path(path),
                       filesystem=place.filesystem)  # fmt: skip
        shards.append(Shard(f"{folder}/{path}", None, len(some)))
    return tuple(shards)


def shards_of(folder: str) -> tuple[tuple[Shard, ...], list[list[int]]]:
    """The shards that `write_sequences` left in a folder, and the lengths of their documents, tokens."""
    paths = [f"{folder}/{name}" for name in sorted(open_folder(folder).files(""))]
    lengths = [[len(row["tokens"]) for row in _read(path)] for path in paths]
    return tuple(Shard(path, None, len(own)) for path, own in zip(paths, lengths, strict=True)), lengths


def load_sequences(folder: str, limit: int) -> list[dict[str, np.ndarray]]:
    """The first documents of a folder, a micro batch each."""
    shards, _ = shards_of(folder)
    rows = itertools.islice((row for shard in shards for row in _read(shard.lines)), limit)
    return [_micro_batch([row], 0) for row in rows]


def _read(path: str) -> list[dict]:
    filesystem, inner = locate(path)
    return pq.read_table(inner, filesystem=filesystem).to_pylist()


def _micro_batch(documents: Sequence[dict], step: int) -> dict[str, np.ndarray]:
    tokens, labels = [], []
    for row in documents:
        ids = np.asarray(row["tokens"], np.int64)
        following = ids[1:].copy()
        following[: row["num_prompt"] - 1] = IGNORED
        tokens.append(ids[:-1])  # nothing follows the last one
        labels.append(following)
    return {
        "tokens": np.concatenate(tokens),
        "labels": np.concatenate(labels),
        "lengths": np.asarray([len(ids) for ids in tokens]),
        "ids": np.asarray([row["id"] for row in documents]),
        "step": np.asarray(step),
    }
