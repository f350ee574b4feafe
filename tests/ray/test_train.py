"""Training under Ray Train equals training in this process; ZeRO and the number of workers change nothing.

One local cluster serves the whole module: starting worker processes is what costs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import ray
from ray.util import placement_group, placement_group_table, remove_placement_group

from tdtrain.compute import Compute
from tdtrain.data import pack
from tdtrain.data.ingest import dataset, dealt
from tdtrain.data.storage import open_folder
from tdtrain.models.students import build_student
from tdtrain.options import Lora, Optimisation
from tdtrain.ray_start import check_room, connect, wherever
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.train import board, loop
from tdtrain.train.board import Start
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.on_ray import SNAPSHOT, new_board
from tdtrain.train.probe import versions
from tdtrain.train.runs import TrainRun
from tdtrain.train.whole import damage, names, step_of
from tests.buckets import local_bucket
from tests.corpora import packed_lines
from tests.models_small import small_trocr_folder, timetable_texts

pytestmark = pytest.mark.ray
TOLERANCE = 2e-3
"""Relative, a step: sums in another order. ZeRO's bf16 is off (fp32)."""


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    with local_bucket() as uri:
        connect(num_cpus=6)  # whose workers find the bucket as this process does
        yield uri


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_lines(tmp_path_factory.mktemp("corpus"), annotated=60, num=96)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    build_student("mobile-pretrained", "".join(sorted(set("".join(timetable_texts(96))))), 0, root / "ppocr")
    return {"ppocr": str(root / "ppocr"), "trocr": str(small_trocr_folder(root / "trocr", ctc=True))}


def run_of(corpus: str, model: str, storage: Path, num_workers: int, **changes: object) -> TrainRun:
    sharding = {key: changes.pop(key) for key in ("zero_stage", "shard_teacher", "offload") if key in changes}
    optimisation = {
        "epochs": changes.pop("epochs", 2.0),
        "batch_size": 16,
        "learning_rate": 1e-4,
        "evaluations": 2,
        "precision": "fp32",
    }
    return TrainRun(
        name="student",
        model=model,
        lines=corpus,
        storage=str(storage),
        compute=Compute(num_workers=num_workers, cpus_per_worker=1, **sharding),
        optimisation=Optimisation(**optimisation),
        **changes,
    )


def curve(run: TrainRun, output: Path) -> list[tuple[float, float]]:
    records: list[loop.Record] = []
    fit(run, output, lambda name, record, total: records.append(record))
    return [(record.loss, record.grad_norm) for record in records]


@dataclass(frozen=True)
class Here:
    """What training in this process gave, which Ray, ZeRO and the number of workers must not change."""

    curve: list[tuple[float, float]]
    weights: bytes


@pytest.fixture(scope="module")
def here(corpus: str, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Here]:
    """By family."""
    done = {}
    for family, model in models.items():
        root = tmp_path_factory.mktemp(family)
        told = curve(run_of(corpus, model, root, 0), root / "out")
        done[family] = Here(told, (root / "out" / "model.safetensors").read_bytes())
    return done


