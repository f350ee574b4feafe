"""More or fewer workers go on with what others have begun: the same lines in each step, the same optimizer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from tdtrain.compute import Compute
from tdtrain.data.batches import to_bytes
from tdtrain.data.ingest import STEPS_PER_ROW, dealt
from tdtrain.options import Optimisation
from tdtrain.train.engine import build_engine

OPTIMISATION = Optimisation(batch_size=8, learning_rate=0.05, weight_decay=0.5, precision="fp32", max_grad_norm=0.1)
STEPS = ((2, 2), (1, 3), (2, 4))
"""(workers, after which step they end)."""


@pytest.mark.parametrize(("parts", "workers"), [(2, 1), (2, 2), (3, 2), (4, 3), (6, 4), (5, 5), (1, 1)])
def test_each_part_of_a_step_goes_to_one_worker_and_all_have_as_many(parts: int, workers: int) -> None:
    """Rows are dealt in turn, as Ray Data deals them; windows end where they end."""
    micro = [(step, part) for step in range(2 * STEPS_PER_ROW + 3) for part in range(parts)]
    rows: list[bytes] = []
    for window in (micro[: 11 * parts], micro[11 * parts :]):
        for start in range(0, len(window), STEPS_PER_ROW * parts):
            chunk = [{"ids": np.asarray([f"{step}.{part}"]), "step": np.asarray(step)}
                     for step, part in window[start : start + STEPS_PER_ROW * parts]]  # fmt: skip
            rows += [to_bytes(chunk[part::parts]) for part in range(parts)]
    each = [list(dealt(iter(rows[rank::workers]), parts, rank, workers)) for rank in range(workers)]
    a_step = -(-parts // workers)
    for step in range(len(micro) // parts):
        batches = [batch for mine in each for batch in mine[step * a_step : (step + 1) * a_step]]
        assert {int(batch["step"]) for batch in batches} == {step}
        assert sorted(one for batch in batches for one in batch["ids"]) == sorted(f"{step}.{p}" for p in range(parts))
    assert {len(mine) for mine in each} == {a_step * len(micro) // parts}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleDict({"lora_A": nn.Linear(6, 8), "lora_B": nn.Linear(8, 3)})
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        self.seen += 1
        return self.layer["lora_B"](self.layer["lora_A"](rows).tanh()).square().sum()


def rows_of(step: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


def go_on(stage: int, folder: Path | None, first: int, last: int, keep: Path) -> dict[str, Tensor]:
    """The weights after some steps, and all there is to go on from them."""
    torch.manual_seed(0)
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    engine = build_engine(Small(), OPTIMISATION, Compute(num_workers=workers, zero_stage=stage), 1, lora_plus_ratio=4.0)
    if folder is not None:
        engine.load(folder)
    for step in range(first, last):
        with engine.accumulate(last=True):
            engine.backward(engine.module(rows_of(step)[rank::workers]) / 8)
        engine.step(0.05)
    if rank == 0:
        keep.mkdir(parents=True)
    if dist.is_initialized():
        dist.barrier()
    engine.save(keep)
    bare = engine.module.module if hasattr(engine.module, "module") else engine.module
    return engine.weights() | {"seen": bare.seen.clone()}


def of_norms(stage: int, steps: tuple[int, int], folder: Path, load: Path | None) -> list[Tensor]:
    """What a worker's batch norm has seen after some steps; its state is kept in `folder`."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    engine = build_engine(module, OPTIMISATION, Compute(num_workers=2, zero_stage=stage), 2)
    if load is not None:
        engine.load(load)
    seen = []
    for step in range(*steps):
        for micro in range(2):
            with engine.accumulate(last=micro == 1):
                engine.backward(engine.module(rows_of(2 * step + micro)[dist.get_rank() :: 2]).square().sum() / 16)
        engine.step(0.05)
        seen.append(torch.cat([module[1].running_mean, module[1].running_var]))
    if dist.get_rank() == 0:
        folder.mkdir()
    dist.barrier()
    engine.save(folder)
    return seen


def _worker_of_norms(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for stage in (0, 1):
        root = Path(folder)
        whole = of_norms(stage, (0, 4), root / f"{stage}-whole", None)
        begun = of_norms(stage, (0, 2), root / f"{stage}-begun", None)
        done = of_norms(stage, (2, 4), root / f"{stage}-done", root / f"{stage}-begun")
        torch.save((whole, begun + done), f"{folder}/{stage}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_all_workers_have_the_same_statistics_and_a_resumed_run_those_of_a_whole_one(tmp_path: Path) -> None:
    """After each step, when workers evaluate, under plain torch and under ZeRO."""
    mp.spawn(_worker_of_norms, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    for stage in (0, 1):
        (whole, resumed), others = (torch.load(tmp_path / f"{stage}-{rank}.pt") for rank in (0, 1))
        assert not torch.equal(whole[0], whole[3])
        for seen in (resumed, *others):
            torch.testing.assert_close(seen, whole, rtol=0, atol=0, msg=f"{stage}")


def _worker(rank: int, turn: int, folder: str) -> None:
    workers, last = STEPS[turn]
    first = STEPS[turn - 1][1] if turn else 0
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{turn}", rank=rank, world_size=workers)
    for stage in (1, 2, 3):
        before = Path(folder, f"{stage}-{turn - 1}") if turn else None
        weights = go_on(stage, before, first, last, Path(folder, f"{stage}-{turn}"))
        if rank == 0:
            torch.save(weights, f"{folder}/{stage}-{turn}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_workers_then_one_then_two_take_the_steps_of_one(tmp_path: Path) -> None:
    """Under every stage of ZeRO, against plain torch: decay, LoRA+'s rates, clipping, moments and buffers."""
    for turn, (workers, _) in enumerate(STEPS):
        mp.spawn(_worker, (turn, str(tmp_path)), nprocs=workers)  # type: ignore[no-untyped-call]
    for turn, (_, last) in enumerate(STEPS):
        expected = go_on(0, None, 0, last, tmp_path / f"plain-{last}")
        for stage in (1, 2, 3):
            weights = torch.load(tmp_path / f"{stage}-{turn}.pt")
            assert weights.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6, msg=f"{stage} {turn} {name}")
