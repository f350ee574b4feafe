"""A driver that is killed anywhere leaves something to go on from."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from tdtrain.search.state import (
    Clock,
    drop_unknown,
    ended_in,
    is_whole,
    keep_state,
    mend_state,
    reports_of,
    seconds_of,
    write_report,
)

MOMENTS = itertools.count(10**18, 10**9)
WHOLE = {"experiment_state-1.json": b'{"trial_data": []}', "search_gen_state-1.json": pickle.dumps({"a": [1, 2]})}


def write(folder: Path, files: dict[str, bytes] = WHOLE) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        moment = next(MOMENTS)  # two writes may share a tick of the kernel's clock
        os.utime(folder / name, ns=(moment, moment))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def both(folder: Path) -> tuple[Path, Path]:
    """Where a state is written, and the experiment that it is of."""
    (folder / "trials").mkdir()
    return write(folder / "written"), folder / "trials"


def test_whatever_lies_there_the_last_state_kept_takes_its_place(tmp_path: Path) -> None:
    written, experiment = both(tmp_path)
    keep_state(written, experiment)
    # Of another moment, of a session before, and half written.
    write(experiment, {"experiment_state-1.json": b'{"trial_data": [1]}', "experiment_state-0.json": b"{"})
    assert mend_state(experiment) and contents(experiment) == WHOLE
    write(written, {"experiment_state-1.json": b'{"trial_data": [2]}'})
    keep_state(written, experiment)
    assert mend_state(experiment) and contents(experiment) == contents(written) != WHOLE


def test_a_state_is_kept_once(tmp_path: Path) -> None:
    written, experiment = both(tmp_path)
    keep_state(written, experiment)
    first = (experiment / "kept").stat().st_ino
    keep_state(written, experiment)
    assert (experiment / "kept").stat().st_ino == first


def test_a_kill_while_the_copy_is_made_or_takes_its_place_loses_nothing(tmp_path: Path) -> None:
    written, experiment = both(tmp_path)
    keep_state(written, experiment)
    write(experiment / "kept.partial", {"experiment_state-1.json": b'{"trial_da'})
    assert mend_state(experiment) and contents(experiment) == WHOLE
    shutil.rmtree(experiment / "kept.partial")
    (experiment / "kept").rename(experiment / "kept.partial")
    assert mend_state(experiment) and contents(experiment) == WHOLE


@pytest.mark.parametrize("name", list(WHOLE))
def test_half_a_file_is_told_from_a_whole_one(name: str, tmp_path: Path) -> None:
    written = write(tmp_path / "written")
    assert is_whole(written)
    for size in range(len(WHOLE[name])):
        (written / name).write_bytes(WHOLE[name][:size])
        assert not is_whole(written)


def test_a_search_that_fell_before_its_first_report_begins_anew(tmp_path: Path) -> None:
    experiment = write(tmp_path / "trials", {"experiment_state-1.json": b""})
    assert not mend_state(experiment) and not contents(experiment)
    assert not mend_state(tmp_path / "nothing")


def test_what_began_just_before_a_kill_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    names = ["173455ef", "0a1b2_00003", "bd6b9773", "0a1b2_00004", "kept", "mine", "bd6b9773.old"]
    state = {"trial_data": [[json.dumps({"trial_id": name, "x": 1}), "{}"] for name in names[:2]]}
    experiment = write(tmp_path / "trials", {"experiment_state-1.json": json.dumps(state).encode()})
    for name in names:
        write(experiment / name, {"params.json": b"{}"})
    write(experiment, {"deadbeef": b"a file"})
    assert drop_unknown(experiment) == ["0a1b2_00004", "bd6b9773"]
    assert {path.name for path in experiment.glob("*/")} == set(names) - {"0a1b2_00004", "bd6b9773"}
    (experiment / "experiment_state-1.json").unlink()  # a search that fell before its first moment was written
    assert drop_unknown(experiment) == ["0a1b2_00003", "173455ef"]
    assert drop_unknown(tmp_path / "nothing") == []


def test_the_journal_keeps_the_last_word_on_each_evaluation_and_forgives_half_a_line(tmp_path: Path) -> None:
    journal = tmp_path / "trials.jsonl"
    assert reports_of(journal) == {}
    for number, score in ((1, 0.5), (2, 0.25)):
        write_report(journal, {"trial_id": "a", "training_iteration": number, "score": score, "config": {"x": 1}})
    with journal.open("a") as file:
        file.write('{"trial_id": "a", "training_iter')
    write_report(journal, {"trial_id": "a", "training_iteration": 2, "score": 0.2})
    write_report(journal, {"trial_id": "b", "training_iteration": 1, "score": 1.0})
    found = reports_of(journal)
    assert [one["score"] for one in found["a"]] == [0.5, 0.2] and [one["score"] for one in found["b"]] == [1.0]
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    assert all("config" not in line for line in lines) and lines[0]["values"] == {"x": 1}


def test_time_is_that_of_all_drivers_and_what_ended_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 107.5, 500.0, 501.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    assert seconds_of(tmp_path / "trials") == 0.0
    Clock(tmp_path / "trials").write()
    Clock(tmp_path / "trials").write()
    assert seconds_of(tmp_path / "trials") == 8.5
    trials = [
        json.dumps({"trial_id": name, "status": status}) for name, status in (("a", "TERMINATED"), ("b", "ERROR"))
    ]
    state = json.dumps({"trial_data": [[trial, "{}"] for trial in trials]}).encode()
    assert ended_in(write(tmp_path / "trials", {"experiment_state-1.json": state})) == {"a"}
    assert ended_in(tmp_path / "nothing") == set()
