"""Whether a language model has room where it is to be trained: asked before anything is reserved."""

from __future__ import annotations

from typing import NamedTuple

import torch
from transformers import AutoConfig

from tdtrain.compute import Compute
from tdtrain.config import LoraDocumentRun
from tdtrain.machine import memory
from tdtrain.models.causal import base_of, is_quantized, source_of
from tdtrain.models.remote_code import trusted
from tdtrain.precision import use_bf16
from tdtrain.train.memory import FP32, Memory, Sizes, memory_of, sizes_of

GIB = 2**30


class Room(NamedTuple):
    """Bytes that there are for a worker, of its host and of its GPU; None: nobody knows. `on_gpu`: it trains there."""

    host: float | None
    gpu: float | None = None
    on_gpu: bool = False


def check_fits(run: LoraDocumentRun, compute: Compute, at_once: int = 1) -> str:
    """What a run needs against what the nodes have, as far as that is known.

    Args:
        compute: with what was left out decided.
        at_once: such runs that share the nodes.

    Returns: words where it may be too much, as documents may be as long as `max_tokens`; empty where it is not.
    Raises: ValueError where not even weights, gradients and optimizer state have room.
    """
    precision, room = run.optimisation.precision, room_of(compute, at_once)
    halves = precision != "fp32" if room.on_gpu else use_bf16(precision, "cpu")
    base = base_of(run.model_name)
    config = AutoConfig.from_pretrained(source_of(base), trust_remote_code=trusted())
    if is_quantized(config):  # which the plan does not count
        return ""
    try:
        sizes = sizes_of(base, run.lora, run.max_tokens, halves)
    except (AttributeError, TypeError, RuntimeError):  # a family whose config names things in ways of its own
        return ""
    workers = compute.min_workers or max(1, compute.num_workers)  # among fewer ZeRO leaves more to each
    need = memory_of(sizes, compute.zero_stage, workers, halves, run.gradient_checkpointing, run.four_bit)
    return judge(run, compute, sizes, need, halves, room)


def judge(run: LoraDocumentRun, compute: Compute, sizes: Sizes, need: Memory, halves: bool, room: Room) -> str:
    """`check_fits`, of what was counted."""
    held = need.weights + need.gradients + need.optimizer
    loaded = (2 if halves else FP32) * (sizes.frozen + sizes.trained)  # until they are on their device, or spread
    where, has = ("GPU", room.gpu) if room.on_gpu else ("host", room.host)
    way_out = (
        "use zero_stage=3 with more workers, gradient_checkpointing, four_bit on GPUs, a lower max_tokens, or a "
        "smaller model; --plan shows what each takes"
    )
    fewest = (
        f"num_workers={compute.num_workers}" if compute.min_workers is None else f"min_workers={compute.min_workers}"
    )
    many = f"{fewest} and zero_stage={compute.zero_stage}"
    if has is not None and held > has and not (compute.offload and room.on_gpu):
        raise ValueError(
            f"model_name={run.model_name} with {many} takes {held / GIB:.1f} GiB of each worker's {where} before a "
            f"document is read, and there are {has / GIB:.1f}; {way_out}"
        )
    if room.host is not None and not run.four_bit and loaded > room.host:
        raise ValueError(
            f"model_name={run.model_name} with {many}: each worker first holds all weights, {loaded / GIB:.1f} GiB of "
            f"its host, which has {room.host / GIB:.1f} for it; use nodes with more memory, or fewer workers on each"
        )
    if has is not None and need.total > has and not compute.offload:
        return (
            f"up to {need.total / GIB:.1f} GiB of each worker's {where} are needed with max_tokens={run.max_tokens}, "
            f"and there are {has / GIB:.1f}; where it fails, {way_out}"
        )
    return ""


def room_of(compute: Compute, at_once: int = 1) -> Room:
    """What there is for each worker, of each of so many runs."""
    if not compute.num_workers:
        if not torch.cuda.is_available():
            return Room(memory() / at_once)
        return Room(memory() / at_once, torch.cuda.get_device_properties(0).total_memory, on_gpu=True)
    from tdtrain.train.nodes import memory_of_nodes  # Ray only where it is used

    on_gpu = compute.gpus > 0
    host, gpus = memory_of_nodes(compute.labels, on_gpu)
    if not host:
        return Room(None, None, on_gpu)
    gpu = max(gpus) * min(1.0, compute.gpus) if gpus else None
    return Room(min(max(host), sum(host) / (at_once * compute.num_workers)), gpu, on_gpu)
