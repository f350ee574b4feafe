"""A search as a user runs it: killed and gone on with, by population, and its page in a browser."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import psutil
import pytest
from selenium.webdriver.common.by import By

from tdtrain.options import Optimisation
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import parse_axis
from tdtrain.search.state import reports_of
from tdtrain.search.study import study_of
from tdtrain.train.engine import schedule
from tests.browser import browser, look
from tests.corpora import line_corpus

pytestmark = pytest.mark.ray
TRIALS = 16
"""So many that no machine is done before the third kill."""
ROOT = Path(__file__).parents[2]
SPACE = ("optimisation.learning_rate=log(1e-5, 1e-3)", "lora.rank=choice(2, 4)")
JOB = (
    "--model_name", "ppocrv6-tiny", "--rank", "2", "--target_modules", "all", "--batch_size", "16",
    "--learning_rate", "1e-4", "--max_evaluation_lines", "40",
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line_corpus(tmp_path_factory.mktemp("search") / "corpus", annotated=90, num=90)


def command(out: Path, corpus: Path, search: tuple[str, ...], evaluations: int = 2, epochs: int = 1) -> list[str]:
    times = ("--epochs", str(epochs), "--evaluations", str(evaluations))
    job = ("--dataset_path", str(corpus), *times, *JOB)
    told = ("--job", "lora_ocr", "--output_dir", str(out), *search)
    return [sys.executable, "rayjobs/tune.py", *told, "--", *job]


def run(told: list[str]) -> str:
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def kill(process: subprocess.Popen) -> None:
    """As the kernel would: the driver, and then what it had started."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(family, timeout=30)


def reports(journal: Path) -> list[dict]:
    lines = [line for line in journal.read_text().splitlines() if line]
    return [json.loads(line) for line in lines if line.endswith("}")]  # a driver that was killed may leave half a line


def progress(journal: Path) -> int:
    """How many evaluations there are of any trial."""
    return sum(map(len, reports_of(journal).values()))


def finished(journal: Path) -> dict[str, dict]:
    """The last evaluations of trials that have ended, by their names."""
    return {one["trial_id"]: one for one in reports(journal) if one["complete"]} if journal.exists() else {}


@pytest.fixture(scope="module")
def killed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict], dict]:
    """A search whose driver was killed three times, at a random moment after it had got further, and which was then run
    to its end: its folder, what finished trials had reported at the last kill, and the outcome."""
    out = tmp_path_factory.mktemp("killed") / "out"
    told = command(
        out, corpus, ("--num_trials", str(TRIALS), "--searcher", "random", "--scheduler", "none", "--space", *SPACE)
    )
    log, journal = out.parent / "log.txt", out / "trials.jsonl"
    for life in (1, 2, 3):
        with log.open("a") as file:
            process = subprocess.Popen(told, cwd=ROOT, stdout=file, stderr=file)
        try:
            until, had = time.monotonic() + 600, progress(journal)
            while progress(journal) == had or (life == 3 and not finished(journal)):
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-5000:]
                time.sleep(0.1)
            moment = Random().uniform(0, 2) * min(one["time_this_iter_s"] for one in reports(journal))
            with log.open("a") as file:
                print(f"life {life} ends {moment} s after its trials have reported once more", file=file, flush=True)
            time.sleep(moment)
            assert process.poll() is None, log.read_text()[-5000:]
        finally:
            kill(process)
    before = finished(journal)
    with log.open("a") as file:
        file.write(run(told))
    return out, before, json.loads((out / "outcome.json").read_text())


def test_a_killed_search_goes_on_and_repeats_no_finished_trial(killed: tuple[Path, dict[str, dict], dict]) -> None:
    out, before, outcome = killed
    rows = outcome["rows"]
    assert len(rows) == TRIALS == len({row["trial"] for row in rows})
    assert [row["status"] for row in rows] == ["finished"] * TRIALS
    assert before and set(before) <= {row["trial"] for row in rows}
    for name, one in before.items():
        again = [
            report for report in reports(out / "trials.jsonl") if report["trial_id"] == name and report["complete"]
        ]
        for report in again:  # told twice where the kill came before Ray Tune wrote it down; never trained twice
            assert [report[key] for key in ("score", "weights", "in_trial_s")] == [
                one[key] for key in ("score", "weights", "in_trial_s")
            ]
    assert [point["round"] for row in rows for point in row["points"]] == [1, 2] * TRIALS
    # The values are those of a search that nobody kills: the job's own, then what chance of this seed draws.
    search = SearchRun(job="lora_ocr", space=SPACE, searcher="random", num_trials=TRIALS, output_dir=out.parent)
    given = {"optimisation.learning_rate": 1e-4, "lora.rank": 2}
    untouched = study_of(search, [parse_axis(spec) for spec in SPACE], [dict(given)])
    for row in rows:
        untouched.suggest(row["trial"])
        assert row["values"] == untouched._ot_trials[row["trial"]].params
    best = min(rows, key=lambda row: row["figures"]["score"])
    assert outcome["pick"] == best["number"] and (out / "best" / "adapter_model.safetensors").exists()


