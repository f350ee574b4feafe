"""Workers that keep what they loaded, mapped over tasks: side by side on Ray Data, or one in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Task = dict[str, Any]


def map_tasks(
    worker: Callable[..., Callable[[Task], Task]],
    arguments: tuple,
    tasks: Sequence[Task],
    num_actors: int,
    cpus: float = 1,
    gpus: float = 0,
) -> Iterator[Task]:
    """What a worker makes of each task, in no certain order.

    Args:
        worker: a class; made of the arguments in each actor, then called with each of its tasks. Must pickle.
        num_actors: at work at once on the cluster that Ray is connected to, no more than there are tasks; 0: one
            worker in this process.
        cpus, gpus: that each actor reserves.
    """
    if not num_actors or not tasks:
        yield from map(worker(*arguments), tasks)
        return
    import ray.data

    rows = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
        worker,  # type: ignore[arg-type]
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(tasks))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    yield from rows.iter_rows()
