"""How things are measured: variants in turns, medians, memory in a process of its own, out-of-memory as a row.

Every experiment is a file in experiments/ with a function `measure(settings) -> Measured`.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from tdtrain.precision import use_bf16

Row = dict[str, Any]
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "L40S": 362e12}
PACKAGES = ("torch", "transformers", "ray", "deepspeed", "numpy", "pyarrow")


@dataclass(frozen=True)
class Settings:
    """What all experiments are told: how often to repeat (after one warm-up), and whether to be small."""

    repeats: int = 5
    quick: bool = False


@dataclass
class Measured:
    """What an experiment leaves: rows of a table, and the figures that are promised."""

    rows: list[Row]
    figures: dict[str, float] = field(default_factory=dict)
    words: str = ""


def in_turns(
    variants: Mapping[str, Callable[[], object]], repeats: int, at_most_s: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds of each call: A B A B ..., one turn of warm-up before, so that what drifts drifts for all alike.

    Args:
        at_most_s: no turn begins later than this, but for the first two.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    began = time.perf_counter()
    for turn in range(repeats + 1):
        if turn > 1 and time.perf_counter() - began > at_most_s:
            break
        for name, call in variants.items():
            wait()
            started = time.perf_counter()
            call()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(seconds: list[float]) -> Row:
    """Median and spread (half the range between the quartiles), seconds."""
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {"median_s": round(middle, 4), "spread_s": round((high - low) / 2, 4), "repeats": len(seconds)}


def extra_memory_mb(make: Callable[..., Callable[[], object]], *arguments: object) -> float | None:
    """The most memory that a call needs beyond its inputs, MB; None where there is not enough.

    Args:
        make: a function of a module: prepares the inputs and returns the call. On a CPU it runs in a process of its
            own, for a process never quite gives back what it had.
    """
    if torch.cuda.is_available():
        return _on_gpu(make, *arguments)
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(theirs, make, arguments))
    child.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:  # killed for memory
        answer = None
    child.join()
    return answer


def _in_child(pipe: Any, make: Callable[..., Callable[[], object]], arguments: tuple) -> None:
    available = psutil.virtual_memory().available
    call = make(*arguments)
    held = _status_kb("VmSize") * 1024
    resource.setrlimit(resource.RLIMIT_AS, (held + int(0.9 * available),) * 2)  # an error rather than a kill
    try:
        pipe.send(peak_mb(call))
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        pipe.send(None)


def _on_gpu(make: Callable[..., Callable[[], object]], *arguments: object) -> float | None:
    call = make(*arguments)
    try:
        call()
        return peak_mb(call)
    except torch.cuda.OutOfMemoryError:
        return None


def peak_mb(call: Callable[[], object]) -> float:
    """The most memory that a call holds beyond what was held before it, MB: of the GPU, or resident."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before_bytes = torch.cuda.memory_allocated()
        call()
        return round((torch.cuda.max_memory_allocated() - before_bytes) / 2**20, 1)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = _status_kb("VmRSS")
    call()
    return round((_status_kb("VmHWM") - before) / 1024, 1)


def _status_kb(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{key}:"))


def wait() -> None:
    """Until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> Row:
    """Hardware and versions."""
    model = "unknown"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpu": gpu,
        "bf16_instructions": use_bf16("auto", "cuda" if gpu else "cpu"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def flops_of(call: Callable[[], object]) -> float:
    """Floating-point operations of matrix products and convolutions in one call, as they are executed."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def peak_flops() -> float | None:
    """What this GPU could do in bf16 without sparsity, FLOP/s, by its data sheet; None where nobody told us."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def gpu_utilisation(call: Callable[[], object], times: int = 5) -> float | None:
    """The share of time in which the GPU was busy during some calls, by NVML; None without a GPU or nvidia-ml-py."""
    if not torch.cuda.is_available() or find_spec("pynvml") is None:
        return None
    shares = []
    for _ in range(times):
        call()
        shares.append(torch.cuda.utilization() / 100)
    return round(statistics.mean(shares), 2)