def test_each_trial_is_in_mlflow_below_the_search_in_optunas_study_and_in_tensorboard(
    killed: tuple[Path, dict[str, dict], dict],
) -> None:
    out, _, outcome = killed
    store = sqlite3.connect(out / "mlflow.db")
    parent = json.loads((out / "mlflow_run.json").read_text())["run_id"]
    children = store.execute(
        "select r.run_uuid, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        "where r.lifecycle_stage = 'active' and t.key = 'mlflow.parentRunId' and t.value = ?", (parent,),
    ).fetchall()  # fmt: skip
    assert sorted(name for _, name, _ in children) == sorted(row["trial"] for row in outcome["rows"])
    assert {status for *_, status in children} == {"FINISHED"}
    for uuid, name, _ in children:
        row = next(row for row in outcome["rows"] if row["trial"] == name)
        told = dict(store.execute("select key, value from params where run_uuid = ?", (uuid,)))
        assert told == {key: str(value) for key, value in row["values"].items()}
        last = store.execute("select value from latest_metrics where run_uuid = ? and key = 'score'", (uuid,))
        assert last.fetchone()[0] == pytest.approx(row["figures"]["score"])
    study = sqlite3.connect(out / "study.db")
    finished = study.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
    assert finished == TRIALS
    shown = {path.parent.name for path in (out / "trials").glob("*/events.out.tfevents.*")}
    assert shown == {row["trial"] for row in outcome["rows"]}


def test_the_page_opens_in_a_browser_and_shows_every_value(killed: tuple[Path, dict[str, dict], dict]) -> None:
    out, _, outcome = killed
    values = [row["values"]["optimisation.learning_rate"] for row in outcome["rows"]]
    with browser() as chrome:
        look(chrome, (out / "report.html").as_uri(), [f"{value:.3g}" for value in values])
        for row in outcome["rows"]:
            assert chrome.find_elements(By.CSS_SELECTOR, f".trial-{row['number']}")


def test_a_trial_goes_on_from_anothers_weights_where_the_schedule_was(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    space = ("--space", "optimisation.learning_rate=log(1e-6, 5)")  # the upper ones spoil the weights
    run(command(out, corpus, ("--num_trials", "4", "--scheduler", "pbt", *space), evaluations=8, epochs=2))
    told = reports(out / "trials.jsonl")
    had = {one["weights"]: (one["trial_id"], one["step"]) for one in told}  # a trial may take a step more than once
    begun = [(one["trial_id"], *had[one["begun_from"]]) for one in told if one.get("begun_from")]
    followers = {trial: (donor, step) for trial, donor, step in begun if donor != trial}
    assert followers and len(told) < 100  # of 32, as often as weights of others are better
    # What it learnt is the donor's history up to there, and its own from the next step on. A donor may follow later.
    trial = next((trial for trial, (donor, _) in followers.items() if donor not in followers), list(followers)[-1])
    donor, step = followers[trial]
    histories = {
        path.parents[1].name: json.loads(path.read_text())["history"]
        for path in sorted((out / "trials").glob("*/checkpoint_*/progress.json"))
    }
    mine, theirs = histories[trial], histories[donor]
    assert mine[:step] == theirs[:step]
    assert [record["step"] for record in mine] == list(range(1, len(mine) + 1)) and len(mine) > step
    (row,) = [row for row in json.loads((out / "outcome.json").read_text())["rows"] if row["trial"] == trial]
    own = [one for one in told if one["trial_id"] == trial]
    peak, total = own[-1]["values"]["optimisation.learning_rate"], mine[-1]["step"]
    assert row["values"] == min(own, key=lambda one: one["now"])["values"]  # which its best weights learnt with
    assert row["status"] == "finished"
    for record in mine[step:]:
        optimisation = Optimisation(learning_rate=peak)
        assert record["learning_rate"] == pytest.approx(schedule(record["step"] - 1, total, optimisation))


def test_a_front_of_error_and_size_and_the_best_again_with_fresh_seeds(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    search = ("--num_trials", "3", "--searcher", "nsga2", "--scheduler", "none", "--objectives", "score", "parameters")
    space = ("--space", "lora.rank=choice(2, 8)", "optimisation.learning_rate=choice(1e9, 1e-4)")
    printed = run(command(out, corpus, (*search, *space, "--fit_best", "--fit_seeds", "1"), evaluations=1))
    outcome = json.loads((out / "outcome.json").read_text())
    steep = [row for row in outcome["rows"] if row["values"]["optimisation.learning_rate"] > 1]
    for row in steep:  # weights of such a step are no numbers, or read nothing right
        assert (row["status"] == "failed" and "is nan" in row["reason"]) or row["figures"]["score"] > 0.5
    assert len(steep) == 1
    front = [outcome["rows"][number] for number in outcome["front"]]
    assert front and outcome["pick"] in outcome["front"]
    sizes = {row["values"]["lora.rank"]: row["figures"]["parameters"] for row in outcome["rows"] if row["figures"]}
    assert sizes[8] == 4 * sizes[2]
    fitted = json.loads((out / "fitted.json").read_text())
    assert fitted["seeds"] == [1000] and len(fitted["best"]) == len(fitted["given"]) == 1
    assert len(fitted["best_test"]) == len(fitted["given_test"]) == 1 and 0 < fitted["p_value"] <= 1
    assert "report:" in printed and "On the test split" in (out / "report.html").read_text()