def close(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    assert len(a) == len(b) > 0
    for (loss_a, norm_a), (loss_b, norm_b) in zip(a, b, strict=True):
        assert loss_a == pytest.approx(loss_b, rel=TOLERANCE)
        assert norm_a == pytest.approx(norm_b, rel=10 * TOLERANCE)


@pytest.mark.parametrize("family", ["ppocr", "trocr"])
def test_one_ray_worker_equals_this_process_bit_by_bit(
    family: str, here: dict[str, Here], corpus: str, models: dict[str, str], tmp_path: Path
) -> None:
    run, output = run_of(corpus, models[family], tmp_path, 1), tmp_path / "out"
    assert curve(run, output) == here[family].curve
    assert (output / "model.safetensors").read_bytes() == here[family].weights
    if family == "ppocr":  # stopped between the last checkpoint and the model: nothing is left to learn
        shutil.rmtree(output)
        assert curve(run, output) == []
        assert (output / "model.safetensors").read_bytes() == here[family].weights


@pytest.mark.parametrize("family", ["ppocr", "trocr"])
def test_two_workers_equal_one(
    family: str, here: dict[str, Here], corpus: str, models: dict[str, str], tmp_path: Path
) -> None:
    """The matrix {PP-OCR, TrOCR} x {in process, Ray}: both train alike."""
    close(curve(run_of(corpus, models[family], tmp_path, 2), tmp_path / "out"), here[family].curve)


@pytest.mark.parametrize(
    ("family", "doomed"), [("ppocr", ("RayTrainWorker", "TrainController")), ("trocr", ("RayTrainWorker",))]
)
def test_what_is_killed_changes_no_bit(
    family: str, doomed: tuple[str, ...], corpus: str, models: dict[str, str], bucket: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of TrOCR the checkpoints lie in a bucket. The driver hears of a step before the last checkpoint is made."""
    monkeypatch.setattr(board, "POLL_S", 0.05)
    model, epochs = models[family], {"ppocr": 10.0, "trocr": 30.0}[family]
    there = curve(run_of(corpus, model, tmp_path / "there", 2, epochs=epochs), tmp_path / "there" / "out")
    killed: list[int] = []
    steps: list[int] = []

    def kill(name: str, record: loop.Record, total: int) -> None:
        steps.append(record.step)
        resumed = sum(later <= before for before, later in pairwise(steps))
        if len(killed) == resumed < len(doomed) and record.step > total // 2:  # after the first of two checkpoints
            killed.extend(kill_one(doomed[resumed]))

    storage = {"ppocr": str(tmp_path / "killed"), "trocr": f"{bucket}/runs"}[family]
    run = run_of(corpus, model, tmp_path, 2, epochs=epochs).model_copy(update={"storage": storage})
    fit(run, tmp_path / "killed" / "out", kill)
    assert len(killed) == len(doomed) and len(steps) > len(there) and steps[-1] == len(there)
    record = open_folder(f"{storage}/student")
    assert len(names(record)) >= 2 and not any(damage(record.within(name)) for name in names(record))
    assert not [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    first, second = (tmp_path / name / "out" / "model.safetensors" for name in ("there", "killed"))
    assert first.read_bytes() == second.read_bytes()


def kill_one(actor: str) -> list[int]:
    """SIGKILL to one process of that actor below this one; its id once it is gone, where there is one."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if actor in " ".join(child.cmdline()):
                child.kill()
                child.wait()
                return [child.pid]
    return []


def test_all_workers_go_on_from_the_newest_whole_checkpoint(
    here: dict[str, Here], corpus: str, models: dict[str, str], tmp_path: Path
) -> None:
    """The newest lacks a byte of one worker's part, Ray Train's own record of it is cut, and the model is not there."""
    run, output = run_of(corpus, models["trocr"], tmp_path, 2, zero_stage=2), tmp_path / "out"
    there, record = curve(run, output), open_folder(tmp_path / "student")
    close(there, here["trocr"].curve)
    weights = (output / "model.safetensors").read_bytes()
    before, newest = names(record)
    part = next((tmp_path / "student" / newest).rglob("*pp_rank_1_*optim_states.pt"))
    part.write_bytes(part.read_bytes()[:-1])
    (tmp_path / "student" / SNAPSHOT).write_text("{")
    shutil.rmtree(output)
    with pytest.warns(UserWarning) as warned:
        assert curve(run, output) == there[step_of(before) :]
    said = [str(warning.message) for warning in warned]
    assert any(f"{newest} is passed over: {part.relative_to(tmp_path / 'student' / newest)} has" in one for one in said)
    assert any(f"{SNAPSHOT} was not written to its end" in one for one in said)
    assert (output / "model.safetensors").read_bytes() == weights
    assert [damage(record.within(name)) is None for name in names(record)] == [True, False, True]


def test_elastic_workers_get_their_data_where_they_hold_all_cpus(corpus: str, models: dict[str, str]) -> None:
    job = plan_job(run_of(corpus, models["ppocr"], Path("unused"), 2))
    held = placement_group([{"CPU": 1}] * 6)
    ray.get(held.ready())
    try:
        (rows,) = dataset(job.plan, job.recipe, 0, 4, at_once=2).streaming_split(1)
        steps = dealt((row["batches"] for row in rows.iter_rows()), job.recipe.parts, 0, 1)
        seen = [int(batch["step"]) for batch in steps]
        (nothing,) = dataset(job.plan, job.recipe, job.total_steps, job.total_steps, at_once=2).streaming_split(1)
        assert list(nothing.iter_rows()) == []
    finally:
        remove_placement_group(held)
    assert seen == [step for step in range(4) for _ in range(job.recipe.parts)]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"num_workers": 9}, "num_workers=9 with cpus_per_worker=1, and the cluster has 6 CPUs"),
        ({"num_workers": 9, "min_workers": 7}, "min_workers=7 with cpus_per_worker=1"),
        ({"gpus_per_worker": 1.0}, "num_workers=1 with gpus_per_worker=1, and the cluster has 0 GPUs"),
        ({"num_workers": 2, "placement": "STRICT_SPREAD"}, "STRICT_SPREAD with num_workers=2, and 1 nodes"),
    ],
)
def test_workers_that_could_never_start_are_refused(asked: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_room(Compute(**asked).on(0, None))
    check_room(Compute(num_workers=6).on(0, None))


def test_what_needs_memory_runs_on_a_node_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def process() -> int:
        return os.getpid()

    connect()
    assert wherever(process, memory=1e12) == os.getpid()  # of a single machine
    (node,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [node, node | {"Resources": {"memory": 1.0}}])
    assert wherever(process, memory=1e12) != os.getpid()


def test_the_board_comes_back_where_its_process_is_killed() -> None:
    board = new_board()
    ray.get(board.say.remote("before"))
    assert kill_one("ray::Board")
    ray.get(board.begin.remote(Start(None, "again")))
    assert ray.get(board.start.remote()) == Start(None, "again")
    assert ray.get(board.take.remote()) == ([], [])
    ray.kill(board)


def test_what_a_restart_would_not_mend_ends_the_run_in_words(
    corpus: str, models: dict[str, str], tmp_path: Path
) -> None:
    run = run_of(corpus, models["trocr"], tmp_path, 2, teacher=models["ppocr"], alpha=0.5)
    with pytest.raises(ValueError, match="their distributions have nothing in common"):
        fit(run, tmp_path / "out", lambda name, record, total: None)


def test_a_node_that_came_later_with_other_versions_ends_the_run_in_words(
    corpus: str, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tdtrain.train.on_ray.versions", lambda: versions() | {"peft": "0.0.1"})
    with pytest.raises(ValueError, match=r"^node [0-9.]+ has peft .*, not 0.0.1; install what the driver has"):
        fit(run_of(corpus, models["trocr"], tmp_path, 1), tmp_path / "out", lambda name, record, total: None)


@pytest.mark.parametrize(
    ("stage", "num_workers", "offload"),
    [(1, 2, False), (2, 1, True), (3, 2, True)],
)
def test_zero_stages_give_the_same_curve(  # of two workers of stages 2 and 3: above, below
    stage: int,
    num_workers: int,
    offload: bool,
    corpus: str,
    models: dict[str, str],
    here: dict[str, Here],
    tmp_path: Path,
) -> None:
    zero = run_of(corpus, models["trocr"], tmp_path, num_workers, zero_stage=stage, offload=offload)
    close(curve(zero, tmp_path / "out"), here["trocr"].curve)


def test_zero_3_gathers_a_head_that_is_not_the_embedding(corpus: str, tmp_path: Path) -> None:
    """The loss reads the head's weight itself; an untied one belongs to no module that ran. Workers drop out
    differently, so nothing is dropped."""
    model = str(small_trocr_folder(tmp_path / "small", "small", dropout=0.0))
    plain = curve(run_of(corpus, model, tmp_path / "plain", 0), tmp_path / "plain" / "out")
    zero = curve(run_of(corpus, model, tmp_path / "zero", 2, zero_stage=3), tmp_path / "zero" / "out")
    close(zero, plain)


def test_a_teacher_spread_over_workers_teaches_the_same(corpus: str, models: dict[str, str], tmp_path: Path) -> None:
    """ZeRO-3 inference of the live teacher, under a plain student and under one that ZeRO-3 shards as well."""
    teacher = str(small_trocr_folder(tmp_path / "teacher", "large"))
    curves = []
    for name, num_workers, stage, shard in (("here", 0, 0, False), ("plain", 2, 0, True), ("both", 2, 3, True)):
        run = run_of(
            corpus, models["trocr"], tmp_path / name, num_workers, zero_stage=stage, teacher=teacher, alpha=0.5
        )
        run = run.model_copy(update={"compute": run.compute.model_copy(update={"shard_teacher": shard})})
        curves.append(curve(run, tmp_path / name / "out"))
    close(curves[1], curves[0])
    close(curves[2], curves[0])


def test_labels_by_ray_equal_labels_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one of those who label there is killed."""
    monkeypatch.setattr(pack, "PAGES_PER_SHARD", {"lines": 24})
    corpus = packed_lines(tmp_path, num=160)
    jobs = [plan_labels("ppocrv6-tiny", corpus, str(tmp_path / name)) for name in ("here", "there")]
    killed: list[int] = []
    label(jobs[0], 0, lambda done, total: None)
    label(jobs[1], 2, lambda done, total: killed.extend([] if killed else kill_one("MapWorker(Map(Labeller))")))
    assert killed
    first, second = (Path(job.folder) for job in jobs)
    assert jobs[0].fingerprint == jobs[1].fingerprint
    names_of = [sorted(file.name for file in folder.glob("*.parquet")) for folder in (first, second)]
    assert len(names_of[0]) > 1 and names_of[0] == names_of[1]
    for file in sorted(first.glob("*.parquet")):
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_adapters_under_zero_3_equal_those_in_this_process(corpus: str, tmp_path: Path) -> None:
    """The frozen base is sharded as well; checkpoints hold adapters alone, and resume."""
    model = str(small_trocr_folder(tmp_path / "base", "small", dropout=0.0))
    lora = Lora(rank=4, target_modules=("all",), lora_plus_ratio=4)
    plain = run_of(corpus, model, tmp_path / "plain", 0, lora=lora)
    zero = run_of(corpus, model, tmp_path / "zero", 2, zero_stage=3, lora=lora)
    close(curve(zero, tmp_path / "zero" / "out"), curve(plain, tmp_path / "plain" / "out"))
    assert (tmp_path / "zero" / "out" / "adapter_model.safetensors").exists()
    parts = list((tmp_path / "zero").rglob("*model_states.pt"))
    assert parts and max(part.stat().st_size for part in parts) < 200_000
