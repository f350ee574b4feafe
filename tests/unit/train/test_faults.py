"""Nothing but time is lost where a checkpoint is damaged or a disk ends: the model has the bits it would have had."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tdtrain.compute import Compute
from tdtrain.data.manifest import load_manifest, read_lines
from tdtrain.data.storage import open_folder
from tdtrain.models.students import build_student
from tdtrain.options import Optimisation
from tdtrain.train.checkpoint import progress
from tdtrain.train.in_process import LocalContext
from tdtrain.train.launch import fit
from tdtrain.train.ledger import amiss
from tdtrain.train.room import NotSaved, check_room
from tdtrain.train.runs import TrainRun
from tdtrain.train.state import Record
from tdtrain.train.whole import damage, name_of, names
from tests.corpora import packed_lines
from tests.disks import fill_up, small_disk, small_files
from tests.models_small import small_trocr_folder, timetable_texts
from tests.unit.train.test_whole import change, cut, empty, remove

WEIGHTS = "model.safetensors"
MB = 1_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def run(root: Path) -> TrainRun:
    """Six steps, a checkpoint after every second."""
    build_student("nano", "".join(sorted(set("".join(timetable_texts(96))))), 0, root / "model")
    return run_of(packed_lines(root / "corpus", annotated=40, num=96), root / "model", root / "whole")


def run_of(corpus: str, model: Path, storage: Path) -> TrainRun:
    return TrainRun(
        name="student",
        model=str(model),
        lines=corpus,
        storage=str(storage),
        max_steps=6,
        compute=Compute(num_workers=0),
        optimisation=Optimisation(batch_size=16, learning_rate=1e-3, evaluations=3, precision="fp32"),
    )


def at(run: TrainRun, storage: Path) -> TrainRun:
    return run.model_copy(update={"storage": str(storage)})


def steps_of(run: TrainRun, output: Path, then: Callable[[int], object] = lambda step: None) -> list[int]:
    """The steps that are taken until the run is done."""
    seen: list[int] = []

    def watch(name: str, record: Record, total: int) -> None:
        seen.append(record.step)
        then(record.step)

    fit(run, output, watch)
    return seen


@pytest.fixture(scope="module")
def whole(root: Path, run: TrainRun) -> bytes:
    """The weights of the run that nothing happened to."""
    assert steps_of(run, root / "whole" / "out") == [1, 2, 3, 4, 5, 6]
    return (root / "whole" / "out" / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def stopped(root: Path, run: TrainRun) -> Path:
    """The storage of the run that was stopped after its fifth step."""

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps_of(at(run, root / "stopped"), root / "stopped" / "out", stop)
    assert names(open_folder(root / "stopped" / "student")) == [name_of(2), name_of(4)]
    return root / "stopped"


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (cut, "engine/torch.pt"),
        (change, "engine/torch.pt"),
        (change, "model/model.safetensors"),
        (remove, "model/config.json"),
        (remove, "files-0-of-1.json"),
        (cut, "progress.json"),
        (empty, ""),
    ],
)
def test_a_damaged_checkpoint_costs_the_steps_after_the_one_before_it(
    spoil: Callable[[Path, str], None], name: str, run: TrainRun, whole: bytes, stopped: Path, tmp_path: Path
) -> None:
    storage = shutil.copytree(stopped, tmp_path / "storage")
    spoil(storage / "student" / name_of(4), name)
    with pytest.warns(UserWarning, match=f"checkpoint {storage}/student/{name_of(4)} is passed over: "):
        assert steps_of(at(run, storage), tmp_path / "out") == [3, 4, 5, 6]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == whole


def test_where_none_is_whole_training_begins_anew(run: TrainRun, whole: bytes, stopped: Path, tmp_path: Path) -> None:
    storage = shutil.copytree(stopped, tmp_path / "storage")
    for step in (2, 4):
        change(storage / "student" / name_of(step), "progress.json")
    with pytest.warns(UserWarning, match=f"no checkpoint in {storage}/student is whole, so training begins anew"):
        assert steps_of(at(run, storage), tmp_path / "out") == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == whole


class Given:
    """Notice after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def due(self) -> bool:
        self._left -= 1
        return self._left == 0

    def given(self) -> bool:
        return True


def test_on_notice_a_step_is_kept_that_would_not_have_been(
    run: TrainRun, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = at(run, tmp_path / "storage")

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalContext, "notice", Given(3))
        steps_of(there, tmp_path / "out", stop)
    assert names(open_folder(tmp_path / "storage" / "student")) == [name_of(2), name_of(3)]
    assert steps_of(there, tmp_path / "out") == [4, 5, 6]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == whole


