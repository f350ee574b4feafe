"""A stored autoregressive teacher: it says what the live one says, takes its temperature seriously, and survives."""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tdtrain.compute import Compute
from tdtrain.data import batches, pack
from tdtrain.data.augment import augment
from tdtrain.data.batches import VIEW_SEED
from tdtrain.data.manifest import load_manifest, read_lines
from tdtrain.data.spelling import word_error_rate
from tdtrain.data.storage import open_folder
from tdtrain.models.trocr_load import load_trocr
from tdtrain.options import Optimisation
from tdtrain.teachers.cache import MANIFEST, Keep, LabelManifest, differences
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.teachers.positions import _drawn, _kept
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.runs import TrainRun
from tests.corpora import packed_lines
from tests.labelling import one_pass
from tests.models_small import small_trocr_folder

EVERYTHING = 10**6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_lines(tmp_path_factory.mktemp("corpus"), num=96)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("models")
    teacher = small_trocr_folder(root / "teacher", "large", seed=5)
    sharpen(teacher)
    return str(teacher), str(small_trocr_folder(root / "student", "base", dropout=0.0))


def sharpen(folder: Path) -> None:
    """A fresh head is all but uniform, whatever the picture, and nothing could be told by its likeliest tokens."""
    reader = load_trocr(str(folder))
    with torch.no_grad():
        reader.module.head.weight.mul_(20)
        for name, weight in reader.module.named_parameters():
            if "encoder_attn" in name and "weight" in name and "norm" not in name:
                weight.mul_(10)
    reader.save(folder)


def labelled(teacher: str, corpus: str, root: Path, **keep: object) -> str:
    job = plan_labels(teacher, corpus, str(root), "fp32", Keep(**keep))
    label(job, 0, lambda done, total: None)
    return job.folder


def curve(corpus: str, models: tuple[str, str], root: Path, **changes: object) -> list[float]:
    run = TrainRun(
        name="student",
        model=models[1],
        lines=corpus,
        storage=str(root),
        alpha=0.7,
        **{"augment": False, "temperature": 2.0, **changes},
        optimisation=Optimisation(epochs=2, batch_size=16, learning_rate=1e-3, evaluations=1, precision="fp32"),
        compute=Compute(num_workers=0),
    )
    seen: list[float] = []
    fit(run, root / "out", lambda name, record, total: seen.append(record.loss))
    return seen


def test_whole_distributions_and_hidden_states_give_the_live_teacher_s_curve(
    corpus: str, models: tuple[str, str], tmp_path: Path
) -> None:
    live = curve(corpus, models, tmp_path / "live", teacher=models[0])
    for name, keep in {"all": {"k": EVERYTHING}, "hidden": {"k": 1, "kept": "hidden"}}.items():
        labels = labelled(models[0], corpus, tmp_path / name, temperature=3.0, **keep)
        stored = curve(corpus, models, tmp_path / f"run-{name}", labels=labels)
        assert stored == pytest.approx(live, rel=1e-3)  # kept in sixteen bits
    few = labelled(models[0], corpus, tmp_path / "few", k=4, temperature=2.0)
    assert curve(corpus, models, tmp_path / "run-few", labels=few) != pytest.approx(live, rel=1e-3)


def test_a_few_tokens_serve_the_temperature_they_were_kept_at(
    corpus: str, models: tuple[str, str], tmp_path: Path
) -> None:
    labels = labelled(models[0], corpus, tmp_path, k=4, temperature=2.0)
    run = TrainRun(name="student", model=models[1], lines=corpus, labels=labels, storage=str(tmp_path), alpha=0.5)
    with pytest.raises(ValueError, match=r"temperature=5\.0, but the teacher's cache .* at temperature 2\.0"):
        plan_job(run.model_copy(update={"temperature": 5.0}))
    plan_job(run.model_copy(update={"temperature": 2.0}))


