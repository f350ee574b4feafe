"""What this machine gives to this process."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

import psutil

QUOTA = Path("/sys/fs/cgroup/cpu.max")
MEMORY = Path("/sys/fs/cgroup/memory.max")


def cores() -> int:
    """CPUs that this process may use: those it is bound to, or fewer where a container has a quota (cgroup v2)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return max(1, min(bound, ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return bound


def memory() -> int:
    """Bytes of memory, or fewer where a container has a limit (cgroup v2)."""
    whole = psutil.virtual_memory().total
    try:
        return min(whole, int(MEMORY.read_text()))
    except (OSError, ValueError):
        return whole
