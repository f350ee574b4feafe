"""MLflow, and the only place that imports it: parameters, metrics, files and the model registry."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tdtrain.models.stored import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_VALUE = 500
"""Characters of a parameter's value: what servers of every age take. The whole run is stored as run.json besides."""
PARAMS_PER_CALL = 100
MAX_CHILDREN = 50_000
"""What a server tells of in one answer."""
FALLBACK = "tracking.jsonl"
WEIGHTS = "weights"
"""A version's tag: the SHA-256 of its weights."""
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # As it comes, MLflow retries for minutes, and training would stand still for as long.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


class Tracker:
    """One MLflow run, as a context manager.

    A tracking store that cannot be reached is an error at the start. One that goes away later is not: training goes on,
    with one warning, and what would have been tracked is written to `tracking.jsonl` in the output folder from then on.
    An exception that leaves the `with` block marks the run FAILED.

    MLflow's telemetry is off and its retries are short unless the environment says otherwise (see `_ENVIRONMENT`).
    """

    def __init__(
        self,
        output_dir: Path,
        uri: str | None = None,
        *,
        experiment: str = "tdtrain",
        run_name: str | None = None,
        resume: bool = False,
    ) -> None:
        """Args:
        output_dir: a local folder; the default store is `mlflow.db` in it, artifacts in `mlartifacts` beside it.
        uri: an MLflow server (`http://host:5000`) or database (`sqlite:///...`) instead.
        resume: go on with the run that was opened last for this folder, where the store still has it.
        """
        self._output_dir = output_dir.absolute()
        self._own_store = uri is None
        self.uri = uri or f"sqlite:///{self._output_dir / 'mlflow.db'}"
        self._experiment, self._run_name = experiment, run_name
        self._client: MlflowClient | None = None
        self._opened = self._output_dir / "mlflow_run.json"
        self._resume = resume
        self.resumed = False
        self.run_id = ""

    def __enter__(self) -> Tracker:
        """Opens the run. Raises ValueError where the store cannot be reached."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self._output_dir.mkdir(parents=True, exist_ok=True)
        try:
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.run_id = self._run_before(client)
            self.resumed = bool(self.run_id)
            if not self.resumed:
                self.run_id = client.create_run(self._experiment_id(client), run_name=self._run_name).info.run_id
        except Exception as error:  # every store has its own exceptions; all of them mean the same here
            raise ValueError(
                f"tracking_uri={self.uri} cannot be used: {_first_line(error)}; start that server or correct the "
                "address, or leave tracking_uri out to track into the output folder"
            ) from error
        self._client = client
        self._opened.write_text(json.dumps({"uri": self.uri, "run_id": self.run_id}), encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        self._send("status", status, lambda client: client.set_terminated(self.run_id, status))

    def log_run(self, run: Mapping[str, JsonValue]) -> None:
        """The run's config: nested keys as `a.b.c` parameters (values cut to 500 characters), and whole as run.json."""
        from mlflow.entities import Param

        flat = flatten(run)
        params = [Param(_key(name), value) for name, value in flat.items()]

        def send(client: MlflowClient) -> None:
            if not self.resumed:  # parameters cannot be changed, and are the same
                for start in range(0, len(params), PARAMS_PER_CALL):
                    client.log_batch(self.run_id, params=params[start : start + PARAMS_PER_CALL])

        self._send("run", dict(run), send)
        self._send(
            "run.json", "see run", lambda client: client.log_dict(self.run_id, dict(run), "run.json"), apart=True
        )

    def log_metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Figures at a step. None means not measured and is left out."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        measured = {name: value for name, value in metrics.items() if value is not None}
        sent = [Metric(_key(name), float(value), now_ms, step) for name, value in measured.items()]
        self._send("metrics", {"step": step, **measured}, lambda client: client.log_batch(self.run_id, metrics=sent))

    def log_artifact(self, path: Path) -> None:
        """A file, or a folder with all that is in it. Raises ValueError where it does not exist."""
        _check_there(path)

        def send(client: MlflowClient) -> None:
            if path.is_dir():
                client.log_artifacts(self.run_id, str(path), path.name)
            else:
                client.log_artifact(self.run_id, str(path))

        self._send("artifact", str(path), send, apart=True)

    def register_model(self, folder: Path, name: str) -> None:
        """Stores a model folder with the run and makes it the next version of the registered model `name`, unless one
        of its versions has the same weights: then this is a job that was given again."""
        _check_there(folder)
        weights = digest(folder)

        def send(client: MlflowClient) -> None:
            from mlflow.exceptions import MlflowException

            versions = client.search_model_versions(f"name='{name}'")
            if any(version.tags.get(WEIGHTS) == weights for version in versions):
                return
            place = f"model-{weights[:8]}"  # another version's stays as it is
            client.log_artifacts(self.run_id, str(folder), place)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{client.get_run(self.run_id).info.artifact_uri}/{place}"
            client.create_model_version(name, source, self.run_id, tags={WEIGHTS: weights})

        self._send("register_model", {"folder": str(folder), "name": name}, send, apart=True)

    def children(self) -> Children:
        """Runs below this one, such as the trials of a search."""
        return Children(self)

    def _run_before(self, client: MlflowClient) -> str:
        """The id of the run that was opened last for this folder in this store; empty where there is none to resume."""
        from mlflow.exceptions import MlflowException

        opened = json.loads(self._opened.read_text()) if self._resume and self._opened.exists() else {}
        if opened.get("uri") != self.uri:
            return ""
        try:
            client.update_run(opened["run_id"], status="RUNNING")
        except MlflowException:  # deleted since
            return ""
        return opened["run_id"]

    def _experiment_id(self, client: MlflowClient) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            return found.experiment_id
        place = (self._output_dir / "mlartifacts").as_uri() if self._own_store else None
        return client.create_experiment(self._experiment, artifact_location=place)

    def _send(self, what: str, content: JsonValue, send: Callable[[MlflowClient], object], apart: bool = False) -> None:
        """Has MLflow told, or the fallback from then on. `apart`: of files, whose store may fail by itself."""
        if self._client is not None:
            try:
                send(self._client)
                return
            except Exception as error:  # whatever it is, it is no reason to lose a training run
                goes_on = f"{what} is noted" if apart else "tracking goes on"
                self._client = self._client if apart else None
                warnings.warn(
                    f"MLflow at {self.uri} failed ({_first_line(error)}); {goes_on} in {self._output_dir / FALLBACK}",
                    RuntimeWarning,
                    stacklevel=3,
                )
        with (self._output_dir / FALLBACK).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time_s": time.time(), "run_id": self.run_id, what: content}) + "\n")


