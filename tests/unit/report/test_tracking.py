from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tdtrain.report.tracking import Tracker, flatten


def client_of(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with Tracker(folder):
        pass
    return folder / "mlflow.db"


def test_a_run_is_stored_whole(tmp_path: Path) -> None:
    model = tmp_path / "student"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"first")
    (tmp_path / "report.html").write_text("<p>")
    long = "x" * 7000
    with Tracker(tmp_path / "out", run_name="first") as tracker:
        tracker.log_run(
            {"teaching": {"alpha": 0.5, "note": long}, "list": [1, "a"], "odd key!": None}
            | {f"p{i}": i for i in range(150)}
        )
        for step in (1, 2):
            tracker.log_metrics({"student/cer": 0.1 / step, "not measured": None}, step)
        tracker.log_artifact(tmp_path / "report.html")
        tracker.register_model(model, "timetables")
        tracker.register_model(model, "timetables")
        (model / "model.safetensors").write_bytes(b"second")
        tracker.register_model(model, "timetables")
        with pytest.raises(ValueError, match="no such file or folder"):
            tracker.log_artifact(tmp_path / "nowhere")

    client = client_of(tracker)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["teaching.alpha"] == "0.5" and run.data.params["list"] == '[1, "a"]'
    assert run.data.params["odd key_"] == "null" and run.data.params["p149"] == "149"
    assert len(run.data.params["teaching.note"]) == 500
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, "student/cer")] == [
        (1, 0.1),
        (2, 0.05),
    ]
    assert "not measured" not in run.data.metrics
    stored = {f.path for f in client.list_artifacts(tracker.run_id)}
    assert {"report.html", "run.json"} < stored and len(stored) == 4
    whole = json.loads((tmp_path / "out" / "mlartifacts" / tracker.run_id / "artifacts" / "run.json").read_text())
    assert whole["teaching"]["note"] == long
    versions = client.search_model_versions("name='timetables'")
    weights = {int(one.version): Path(one.source.removeprefix("file://")) / "model.safetensors" for one in versions}
    assert {number: path.read_bytes() for number, path in weights.items()} == {1: b"first", 2: b"second"}
    assert not (tmp_path / "out" / "tracking.jsonl").exists()


def test_a_resumed_job_goes_on_with_its_run(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path)
    ids = []
    for step, alpha in ((1, 0.5), (2, 0.7)):
        with Tracker(tmp_path, resume=True) as tracker:
            tracker.log_run({"alpha": alpha})
            tracker.log_metrics({"loss": 1.0 / step}, step)
        ids.append(tracker.run_id)
    client = client_of(tracker)
    assert ids[0] == ids[1] and client.get_run(ids[0]).info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(ids[0], "loss")] == [1, 2]
    assert client.get_run(ids[0]).data.params["alpha"] == "0.5" and not (tmp_path / "tracking.jsonl").exists()
    with Tracker(tmp_path) as another:
        assert another.run_id != ids[0]
    client.delete_run(another.run_id)
    with Tracker(tmp_path, resume=True) as fresh:
        assert fresh.run_id not in (ids[0], another.run_id)


def test_who_goes_on_with_a_run_goes_on_with_its_children_and_forgets_those_that_fell(
    tmp_path: Path, store: Path
) -> None:
    shutil.copy(store, tmp_path)
    with Tracker(tmp_path) as tracker:
        children = tracker.children()
        for name in ("a", "b"):
            children.begin(name, {"rank": 2})
        children.report("a", {"score": 0.5}, 1)
        client = client_of(tracker)
        experiment = client.get_run(tracker.run_id).info.experiment_id
        client.create_run(experiment, run_name="c", tags={"mlflow.parentRunId": tracker.run_id})  # and then a kill
        client.create_run(experiment, run_name="d", tags={"mlflow.parentRunId": "another"})
    with Tracker(tmp_path, resume=True) as tracker:
        children = tracker.children()
        for name in ("b", "d", "nobody"):
            children.forget(name)
        for name, rank in (("a", 3), ("c", 2)):  # values may change under way, and are not told again
            children.begin(name, {"rank": rank})
            children.report(name, {"score": 0.25}, 2)
            children.end(name, failed=False)
    runs = client.search_runs([experiment])
    found = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert set(found) == {"a", "c", "d"}
    assert [found[name].data.params for name in "acd"] == [{"rank": "2"}, {"rank": "2"}, {}]
    assert [one.value for one in client.get_metric_history(found["a"].info.run_id, "score")] == [0.5, 0.25]
    assert {found[name].info.status for name in "ac"} == {"FINISHED"}
    assert not (tmp_path / "tracking.jsonl").exists()


def test_an_exception_marks_the_run_failed_and_is_not_swallowed(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path)
    with pytest.raises(RuntimeError, match="loss"), Tracker(tmp_path) as tracker:
        raise RuntimeError("loss is NaN")
    assert client_of(tracker).get_run(tracker.run_id).info.status == "FAILED"


def test_an_address_where_nobody_listens_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(
            ValueError, match=rf"tracking_uri=http://127\.0\.0\.1:{port} cannot be used: .*leave tracking_uri out"
        ),
        Tracker(tmp_path, f"http://127.0.0.1:{port}"),
    ):
        pass


def test_a_store_that_goes_away_costs_one_warning_and_no_training(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path)
    with Tracker(tmp_path) as tracker:
        tracker.log_metrics({"loss": 3.0}, 1)
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            database.execute("drop table runs")
        with pytest.warns(
            RuntimeWarning, match=r"MLflow at sqlite.* failed .*tracking goes on in .*tracking\.jsonl"
        ) as told:
            tracker.log_metrics({"loss": 2.0}, 2)
            tracker.log_metrics({"loss": 1.0}, 3)
            tracker.log_run({"a": 1})
        assert sum(warning.category is RuntimeWarning for warning in told) == 1
    kept = [json.loads(line) for line in (tmp_path / "tracking.jsonl").read_text().splitlines()]
    assert [line["metrics"] for line in kept[:2]] == [{"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}]
    assert kept[2]["run"] == {"a": 1} and kept[-1]["status"] == "FINISHED"


def test_a_store_of_files_that_fails_costs_the_files_alone(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(store, tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise OSError("no bucket")

    for name in ("log_dict", "log_artifact"):
        monkeypatch.setattr(f"mlflow.MlflowClient.{name}", refused)
    (tmp_path / "report.html").touch()
    with Tracker(tmp_path) as tracker, pytest.warns(RuntimeWarning, match="no bucket"):
        tracker.log_run({"a": 1})
        tracker.log_artifact(tmp_path / "report.html")
        tracker.log_metrics({"loss": 3.0}, 1)
    run = client_of(tracker).get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 3.0} and run.data.params == {"a": "1"}
    assert "artifact" in (tmp_path / "tracking.jsonl").read_text()


@pytest.mark.slow
def test_it_is_quiet(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tdtrain.report.tracking import Tracker\n"
        f"with Tracker(Path({str(tmp_path)!r})) as t: t.log_run({{'a': 1}}); t.log_metrics({{'b': 1.0}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "" and done.stderr == ""


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": True, "e": "x", "f": {}}) == {"a.b.c": "1", "d": "true", "e": "x"}
