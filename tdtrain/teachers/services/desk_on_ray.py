"""One desk for the workers of a whole cluster."""

from __future__ import annotations

from typing import Any

import ray

from tdtrain.ray_start import beside_us
from tdtrain.teachers.services.desk import Counts, Desk


class SharedDesk:
    """A desk that lives in an actor of its own. Picklable; every copy is the same desk.

    Args:
        askers: that may call it at the same time; some wait there, so the actor has a thread for each.
    """

    def __init__(
        self, per_second: float | None, max_pages: int | None, max_cost_usd: float | None, askers: int = 64
    ) -> None:
        actor: Any = ray.remote(Desk)
        options = actor.options(num_cpus=0, max_concurrency=askers + 8, scheduling_strategy=beside_us())
        self._actor = options.remote(per_second, max_pages, max_cost_usd)

    def open(self) -> None:
        """See `Desk`."""
        self._call("open")

    def begin(self, may_cost_usd: float = 0.0, asker: str = "", pages: int = 1) -> int:
        """See `Desk`; the asker is this worker."""
        return self._call("begin", may_cost_usd, asker or ray.get_runtime_context().get_worker_id(), pages)

    def ended(self, call: int, cost_usd: float) -> None:
        """See `Desk`."""
        self._call("ended", call, cost_usd)

    def hold(self, seconds: float) -> None:
        """See `Desk`."""
        self._call("hold", seconds)

    def close(self, reason: str) -> None:
        """See `Desk`."""
        self._call("close", reason)

    def counts(self) -> Counts:
        """See `Desk`."""
        return self._call("counts")

    def _call(self, method: str, *arguments: float | str) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None  # type: ignore[misc]
