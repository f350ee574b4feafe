"""One desk for the workers of a whole cluster, and one rate for its jobs."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any

import ray

from tdtrain.ray_start import beside_us
from tdtrain.teachers.services.desk import Counts, Desk
from tdtrain.teachers.services.rate import Begun, Rate

NAMESPACE = "tdtrain"


class SharedRate:
    """The rate of all jobs of the cluster that ask one service: it lives in an actor of the job that came first, and
    when that job has ended in one of the next.

    Args:
        service: by what name jobs find it.
    """

    recheck_s = 0.25  # of calls that end in other jobs nobody here is told

    def __init__(self, service: str) -> None:
        self._service = service
        self._actor: Any = None

    def begin(self, per_second: float | None, asker: str = "", job: str = "", at_once: int | None = None) -> Begun:
        """See `Rate`."""
        return self._call("begin", per_second, asker, job, at_once)

    def end(self, call: int) -> None:
        """See `Rate`."""
        self._call("end", call)

    def hold(self, seconds: float) -> None:
        """See `Rate`."""
        self._call("hold", seconds)

    def _call(self, method: str, *arguments: float | str | None) -> Any:
        while True:
            with contextlib.suppress(ray.exceptions.RayActorError):  # its job has ended: the name is free, or soon is
                self._actor = self._actor or self._found()
                return ray.get(getattr(self._actor, method).remote(*arguments))
            self._actor = None
            time.sleep(0.1)

    def _found(self) -> Any:
        actor: Any = ray.remote(Rate)
        return actor.options(
            name=f"rate of {self._service}", namespace=NAMESPACE, get_if_exists=True, num_cpus=0,
            scheduling_strategy=beside_us(),
        ).remote(heir=True)  # fmt: skip


class SharedDesk:
    """A desk that lives in an actor of its own. Picklable; every copy is the same desk.

    Args:
        service: other jobs on the cluster that name the same one share its limits; None: there are no others.
        at_once: calls that may be under way, of these jobs together. As many askers wait here, so the actor has a
            thread for each.
    """

    def __init__(
        self,
        service: str | None,
        per_second: float | None,
        max_pages: int | None,
        max_cost_usd: float | None,
        at_once: int = 64,
    ) -> None:
        actor: Any = ray.remote(Desk)
        options = actor.options(num_cpus=0, max_concurrency=at_once + 8, scheduling_strategy=beside_us())
        rate = SharedRate(service) if service else None
        self._actor = options.remote(per_second, max_pages, max_cost_usd, rate, uuid.uuid4().hex, at_once)

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
