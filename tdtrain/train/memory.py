"""How much memory a worker needs to train adapters, by ZeRO stage and number of workers, before any weight is loaded.

What autograd keeps is not estimated but counted: one and two layers of the model run forward on tensors without
storage, and what they save for the backward pass is added up. The rest is arithmetic (Rajbhandari et al. 2020, arXiv
1910.02054, section 3): a frozen weight is there once, a trained one with its gradient and AdamW's two moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from tdtrain.config import LoraDocumentRun
from tdtrain.losses.chunked import CHUNK
from tdtrain.models.causal import CausalModule, shortened, source_of
from tdtrain.models.lora import adapt
from tdtrain.models.packed import PACKED
from tdtrain.models.remote_code import loading, trusted
from tdtrain.options import Lora
from tdtrain.precision import autocast

FP32 = 4
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes a weight: 4 bits, an 8-bit scale for 64 of them, a scale of scales for 256 (arXiv 2305.14314, section 3)."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 has gathered at once, at most (DeepSpeed's stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Memory:
    """Bytes a worker needs, by what for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


@dataclass(frozen=True)
class Sizes:
    """A model with adapters, in numbers. `packed`: frozen weights that QLoRA keeps in 4 bits. `kept`: bytes that
    autograd keeps of a forward pass without checkpointing, and with it."""

    frozen: int
    packed: int
    trained: int
    largest_layer: int
    kept: tuple[float, float]
    working: float


def sizes_of(model: str, lora: Lora, tokens: int, halves: bool) -> Sizes:
    """Counts a model's weights and what its forward pass over so many tokens keeps.

    Args:
        model: name or folder; its config alone is read.
        tokens: of a forward pass.
        halves: the base in bf16, computed in bf16; else all in fp32.
    """
    try:
        with loading(model):
            config = AutoConfig.from_pretrained(source_of(model), trust_remote_code=trusted())
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model_name={model}: there is no config.json to plan with ({reason}); name a folder"
        ) from error
    with torch.device("meta"):
        whole = _module(config, model, lora, halves)
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in whole.parameters() if not p.requires_grad)
    layers = config.num_hidden_layers
    one, two = (_kept(config, model, lora, tokens, halves, number) for number in (1, 2))
    layer, rest = two - one, 2 * one - two
    size = 2 if halves else FP32
    inputs = tokens * config.hidden_size * size
    largest = max(sum(p.numel() for p in part.parameters()) for part in _blocks(whole))
    return Sizes(
        frozen=frozen,
        packed=sum(
            layer.weight.numel()
            for layer in whole.modules()
            if isinstance(layer, nn.Linear) and not layer.weight.requires_grad and layer is not whole.head
        ),
        trained=trained,
        largest_layer=largest,
        kept=(rest + layers * layer, rest + layers * inputs + layer),
        working=3 * tokens * config.intermediate_size * size + 3 * CHUNK * config.vocab_size * FP32,
    )


def memory_of(
    sizes: Sizes, stage: int, workers: int, halves: bool, checkpointing: bool, four_bit: bool = False
) -> Memory:
    """What each of the workers needs.

    Args:
        stage: of ZeRO; 0: plain data parallelism, with trained weights in fp32.
        four_bit: the base's layers as NF4 with scales in 8 bits, not under ZeRO-3.
    """
    size = 2 if halves else FP32
    all_share = workers if stage >= 3 else 1
    gathered = min(sizes.frozen + sizes.trained, LIVE, 2 * sizes.largest_layer) if stage >= 3 and workers > 1 else 0
    copies = 0 if stage == 0 else size * sizes.trained / all_share  # in the type that is computed in
    return Memory(
        weights=size * (sizes.frozen / all_share + gathered)
        + copies
        + (FP32 * sizes.trained if stage == 0 else 0)
        - four_bit * (size - NF4) * sizes.packed,
        gradients=(FP32 if stage == 0 else size) * sizes.trained / (workers if stage >= 2 else 1),
        optimizer=(2 if stage == 0 else 3) * FP32 * sizes.trained / (workers if stage >= 1 else 1),
        activations=sizes.kept[checkpointing],
        working=sizes.working,
    )


def print_plan(run: LoraDocumentRun, workers: Sequence[int] = (1, 2, 4, 8)) -> None:
    """Prints what the run needs by ZeRO stage and number of workers: trained parameters, GiB a worker.

    Raises: ValueError where the model's config cannot be read.
    """
    halves = run.optimisation.precision != "fp32"
    sizes = sizes_of(run.model_name, run.lora, run.max_tokens, halves)
    whole = sizes.frozen + sizes.trained
    kind = f"{'bf16' if halves else 'fp32'}{', base in 4 bits' if run.four_bit else ''}"
    title = (
        f"{run.model_name}: {sizes.trained:,} of {whole:,} parameters are trained ({sizes.trained / whole:.2%}); "
        f"GiB a worker at {run.max_tokens:,} tokens a pass, {kind}"
    )
    size = 2 if halves else FP32
    caption = (
        f"Until ZeRO-3 has spread them, each worker holds all weights: {size * whole / 2**30:.1f} GiB. Adapters are "
        f"merged in fp32, on a node that has the memory: {FP32 * whole / 2**30:.1f} GiB."
    )
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in ("ZeRO", "workers", *Memory.__dataclass_fields__, "total", "total, gradient_checkpointing"):
        table.add_column(name, justify="right")
    for stage in range(3 if run.four_bit else 4):
        for number in workers if stage else workers[:1]:
            plain, less = (memory_of(sizes, stage, number, halves, way, run.four_bit) for way in (False, True))
            parts = (*vars(plain).values(), plain.total, less.total)
            cells = (f"{part / 2**30:.1f}" for part in parts)
            table.add_row(str(stage), str(number) if stage else "any", *cells)
    Console(width=max(Console().width, 140)).print(table)


def _module(config: Any, model: str, lora: Lora, halves: bool) -> CausalModule:
    dtype = torch.bfloat16 if halves else torch.float32
    network = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=PACKED)
    module = CausalModule(network)
    adapt(module, model, lora)
    return module.train()


def _kept(config: Any, model: str, lora: Lora, tokens: int, halves: bool, layers: int) -> float:
    """Bytes that the backward pass of so many layers of the model needs, weights aside."""
    config = shortened(config, layers)
    held: dict[int, tuple[Tensor, int]] = {}
    with torch.device("meta"):
        part = _Hidden(_module(config, model, lora, halves))
    there = {**dict(part.named_parameters()), **dict(part.named_buffers())}
    with FakeTensorMode():
        fake = {
            name: torch.empty(own.shape, dtype=own.dtype).requires_grad_(own.requires_grad)
            for name, own in there.items()
        }
        weights = {own.untyped_storage()._cdata for own in fake.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                held[storage._cdata] = (tensor, storage.nbytes())  # the tensor too, so that no other gets its place
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast("bf16" if halves else "fp32", "cpu"):
            functional_call(part, fake, torch.zeros(tokens, dtype=torch.int64))
    return float(sum(size for _, size in held.values()))


class _Hidden(nn.Module):
    def __init__(self, module: CausalModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: Tensor) -> Tensor:
        return self.module.hidden_states(tokens, [len(tokens)])


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The embedding, the head, and each layer of the stack."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            yield from part
        elif isinstance(part, nn.Embedding | nn.Linear):
            yield part
