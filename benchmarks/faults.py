"""What becomes of a training job that is struck: on three hosts of this machine, against one that nothing happens to.

    sudo python benchmarks/faults.py                        # every fault at five random moments: an hour or two
    sudo python benchmarks/faults.py --faults worker head --moments 1
    sudo python benchmarks/faults.py --output_dir output/soak --soak_min 30 --epochs 80   # any fault, every minute

Two workers on different hosts adapt a reader with LoRA; the head keeps what it knows in a real Redis outside. A job is
struck by one fault, again some random seconds after each recovery, until it ends; where that was before all moments had
come, another job has the rest. Jobs are handed to cluster.submit, which submits them again where the head or the driver
died; one that ended by itself, for want of room on the disk, is submitted again when there is room. Measured: whether
that was needed; seconds until all workers were new, and until there was a checkpoint later than those before
(one that was being written counts); whether the weights at the end are the same bit by bit, and whether each step
learnt from the rows that it should (`tdtrain.train.ledger`).

Writes `faults.jsonl`, a line a job, and `faults.md`; the same command again goes on, also with other faults or moments.
A job that does not come to its end is a line as well, with the reason. Weights are the same bit by bit only on CPUs
that compute alike: an output folder belongs to one machine.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from claim import add_row, claim, rows_in
from fault_kinds import FAULTS, Ground, checkpoints, mend, small_disk
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
SOAK, SOAK_EVERY_S = "soak", 60
RECOVERED = 2
"""Later checkpoints after which a job has recovered: the first may have been under way when it was struck."""
NUM_WORKERS = 2
POLL_S = 1


class Study(Frozen):
    """Faults and moments."""

    output_dir: Path = Path("output/faults")
    """Corpus, runs and figures; one folder for the table and another for each soak."""
    faults: tuple[str, ...] = tuple(FAULTS)
    moments: int = 5
    """How often each fault strikes, at least."""
    soak_min: int = 0
    """One job that is struck every minute for so many minutes, or until it ends; instead of the table."""
    pages: Positive = 16
    epochs: Positive = 6
    seed: int = 0
    """Of the moments, and of what a fault picks."""
    dry_run: bool = False
    """Print the faults and exit."""


class Strike(BaseModel):
    """A fault: so many seconds after the first checkpoint, or in the table after the job had recovered from the last
    one, when there was a checkpoint of `at_step`; and what came of it."""

    fault: str
    at_s: float
    at_step: int = 0
    workers_s: float | None = None
    checkpoint_s: float | None = None


class Run(BaseModel):
    """One job to its end. `fault`: nothing, one of FAULTS or SOAK; `turn`: of its jobs; `training_s`: from its first
    checkpoint to its last; `submitted`: by hand; `again`: by cluster.submit; `rows`: of each step, and their
    fingerprint; `failed`: why it has no end."""

    fault: str
    turn: int
    strikes: list[Strike]
    submitted: int = 0
    again: int = 0
    total_s: float = 0.0
    training_s: float = 0.0
    weights: str = ""
    ledger: list[str] = []
    rows: list[tuple[int, int]] = []
    failed: str = ""


def main() -> None:
    """Runs what is missing and writes the table."""
    study = parse(Study, __doc__)
    if unknown := [name for name in study.faults if name not in FAULTS]:
        sys.exit(f"error: faults={' '.join(unknown)} is no fault; there are {', '.join(FAULTS)}")
    if study.dry_run:
        print(*(f"{name:12} {words(strike)}" for name, strike in FAULTS.items()), sep="\n")
        return
    root = study.output_dir.absolute()
    claim(root, study, "faults", "moments")
    write_sample(root / "pages", study.pages, study.pages, workers=0)
    pack(root / "pages", root / "lines", use_ray=False)
    kept = root / "faults.jsonl"
    runs = rows_in(kept, Run)
    while (name := missing(study, runs)) is not None:
        played = [run for run in runs if run.fault == name]
        rng, left = Random(f"{study.seed}/{name}/{len(played)}"), study.moments - struck(played)
        moments: Iterable[Strike] = ()
        if name == SOAK:
            moments = (Strike(fault=rng.choice(study.faults), at_s=SOAK_EVERY_S * i) for i in range(study.soak_min))
        elif name:  # on average they fill the job
            longest = 2 * runs[0].training_s / (study.moments + 1)
            moments = (Strike(fault=name, at_s=rng.uniform(0, longest)) for _ in range(left))
        run = Run(fault=name, turn=len(played), strikes=[])
        runs.append(play(study, root, run, moments, runs[0] if runs else None, rng))
        add_row(kept, runs[-1])
        print(runs[-1].model_dump_json(exclude={"rows"}), flush=True)
        (root / "faults.md").write_text(table(runs))


def missing(study: Study, runs: Sequence[Run]) -> str | None:
    """The fault of the next job: nothing, then each until it has struck often enough, or in as many jobs."""
    for name in ("", *([SOAK] if study.soak_min else study.faults)):
        played = [run for run in runs if run.fault == name]
        enough = (len(played), struck(played)) if name in FAULTS else (len(played),)
        if max(enough) < (study.moments if name in FAULTS else 1):
            return name
    return None


def struck(runs: Iterable[Run]) -> int:
    """How often something struck in all of them."""
    return sum(len(run.strikes) for run in runs)


def play(study: Study, root: Path, run: Run, moments: Iterable[Strike], whole: Run | None, rng: Random) -> Run:
    """One job on a cluster of its own, from its submission to its end.

    Args:
        run: which; filled in.
        whole: the run that nothing happened to; None where this is that, and has to succeed.
        rng: of what a fault picks.
    """
    out = root / "runs" / f"{run.fault or 'nothing'}-{run.turn}-{time.strftime('%H%M%S')}"
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            if run.fault in ("disk", SOAK):
                small_disk(out, stack)  # before the hosts, which see what was mounted when they started
            ground = Ground(stack.enter_context(Hosts(3, cpus=2, redis=True)), out, rng, stack)
            began = time.monotonic()
            to_its_end(study, root, run, moments, ground)
            run.total_s = time.monotonic() - began
            learnt(out, run, whole)
    except (TimeoutError, RuntimeError, LookupError, OSError) as error:
        if whole is None or not run.submitted:  # there was no cluster to submit it to
            raise
        run.failed, run.total_s = f"{type(error).__name__}: {error}", time.monotonic() - began
    return run


def to_its_end(study: Study, root: Path, run: Run, moments: Iterable[Strike], ground: Ground) -> None:
    """Submits the job until it has succeeded, and strikes it meanwhile.

    Raises: RuntimeError where it fails again and again or cannot be struck, TimeoutError where it does not go on.
    """
    to_come, due, first, seen, moved = iter(moments), None, None, 0, time.monotonic()
    since, later = None, 1
    before = set[tuple[int, int]]()
    for run.submitted in count(1):
        mend(ground)
        watched = ground.submit(command(study, root, ground.out))
        while (status := watched.poll()) is None:
            now, last, there = time.monotonic(), max(checkpoints(ground.out), default=0), ground.workers()
            if last > seen:
                first, seen, moved, later = first or now, last, now, later + 1
                since = since or (now if later >= RECOVERED else None)
                run.training_s = now - first
            due = due or next(to_come, None)
            if due and since and now > since + due.at_s and len(there) >= NUM_WORKERS:
                mend(ground)
                due.at_step, before = last, ground.workers()
                ground.struck = time.monotonic()
                with suppress(LookupError):  # what it would have killed has just ended; another turn, then
                    FAULTS[due.fault](ground)
                    run.strikes, moved, due = [*run.strikes, due], time.monotonic(), None
                    since, later = (since, later) if run.fault == SOAK else (None, 0)
            elif run.strikes:
                told = run.strikes[-1]
                if told.workers_s is None and len(there - before) >= NUM_WORKERS:
                    told.workers_s = now - ground.struck
                if told.checkpoint_s is None and last > told.at_step:
                    told.checkpoint_s = now - ground.struck
            if now > moved + GIVE_UP_S:
                raise TimeoutError(f"no checkpoint and no end within {GIVE_UP_S} s: {ground.log.read_text()[-3000:]}")
            time.sleep(POLL_S)
        run.again = ground.log.read_text().count("Submitted as ") - run.submitted
        if status == 0:
            break
        if run.submitted == SUBMITTED_AT_MOST + len(run.strikes):
            raise RuntimeError(f"the job failed {run.submitted} times: {ground.log.read_text()[-3000:]}")
    if run.fault and not run.strikes:
        raise RuntimeError("it came to its end before it could be struck")


def learnt(out: Path, run: Run, whole: Run | None) -> None:
    """Fills in what the job has learnt, and from what."""
    history = State.from_dict(json.loads((out / "adapter" / "progress.json").read_text())).history
    run.rows = [(record.rows, record.rows_crc) for record in history]
    run.ledger = lost_or_doubled(out, history)
    if whole and run.rows != whole.rows:
        run.ledger.append("steps learnt from other rows than those of the run that nothing happened to")
    run.weights = hashlib.sha256((out / "merged" / "model.safetensors").read_bytes()).hexdigest()


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
    heads = ("fault", "struck", "went on by itself", "submitted again for that", "by hand", "new workers after")
    heads += ("next checkpoint after", "jobs", "came to their end", "same weights", "same rows")
    whole, lines = runs[0], [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in (*FAULTS, SOAK):
        played = [run for run in runs if run.fault == name]
        if not played:
            continue
        found = [run for run in played if not run.failed]
        strikes = [strike for run in found for strike in run.strikes]
        again, by_hand = sum(run.again for run in found), sum(run.submitted - 1 for run in found)
        what = words(FAULTS[name]) if name in FAULTS else f"any of them, every {SOAK_EVERY_S} s"
        took = ([strike.workers_s for strike in strikes], [strike.checkpoint_s for strike in strikes])
        cells = [what, struck(played), len(strikes) - by_hand, again, by_hand]
        cells += [*map(_middle, took), len(played), len(found)]
        cells += [sum(run.weights == whole.weights for run in found), sum(not run.ledger for run in found)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f} s ({max(known):.0f})" if known else ""


if __name__ == "__main__":
    main()
