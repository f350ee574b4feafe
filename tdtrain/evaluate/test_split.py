"""Several readers on the test split of one corpus: readings, times, scores and paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tdtrain.data.batches import decode
from tdtrain.data.manifest import Manifest, annotated_lines
from tdtrain.data.rows import Line, Split
from tdtrain.evaluate.score import Comparison, Scores, compare, read_lines_with, score_lines
from tdtrain.evaluate.timing import time_readers
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader, Reading

TIMED_LINES = 64
COMPARED = (
    ("student", "student_undistilled"),
    ("student", "student_before"),
    ("student", "teacher"),
    ("student_undistilled", "teacher"),
    ("teacher", "teacher_before"),
    ("student", "baseline"),
)


@dataclass(frozen=True)
class Evaluation:
    """What was read, by whom, and how well. Readings are in the order of the lines."""

    lines: list[Line]
    readings: dict[str, list[Reading]]
    scores: dict[str, Scores]
    comparisons: list[Comparison]


def evaluate(
    models: Mapping[str, str],
    manifest: Manifest,
    limit: int,
    actors: int,
    progress: Callable[[int, int], None],
    splits: Sequence[Split] = ("test",),
    gpus: float = 0,
    without: Set[str] = frozenset(),
) -> Evaluation:
    """Reads the test lines with every model and compares them.

    Args:
        models: name or folder by role.
        limit: at most so many lines.
        actors: readers that work side by side on Ray; 0: in this process.
        gpus: that each reader on Ray reserves.
        without: ids of pages that are left out.
        progress: told of tasks (a shard by a model) done and tasks in all.
    """
    found = (line for split in splits for line in annotated_lines(manifest, split, limit))
    lines = [line for line in found if line.page_id not in without]
    readers = {role: load_reader(model).frozen() for role, model in models.items()}
    if actors:
        from tdtrain.evaluate.batch import read_corpus

        shards = [f"{manifest.root}/{shard.path}" for split in splits for shard in manifest.shards_of(split)]
        loads = {role: partial(load_on, "cuda" if gpus else "cpu", model) for role, model in models.items()}
        readings = read_corpus(
            loads, shards, [line.id for line in lines], num_actors=actors, gpus_per_actor=gpus, progress=progress
        )
    else:
        readings = {role: read_lines_with(reader, lines) for role, reader in readers.items()}
    timings = time_readers(readers, [decode(line.image) for line in lines[:TIMED_LINES]])
    scores = {
        role: score_lines(
            lines,
            readings[role],
            timings[role],
            num_parameters=sum(p.numel() for p in reader.module.parameters()),
            size_mb=sum(p.numel() * p.element_size() for p in reader.module.parameters()) / 1e6,
            model=Path(models[role]).name,
        )
        for role, reader in readers.items()
    }
    pairs = [(a, b) for a, b in COMPARED if a in models and b in models]
    return Evaluation(lines, readings, scores, [compare(lines, readings, a, b) for a, b in pairs])


def load_on(device: str, model: str) -> Reader:
    """A reader that only reads, on a device."""
    reader = load_reader(model)
    reader.module.to(device).eval()
    return reader.frozen()
