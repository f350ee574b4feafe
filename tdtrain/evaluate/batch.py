"""Reading a packed corpus with Ray Data: a pool of actors, each holding one reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import pyarrow as pa
import torch

from tdtrain.data.batches import decode, open_table
from tdtrain.models.reader import Reader, Reading, read_images


class ShardReadings(TypedDict):
    """The wanted lines of one shard."""

    ids: list[str]
    texts: list[str]
    confidences: list[float]


def read_corpus(
    load: Callable[[], Reader],
    shards: Sequence[str],
    ids: Sequence[str],
    *,
    num_actors: int = 1,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    batch_size: int = 32,
) -> list[Reading]:
    """Reads lines out of Parquet shards on the cluster that Ray is connected to.

    The same readings in the same order as `read_lines_with` gives for these lines (up to what another batch's padding
    does to a network's last digits), without holding an image on the driver.

    Args:
        load: called once in each actor; it must pickle with cloudpickle and put the module on its device.
        shards: Parquet files in `LINE_SCHEMA`, as paths or URIs that every node reaches; a shard is an actor's task.
        ids: which lines to read, in the order the answers shall have.
        num_actors: readers at work at once; no more than there are shards are started.

    Raises: ValueError naming the first id that no shard holds.
    """
    import ray.data

    # Actors open the shards themselves: Ray Data's own read tasks ask for a CPU each, and where the actors hold all
    # of them (two actors on two cores) actors and read tasks wait for each other for ever.
    rows: ray.data.Dataset = ray.data.from_items(
        [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
    )
    read = rows.map(
        _ReadingActor,  # type: ignore[arg-type]
        fn_constructor_args=(load, frozenset(ids), batch_size, cpus_per_actor),
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(shards))),
        num_cpus=cpus_per_actor,
        num_gpus=gpus_per_actor,
    )
    by_id: dict[str, Reading] = {}
    for row in read.iter_rows():
        readings = map(Reading, row["texts"], row["confidences"])
        by_id.update(zip(row["ids"], readings, strict=True))
    missing = [line_id for line_id in ids if line_id not in by_id]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} lines are in none of the {len(shards)} shards, first id {missing[0]};"
            " pass the shards that the ids were taken from"
        )
    return [by_id[line_id] for line_id in ids]


class _ReadingActor:
    def __init__(self, load: Callable[[], Reader], wanted: frozenset[str], batch_size: int, cpus: float) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self._reader = load()
        self._wanted = wanted
        self._batch_size = batch_size

    def __call__(self, row: dict[str, str]) -> ShardReadings:
        lines = open_table(row["shard"], ["id", "image"])
        lines = lines.filter(pa.array([line_id in self._wanted for line_id in lines["id"].to_pylist()], pa.bool_()))
        images = [decode(image) for image in lines["image"].to_pylist()]
        readings = read_images(self._reader, images, self._batch_size)
        return {
            "ids": lines["id"].to_pylist(),
            "texts": [reading.text for reading in readings],
            "confidences": [reading.confidence for reading in readings],
        }
