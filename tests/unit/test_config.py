"""A run that cannot work is refused with the field, the values, the rule and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tdtrain.config import Compute, DistillRun, Optimisation, check_batch, micro_batches
from tdtrain.pipeline import claim


def test_a_run_survives_json() -> None:
    run = DistillRun(teacher_model="x", optimisation=Optimisation(batch_size=64, micro_batch_size=8))
    assert DistillRun.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teaching": {"alpha": -0.1}}, "alpha"),
        ({"teaching": {"alpha": 1.01}}, "alpha"),
        ({"teaching": {"temperature": 0}}, "temperature"),
        ({"teaching": {"temperature": float("nan")}}, "temperature"),
        ({"optimisation": {"learning_rate": float("inf")}}, "learning_rate"),
        ({"optimisation": {"batch_size": 0}}, "batch_size"),
        ({"compute": {"zero_stage": 4}}, "zero_stage"),
        ({"corpus": {"annotated_pages": 0}}, "control=True needs annotated pages"),
        ({"optimisation": {"batch_size": 8}, "compute": {"num_workers": 16}}, "not divisible"),
        ({"alhpa": 0.5}, "Extra inputs"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DistillRun.model_validate(changes)


@pytest.mark.parametrize(
    ("batch", "micro", "workers", "expected"),
    [(32, None, 1, 1), (32, 8, 1, 4), (32, 8, 2, 2), (32, 64, 2, 1), (32, 16, 0, 2)],
)
def test_accumulation_follows_from_the_global_batch(batch: int, micro: int | None, workers: int, expected: int) -> None:
    optimisation = Optimisation(batch_size=batch, micro_batch_size=micro)
    compute = Compute(num_workers=workers)
    check_batch(optimisation, compute)
    assert micro_batches(optimisation, compute) == expected


def test_an_output_folder_belongs_to_one_run(tmp_path: Path) -> None:
    run = DistillRun(output_dir=tmp_path / "out")
    claim(run)
    claim(run)
    with pytest.raises(ValueError, match=r"holds another run, with seed=0|optimisation\.seed=0"):
        claim(run.model_copy(update={"optimisation": Optimisation(seed=1)}))
