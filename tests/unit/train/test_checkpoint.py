"""Which checkpoints stay, and which one becomes the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tdtrain.train.checkpoint import LocalStore, learnt_from, publish
from tdtrain.train.state import Record, State
from tdtrain.train.whole import names, seal


def filling(step: int, cer: float | None) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        measured = {"loss": 1.0, "loss_soft": 0.0, "loss_hard": 1.0, "grad_norm": 1.0, "images_per_s": 1.0}
        record = Record(step=step, epoch=1.0, learning_rate=0.1, validation_cer=cer, **measured)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(str(step))
        (folder / "model" / "run.json").write_text('{"corpus": "abc"}')
        (folder / "progress.json").write_text(json.dumps(State(step=step, history=[record]).as_dict()))
        seal(folder, rank=0, workers=1)

    return fill


@pytest.mark.parametrize(
    ("cers", "kept", "chosen"),
    [
        ((0.3, 0.1, 0.2, 0.15), (2, 4), 2),
        ((0.1, 0.2, 0.3, 0.4), (1, 2, 4), 1),
        ((0.3, 0.1, 0.1, 0.15), (2, 3, 4), 3),  # of equals the latest
        ((0.3, 0.2, 0.1), (2, 3), 3),
        ((None, None, None), (2, 3), 3),  # nothing to validate on: the last
    ],
)
def test_the_two_best_and_the_last_stay_and_the_best_is_published(
    cers: tuple[float | None, ...], kept: tuple[int, ...], chosen: int, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    for step, cer in enumerate(cers, 1):
        store.commit(step, filling(step, cer))
    assert names(store.folder) == [f"checkpoint_{step:08d}" for step in kept]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == names(store.folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("of an earlier run")
    publish(store.folder, names(store.folder), tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == str(chosen)
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["step"] == len(cers)
    assert not (tmp_path / "out" / "old").exists()
    assert learnt_from(str(tmp_path / "out")) == "abc" and learnt_from("ppocrv6-tiny") is None


def test_a_damaged_checkpoint_is_not_published(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for step, cer in enumerate((0.3, 0.1, 0.2), 1):
        store.commit(step, filling(step, cer))
    (tmp_path / "store" / "checkpoint_00000002" / "model" / "weights").write_text("?")
    with pytest.warns(UserWarning, match="checkpoint_00000002 is passed over: model/weights is not as it was written"):
        publish(store.folder, names(store.folder), tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "3"
    (tmp_path / "store" / "checkpoint_00000003" / "progress.json").write_text("?")
    with pytest.raises(ValueError, match=r"no checkpoint in .*/store is whole"), pytest.warns(UserWarning):
        publish(store.folder, names(store.folder), tmp_path / "out")


def test_what_was_never_finished_is_no_checkpoint(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.commit(1, filling(1, 0.5))

    def stopped(folder: Path) -> None:
        filling(2, 0.1)(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.commit(2, stopped)
    assert names(store.folder) == ["checkpoint_00000001"]
    assert [path.name for path in tmp_path.iterdir() if path != tmp_path / "checkpoint_00000001"]
    store = LocalStore(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_00000001"]
    store.commit(2, filling(2, 0.4))
    assert names(store.folder) == ["checkpoint_00000001", "checkpoint_00000002"]
