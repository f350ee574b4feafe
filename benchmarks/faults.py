"""What becomes of a training job that is struck: on three hosts of this machine, against one that nothing happens to.

    sudo python benchmarks/faults.py                                 # every fault at five random moments
    sudo python benchmarks/faults.py --faults worker head --moments 1
    sudo python benchmarks/faults.py --soak_min 30 --epochs 60       # one job, any fault, every minute

Two workers on different hosts adapt a reader with LoRA; the head keeps what it knows in a real Redis outside. A job
that has failed is submitted again, as KubeRay's backoffLimit does. Measured: whether that was needed; seconds until all
workers were new, and until there was a checkpoint later than those before; what it all cost; whether the weights are
the same bit by bit, and whether each step learnt from the rows that it should (`tdtrain.train.ledger`).

Writes `faults.jsonl`, a line a run, and `faults.md`; the same command again goes on.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault_kinds import FAULTS, Ground, checkpoints, mend
from pydantic import BaseModel

from cluster.local.hosts import Hosts
from tdtrain.cli import parse
from tdtrain.data.pack import pack
from tdtrain.data.sample.corpus import write_sample
from tdtrain.data.training_set import stream
from tdtrain.options import Frozen, Positive
from tdtrain.train.launch import plan_job
from tdtrain.train.ledger import amiss
from tdtrain.train.runs import TrainRun
from tdtrain.train.state import Record, State

GIVE_UP_S = 900
"""Without a later checkpoint, and without an end."""
SUBMITTED_AT_MOST = 5
SOAK_EVERY_S = 60
NUM_WORKERS = 2


class Study(Frozen):
    """Faults and moments."""

    output_dir: Path = Path("output/faults")
    """Corpus, runs and figures; one folder for the table and another for each soak."""
    faults: tuple[str, ...] = tuple(FAULTS)
    moments: int = 5
    """How often each fault strikes, a job each time."""
    soak_min: int = 0
    """One job that is struck every minute for so many minutes, or until it ends; instead of the table."""
    pages: Positive = 30
    epochs: Positive = 6
    seed: int = 0
    """Of the moments."""
    dry_run: bool = False
    """Print the faults and exit."""


class Strike(BaseModel):
    """A fault: so many seconds after the first checkpoint, when there was one of `at_step`; and what came of it."""

    fault: str
    at_s: float
    at_step: int = 0
    workers_s: float | None = None
    checkpoint_s: float | None = None


class Run(BaseModel):
    """One job to its end. `training_s`: since its first checkpoint; `rows`: of each step, and their fingerprint."""

    strikes: list[Strike]
    submitted: int
    total_s: float
    training_s: float
    weights: str
    ledger: list[str]
    rows: list[tuple[int, int]]


def main() -> None:
    """Runs what is missing and writes the table."""
    study = parse(Study, __doc__)
    if unknown := [name for name in study.faults if name not in FAULTS]:
        sys.exit(f"error: faults={' '.join(unknown)} is no fault; there are {', '.join(FAULTS)}")
    if study.dry_run:
        print(*(f"{name:12} {words(strike)}" for name, strike in FAULTS.items()), sep="\n")
        return
    root = study.output_dir.absolute()
    write_sample(root / "pages", study.pages, study.pages, workers=0)
    pack(root / "pages", root / "lines", use_ray=False)
    kept, rng = root / "faults.jsonl", Random(study.seed)
    runs = [Run.model_validate_json(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    wanted = [""] + (["soak"] if study.soak_min else [*study.faults] * study.moments)
    for number, name in enumerate(wanted):
        share = rng.uniform(0, 0.9)
        if number < len(runs):
            continue
        moments: Iterable[Strike] = ()
        if name == "soak":
            moments = (
                Strike(fault=rng.choice(study.faults), at_s=SOAK_EVERY_S * turn) for turn in range(study.soak_min)
            )
        elif name:
            moments = [Strike(fault=name, at_s=share * runs[0].training_s)]
        runs.append(play(study, root, name or "nothing", moments, runs[0] if runs else None))
        with kept.open("a") as file:
            file.write(runs[-1].model_dump_json() + "\n")
        print(runs[-1].model_dump_json(exclude={"rows"}), flush=True)
        (root / "faults.md").write_text(table(runs))


def play(study: Study, root: Path, name: str, moments: Iterable[Strike], whole: Run | None) -> Run:
    """One job on a cluster of its own, from its submission to its end.

    Args:
        whole: the run that nothing happened to; None where this is that.

    Raises: RuntimeError where the job fails again and again, TimeoutError where it does not go on.
    """
    out = root / "runs" / f"{name}-{time.strftime('%H%M%S')}"
    with ExitStack() as stack:
        ground = Ground(stack.enter_context(Hosts(3, cpus=2, redis=True)), out, Random(study.seed), stack)
        if name == "disk":
            ground.small_disk()
        strikes, to_come, due = list[Strike](), iter(moments), None
        began = moved = time.monotonic()
        struck, before, first = 0.0, set[tuple[int, int]](), None
        for submitted in count(1):
            job = f"run-{submitted}"
            mend(ground)
            ground.submit(command(study, root, out), job)
            while (state := ground.state_of(job)) not in ("SUCCEEDED", "FAILED", "STOPPED"):
                now, last = time.monotonic(), max(checkpoints(out), default=0)
                first = first or (now if last else None)
                due = due or next(to_come, None)
                if due and first and now > first + due.at_s:
                    mend(ground)
                    due.at_step, before = last, ground.workers()
                    FAULTS[due.fault](ground)
                    strikes, struck, moved, due = [*strikes, due], time.monotonic(), time.monotonic(), None
                elif strikes:
                    told = strikes[-1]
                    if told.workers_s is None and len(ground.workers() - before) >= NUM_WORKERS:
                        told.workers_s = now - struck
                    if told.checkpoint_s is None and last > told.at_step:
                        told.checkpoint_s, moved = now - struck, now
                if now > moved + GIVE_UP_S:
                    raise TimeoutError(f"{name}: no end within {GIVE_UP_S} s: {ground.said(job)[-3000:]}")
                time.sleep(0.5)
            if state == "SUCCEEDED":
                break
            if submitted == SUBMITTED_AT_MOST + len(strikes):
                raise RuntimeError(f"{name}: the job failed {submitted} times: {ground.said(job)[-3000:]}")
        ended = time.monotonic()
    history = State.from_dict(json.loads((out / "adapter" / "progress.json").read_text())).history
    rows = [(record.rows, record.rows_crc) for record in history]
    wrong = lost_or_doubled(out, history)
    if whole and rows != whole.rows:
        wrong.append("steps learnt from other rows than those of the run that nothing happened to")
    weights = hashlib.sha256((out / "merged" / "model.safetensors").read_bytes()).hexdigest()
    return Run(
        strikes=strikes, submitted=submitted, total_s=ended - began, training_s=ended - (first or ended),
        weights=weights, ledger=wrong, rows=rows,
    )  # fmt: skip


def lost_or_doubled(out: Path, history: Sequence[Record]) -> list[str]:
    """What is wrong with the rows of a job's steps, in words: its epochs are counted anew from the corpus."""
    planned = plan_job(TrainRun.model_validate_json((out / "adapter" / "run.json").read_text()))
    steps = planned.plan.steps(1)
    ids = [one for batch in stream(planned.plan, planned.recipe, 0, steps) for one in batch["ids"].tolist()]
    assert len(ids) == len(set(ids)) == planned.plan.num_lines
    return amiss(history, ids, steps)


