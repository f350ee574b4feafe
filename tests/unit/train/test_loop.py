"""The loop, the engines and the checkpoints, in this process: real models of both families, very small."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tdtrain.compute import Compute
from tdtrain.data.manifest import load_manifest
from tdtrain.models.load import load_reader
from tdtrain.models.reader import Reader
from tdtrain.models.students import build_student
from tdtrain.options import Optimisation
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.train import loop, worker
from tdtrain.train.engine import TorchEngine, parameter_groups
from tdtrain.train.launch import fit, plan_job
from tdtrain.train.on_policy import OwnReadings
from tdtrain.train.runs import TrainRun
from tests.corpora import packed_lines
from tests.models_small import small_trocr_folder, timetable_texts

ALONE = Compute(num_workers=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_lines(tmp_path_factory.mktemp("corpus"), annotated=40, num=96)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "student"
    build_student("mobile-pretrained", "".join(sorted(set("".join(timetable_texts(96))))), 0, folder)
    return str(folder)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "fresh"
    build_student("nano", "".join(sorted(set("".join(timetable_texts(96))))), 0, folder)
    return str(folder)


@pytest.fixture(scope="module")
def labels(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    job = plan_labels("ppocrv6-tiny", corpus, str(tmp_path_factory.mktemp("labels")))
    label(job, 0, lambda done, total: None)
    return job.folder


def run_of(corpus: str, model: str, storage: Path, **changes: object) -> TrainRun:
    settings = {"epochs": 2.0, "batch_size": 16, "learning_rate": 1e-4, "evaluations": 2, "precision": "fp32"}
    settings |= {key: changes.pop(key) for key in list(changes) if key in Optimisation.model_fields}
    return TrainRun(
        name="student",
        model=model,
        lines=corpus,
        storage=str(storage),
        compute=changes.pop("compute", ALONE),
        optimisation=Optimisation(**settings),
        **changes,
    )


def losses(run: TrainRun, output: Path) -> list[float]:
    seen: list[float] = []
    fit(run, output, lambda name, record, total: seen.append(record.loss))
    return seen


def test_too_few_lines_are_refused_with_why_the_others_are_left_out(corpus: str, student: str, tmp_path: Path) -> None:
    reason = r"batch_size=64 is more than the \d+ lines .*; \d+ left out: nobody says what it reads"
    with pytest.raises(ValueError, match=reason):
        plan_job(run_of(corpus, student, tmp_path, batch_size=64))


def test_distilling_lowers_both_losses(corpus: str, fresh: str, labels: str, tmp_path: Path) -> None:
    records: list[loop.Record] = []
    run = run_of(
        corpus, fresh, tmp_path, labels=labels, alpha=0.5, min_confidence=0.3, max_steps=24, learning_rate=1e-3
    )
    fit(run, tmp_path / "out", lambda name, record, total: records.append(record))
    assert len(records) == 24
    assert records[-1].loss_soft < 0.7 * records[0].loss_soft
    assert records[-1].loss_hard < 0.7 * records[0].loss_hard


def test_accumulation_changes_nothing(
    corpus: str, student: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 x 16 equals 4 x 4, with lines of unequal length in every batch: normalisation is global.

    In float64: a processor may convolve 4 lines by another kernel than 16, and AdamW makes much of the last digit.
    """
    load = worker.load_reader

    def load_double(name: str) -> Reader:
        reader = load(name)
        reader.module.double()
        return reader

    monkeypatch.setattr(worker, "load_reader", load_double)
    common = {"labels": labels, "alpha": 0.5, "min_confidence": 0.3, "max_steps": 4, "evaluations": 1}
    whole = losses(run_of(corpus, student, tmp_path / "a", **common), tmp_path / "a" / "out")
    parts = losses(run_of(corpus, student, tmp_path / "b", micro_batch_size=4, **common), tmp_path / "b" / "out")
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("family", ["ctc", "autoregressive"])
def test_stopping_and_resuming_changes_nothing(
    family: str, corpus: str, student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2N steps are N steps, a stop, and N more: the same losses and the same bits in the weights."""
    model = student if family == "ctc" else str(small_trocr_folder(tmp_path / "trocr", ctc=True))
    whole = losses(run_of(corpus, model, tmp_path / "a"), tmp_path / "a" / "out")

    def stop(name: str, record: loop.Record, total: int) -> None:
        if record.step == total // 2 + 1:
            raise KeyboardInterrupt

    run = run_of(corpus, model, tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        fit(run, tmp_path / "b" / "out", stop)
    rest = losses(run, tmp_path / "b" / "out")
    assert rest == whole[-len(rest) :] and len(rest) < len(whole)
    first, second = (load_file(tmp_path / name / "out" / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_same_seed_gives_the_same_run_and_another_does_not(corpus: str, student: str, tmp_path: Path) -> None:
    curves = [
        losses(run_of(corpus, student, tmp_path / str(i), seed=seed), tmp_path / str(i) / "out")
        for i, seed in enumerate((0, 0, 1))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_a_live_teacher_of_the_same_weights_teaches_nothing_new(corpus: str, tmp_path: Path) -> None:
    """A student that is its own teacher starts at a soft loss of zero."""
    model = str(small_trocr_folder(tmp_path / "trocr", dropout=0.0))
    run = run_of(corpus, model, tmp_path, teacher=model, alpha=1.0, augment=False, max_steps=1)
    records: list[loop.Record] = []
    fit(run, tmp_path / "out", lambda name, record, total: records.append(record))
    assert records[0].loss_soft == pytest.approx(0, abs=1e-4)


def test_a_live_ctc_teacher_equals_its_stored_self(corpus: str, fresh: str, labels: str, tmp_path: Path) -> None:
    common = {"labels": labels, "alpha": 0.7, "min_confidence": 0.3, "augment": False}
    stored = losses(run_of(corpus, fresh, tmp_path / "a", **common), tmp_path / "a" / "out")
    live = losses(run_of(corpus, fresh, tmp_path / "b", teacher="ppocrv6-tiny", **common), tmp_path / "b" / "out")
    assert live == pytest.approx(stored, rel=0.01)


@pytest.mark.parametrize("family", ["ctc", "autoregressive"])
def test_bf16_follows_fp32(family: str, corpus: str, student: str, tmp_path: Path) -> None:
    model = student if family == "ctc" else str(small_trocr_folder(tmp_path / "trocr", ctc=True, dropout=0.0))
    runs = [run_of(corpus, model, tmp_path / p, precision=p, max_steps=4, evaluations=1) for p in ("fp32", "bf16")]
    curves = [losses(run, tmp_path / run.optimisation.precision / "out") for run in runs]
    # Of the first step only: a pre-trained CTC reader's first steps are steep enough to pull any two runs apart.
    assert curves[1][0] == pytest.approx(curves[0][0], rel=0.05) and curves[1] != curves[0]
    assert all(np.isfinite(loss) for loss in curves[1])


def test_a_loss_that_is_no_number_stops_and_names_the_lines(
    corpus: str, student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(corpus, student, tmp_path, evaluations=4)
    broken = loop._global_counts
    calls = iter(range(100))
    monkeypatch.setattr(
        loop,
        "_global_counts",
        lambda parts: loop.Counts(float("nan"), float("nan")) if next(calls) == 2 else broken(parts),
    )
    with pytest.raises(loop.Diverged, match=r"loss is nan at step 2.*Lines of this batch: [0-9a-f]{32}"):
        fit(run, tmp_path / "out", lambda *_: None)
    kept = list((tmp_path / "student").glob("checkpoint_*/model/model.safetensors"))
    assert kept and all(torch.isfinite(value).all() for value in load_file(kept[-1]).values())


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    module = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in module.parameters()]
    engine = TorchEngine(module, parameter_groups(module, 0.01), Optimisation(precision="fp32"))
    for value in (float("inf"), float("nan")):
        with engine.accumulate(last=True):
            loss = (engine.module(torch.ones(1, 3)) * value).sum()
        engine.backward(loss)
        assert not np.isfinite(engine.step(0.1))
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    with engine.accumulate(last=True):
        loss = engine.module(torch.ones(1, 3)).sum()
    engine.backward(loss)
    assert np.isfinite(engine.step(0.1)) and not torch.equal(before[0], module.weight)


def test_a_ctc_head_on_the_encoder_learns(corpus: str, tmp_path: Path) -> None:
    model = small_trocr_folder(tmp_path / "trocr", ctc=True)
    fit(run_of(corpus, str(model), tmp_path, max_steps=2), tmp_path / "out", lambda *_: None)
    before, after = (load_file(folder / "ctc_head.safetensors") for folder in (model, tmp_path / "out"))
    moved = (after["bias"] - before["bias"]).abs()
    assert moved.max() > 1e-5 and after["weight"].shape == before["weight"].shape
    # Blanks alone would teach the head as well; characters of the texts have to.
    tokens = json.loads((model / "ctc_head.json").read_text())["tokens"]
    assert after["bias"][tokens.index("0")] > before["bias"][tokens.index("0")]


def test_frozen_positions_stay_frozen(corpus: str, tmp_path: Path) -> None:
    """TrOCR-large's sinusoidal positions are no parameters to be learnt."""
    model = small_trocr_folder(tmp_path / "trocr", "large")
    load_reader(str(model)).save(tmp_path / "saved")
    fit(run_of(corpus, str(model), tmp_path, max_steps=2), tmp_path / "out", lambda *_: None)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", tmp_path / "out"))
    name = next(name for name in after if "embed_positions" in name)
    assert torch.equal(before[name], after[name])
    assert any(not torch.equal(before[key], after[key]) for key in after)


def test_the_published_folder_is_a_whole_model_with_its_run(corpus: str, student: str, tmp_path: Path) -> None:
    run = run_of(corpus, student, tmp_path)
    state = fit(run, tmp_path / "out", lambda *_: None)
    assert TrainRun.model_validate_json((tmp_path / "out" / "run.json").read_text()) == run
    assert load_reader(str(tmp_path / "out")).codec == load_reader(student).codec
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["step"] == state.step == 6
    again = losses(run, tmp_path / "out")
    assert again == []  # finished: nothing to do


def test_patience_ends_a_run_that_no_longer_gains() -> None:
    state = loop.State()
    for cer in (0.5, 0.4, 0.4, 0.45):
        loop._judge(state, cer)
    assert (state.best_score, state.evaluations_without_gain) == (0.4, 2)


def test_plan_says_why_lines_are_left_out(corpus: str, student: str, labels: str) -> None:
    from tdtrain.data.training_set import training_set

    job = plan_job(run_of(corpus, student, Path("unused")))
    data = training_set(corpus, None, job.recipe, 16)
    assert data.left_out["nobody says what it reads"] > 0
    assert data.plan.num_lines + sum(data.left_out.values()) == load_manifest(corpus).num_rows("train")


def test_encoders_can_be_matched_alone_and_the_projector_is_resumed(corpus: str, tmp_path: Path) -> None:
    """With alpha 0 the teacher is asked for nothing else; the student's folder has no projector."""
    student, teacher = small_trocr_folder(tmp_path / "s", "small"), small_trocr_folder(tmp_path / "t", "large")
    seen: list[loop.Record] = []
    run = run_of(
        corpus, str(student), tmp_path, teacher=str(teacher), hidden_weight=1.0, max_steps=12, learning_rate=1e-3,
        augment=False, evaluations=3,
    )  # fmt: skip

    def stop(name: str, record: loop.Record, total: int) -> None:
        seen.append(record)
        if record.step == 6 and len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run, tmp_path / "out", stop)
    fit(run, tmp_path / "out", stop)
    again = {record.step: record.loss_hidden for record in seen[6:]}
    before = {record.step: record.loss_hidden for record in seen[:6]}
    assert again[5] == before[5] and again[12] < 0.8 * before[1]
    assert not any("projector" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


def test_what_the_student_writes_of_a_batch_does_not_depend_on_who_has_it(tmp_path: Path) -> None:
    reader = load_reader(str(small_trocr_folder(tmp_path / "model")))
    own = OwnReadings(1.0, 0, lambda: contextlib.nullcontext(reader))
    batch = {"pixels": torch.zeros(2, 32, 160, 3, dtype=torch.uint8), "widths": torch.full((2,), 160)}
    first, again, other, later = (
        own(batch, step, ids)["labels"] for step, ids in ((3, "ab"), (3, "ab"), (3, "cd"), (4, "ab"))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, later)


def test_on_policy_steps_judge_what_the_student_writes(corpus: str, tmp_path: Path) -> None:
    student, teacher = (str(small_trocr_folder(tmp_path / like, like)) for like in ("base", "large"))
    common = {"teacher": teacher, "alpha": 0.5, "augment": False, "max_steps": 6}
    curves = {}
    for share in (0.0, 0.5, 1.0):
        records: list[loop.Record] = []
        run = run_of(corpus, student, tmp_path / str(share), on_policy=share, **common)
        fit(run, tmp_path / str(share) / "out", lambda name, record, total, seen=records: seen.append(record))
        curves[share] = records
        fit(run, tmp_path / f"{share} again" / "out", lambda *_: None)
    assert all(record.loss_hard > 0 for record in curves[0.0])
    assert all(record.loss_hard == 0 and record.loss_soft > 0 for record in curves[1.0])
    hard = [record.loss_hard > 0 for record in curves[0.5]]
    assert any(hard) and not all(hard)
    once, twice = (load_file(tmp_path / name / "out" / "model.safetensors") for name in ("0.5", "0.5 again"))
    assert all(torch.equal(once[key], twice[key]) for key in once)
