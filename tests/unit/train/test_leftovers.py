"""What falls with workers is tidied up, what is of value stays, and what a second attempt mends is no reason to end."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import ray
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _TrainingResultState
from safetensors import SafetensorError

from tdtrain.compute import Compute
from tdtrain.data.storage import Folder, open_folder
from tdtrain.ray_start import check_elastic
from tdtrain.train import on_ray
from tdtrain.train.checkpoint import LocalStore
from tdtrain.train.on_ray import SNAPSHOT, _publish, drop_broken_snapshot, drop_leftovers
from tdtrain.train.ray_worker import UNSCORED
from tdtrain.train.room import NotSaved, scratch, whole_or_gone
from tdtrain.train.state import Record, State
from tdtrain.train.whole import name_of, names, to_resume_from
from tests.unit.train.test_checkpoint import filling


def record_of(root: Path, scores: dict[int, float | None]) -> Folder:
    """A run with checkpoints of these steps."""
    for step, score in scores.items():
        (root / name_of(step)).mkdir()
        last = Record(step, 1.0, 0.1, 0.1, 0.1, 1e-3, 1.0, 1.0, validation_cer=score)
        (root / name_of(step) / "progress.json").write_text(json.dumps(State(step, history=[last]).as_dict()))
    return open_folder(root)


def test_what_ray_train_does_not_know_goes_but_for_the_best_and_what_is_gone_on_from(tmp_path: Path) -> None:
    record = record_of(tmp_path, {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.4, 5: None, 6: 0.6, 7: 0.7})
    known = [{"checkpoint_dir_name": name_of(step)} for step in (1, 6)]
    (tmp_path / SNAPSHOT).write_text(json.dumps({"checkpoint_results": known}))
    drop_leftovers(record, name_of(7))
    assert names(record) == [name_of(step) for step in (1, 3, 6, 7)]
    (tmp_path / SNAPSHOT).unlink()
    drop_leftovers(record, name_of(7))
    assert names(record) == [name_of(step) for step in (1, 3, 7)]
    (tmp_path / SNAPSHOT).write_text("{")
    drop_leftovers(record, name_of(3))
    assert names(record) == [name_of(step) for step in (1, 3, 7)]  # who knows what it says


def test_a_storage_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(on_ray, "PAUSES_S", (0, 0))
    answers: list[Any] = [OSError("curlCode 7"), OSError(errno.ESTALE, "stale"), None]

    def read() -> str | None:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return to_resume_from(open_folder(tmp_path))

    assert on_ray._patiently(read) is None and not answers
    answers[:] = [OSError("gone")] * 3
    with pytest.raises(OSError, match="gone"):
        on_ray._patiently(read)


class Away(Folder):
    """It does not answer when it is first asked for something."""

    asked: ClassVar[set[tuple[str, ...]]] = set()

    def _answers(self, *what: str) -> None:
        if what not in self.asked:
            self.asked.add(what)
            raise OSError("AWS Error NETWORK_CONNECTION")

    def read(self, name: str) -> bytes:
        self._answers("read", name)
        return super().read(name)

    def delete(self, name: str) -> None:
        self._answers("delete", name)
        super().delete(name)


def test_storage_is_waited_for_where_a_controller_was_killed_and_where_a_model_is_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(on_ray, "PAUSES_S", (0, 0))
    store = LocalStore(tmp_path / "run")
    store.commit(1, filling(1, 0.2))
    record = Away(store.folder.filesystem, store.folder.root)
    (tmp_path / "run" / SNAPSHOT).write_text("{")
    with pytest.warns(UserWarning, match="was not written to its end; training does without it"):
        drop_broken_snapshot(record)
    assert not record.exists(SNAPSHOT)
    _publish(record, {name_of(1)}, tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "1"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError("AWS Error NETWORK_CONNECTION"),
        SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
    ],
)
def test_a_storage_that_does_not_answer_is_no_full_disk(error: Exception, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(type(error)) as raised, whole_or_gone(open_folder(tmp_path / "checkpoint"), 1):
        raise error
    assert raised.value is error and not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_what_another_attempt_would_meet_as_well_ends_the_run(error: Exception, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(NotSaved, match="could not be written"), whole_or_gone(open_folder(tmp_path / "checkpoint"), 1):
        raise error
    assert not (tmp_path / "checkpoint").exists()


def test_a_scratch_folder_takes_the_place_of_what_a_killed_process_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, other = scratch("run 0"), scratch("run 1")
    (left.__enter__() / "part").touch()
    with other, scratch("run 0") as folder:
        assert list(folder.iterdir()) == [] and len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_ray_train_reads_what_it_wrote_of_a_checkpoint_without_a_score() -> None:
    kept = _TrainingResultState(checkpoint_dir_name="one", metrics={"score": UNSCORED})
    score = json.loads(kept.json())["metrics"]["score"]
    assert score == UNSCORED and score > 1e300


def test_elastic_workers_with_a_label_are_refused_where_others_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(cpus: float, gpus: float, **labels: str) -> dict[str, Any]:
        own = {"Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels, "NodeManagerAddress": "10.0.0.1"}
        return {"Alive": True, **own}

    spot = {"num_workers": 3, "min_workers": 1, "worker_label": "pool=spot"}
    monkeypatch.setattr(ray, "nodes", lambda: [node(8, 1, pool="spot"), node(8, 0)])
    check_elastic(Compute(**spot).on(3, None))
    check_elastic(Compute(num_workers=3, min_workers=1).on(0, None))
    check_elastic(Compute(num_workers=3, worker_label="pool=spot").on(0, None))
    check_elastic(Compute(**spot, gpus_per_worker=1).on(1, None))
    with pytest.raises(ValueError, match=r"min_workers=1 with worker_label=pool=spot: .* node 10\.0\.0\.1"):
        check_elastic(Compute(**spot).on(1, None))
