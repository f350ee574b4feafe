"""The two ways to move weights: plain torch data parallelism, and DeepSpeed ZeRO 1-3. Same calls, same mathematics.

With `tdtrain.train.universal` the only importer of DeepSpeed. A loss that is given to `backward` is this micro batch's
share of the global loss, so gradients are added up over micro batches and over workers, never averaged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tdtrain.compute import Compute
from tdtrain.options import Optimisation
from tdtrain.precision import autocast, use_bf16
from tdtrain.train.universal import NAME, converted, parts_of


class Engine(Protocol):
    """A student under training."""

    module: nn.Module
    """Call it for a forward pass that trains; see `tdtrain.train.learner.Learner`."""

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of one micro batch; `last` says that the step follows."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of one micro batch."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clips, updates, clears. Returns the global gradient norm before clipping."""
        ...

    def weights(self, trained_only: bool = False) -> dict[str, Tensor]:
        """The state dict, whole or of what is trained alone, on the CPU, gathered from all workers (every worker must
        call)."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what this worker needs to resume (every worker must call)."""
        ...

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote (every worker must call)."""
        ...


def build_engine(
    module: nn.Module, optimisation: Optimisation, compute: Compute, micro_batches: int, lora_plus_ratio: float = 1.0
) -> Engine:
    """The engine a run asks for. `module` is on its device already."""
    groups = parameter_groups(module, optimisation.weight_decay, lora_plus_ratio)
    if compute.zero_stage == 0:
        return TorchEngine(module, groups, optimisation)
    return DeepSpeedEngine(module, groups, optimisation, compute, micro_batches)


def parameter_groups(module: nn.Module, weight_decay: float, lora_plus_ratio: float = 1.0) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay on matrices and convolutions, none on biases and norms.

    Args:
        lora_plus_ratio: the learning rate of adapters' B over that of all else (LoRA+, arXiv 2402.12354).

    Returns: `params`, `weight_decay` and `lr_ratio` of each, none of them empty.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            ratio = lora_plus_ratio if ".lora_B." in name else 1.0
            groups.setdefault((parameter.ndim <= 1, ratio), []).append(parameter)
    return [
        {"params": own, "weight_decay": 0.0 if flat else weight_decay, "lr_ratio": ratio}
        for (flat, ratio), own in sorted(groups.items(), key=lambda item: item[0])
    ]


def schedule(step: int, total_steps: int, optimisation: Optimisation) -> float:
    """The learning rate of a step: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(optimisation.warmup_share * total_steps))
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return optimisation.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class TorchEngine:
    """AdamW under DistributedDataParallel, or alone."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], optimisation: Optimisation) -> None:
        self._bare = module
        self._world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.module = module
        if self._world_size > 1:  # the CTC head or a frozen part may get no gradient in a micro batch
            self.module = DistributedDataParallel(module, find_unused_parameters=True, forward_sync_buffers=False)
        self._device_type = next(module.parameters()).device.type
        self._precision = optimisation.precision
        self._optimizer = torch.optim.AdamW(groups, lr=optimisation.learning_rate, fused=True)
        self._max_grad_norm = optimisation.max_grad_norm

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        parallel = isinstance(self.module, DistributedDataParallel)
        quiet = self.module.no_sync() if parallel and not last else contextlib.nullcontext()  # type: ignore[operator]
        with quiet, autocast(self._precision, self._device_type):
            yield

    def backward(self, loss: Tensor) -> None:
        (loss * self._world_size).backward()  # DDP averages over workers

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_ratio"]
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self._max_grad_norm)
        if norm.isfinite():  # else the weights stay as they are, and the loop stops
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        spread_buffers(self._bare)
        return float(norm)

    def weights(self, trained_only: bool = False) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu() for name, tensor in _state(self._bare, trained_only).items()}

    def save(self, folder: Path) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            names = _changing(self._bare)  # the others lie in the folder that the run starts from
            changing = {name: value for name, value in self._bare.state_dict().items() if name in names}
            with (folder / "torch.pt").open("wb") as file:  # opened here, so that the error of a full disk is told
                torch.save({"module": changing, "optimizer": self._optimizer.state_dict()}, file)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "torch.pt", map_location="cpu", weights_only=True)
        missing, unexpected = self._bare.load_state_dict(state["module"], strict=False)
        assert not _changing(self._bare) & set(missing) and not unexpected, f"{missing[:3]} {unexpected[:3]}"
        own = [{name: group[name] for name in ("weight_decay", "lr_ratio")} for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, told in zip(self._optimizer.param_groups, own, strict=True):
            group |= told  # a trial may go on from the weights of another, but with its own settings


class DeepSpeedEngine:
    """ZeRO 1-3 (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        optimisation: Optimisation,
        compute: Compute,
        micro_batches: int,
    ) -> None:
        import deepspeed

        self._stage = compute.zero_stage
        self._micro_batches = micro_batches
        self._engine, *_ = deepspeed.initialize(
            model=module, model_parameters=groups, config=deepspeed_config(module, optimisation, compute, micro_batches)
        )
        self._world_size = dist.get_world_size()
        self.module = self._engine

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        yield
        if not last:
            self._engine.step()  # counts the micro batch; the weights move at the last one only

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over workers and over micro batches.
        self._engine.backward(loss * self._world_size * self._micro_batches)

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_ratio"]
        self._engine.step()
        spread_buffers(self._engine.module)
        return float(self._engine.get_global_grad_norm() or 0.0)

    def weights(self, trained_only: bool = False) -> dict[str, Tensor]:
        import deepspeed

        bare = self._engine.module
        if self._stage < 3:
            return {name: tensor.detach().float().cpu() for name, tensor in _state(bare, trained_only).items()}
        wanted = [p for p in bare.parameters() if p.requires_grad or not trained_only]
        with deepspeed.zero.GatheredParameters(wanted):
            return {name: tensor.detach().clone().float().cpu() for name, tensor in _state(bare, trained_only).items()}

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag="zero", exclude_frozen_parameters=True)
        if dist.get_rank() == 0:
            torch.save(dict(self._engine.module.named_buffers()), folder / "buffers.pt")

    def load(self, folder: Path) -> None:
        if parts_of(folder / "zero") == self._world_size:
            self._engine.load_checkpoint(str(folder), tag="zero", load_module_strict=False)
            return
        told = [(group["weight_decay"], group["lr_ratio"]) for group in self._engine.optimizer.param_groups]
        with converted(folder / "zero") as universal:
            self._engine._config.load_universal_checkpoint = True
            self._engine.load_checkpoint(str(universal), tag=NAME, load_module_strict=False)
            self._engine._config.load_universal_checkpoint = False
        # Under ZeRO-3 all groups have become the first one, and all weights share a tensor that counts their steps.
        for group, (decay, ratio) in zip(self._engine.optimizer.param_groups, told, strict=True):
            group |= {"weight_decay": decay, "lr_ratio": ratio}
        for state in self._engine.optimizer.optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()
        kept = torch.load(folder / "buffers.pt", map_location="cpu", weights_only=True)
        for name, buffer in self._engine.module.named_buffers():
            buffer.copy_(kept[name])


