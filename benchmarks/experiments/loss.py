"""The chunked distillation loss against the whole computation, and against Liger's chunked JSD.

Half of the positions are padding, as in real batches: the whole computation and Liger compute them and throw the result
away. Student 256 wide, teacher 1024, as TrOCR-small and -large have it. Liger, where it is installed
(`pip install --no-deps liger-kernel`), runs as its authors have it for plain torch: uncompiled, in chunks of 1024.
bf16 is measured where the machine has instructions for it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from harness import Measured, Row, Settings, extra_memory_mb, in_turns, summary
from torch import Tensor

from tdtrain.losses.chunked import distillation_loss
from tdtrain.losses.divergence import Divergence
from tdtrain.losses.signal import Candidates, HeadOf
from tdtrain.models.reader import IGNORED
from tdtrain.precision import use_bf16

STUDENT_WIDTH, TEACHER_WIDTH = 256, 1024
ALPHA = 0.5
AT_MOST_S = 1500
"""A cell that takes minutes a turn is repeated less often; the table says how often."""
VARIANTS = ("full", "chunked", "chunked, top 32", "full, jsd", "chunked, jsd", "liger, jsd")


def make(variant: str, vocabulary: int, positions: int, dtype: str) -> Callable[[], object]:
    """The call to be measured: forward and backward pass of one variant of the loss."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=device) * scale).to(kind)

    hidden, weight = normal(positions, STUDENT_WIDTH), normal(vocabulary, STUDENT_WIDTH, scale=0.05)
    teacher, their_weight = normal(positions, TEACHER_WIDTH), normal(vocabulary, TEACHER_WIDTH, scale=0.05)
    labels = torch.randint(0, vocabulary, (positions,), device=device)
    labels[torch.rand(positions, device=device) < 0.5] = IGNORED
    kept = labels != IGNORED
    share = torch.full((int(kept.sum()),), 1 / float(kept.sum()), device=device)
    mix = Divergence(0.0, jsd=1.0) if variant.endswith("jsd") else Divergence()
    if variant == "chunked, top 32":
        ids = torch.randint(0, vocabulary, (len(share), 32), device=device)
        log_p = torch.randn(len(share), 33, device=device).log_softmax(-1)
        signal: Candidates | HeadOf = Candidates(ids, log_p[:, :32], log_p[:, 32])
    else:
        signal = HeadOf(teacher[kept], their_weight)

    def leaves() -> tuple[Tensor, Tensor]:
        return hidden.detach().requires_grad_(), weight.detach().requires_grad_()

    def chunked() -> None:
        x, w = leaves()
        distillation_loss(x[kept], w, None, labels[kept], signal, share, share, ALPHA, 1.0, mix)[0].backward()

    def full() -> None:
        x, w = leaves()
        logits, theirs = (x @ w.t()).float(), (teacher @ their_weight.t()).float()
        log_q, log_p = logits.log_softmax(-1), theirs.log_softmax(-1)
        if mix.only_forward:
            each = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        else:
            middle = torch.logaddexp(log_q, log_p) - 0.6931471805599453
            each = sum(F.kl_div(middle, log, reduction="none", log_target=True).sum(-1) for log in (log_p, log_q)) / 2
        soft = (each * kept).sum() / kept.sum()
        (ALPHA * soft + (1 - ALPHA) * F.cross_entropy(logits, labels, ignore_index=IGNORED)).backward()

    def liger() -> None:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        x, w = leaves()
        loss = LigerFusedLinearJSDLoss(1 - ALPHA, ALPHA, beta=0.5, ignore_index=IGNORED, compiled=device == "cuda")
        loss(x, w, teacher, their_weight, labels).backward()

    return liger if variant.startswith("liger") else full if variant.startswith("full") else chunked


def measure(settings: Settings) -> Measured:
    """All cells. A figure is the worst of its cells."""
    cells = [(2_000, 256)] if settings.quick else [(v, n) for v in (50_265, 128_256) for n in (1_024, 8_192)]
    variants = [v for v in VARIANTS if not v.startswith("liger") or find_spec("liger_kernel")]
    rows: list[Row] = []
    halves = use_bf16("auto", "cuda" if torch.cuda.is_available() else "cpu")  # elsewhere bf16 is only emulated
    for dtype in ("float32", "bfloat16") if halves and not settings.quick else ("float32",):
        for vocabulary, positions in cells:
            case = (vocabulary, positions, dtype)
            memory = {name: extra_memory_mb(make, name, *case) for name in variants}
            fits = {name: make(name, *case) for name, needed in memory.items() if needed is not None}
            seconds = in_turns(fits, settings.repeats, AT_MOST_S)
            for name in variants:
                row: Row = {"vocabulary": vocabulary, "positions": positions, "dtype": dtype, "loss": name}
                timed = summary(seconds[name]) if name in seconds else {"median_s": None}
                rows.append({**row, **timed, "extra_memory_mb": memory[name] or "out of memory"})
                print(rows[-1], flush=True)
    figures = {
        "loss_time_over_full": _worst(rows, "chunked", "full", "median_s"),
        "loss_memory_over_full": _worst(rows, "chunked", "full", "extra_memory_mb"),
        "loss_time_over_liger": _worst(rows, "chunked, jsd", "liger, jsd", "median_s"),
    }
    return Measured(rows, {name: value for name, value in figures.items() if value is not None})


def _worst(rows: list[Row], mine: str, theirs: str, key: str) -> float | None:
    """The greatest ratio over the cells in which both were measured."""
    cells = {(row["vocabulary"], row["positions"], row["dtype"], row["loss"]): row[key] for row in rows}
    pairs = [(value, cells.get((*cell[:3], theirs))) for cell, value in cells.items() if cell[3] == mine]
    ratios = [a / b for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
    return round(max(ratios), 3) if ratios else None
