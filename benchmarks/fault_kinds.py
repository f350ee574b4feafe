"""The faults of faults.py, and the cluster with the job that they strike."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cluster.local.hosts import HEAD, Hosts
from cluster.local.network import OUTSIDE
from tdtrain.data.storage import open_folder
from tdtrain.train.on_ray import SNAPSHOT
from tdtrain.train.whole import names, step_of

ROOT = Path(__file__).resolve().parents[1]
WORKER, CONTROLLER, DRIVER = "RayTrainWorker", "TrainController", "rayjobs/lora_ocr.py"
NOTICE_S = 25
AWAY_S = 40
"""A cable is out for so long: more than the head waits before it gives a host up."""
DISK_BYTES = 400_000_000


@dataclass
class Ground:
    """A cluster, and the folder of the job that runs on it. `struck`: when harm was last done, monotonic seconds."""

    hosts: Hosts
    out: Path
    rng: Random
    stack: ExitStack
    struck: float = 0.0

    def submit(self, command: list[str]) -> subprocess.Popen:
        """Hands the job in. Returns: what submits it again where its driver or the head dies, and ends as it does."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        told = [sys.executable, "-m", "cluster.submit", "--retries", "100", "--", *command]
        with self.log.open("a") as log:
            return self.hosts.popen(told, OUTSIDE, cwd=ROOT, stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        """What jobs say, and who submits them."""
        return self.out.with_name(f"{self.out.name}.log")

    def workers(self) -> set[tuple[int, int]]:
        """(host, process id) of each."""
        return set(self.hosts.processes(WORKER))

    def a_host(self) -> int:
        """One that has a worker and is not the head."""
        return self.rng.choice(sorted({host for host, _ in self.workers() if host != HEAD}) or [HEAD + 1])

    def kill_worker(self) -> None:
        """kill -9 of one, on any host that has one. Raises LookupError where none has."""
        self.hosts.kill(WORKER, self.rng.choice(sorted({host for host, _ in self.workers()})))


def small_disk(out: Path, stack: ExitStack) -> None:
    """Has a job's folder on a disk that can be filled, until the stack is closed."""
    out.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(out)]
    subprocess.run(mount, check=True, capture_output=True)
    stack.callback(subprocess.run, ["umount", "-l", str(out)], check=False)


def worker(ground: Ground) -> None:
    """kill -9 of a worker."""
    ground.kill_worker()


def raylet(ground: Ground) -> None:
    """kill -9 of a raylet."""
    ground.hosts.kill("raylet", ground.a_host())


def power(ground: Ground) -> None:
    """All of a host ends at once, as in a power cut."""
    ground.hosts.stop(ground.a_host())


def cut(ground: Ground) -> None:
    """A host is cut off, and its cable is put in again after 40 s."""
    host = ground.a_host()
    ground.hosts.network.cut(host)
    time.sleep(AWAY_S)
    ground.hosts.network.join(host)


def notice(ground: Ground) -> None:
    """A spot instance goes, with 25 s of notice."""
    host = ground.a_host()
    ground.hosts.give_notice(host, NOTICE_S)
    time.sleep(NOTICE_S)
    ground.hosts.stop(host)


def controller(ground: Ground) -> None:
    """kill -9 of Ray Train's controller."""
    ground.hosts.kill(CONTROLLER)


def commit(ground: Ground) -> None:
    """kill -9 of a worker between the report of a checkpoint and its commit."""
    had = len(stored(ground.out))
    until = time.monotonic() + 60
    while len(stored(ground.out)) <= had and time.monotonic() < until:
        time.sleep(0.005)
    ground.kill_worker()
    ground.struck = time.monotonic()


def damage(ground: Ground) -> None:
    """A bit of the newest checkpoint flips, then kill -9 of a worker."""
    newest = stored(ground.out)[-1]  # empty: an IndexError, and another turn
    part = ground.rng.choice([path for path in newest.rglob("*") if path.is_file() and path.stat().st_size])
    content = bytearray(part.read_bytes())
    content[ground.rng.randrange(len(content))] ^= 1
    part.write_bytes(content)
    ground.kill_worker()


def disk(ground: Ground) -> None:
    """The disk is full while a checkpoint is written, and has room again when the job has failed."""
    filler = ground.out / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
    ground.stack.callback(filler.unlink, missing_ok=True)


def head(ground: Ground) -> None:
    """All of the head ends at once, and it boots again."""
    ground.hosts.stop(HEAD)
    time.sleep(2)
    mend(ground)


def driver(ground: Ground) -> None:
    """kill -9 of the job's driver."""
    if not (there := ground.hosts.processes(DRIVER)):
        raise LookupError("there is no driver")
    os.kill(max(pid for _, pid in there), signal.SIGKILL)  # the shell that began it has its words as well


FAULTS: dict[str, Callable[[Ground], None]] = {
    strike.__name__: strike
    for strike in (worker, raylet, power, cut, notice, controller, commit, damage, disk, head, driver)
}


def mend(ground: Ground) -> None:
    """Room on the disk again, and every host there: what whoever looks after a cluster sees to. Raises TimeoutError."""
    (ground.out / "filler").unlink(missing_ok=True)
    numbers = ground.hosts.network.numbers
    for last in (False, False, True):
        for number in numbers:
            if not ground.hosts.processes("raylet", number):  # the head learns of it only after a while
                ground.hosts.start(number)
        try:
            return ground.hosts.wait_for(len(numbers))
        except TimeoutError:  # one that was thought dead has ended itself meanwhile, or one did not come up
            if last:
                raise


def record_of(out: Path) -> Path | None:
    """The folder of the adapters' checkpoints."""
    return next(iter(out.glob("checkpoints/*/student")), None)


def stored(out: Path) -> list[Path]:
    """Checkpoints that there are, whole or not, oldest first."""
    record = record_of(out)
    return [] if record is None else [record / name for name in names(open_folder(record))]


def checkpoints(out: Path) -> list[int]:
    """Steps of those that Ray Train committed."""
    record = record_of(out)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        held = json.loads((record / SNAPSHOT).read_text()) if record else {}
        return sorted(step_of(one["checkpoint_dir_name"]) for one in held["checkpoint_results"])
    return []
