"""Reading a packed corpus with Ray Data: a pool of actors, each holding one reader at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import torch

from tdtrain.data.batches import decode, open_table
from tdtrain.machine import give_back_memory
from tdtrain.models.reader import Reader, Reading, read_images
from tdtrain.ray_map import Task, map_tasks


def read_corpus(
    loads: Mapping[str, Callable[[], Reader]],
    shards: Sequence[str],
    ids: Sequence[str],
    *,
    num_actors: int = 1,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Reading]]:
    """Reads lines out of Parquet shards with several readers, on the cluster that Ray is connected to.

    The same readings in the same order as `read_lines_with` gives for these lines (up to what another batch's padding
    does to a network's last digits), without holding an image on the driver. One pool of actors serves all readers:
    starting processes is what costs.

    Args:
        loads: by name, called in an actor when a reader's turn comes; an actor holds one reader at a time. Must pickle
            with cloudpickle and put the module on its device.
        shards: Parquet files in `LINE_SCHEMA`, as paths or URIs that every node reaches; a shard is an actor's task.
        ids: which lines to read, in the order the answers shall have.
        num_actors: actors at work at once; no more than there are tasks are started.
        progress: told of tasks (a shard by a reader) done and tasks in all.

    Raises: ValueError naming the first id that no shard holds.
    """
    # Actors open the shards themselves: Ray Data's own read tasks ask for a CPU each, and where the actors hold all
    # of them (two actors on two cores) actors and read tasks wait for each other for ever.
    tasks = [{"reader": name, "shard": shard} for name in loads for shard in shards]
    arguments = (dict(loads), frozenset(ids), batch_size, cpus_per_actor)
    by_id: dict[str, dict[str, Reading]] = {name: {} for name in loads}
    for done, row in enumerate(map_tasks(_ReadingActor, arguments, tasks, num_actors, cpus_per_actor, gpus_per_actor)):
        progress(done, len(tasks))
        readings = map(Reading, row["texts"], row["confidences"])
        by_id[row["reader"]].update(zip(row["ids"], readings, strict=True))
    progress(len(tasks), len(tasks))
    for found in by_id.values():
        missing = [line_id for line_id in ids if line_id not in found]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(ids)} lines are in none of the {len(shards)} shards, first id {missing[0]};"
                " pass the shards that the ids were taken from"
            )
    return {name: [found[line_id] for line_id in ids] for name, found in by_id.items()}


class _ReadingActor:
    def __init__(
        self, loads: dict[str, Callable[[], Reader]], wanted: frozenset[str], batch_size: int, cpus: float
    ) -> None:
        torch.set_num_threads(max(1, int(cpus)))
        self._loads = loads
        self._held: tuple[str, Reader] | None = None
        self._wanted = wanted
        self._batch_size = batch_size

    def __call__(self, row: Task) -> Task:
        lines = open_table(row["shard"], ["id", "image"])
        lines = lines.filter(pa.array([line_id in self._wanted for line_id in lines["id"].to_pylist()], pa.bool_()))
        images = [decode(image) for image in lines["image"].to_pylist()]
        readings = read_images(self._reader(row["reader"]), images, self._batch_size)
        give_back_memory()
        return {
            "reader": row["reader"],
            "ids": lines["id"].to_pylist(),
            "texts": [reading.text for reading in readings],
            "confidences": [reading.confidence for reading in readings],
        }

    def _reader(self, name: str) -> Reader:
        if self._held is None or self._held[0] != name:
            self._held = (name, self._loads[name]())
        return self._held[1]
