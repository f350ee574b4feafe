"""What a teacher costs a step: TrOCR-large into TrOCR-small at their real sizes, with random weights.

plain: fine-tuning the student. cached: with the teacher's 32 likeliest tokens, stored. trimmed: the same, with the
vocabulary cut to the corpus's tokens. live: with the teacher reading along (bf16 where there is), hidden states
and chunked loss. guide: the literal loop: teacher in fp32 at every step, whole logits of both, padding and all. All of
them see the same lines, read from the corpus and augmented in the step's own time; the student has the teacher's
tokens (rehead).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Measured, Row, Settings, flops_of, gpu_utilisation, in_turns, peak_flops, peak_mb, summary, wait
from line_corpus import line_texts, write_corpus

from tdtrain.compute import Compute
from tdtrain.data.training_set import stream
from tdtrain.losses.objective import Objective
from tdtrain.models.load import load_reader
from tdtrain.models.reader import IGNORED
from tdtrain.models.students import build_student
from tdtrain.models.trocr_build import build_trocr
from tdtrain.options import Optimisation
from tdtrain.teachers.cache import Keep
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.teachers.live import LiveTeacher
from tdtrain.teachers.stored import StoredTeacher
from tdtrain.train.engine import build_engine
from tdtrain.train.launch import plan_job
from tdtrain.train.learner import Learner
from tdtrain.train.loop import take_step
from tdtrain.train.runs import TrainRun
from tdtrain.train.worker import to_device

BATCH = 64 if torch.cuda.is_available() else 4
TOKENS = 32
IMAGE = {"image_size": (384, 384), "patch_size": (16, 16)}
LARGE = {"encoder_width": 1024, "encoder_layers": 24, "num_heads": 16, "decoder_width": 1024, "decoder_layers": 12}
SMALL = {"encoder_width": 384, "encoder_layers": 12, "num_heads": 6, "decoder_width": 256, "decoder_layers": 6}
HEADS = {"large": 50_265, "small": 64_044}
TINY = {"encoder_width": 48, "encoder_layers": 1, "num_heads": 4, "decoder_width": 48, "decoder_layers": 1}


class Variant:
    """One way to take a step; a call takes the next one."""

    def __init__(self, name: str, run: TrainRun, device: torch.device) -> None:
        self.parts_s: dict[str, float] = {}
        self.calls = self.tokens = 0
        self._job = plan_job(run)
        self._device = device
        reader = load_reader(run.model)
        reader.module.to(device).train()
        self.num_parameters = sum(p.numel() for p in reader.module.parameters())
        self._objective = Objective(reader.kind, run.temperature, run.alpha)
        self._engine = build_engine(Learner(reader, self._objective), run.optimisation, run.compute, 1)
        batches = stream(self._job.plan, self._job.recipe, 0, self._job.total_steps)
        self._batches = to_device(batches, device, 0, None)
        self._teacher: Callable | None = None
        if run.teacher:
            self._teacher = LiveTeacher(load_reader(run.teacher), reader, device, run.optimisation.precision)
        elif run.alpha and run.labels:
            self._teacher = StoredTeacher(run.labels, reader, run.temperature, device)

    def __call__(self) -> None:
        with self._timed("data"):
            micro = [next(self._batches)]
        self.tokens += int((micro[0][0]["labels"] != IGNORED).sum())
        take_step(micro, self, self._objective, self._teach if self._teacher else None, 1e-5, 0)  # type: ignore[arg-type]

    # What the step calls, with a watch: the engine's four methods, and the teacher.

    def module(self, *arguments: object) -> object:
        with self._timed("forward"):
            return self._engine.module(*arguments)

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        return self._engine.accumulate(last)

    def backward(self, loss: torch.Tensor) -> None:
        with self._timed("backward"):
            self._engine.backward(loss)

    def step(self, learning_rate: float) -> float:
        with self._timed("optimizer"):
            return self._engine.step(learning_rate)

    def _teach(self, batch: dict) -> object:
        assert self._teacher is not None
        with self._timed("teacher"):
            return self._teacher(batch)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        wait()
        started = time.perf_counter()
        yield
        wait()
        self.parts_s[part] = self.parts_s.get(part, 0.0) + time.perf_counter() - started
        self.calls += part == "data"


class Guide:
    """The loop as the guide writes it, on the same batches."""

    def __init__(self, run: TrainRun, teacher: str, device: torch.device) -> None:
        self.parts_s: dict[str, float] = {}
        self.calls = self.tokens = 0
        job = plan_job(run)
        batches = stream(job.plan, job.recipe, 0, job.total_steps)
        self._batches = to_device(batches, device, 0, None)
        self._student, self._teacher = load_reader(run.model), load_reader(teacher)
        for reader in (self._student, self._teacher):
            reader.module.to(device)
        self._student.module.train()
        self.num_parameters = sum(p.numel() for p in self._student.module.parameters())
        self._optimizer = torch.optim.AdamW(self._student.module.parameters(), lr=1e-5)

    def __call__(self) -> None:
        batch, _ = next(self._batches)
        self.calls, self.tokens = self.calls + 1, self.tokens + int((batch["labels"] != IGNORED).sum())
        padded = F.pad(batch["labels"], (0, TOKENS - batch["labels"].shape[1]), value=IGNORED)
        pixels = self._student.pixels.normalize(batch["pixels"], batch["widths"], torch.float32)
        with torch.no_grad():
            theirs = self._teacher.module(pixels, labels=padded).logits
        logits = self._student.module(pixels, labels=padded).logits
        soft = F.kl_div(F.log_softmax(logits / 2, -1), F.softmax(theirs / 2, -1), reduction="batchmean") * 4
        hard = F.cross_entropy(logits.flatten(0, 1), padded.flatten(), ignore_index=IGNORED)
        (0.5 * soft + 0.5 * hard).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def measure(settings: Settings) -> Measured:
    """Steps of all variants in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        variants = _variants(root, settings, device)
        seconds = in_turns(variants, settings.repeats)
        rows: list[Row] = []
        medians = {name: summary(values)["median_s"] for name, values in seconds.items()}
        for name, call in variants.items():
            flops, peak = flops_of(call), peak_flops()
            rows.append({
                "step": name,
                "parameters": call.num_parameters,
                "images_per_s": round(BATCH / medians[name], 3),
                "useful_tokens_per_s": round(call.tokens / call.calls / medians[name], 1),
                **summary(seconds[name]),
                "over_plain": round(medians["plain"] / medians[name], 3),
                **{f"{part}_s": round(total / call.calls, 4) for part, total in call.parts_s.items()},
                "peak_memory_mb": peak_mb(call),
                "tflop_a_step": round(flops / 1e12, 3),
                "gpu_utilisation": gpu_utilisation(call),
                "mfu": None if peak is None else round(flops / medians[name] / peak, 3),
            })  # fmt: skip
            print(rows[-1], flush=True)
    figures = {
        "distill_cached_over_plain": round(medians["plain"] / medians["cached"], 3),
        "distill_over_guide_loop": round(medians["guide"] / medians["cached"], 3),
    }
    words = (
        f"Batches of {BATCH} lines; {TOKENS} tokens with padding in the guide's loop. FLOPs are counted as executed "
        "(torch's counter): frozen weights have no gradient of their own, so they cost a forward pass, or less. The "
        "guide's loop is fp32 throughout, as it is written; the others compute in bf16 where the machine has it."
    )
    return Measured(rows, figures, words)


