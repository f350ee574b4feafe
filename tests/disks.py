"""Disks that end."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes at a folder; a test that needs one is skipped where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"no disk of a given size can be mounted here ({done.stderr.strip() if done else 'no mount'})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(folder: Path, but: int) -> Path:
    """A file that leaves `but` bytes free on the disk of a folder."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        for _ in range((shutil.disk_usage(folder).free - but) // 4096):
            file.write(bytes(4096))
    return filler


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """In this process, no file can become larger than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
