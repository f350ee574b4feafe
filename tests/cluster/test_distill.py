"""The main job on three hosts, as a user submits it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.hosts import HEAD, Hosts
from cluster.local.network import address
from tests.checkpoints import committed
from tests.cluster.conftest import SECRET
from tests.corpora import packed_lines
from tests.models_small import small_trocr_folder, timetable_texts

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
NUM_LINES = 120
WAIT_S = 900
"""A minute each on two free cores; they may be busy."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A distillation on what all hosts reach; it lacks its output_dir."""
    shared = tmp_path_factory.mktemp("shared")
    corpus = packed_lines(shared, num=NUM_LINES)
    texts = timetable_texts(NUM_LINES)
    teacher, student = (small_trocr_folder(shared / like, like, texts) for like in ("large", "base"))
    return [
        "python", "rayjobs/distill.py", "--teacher_model", str(teacher), "--student_model", str(student),
        "--dataset_path", corpus, "--epochs", "6", "--evaluations", "6", "--batch_size", "12", "--no_adapt_teacher",
        "--min_confidence", "0", "--no_control", "--num_workers", "3", "--zero_stage", "3", "--placement",
        "STRICT_SPREAD", "--teacher_actors", "1",
    ]  # fmt: skip


def submit(hosts: Hosts, command: list[str], *options: str) -> tuple[int, str]:
    """`ray job submit` on the head: its exit status, and what it says, on one line."""
    submitted = ["ray", "job", "submit", "--working-dir", ".", *options, "--", *command]
    done = hosts.run(submitted, HEAD, cwd=ROOT, timeout_s=WAIT_S)
    return done.returncode, " ".join(done.stdout.split())


@pytest.mark.usefixtures("older")
def test_what_nodes_do_not_share_is_refused_before_anything_is_trained(hosts: Hosts, job: list[str]) -> None:
    status, said = submit(hosts, [*job, "--output_dir", str(hosts.disk / "out")])
    assert status == 1 and "Traceback" not in said
    others = f"{address(2)}, {address(3)}"
    assert f"output_dir={hosts.disk}/out on node {others} lacks what the driver wrote there; give a folder" in said
    assert f"node {address(3)} has transformers 0.0.1, not" in said
    pages = ["python", "rayjobs/prepare.py", "--sample_pages", "2", "--output_dir", str(hosts.disk / "lines")]
    status, said = submit(hosts, pages)
    assert status == 1 and f"output_dir={hosts.disk}/lines on node {others} lacks what the driver wrote there" in said


@pytest.fixture
def older(hosts: Hosts, tmp_path: Path) -> Iterator[None]:
    """Host 3 has an older transformers, to all who ask."""
    told = tmp_path / "transformers-0.0.1.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    hosts.start(3, {"PYTHONPATH": str(tmp_path)})
    hosts.wait_for(3)
    yield
    hosts.start(3)
    hosts.wait_for(3)


def test_zero_3_spread_over_three_hosts_runs_resumes_and_reports(hosts: Hosts, job: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*job, "--output_dir", str(out)]
    token = hosts.token_file.read_text()
    status, said = submit(hosts, command, "--no-wait", "--submission-id", "first")
    assert status == 0, said
    saved, began = 0, time.monotonic()
    while not saved:
        with contextlib.suppress(ConnectionError):  # everything is slow while processes start
            told = hosts.ask("/api/jobs/first", token)[1]
            in_time = time.monotonic() < began + WAIT_S
            assert in_time and "FAILED" not in told, hosts.ask("/api/jobs/first/logs", token)[1][-3000:]
        time.sleep(2)
        saved = committed(out)
    assert {on for on, _ in hosts.processes("RayTrainWorker")} == {1, 2, 3}
    knowing = [*hosts.processes("RayTrainWorker"), *hosts.processes("rayjobs/distill.py")]
    assert {on for on, pid in knowing if SECRET.encode() in Path(f"/proc/{pid}/environ").read_bytes()} == {1, 2, 3}
    assert hosts.ask("/api/jobs/first/stop", token, body="{}")[0] == 200
    while hosts.processes("RayTrainWorker"):
        time.sleep(0.5)

    status, said = submit(hosts, command)
    assert status == 0, said[-3000:]
    steps = [int(step) for step in re.findall(r"student +([0-9]+)/[0-9]+", said)]
    history = json.loads((out / "student" / "progress.json").read_text())["history"]
    assert saved < steps[0] and [record["step"] for record in history] == list(range(1, steps[-1] + 1))
    results = json.loads((out / "results.json").read_text())
    assert {"teacher", "student_before", "student"} == set(results["readers"])
    assert results["run"]["compute"]["placement"] == "STRICT_SPREAD" and (out / "report.html").exists()
    folders = (tmp_path.parent, hosts.root)  # with the corpus and the models
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 100 and out / "mlflow.db" in files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
