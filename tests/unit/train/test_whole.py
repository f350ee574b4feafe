"""Damage of any kind is found, and what is passed over is said with its reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tdtrain.data.storage import open_folder
from tdtrain.train.whole import damage, name_of, names, seal, step_of, to_resume_from


def checkpoint_of_two(folder: Path) -> Path:
    """A checkpoint of two workers, each of which wrote its part somewhere else."""
    for rank, parts in enumerate((("model/weights", "progress.json", "engine/part_0"), ("engine/part_1",))):
        own = folder.with_name(f"{folder.name}.{rank}")
        for part in parts:
            (own / part).parent.mkdir(parents=True, exist_ok=True)
            (own / part).write_bytes(f"{part} of {folder.name}".encode())
        seal(own, rank, workers=2)
        shutil.copytree(own, folder, dirs_exist_ok=True)
        shutil.rmtree(own)
    return folder


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])


def change(folder: Path, name: str) -> None:
    flip(folder / name, 3)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def empty(folder: Path, name: str) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (cut, "engine/part_1", "engine/part_1 has 35 bytes, not 36"),
        (change, "model/weights", "model/weights is not as it was written"),
        (remove, "engine/part_0", "engine/part_0 is missing"),
        (remove, "files-0-of-2.json", "files-0-of-2.json is missing, so worker 0 did not write its part to its end"),
        (remove, "files-1-of-2.json", "files-1-of-2.json is missing, so worker 1 did not write its part to its end"),
        (cut, "files-1-of-2.json", "files-1-of-2.json is damaged"),
        (empty, "", "it has no list of its files, so it was not written to its end"),
    ],
)
def test_what_is_damaged_is_passed_over_in_words(
    spoil: Callable[[Path, str], None], name: str, reason: str, tmp_path: Path
) -> None:
    record, said = open_folder(tmp_path), []
    for step in (3, 6):
        checkpoint_of_two(tmp_path / name_of(step))
    assert to_resume_from(record, said.append) == "checkpoint_00000006" and said == []
    spoil(tmp_path / "checkpoint_00000006", name)
    assert to_resume_from(record, said.append) == "checkpoint_00000003"
    assert said == [f"checkpoint {tmp_path}/checkpoint_00000006 is passed over: {reason}"]
    spoil(tmp_path / "checkpoint_00000003", name)
    assert to_resume_from(record, said.append) is None
    assert len(said) == 4 and said[-1] == f"no checkpoint in {tmp_path} is whole, so training begins anew"


def test_a_flipped_bit_is_found_in_any_byte(tmp_path: Path) -> None:
    """In files, and in the lists themselves."""
    whole = checkpoint_of_two(tmp_path / "whole")
    for path in [path for path in whole.rglob("*") if path.is_file()]:
        kept = path.read_bytes()
        for place in range(len(kept)):
            flip(path, place)
            assert damage(open_folder(whole)) is not None, (path, place)
        path.write_bytes(kept)
    assert damage(open_folder(whole)) is None


def test_names_are_in_the_order_of_steps_and_what_is_no_checkpoint_has_none(tmp_path: Path) -> None:
    ordered = [name_of(90), name_of(90, "20260101T000000"), name_of(90, "20260101T000100"), name_of(1000, "x")]
    for name in (*reversed(ordered), "checkpoint_00000100.partial", "other"):
        (tmp_path / name).mkdir()
    assert names(open_folder(tmp_path)) == ordered
    assert [step_of(name) for name in ordered] == [90, 90, 90, 1000]
    assert names(open_folder(tmp_path / "nothing")) == [] and to_resume_from(open_folder(tmp_path / "nothing")) is None