def _variants(root: Path, settings: Settings, device: torch.device) -> dict[str, Variant | Guide]:
    lines = write_corpus(root, 12 * BATCH, 12 * BATCH, seed=3)
    texts = line_texts(2_000, seed=3)
    for like, sizes, heads in (("large", LARGE, 16), ("small", SMALL, 8)):
        real = {**IMAGE, **sizes, "decoder_heads": heads, "num_logits": HEADS[like]}
        tiny = {**TINY, "image_size": (32, 160)}
        build_trocr(
            root / like, like, texts, **(tiny if settings.quick else real), vocab_size=600, max_target_tokens=TOKENS
        )  # type: ignore[arg-type]
    build_student(str(root / "small"), "", 0, root / "student", tokens_of=str(root / "large"))
    job = plan_labels(str(root / "large"), str(lines), str(root / "labels"), "auto", Keep(k=32))
    label(job, 0, lambda done, total: print(f"  labelled {done}/{total}", flush=True))
    run = TrainRun(
        name="student",
        model=str(root / "student"),
        lines=str(lines),
        storage=str(root),
        max_steps=10_000,
        optimisation=Optimisation(batch_size=BATCH, learning_rate=1e-5, precision="auto"),
        compute=Compute(num_workers=0),
    )
    taught = run.model_copy(update={"alpha": 0.5, "labels": job.folder})
    live = run.model_copy(update={"alpha": 0.5, "teacher": str(root / "large")})
    build_student(str(root / "small"), "", 0, root / "trimmed", tokens_of=str(root / "large"), texts=texts)
    trimmed = taught.model_copy(update={"model": str(root / "trimmed")})
    return {
        "plain": Variant("plain", run, device),
        "cached": Variant("cached", taught, device),
        "cached, trimmed": Variant("cached, trimmed", trimmed, device),
        "live": Variant("live", live, device),
        "guide": Guide(run, str(root / "large"), device),
    }
