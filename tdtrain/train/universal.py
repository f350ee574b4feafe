"""ZeRO's state for another number of workers: each of them has its part of it, and there are more or fewer parts now.

The parts are put together and cut anew by DeepSpeed's Universal Checkpointing (arXiv 2406.18820).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

NAME = "universal"


def parts_of(folder: Path) -> int:
    """How many workers wrote a checkpoint of DeepSpeed."""
    return len(list(folder.glob("*_optim_states.pt")))


@contextlib.contextmanager
def converted(folder: Path) -> Iterator[Path]:
    """A checkpoint of DeepSpeed for any number of workers: the folder that has it, by the name NAME, inside the block.

    One worker of each host makes it, on the host's own disk. Every worker must call.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    own = tempfile.mkdtemp(prefix="tdtrain-universal-") if local_rank == 0 else ""
    try:
        if own:
            convert(folder, Path(own) / NAME)
        all_of_them: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(all_of_them, own)
        yield Path(all_of_them[dist.get_rank() - local_rank])
        dist.barrier()
    finally:
        if own:
            shutil.rmtree(own)


def convert(folder: Path, universal: Path) -> None:
    """Puts the parts of all workers together."""
    from deepspeed.checkpoint.ds_to_universal import main

    told = argparse.Namespace(
        input_folder=str(folder), output_folder=str(universal), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # bars
        main(told)