def test_the_bytes_are_the_teacher_s_distribution(corpus: str, models: tuple[str, str], tmp_path: Path) -> None:
    folder = labelled(models[0], corpus, tmp_path, k=8)
    manifest = LabelManifest.model_validate_json((Path(folder) / MANIFEST).read_text())
    assert manifest.bytes_per_position == 8 * (2 + 2) + 2 + 4
    teacher = load_trocr(models[0])
    lines = {line.id: line for line in read_lines(load_manifest(corpus), "train")}
    row = pq.read_table(next(Path(folder).glob("*.parquet"))).to_pylist()[0]
    from tdtrain.data.batches import decode

    batch = teacher.pixels.collate([teacher.pixels.resize(decode(lines[row["id"]].image))])
    pixels = teacher.pixels.normalize(*(torch.from_numpy(batch[key]) for key in ("pixels", "widths")), torch.float32)
    labels = torch.from_numpy(teacher.codec.encode([lines[row["id"]].text]))
    with torch.no_grad():
        log_p = teacher.module(pixels, labels=labels).logits[0].log_softmax(-1)
    ids = np.frombuffer(row["ids"], np.uint16).reshape(-1, 8)
    values, tail = np.frombuffer(row["logprobs"], np.float16).reshape(-1, 8), np.frombuffer(row["tail"], np.float16)
    assert row["num_positions"] == labels.shape[1] == len(ids)
    np.testing.assert_allclose(values, log_p.gather(1, torch.from_numpy(ids.astype(np.int64))), rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(np.exp(values.astype(float)).sum(1) + np.exp(tail.astype(float)), 1, atol=5e-3)
    told = np.frombuffer(row["label_logprobs"], np.float32)
    np.testing.assert_allclose(told, log_p.gather(1, labels[0, :, None])[:, 0], rtol=1e-4, atol=1e-4)


def test_draws_are_unbiased_and_the_likeliest_alone_are_not() -> None:
    """Random Sampling KD (arXiv 2503.16870): the mean over many draws is the distribution itself."""
    log_p = (2 * torch.randn(3, 40)).log_softmax(-1)
    mean = torch.zeros(3, 40)
    for seed in range(400):
        ids, values, tail = _drawn(log_p, 12, str(seed))
        assert torch.isinf(tail).all()
        mean.scatter_add_(1, ids, values.exp() / 400)
    torch.testing.assert_close(mean, log_p.exp(), atol=0.02, rtol=0)
    again = _drawn(log_p, 12, "0")
    assert all(torch.equal(a, b) for a, b in zip(_drawn(log_p, 12, "0"), again, strict=True))
    values, tail = _kept(log_p, Keep(k=5), "")[1:]
    torch.testing.assert_close(values.exp().sum(-1) + tail.exp(), torch.ones(3))


def test_with_views_teacher_and_student_see_the_same_picture(corpus: str, tmp_path: Path) -> None:
    """The student of a cache of views starts, as its own teacher, at a soft loss of zero; without views it does not."""
    itself = str(small_trocr_folder(tmp_path / "itself", dropout=0.0))
    sharpen(Path(itself))
    soft = {}
    for views in (2, 0):
        labels = labelled(itself, corpus, tmp_path / str(views), k=EVERYTHING, views=views)
        run = TrainRun(
            name="student", model=itself, lines=corpus, labels=labels, storage=str(tmp_path / f"run-{views}"),
            alpha=1.0, optimisation=Optimisation(precision="fp32", learning_rate=1e-12, epochs=2.0),
            compute=Compute(num_workers=0),
        )  # fmt: skip
        records: list = []
        fit(run, tmp_path / f"out-{views}", lambda name, record, total, seen=records: seen.append(record))
        soft[views] = [record.loss_soft for record in records]
        control = run.model_copy(update={"labels": None, "alpha": 0.0, "views": views})
        assert plan_job(control).recipe.views == plan_job(run).recipe.views == views  # the control sees the same
    assert max(soft[2]) < 1e-4 < 1e-2 < min(soft[0])
    picture = np.full((32, 90, 3), 200, np.uint8)
    assert not np.array_equal(augment(picture, "a", 0, VIEW_SEED), augment(picture, "a", 1, VIEW_SEED))


def test_a_cache_of_another_kind_is_named(corpus: str, models: tuple[str, str], tmp_path: Path) -> None:
    labelled(models[0], corpus, tmp_path, k=8)
    job = plan_labels(models[0], corpus, str(tmp_path), "fp32", Keep(k=4))
    (other,) = differences(open_folder(tmp_path), job.spec)
    assert "'k': 8" in other and "teacher_weights" not in other


def test_a_damaged_cache_is_named_and_only_the_damage_is_labelled_again(
    corpus: str, models: tuple[str, str], tmp_path: Path
) -> None:
    folder = Path(labelled(models[0], corpus, tmp_path / "labels", k=8))
    (file,) = folder.glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"part-00000.parquet cannot be read .* delete the file and label again"):
        curve(corpus, models, tmp_path / "run", labels=str(folder), temperature=1.0)
    pq.write_table(pq.read_table(pa.BufferReader(whole))[:-3], file)
    with pytest.raises(ValueError, match=r"lack 3 of \d+ lines of their shard; delete the file and label again"):
        curve(corpus, models, tmp_path / "run", labels=str(folder), temperature=1.0)
    file.unlink()
    assert Path(labelled(models[0], corpus, tmp_path / "labels", k=8)) == folder and file.read_bytes() == whole


FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.labelling"])
"""Processes that have imported everything when they begin, which takes longer than what they do."""


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_at_ten_random_moments_the_cache_is_the_same_bit_by_bit(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, ten times, each after another shard is done; then two passes that share the folder finish it."""
    monkeypatch.setattr(pack, "PAGES_PER_SHARD", {"lines": 8})
    corpus = packed_lines(tmp_path, num=320)
    labelled(models[0], corpus, tmp_path / "whole", k=8)

    def begin(folder: str) -> ForkServerProcess:
        process = FORKS.Process(target=one_pass, args=(models[0], corpus, str(tmp_path / folder)))
        process.start()
        return process

    def shards(folder: str) -> int:
        return len(list((tmp_path / folder).rglob("*.parquet")))

    rng, parts = random.Random(0), [0]
    for _ in range(10):
        process = begin("killed")
        while shards("killed") == parts[-1] and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        parts.append(shards("killed"))
    pair = [begin("killed") for _ in range(2)]
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert parts == sorted(set(parts)) and parts[-1] < shards("whole")


def test_training_that_waits_for_its_teacher_is_training_on_the_finished_cache(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all lines are annotated, the teacher is not sure of all: its steps are decided before anybody knows."""
    monkeypatch.setattr(pack, "PAGES_PER_SHARD", {"lines": 24})
    monkeypatch.setattr(batches, "WAIT_S", 0.01)
    corpus = packed_lines(tmp_path, num=96, annotated=40)
    finished = labelled(models[0], corpus, tmp_path / "finished", k=EVERYTHING)
    confidences = [
        row["confidence"] for file in Path(finished).glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    common = {"streamed": True, "min_confidence": float(np.median(confidences))}
    expected = curve(corpus, models, tmp_path / "after", labels=finished, **common)
    growing = tmp_path / "growing"
    growing.mkdir()
    shutil.copy(Path(finished) / "spec.json", growing)
    missed: SimpleQueue[str | None] = SimpleQueue()
    wait = batches._wait_for

    def wait_for(path: str) -> None:
        if not Path(path).exists():
            missed.put(Path(path).name)
        wait(path)

    monkeypatch.setattr(batches, "_wait_for", wait_for)
    arrived: list[str] = []

    def arrive() -> None:
        while (name := missed.get()) is not None:
            time.sleep(0.05)
            arrived.append(name)
            shutil.copy(Path(finished) / name, growing / "partial")
            (growing / "partial").rename(growing / name)

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        assert curve(corpus, models, tmp_path / "while", labels=str(growing), **common) == expected
    finally:
        missed.put(None)
        thread.join()
    assert set(arrived) == {file.name for file in Path(finished).glob("*.parquet")}
    exact = curve(corpus, models, tmp_path / "planned", labels=finished, min_confidence=common["min_confidence"])
    assert len(exact) < len(expected)


def test_lines_that_the_teacher_reads_differently_in_worse_light_are_left_out(
    models: tuple[str, str], tmp_path: Path
) -> None:
    corpus = packed_lines(tmp_path, num=64, annotated=20)
    sure = packed_lines(tmp_path / "again", num=64, annotated=20)
    labels = labelled("ppocrv6-tiny", corpus, tmp_path / "labels", k=8, agreement=True)
    assert labels != labelled("ppocrv6-tiny", sure, tmp_path / "labels", k=8)
    agreed = [v for file in Path(labels).glob("*.parquet") for v in pq.read_table(file)["agreement"].to_pylist()]
    assert all(0 <= value <= 1 for value in agreed) and max(agreed) == 1
    run = TrainRun(name="student", model="ppocrv6-tiny", lines=corpus, labels=labels, storage=str(tmp_path), alpha=0.5)
    asked = run.model_copy(update={"min_confidence": 0.0, "min_agreement": 1.0})
    reason = "the teacher reads a worse picture of it differently"
    lines = list(read_lines(load_manifest(corpus), "train"))
    doubtful = [line for line, value in zip(lines, agreed, strict=True) if line.text is None and value < 1]
    assert doubtful and plan_job(asked).left_out[reason] == len(doubtful)


def test_annotated_lines_that_the_teacher_reads_differently_are_left_out(tmp_path: Path) -> None:
    corpus = packed_lines(tmp_path, num=64, annotated=40)
    labels = labelled("ppocrv6-tiny", corpus, tmp_path / "labels", k=8)
    run = TrainRun(name="student", model="ppocrv6-tiny", lines=corpus, labels=labels, storage=str(tmp_path), alpha=0.5)
    read = [text for file in Path(labels).glob("*.parquet") for text in pq.read_table(file)["text"].to_pylist()]
    lines = list(read_lines(load_manifest(corpus), "train"))
    rates = [word_error_rate(line.text, text) for line, text in zip(lines, read, strict=True) if line.text is not None]
    reason = "the teacher reads it differently from its annotation"
    assert min(rates) == 0 and max(rates) > 0.01, rates
    for most in (0.0, max(rates) - 0.01):
        asked = run.model_copy(update={"min_confidence": 0.0, "max_teacher_wer": most})
        assert 0 < plan_job(asked).left_out[reason] == sum(rate > most for rate in rates) < len(rates)
    assert reason not in plan_job(run).left_out