def spread_buffers(module: nn.Module) -> None:
    """Gives all workers the first one's buffers, after a step: what batch norms have seen of each worker's own lines.

    The first one's are saved, so that a run that goes on has them everywhere. DistributedDataParallel would do it
    before the next step, when workers have evaluated with their own; DeepSpeed never does.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not buffers:
        return
    whole = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(whole, 0)
    for buffer, part in zip(buffers, whole.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def _changing(module: nn.Module) -> set[str]:
    """The names of the parameters that are trained, and of the buffers."""
    trained = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    return trained | {name for name, _ in module.named_buffers(remove_duplicate=False)}


def _state(module: nn.Module, trained_only: bool) -> dict[str, Tensor]:
    if not trained_only:
        return module.state_dict()
    trained = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name in trained}


def shard_frozen(module: nn.Module) -> nn.Module:
    """A frozen module with its weights spread over the workers, gathered layer by layer as it runs (ZeRO-3 inference).

    Every worker must call it equally often. `module` is on its device, in its type, and is changed.
    """
    import deepspeed

    dtype = next(module.parameters()).dtype
    config = {
        "train_micro_batch_size_per_gpu": 1,  # asked for, and without meaning where nothing is trained
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10_000},
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=module, config=config)
    return engine.module.eval()


def deepspeed_config(
    module: nn.Module, optimisation: Optimisation, compute: Compute, micro_batches: int
) -> dict[str, Any]:
    """DeepSpeed's configuration, derived from the run and never written by a user."""
    low = use_bf16(optimisation.precision, next(module.parameters()).device.type)
    # As it comes, DeepSpeed casts weights and buffers to bf16, with which batch norm does not take what it has in fp32.
    mixed = any(isinstance(part, _BatchNorm) for part in module.modules())
    zero: dict[str, Any] = {"stage": compute.zero_stage, "contiguous_gradients": True, "overlap_comm": False}
    if compute.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if compute.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    if compute.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = 10_000
    return {
        "train_micro_batch_size_per_gpu": max(
            1, optimisation.batch_size // max(compute.num_workers, 1) // micro_batches
        ),
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": optimisation.max_grad_norm,
        "bf16": {"enabled": low and not mixed},
        "torch_autocast": {"enabled": low and mixed, "dtype": "bfloat16"},
        "optimizer": {"type": "AdamW", "params": {"lr": optimisation.learning_rate, "torch_adam": True}},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