class Children:
    """Runs below another, each by a name of its own. Whoever goes on with a search goes on with its trials' runs."""

    def __init__(self, parent: Tracker) -> None:
        self._parent = parent
        self._ids: dict[str, str] = {}

        def find(client: MlflowClient) -> None:
            experiment = client.get_run(parent.run_id).info.experiment_id
            ours = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
            for run in client.search_runs([experiment], ours, max_results=MAX_CHILDREN):
                if run.data.params:
                    self._ids[run.info.run_name] = run.info.run_id
                else:  # of a driver that fell before it could tell the values; it is opened anew
                    client.delete_run(run.info.run_id)

        if parent.resumed:
            parent._send("children", "asked for", find)

    def begin(self, name: str, values: Mapping[str, JsonValue]) -> None:
        """Opens the run, where it is not open yet."""
        from mlflow.entities import Param

        def send(client: MlflowClient) -> None:
            if name in self._ids:
                client.update_run(self._ids[name], status="RUNNING")
                return
            tags = {"mlflow.parentRunId": self._parent.run_id}
            experiment = client.get_run(self._parent.run_id).info.experiment_id
            self._ids[name] = client.create_run(experiment, run_name=name, tags=tags).info.run_id
            client.log_batch(self._ids[name], params=[Param(_key(key), told) for key, told in flatten(values).items()])

        self._parent._send("child", {"name": name, "values": dict(values)}, send)

    def forget(self, name: str) -> None:
        """Deletes the run, where there is one; MLflow keeps deleted runs until its garbage is collected."""
        if name in self._ids:
            self._parent._send("child_deleted", {"name": name}, lambda client: client.delete_run(self._ids.pop(name)))

    def report(self, name: str, figures: Mapping[str, object], step: int) -> None:
        """Figures at a step; what is no finite number is left out."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        known = {
            key: float(value)
            for key, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        sent = [Metric(_key(key), value, now_ms, step) for key, value in known.items()]
        self._parent._send(
            "child_metrics", {"name": name, "step": step, **known},
            lambda client: client.log_batch(self._ids[name], metrics=sent),
        )  # fmt: skip

    def end(self, name: str, failed: bool) -> None:
        """Closes the run."""
        status = "FAILED" if failed else "FINISHED"
        self._parent._send(
            "child_status", {"name": name, "status": status},
            lambda client: client.set_terminated(self._ids[name], status),
        )  # fmt: skip


def flatten(run: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Nested mappings -> `a.b` keys with values as text of at most 500 characters; lists as JSON."""
    flat: dict[str, str] = {}
    for name, value in run.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix + name] = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return flat


def _key(name: str) -> str:
    """A name that MLflow takes: letters, digits, `_-./ `, at most 250 characters."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:250]


def _check_there(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path} cannot be tracked: there is no such file or folder; write it first")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