def command(study: Study, root: Path, out: Path) -> list[str]:
    """The job."""
    return [
        "python", "rayjobs/lora_ocr.py", "--model_name", "ppocrv6-tiny", "--rank", "2", "--target_modules", "all",
        "--dataset_path", str(root / "lines"), "--output_dir", str(out), "--epochs", str(study.epochs), "--batch_size",
        "12", "--learning_rate", "1e-3", "--evaluations", str(2 * study.epochs), "--max_evaluation_lines", "24",
        "--num_workers", str(NUM_WORKERS), "--cpus_per_worker", "1", "--placement", "STRICT_SPREAD",
        "--max_failures", "100",
    ]  # fmt: skip


def words(strike: Callable[[Ground], None]) -> str:
    """What a fault is."""
    return (strike.__doc__ or "").splitlines()[0].rstrip(".")


def table(runs: Sequence[Run]) -> str:
    """A row a fault; of a job that was struck often, a row for all of it."""
    heads = ("fault", "runs", "went on by itself", "submitted again", "new workers after", "next checkpoint after")
    heads += ("costs", "same weights", "same rows")
    whole, lines = runs[0], [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in (*FAULTS, "soak"):
        found = [run for run in runs[1:] if name == (run.strikes[0].fault if len(run.strikes) == 1 else "soak")]
        if not found:
            continue
        strikes = [strike for run in found for strike in run.strikes]
        again = sum(run.submitted > 1 for run in found)
        what = words(FAULTS[name]) if name in FAULTS else f"any of them, every {SOAK_EVERY_S} s, {len(strikes)} times"
        took = ([strike.workers_s for strike in strikes], [strike.checkpoint_s for strike in strikes])
        costs = [run.total_s - whole.total_s for run in found]
        same = sum(run.weights == whole.weights for run in found)
        rows = sum(not run.ledger for run in found)
        cells = [what, len(found), len(found) - again, again, *map(_middle, (*took, costs))]
        cells += [f"{same} of {len(found)}", f"{rows} of {len(found)}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f} s ({max(known):.0f})" if known else ""


if __name__ == "__main__":
    main()
