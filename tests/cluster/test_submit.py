"""`python -m cluster.submit`: what was lost is submitted again, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.local.hosts import HEAD, Hosts
from cluster.local.network import OUTSIDE

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
WAIT_S = 300
DIES_ONCE = """
import os, pathlib, sys
mark = pathlib.Path(sys.argv[1])
if not mark.exists():
    mark.touch()
    print("it began", flush=True)
    os.kill(os.getpid(), 9)
print("it went on")
"""


def command(folder: Path, *words: str) -> list[str]:
    """Has a job run beside nothing of this project."""
    return [sys.executable, "-m", "cluster.submit", "--working_dir", str(folder), *words]


def test_what_is_killed_is_submitted_again_until_it_has_been_often_enough(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(DIES_ONCE)
    done = hosts.run(command(tmp_path, "--", "python", "job.py", str(tmp_path / "mark")), OUTSIDE, cwd=ROOT)
    told = [done.stdout.count(words) for words in ("Submitted as ", "it began", "it went on", "Traceback")]
    assert (done.returncode, told) == (0, [2, 1, 1, 0]), done.stdout

    done = hosts.run(command(tmp_path, "--retries", "1", "--", "sh", "-c", "kill -9 $$"), OUTSIDE, cwd=ROOT)
    assert done.returncode == 1 and done.stdout.count("Submitted as") == 2, done.stdout
    assert "lost 2 times, see --retries" in done.stdout


def test_what_ends_by_itself_is_not(hosts: Hosts, tmp_path: Path) -> None:
    done = hosts.run(command(tmp_path, "--", "sh", "-c", "echo no room; exit 3"), OUTSIDE, cwd=ROOT)
    assert done.returncode == 3 and done.stdout.count("Submitted as") == 1, done.stdout
    assert done.stdout.count("\nno room\n") == 1


def test_a_head_that_is_away_for_a_while_is_waited_for(hosts: Hosts, tmp_path: Path) -> None:
    began = tmp_path / "began"
    job = f"echo it began; touch {began}; sleep 12; echo it ended"
    told = command(tmp_path, "--", "sh", "-c", job)
    watching = hosts.popen(told, OUTSIDE, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not began.exists():
        assert watching.poll() is None
        time.sleep(0.1)
    hosts.network.cut(HEAD)
    time.sleep(6)
    hosts.network.join(HEAD)
    said, _ = watching.communicate(timeout=WAIT_S)
    assert watching.returncode == 0, said
    assert [said.count(words) for words in ("Submitted as", "\nit began\n", "\nit ended\n")] == [1, 1, 1], said


@pytest.mark.usefixtures("permitted")
def test_a_head_that_forgot_a_job_gets_it_again(tmp_path: Path) -> None:
    began = tmp_path / "began"
    told = command(tmp_path, "--", "sh", "-c", f"test -e {began} && exit; touch {began}; sleep 600")
    with Hosts(1, cpus=1) as alone:
        watching = alone.popen(told, OUTSIDE, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while not began.exists():
            assert watching.poll() is None
            time.sleep(0.1)
        alone.stop(HEAD)
        alone.start(HEAD)
        said, _ = watching.communicate(timeout=WAIT_S)
    assert watching.returncode == 0 and said.count("Submitted as") == 2, said
    assert ": the head forgot it" in said


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "error: Failed to connect to Ray at address"),
        ({"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}, "error: Authentication failed"),
    ],
)
def test_a_cluster_that_does_not_take_it_is_named(hosts: Hosts, tmp_path: Path, told: dict, why: str) -> None:
    done = hosts.run(command(tmp_path, "--", "true"), OUTSIDE, told, cwd=ROOT)
    assert done.returncode == 1 and why in done.stdout and "Traceback" not in done.stdout, done.stdout
