"""A search on a cluster, its trials under Ray Train, and every page on which people would look at it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser import browser, look, served
from tests.corpora import line_corpus

pytestmark = pytest.mark.ray
looks = pytest.mark.skipif(
    shutil.which("chromedriver") is None, reason="no Chromium with its driver to open pages with"
)
ROOT = Path(__file__).parents[2]
HEAD = """
import sys, ray
told = ray.init(num_cpus=4, include_dashboard=True, log_to_driver=False)
print(told.address_info["address"], told.dashboard_url, flush=True)
sys.stdin.read()
"""
SEARCH = (
    "--job", "lora_ocr", "--num_trials", "3", "--searcher", "grid", "--reduction", "2",
    "--space", "optimisation.learning_rate=choice(1e-4, 1e-3, 1e-2)",
)  # fmt: skip
JOB = (
    "--model_name", "ppocrv6-tiny", "--rank", "2", "--target_modules", "all", "--epochs", "1", "--batch_size", "16",
    "--learning_rate", "1e-4", "--max_evaluation_lines", "40", "--evaluations", "2", "--num_workers", "2",
)  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """What there is to look at."""

    out: Path
    dashboard: str
    rows: list[dict]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    """Three trials of two workers each, of which two fit, on a cluster that stays while its pages are looked at."""
    folder = tmp_path_factory.mktemp("dashboards")
    corpus = line_corpus(folder / "corpus", annotated=60, num=60)
    quiet = os.environ | {"RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], env=quiet, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert head.stdin is not None and head.stdout is not None
    try:
        said = next(line for line in head.stdout if re.match(r"[\d.]+:\d+ ", line))
        address, dashboard = said.split()
        command = [sys.executable, "rayjobs/tune.py", "--output_dir", str(folder / "out"), *SEARCH, "--"]
        done = subprocess.run(
            [*command, "--dataset_path", str(corpus), *JOB], cwd=ROOT, env=quiet | {"RAY_ADDRESS": address},
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        rows = json.loads((folder / "out" / "outcome.json").read_text())["rows"]
        yield Searched(folder / "out", f"http://{dashboard}", rows)
    finally:
        head.stdin.close()
        head.wait(timeout=60)


def test_workers_of_a_trial_that_was_stopped_make_room_for_the_next(searched: Searched) -> None:
    """Else the third would wait for ever."""
    assert sorted(row["values"]["optimisation.learning_rate"] for row in searched.rows) == [1e-4, 1e-3, 1e-2]
    assert {row["status"] for row in searched.rows} == {"finished", "stopped early"}


@looks
def test_optunas_dashboard(searched: Searched, tmp_path: Path) -> None:
    told = ("optuna-dashboard", f"sqlite:///{searched.out}/study.db", "--port", "PORT")
    with served(tmp_path / "log", *told) as url, browser() as chrome:
        best = min(searched.rows, key=lambda row: row["figures"]["score"])
        shown = [f"{path}: {value}" for path, value in best["values"].items()]
        look(chrome, f"{url}/dashboard/studies/1", [*shown, str(best["figures"]["score"])])


@looks
def test_tensorboard(searched: Searched, tmp_path: Path) -> None:
    told = ("tensorboard", "--logdir", str(searched.out / "trials"), "--port", "PORT")
    with served(tmp_path / "log", *told) as url, browser() as chrome:
        look(chrome, f"{url}/#timeseries", [*(row["trial"] for row in searched.rows), "/images_per_s"])
        look(chrome, f"{url}/#hparams", ["optimisation.learning_rate", "Number of matching session groups: 3"])


@looks
def test_mlflow(searched: Searched, tmp_path: Path) -> None:
    store = sqlite3.connect(searched.out / "mlflow.db")
    told = ("mlflow", "ui", "--backend-store-uri", f"sqlite:///{searched.out}/mlflow.db", "--workers", "1")
    with served(tmp_path / "log", *told, "--port", "PORT") as url, browser() as chrome:
        for row in searched.rows:
            query = "select run_uuid, experiment_id from runs where name = ?"
            run, experiment = store.execute(query, (row["trial"],)).fetchone()
            value = str(row["values"]["optimisation.learning_rate"])
            look(
                chrome,
                f"{url}/#/experiments/{experiment}/runs/{run}",
                ["optimisation.learning_rate", value],
                unanswered=("users/current",),
            )


@looks
def test_rays_dashboard_knows_the_trainings(searched: Searched) -> None:
    with urllib.request.urlopen(f"{searched.dashboard}/api/train/v2/runs/v1", timeout=60) as answer:
        runs = json.loads(answer.read())["train_runs"]
    ended = [row["status"] for row in searched.rows]
    assert len(runs) == len(ended) and [run["status"] for run in runs].count("FINISHED") == ended.count("finished")
    with browser() as chrome:  # whose pages ask for Grafana and more, which nobody runs here
        look(chrome, f"{searched.dashboard}/#/jobs", ["rayjobs/tune.py"], unanswered=("/api/",))
