"""Whether readers have room, against machines of all sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tdtrain.compute import Compute
from tdtrain.models.load import load_reader
from tdtrain.train import reader_fits
from tdtrain.train.fits import GIB, Room
from tdtrain.train.reader_fits import check_reader_fits, judge, weights_of
from tests.models_small import small_trocr_folder

LARGE, SMALL = 558_000_000, 62_000_000
"""TrOCR-large and -small."""


def check(room: Room, own: int = LARGE, theirs: int = 0, adapters: bool = False, **options: Any) -> None:
    compute = Compute(**({"num_workers": 2, "gpus_per_worker": float(room.on_gpu)} | options))
    judge("student_model=x", compute, "bf16", own, theirs, adapters, room)


@pytest.mark.parametrize(
    ("needed", "own", "theirs", "options"),
    [
        (8.31, LARGE, 0, {}),  # weights, gradients and two moments in fp32
        (2.08, LARGE, 0, {"adapters": True}),
        (0.92 + 1.04, SMALL, LARGE, {}),  # the teacher in bf16
        (0.92 + 0.52, SMALL, LARGE, {"shard_teacher": True}),
        (4.16, LARGE, 0, {"zero_stage": 3}),  # in halves, and three times in fp32, over two workers
        (4.16, LARGE, 0, {"zero_stage": 3, "num_workers": 8, "min_workers": 2}),
    ],
)
def test_a_reader_has_room_for_what_it_takes_and_not_for_less(
    needed: float, own: int, theirs: int, options: dict[str, Any]
) -> None:
    for room in (Room, lambda has: Room(1e15, has, on_gpu=True)):
        check(room((needed + 0.01) * GIB), own, theirs, **options)
        with pytest.raises(ValueError, match=rf"student_model=x with .* takes {needed:.1f} GiB of each worker's"):
            check(room((needed - 0.01) * GIB), own, theirs, **options)
    check(Room(None), own, theirs, **options)


def test_weights_are_counted_by_the_config_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for like in ("large", "base", "small"):
        folder = small_trocr_folder(tmp_path / like, like)  # type: ignore[arg-type]
        there = sum(weight.numel() for weight in load_reader(str(folder)).module.parameters())
        (folder / "model.safetensors").unlink()
        assert weights_of(str(folder)) == pytest.approx(there, rel=0.1)  # a pooler that nothing uses
    assert weights_of("ppocrv6-small") == 0
    monkeypatch.setattr(reader_fits, "room_of", lambda compute: Room(1e5))
    compute = Compute(num_workers=2, gpus_per_worker=0)
    with pytest.raises(ValueError, match=r"student_model=ppocrv6-tiny with num_workers=2 .*or a stored teacher"):
        check_reader_fits("student_model", "ppocrv6-tiny", compute, "fp32", str(tmp_path / "base"))
    check_reader_fits("student_model", "ppocrv6-tiny", compute, "fp32", "ppocrv6-small")
