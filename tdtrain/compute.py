"""Which machines do a run, and how its batches divide among them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tdtrain.options import Frozen, Optimisation, node_labels


class Compute(Frozen):
    """Which machines do it."""

    num_workers: int = Field(default=1, ge=0)
    """Ray Train workers. 0: in this process, without Ray Train."""
    min_workers: int | None = Field(default=None, gt=0)
    """Go on with as few where hosts are lost, and with num_workers again when they are back; a step learns from the
    same lines. Left out: wait for num_workers."""
    resize_every_s: float = Field(default=60.0, gt=0)
    """With min_workers: how often Ray Train looks for room for more; then all go on from the newest checkpoint."""
    cpus_per_worker: float | None = Field(default=None, gt=0)
    """CPUs each worker reserves; it also runs as many threads. Left out: one, but where a single machine without GPUs
    does it all, its part of the cores."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs each worker reserves. Left out: one where the cluster has one for each worker, else none."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """0: plain data parallelism. 1-3: DeepSpeed shards optimizer, gradients, parameters."""
    offload: bool = False
    """DeepSpeed keeps optimizer state (and under ZeRO-3 parameters) in host memory; zero_stage 1 to 3."""
    shard_teacher: bool = False
    """Spread a live teacher's weights over the workers (ZeRO-3), for one that does not fit beside the student."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray places the workers on nodes."""
    worker_label: str | None = None
    """KEY=VALUE: workers, not the driver, run only on nodes with this Ray label, such as ray.io/market-type=spot."""
    max_failures: int = Field(default=3, ge=0)
    """Worker failures after which the job gives up; before, it resumes from the last checkpoint."""

    @property
    def gpus(self) -> float:
        """`gpus_per_worker`, none where it was left out and nobody has looked yet; see `on`."""
        return self.gpus_per_worker or 0.0

    @property
    def cpus(self) -> float:
        """`cpus_per_worker`, one where it was left out and nobody has looked yet; see `on`."""
        return self.cpus_per_worker or 1.0

    @property
    def labels(self) -> dict[str, str]:
        """`worker_label`, as Ray selects nodes by it; empty where any node will do."""
        return node_labels("worker_label", self.worker_label)

    @property
    def threads(self) -> int:
        """Of each worker, on CPUs."""
        return max(1, round(self.cpus))

    def on(self, gpus: float, cores: int | None, models: int = 1) -> Self:
        """The same with what was left out decided.

        Args:
            gpus: in the whole cluster.
            cores: of the machine, if it is a single one.
            models: trained at once, each by workers of its own.
        """
        workers = max(1, self.num_workers)
        each = self.gpus_per_worker if self.gpus_per_worker is not None else float(gpus >= workers)
        share = 1 if each or cores is None else max(1, cores // (workers * models))
        return self.model_copy(update={"gpus_per_worker": each, "cpus_per_worker": self.cpus_per_worker or share})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.offload and not self.zero_stage:
            raise ValueError("offload=True needs DeepSpeed, but zero_stage=0 is plain torch; use zero_stage 1, 2 or 3")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers={self.min_workers} is more than num_workers={self.num_workers}; give less")
        if self.min_workers is not None and self.placement.startswith("STRICT"):
            raise ValueError(
                f"placement={self.placement} with min_workers={self.min_workers}: Ray Train counts room for workers "
                "without regard to it, and would wait for ever; use PACK or SPREAD"
            )
        node_labels("worker_label", self.worker_label)
        return self


def check_batch(optimisation: Optimisation, compute: Compute) -> None:
    """Raises ValueError where the global batch does not divide into the workers' micro batches."""
    workers = max(compute.num_workers, 1)
    size, micro = optimisation.batch_size, optimisation.micro_batch_size
    unit = workers * micro if micro and workers * micro <= size else workers
    if size % unit:
        low, high = size // unit * unit, -(-size // unit) * unit
        ways = " or ".join(str(way) for way in (low, high) if way)
        raise ValueError(
            f"optimisation.batch_size={size} is not divisible by workers x micro batch "
            f"({workers} x {unit // workers} = {unit}); use {ways}"
        )


def evaluation_steps(optimisation: Optimisation, total_steps: int) -> frozenset[int]:
    """The steps after which the validation split is read, evenly spread; the last one is always among them."""
    times = optimisation.evaluations or max(1, round(2 * optimisation.epochs))
    return frozenset(max(1, round(total_steps * (i + 1) / times)) for i in range(times))


def micro_batches(optimisation: Optimisation, compute: Compute) -> int:
    """Forward passes per worker and optimizer step (gradient accumulation)."""
    workers = max(compute.num_workers, 1)
    per_worker = optimisation.batch_size // workers
    return max(1, -(-per_worker // (optimisation.micro_batch_size or per_worker)))