@pytest.mark.usefixtures("whole")
def test_the_ledger_has_every_line_once_an_epoch_and_tells_what_is_not(root: Path, run: TrainRun) -> None:
    ids = [line.id for line in read_lines(load_manifest(run.lines), "train", images=False) if line.text is not None]
    history = progress(root / "whole" / "out").history
    steps = -(-len(ids) // run.optimisation.batch_size)
    assert len(history) >= 2 * steps and amiss(history, ids, steps) == []
    assert sum(record.rows for record in history[:steps]) == len(ids)
    assert amiss(history, ids[1:], steps)[0].startswith(f"epoch 0 learnt from {len(ids)} rows")
    assert amiss(history, [*ids[1:], ids[1]], steps) and amiss(
        [replace(history[0], rows_crc=1), *history[1:]], ids, steps
    )
    assert amiss(history[1:], ids, steps)[0].startswith("steps are [2, 3")


@pytest.mark.parametrize("file", ["engine/torch.pt", "model/model.safetensors"])
def test_a_full_disk_ends_the_run_in_words_and_it_goes_on_when_there_is_room(
    file: str, run: TrainRun, whole: bytes, stopped: Path, tmp_path: Path
) -> None:
    """The disk ends in the middle of what torch writes, and of what safetensors writes after it."""
    one = stopped / "student" / name_of(4)
    room = (one / file).stat().st_size // 2
    room += 0 if file.startswith("engine") else (one / "engine" / "torch.pt").stat().st_size
    size = sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", 5 * size + MB) as disk:
        there = at(run, disk)
        partial = f"{disk}/student/{name_of(4)}.partial"
        said = rf"the checkpoint {partial} could not be written \(.*No space left.*\): .* MB are free there; make room"
        with pytest.raises(NotSaved, match=said) as ended:
            steps_of(there, tmp_path / "out", lambda step: fill_up(disk, room) if step == 3 else None)
        free = float(str(ended.value).partition("MB, and ")[2].partition(" MB")[0])
        assert free == pytest.approx(room / MB, abs=0.2)  # what had been written of it counts as free again
        assert [path.name for path in (disk / "student").iterdir()] == [name_of(2)]
        assert damage(open_folder(disk / "student" / name_of(2))) is None
        (disk / "filler").unlink()
        assert steps_of(there, tmp_path / "out") == [3, 4, 5, 6]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == whole


@pytest.mark.parametrize("family", ["ctc", "autoregressive"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(family: str, run: TrainRun, tmp_path: Path) -> None:
    model = run.model if family == "ctc" else small_trocr_folder(tmp_path / "trocr")
    there = run_of(run.lines, Path(model), tmp_path / "storage")
    with contextlib.ExitStack() as limits, pytest.raises(NotSaved, match=r"could not be written .* it takes at least"):
        steps_of(there, tmp_path / "out", lambda s: limits.enter_context(small_files(10_000)) if s == 3 else None)
    assert [path.name for path in (tmp_path / "storage" / "student").iterdir()] == [name_of(2)]
    assert steps_of(there, tmp_path / "out") == [3, 4, 5, 6]


def test_a_disk_without_room_is_refused_before_the_first_step(run: TrainRun, stopped: Path, tmp_path: Path) -> None:
    one = stopped / "student" / name_of(4)
    size = sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
    with small_disk(tmp_path / "disk", 2 * size) as disk:
        seen: list[int] = []
        said = rf"storage={disk}/student has .* MB free, but needs .* MB for 3 checkpoints of at least .* MB; make room"
        with pytest.raises(ValueError, match=said) as refused:
            steps_of(at(run, disk), tmp_path / "out", seen.append)
        assert seen == []
    told = float(str(refused.value).partition("at least ")[2].partition(" MB")[0])
    assert 0.8 * size / MB < told < size / MB + 0.1


def test_the_room_that_is_asked_for_is_of_what_will_lie_there_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tdtrain.train.room.free_bytes", lambda place: 25)
    record = open_folder(tmp_path)
    check_room(record, size=10, ahead=2)
    with pytest.raises(ValueError, match="for 3 checkpoints"):
        check_room(record, size=10, ahead=3)
    with pytest.raises(ValueError, match="for 4 checkpoints"):
        check_room(record, size=10, ahead=100)
    for step in (1, 2):
        (tmp_path / name_of(step)).mkdir()
    check_room(record, size=10, ahead=100)  # two are there, of four
    check_room(record, size=30, ahead=0)
