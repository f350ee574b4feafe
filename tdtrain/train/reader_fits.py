"""Whether readers have room where they are to be trained: asked before workers are."""

from __future__ import annotations

import torch
from transformers import AutoConfig, VisionEncoderDecoderModel

from tdtrain.compute import Compute
from tdtrain.models.load import adapted_from, is_trocr
from tdtrain.models.trocr_inputs import model_folder
from tdtrain.precision import Precision, use_bf16
from tdtrain.train.fits import GIB, Room, room_of
from tdtrain.train.memory import FP32, Sizes, memory_of


def check_reader_fits(
    field: str,
    model: str,
    compute: Compute,
    precision: Precision,
    teacher: str | None = None,
    adapters: bool = False,
) -> None:
    """What training a reader takes before the first line, against what the nodes have, as far as that is known.

    Args:
        field: of the run, that names the model.
        compute: with what was left out decided.
        teacher: name or folder of one that is asked at every step.
        adapters: they alone are trained.

    Raises: ValueError where not even weights, gradients and optimizer state have room.
    """
    own, theirs = weights_of(model), weights_of(teacher) if teacher else 0
    if own + theirs:
        judge(f"{field}={model}", compute, precision, own, theirs, adapters, room_of(compute))


def judge(
    named: str, compute: Compute, precision: Precision, own: int, theirs: int, adapters: bool, room: Room
) -> None:
    """`check_reader_fits`, of so many weights of the reader's own and of its teacher's."""
    halves = precision != "fp32" if room.on_gpu else use_bf16(precision, "cpu")
    workers = compute.min_workers or max(1, compute.num_workers)
    frozen, trained = (own, 0) if adapters else (0, own)
    sizes = Sizes(frozen=frozen, packed=0, trained=trained, largest_layer=0, kept=(0.0, 0.0), working=0.0)
    need = memory_of(sizes, compute.zero_stage, workers, halves and compute.zero_stage > 0, checkpointing=False).total
    need += theirs * (2 if halves else FP32) / (workers if compute.shard_teacher else 1)
    where, has = ("GPU", room.gpu) if room.on_gpu else ("host", room.host)
    if has is not None and need > has and not (compute.offload and room.on_gpu):
        fewest = "num_workers" if compute.min_workers is None else "min_workers"
        raise ValueError(
            f"{named} with {fewest}={workers} and zero_stage={compute.zero_stage} takes {need / GIB:.1f} GiB of each "
            f"worker's {where} before a line is read, and there are {has / GIB:.1f}; use zero_stage=3 with more "
            f"workers, {'shard_teacher or a stored teacher, ' if theirs else ''}adapters (rayjobs/lora_ocr.py), or a "
            "smaller model"
        )


def weights_of(name_or_folder: str) -> int:
    """How many a TrOCR has, by its config alone; 0 of any other: PP-OCR's are some millions, which any node has room
    for. Raises ValueError where there is no such model."""
    if not is_trocr(name_or_folder):
        return 0
    folder = model_folder(adapted_from(name_or_folder) or name_or_folder, weights=False)
    with torch.device("meta"):
        model = VisionEncoderDecoderModel(AutoConfig.from_pretrained(folder))
    return sum(weight.numel() for weight in model.parameters())
