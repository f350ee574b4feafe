"""Which checkpoints stay, and which one becomes the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tdtrain.train.checkpoint import LocalStore, best, learnt_from, publish
from tdtrain.train.state import Record, State


def filling(step: int, cer: float | None) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        measured = {"loss": 1.0, "loss_soft": 0.0, "loss_hard": 1.0, "grad_norm": 1.0, "images_per_s": 1.0}
        record = Record(step=step, epoch=1.0, learning_rate=0.1, validation_cer=cer, **measured)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(str(step))
        (folder / "model" / "run.json").write_text('{"corpus": "abc"}')
        (folder / "progress.json").write_text(json.dumps(State(step=step, history=[record]).as_dict()))

    return fill


@pytest.mark.parametrize(
    ("cers", "chosen"),
    [
        ((0.3, 0.1, 0.2, 0.15), 2),
        ((0.3, 0.1, 0.1, 0.15), 3),  # of equals the latest
        ((0.3, 0.2, 0.1), 3),
        ((None, None), 2),  # nothing to validate on: the last
    ],
)
def test_best_and_last_stay_and_the_best_is_published(
    cers: tuple[float | None, ...], chosen: int, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    for step, cer in enumerate(cers, 1):
        store.commit(step, filling(step, cer))
    kept = [path.name for path in store.all()]
    assert kept == [f"checkpoint_{step:08d}" for step in sorted({chosen, len(cers)})]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == kept
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("of an earlier run")
    publish(best(store.all()), store.all()[-1], tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == str(chosen)
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["step"] == len(cers)
    assert not (tmp_path / "out" / "old").exists()
    assert learnt_from(str(tmp_path / "out")) == "abc" and learnt_from("ppocrv6-tiny") is None


def test_what_was_never_finished_is_no_checkpoint(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.commit(1, filling(1, 0.5))

    def stopped(folder: Path) -> None:
        filling(2, 0.1)(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.commit(2, stopped)
    assert [path.name for path in LocalStore(tmp_path).all()] == ["checkpoint_00000001"]
    store.commit(2, filling(2, 0.4))
    assert [path.name for path in store.all()] == ["checkpoint_00000002"]
