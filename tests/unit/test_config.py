"""A run that cannot work is refused with the field, the values, the rule and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tdtrain import machine
from tdtrain.admission import check_free, check_models, check_place, claim
from tdtrain.ask_config import AskRun
from tdtrain.cli import task_of
from tdtrain.compute import Compute, check_batch, evaluation_steps, micro_batches
from tdtrain.config import DistillDocumentRun, DistillRun, LoraDocumentRun
from tdtrain.options import Optimisation, Teaching
from tdtrain.stages import Opened, Stages


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
        ({"compute": {"offload": True}}, "needs DeepSpeed, but zero_stage=0"),
        ({"output_dir": "s3://bucket/out"}, "is no folder"),
        ({"storage_path": "s3://bucket/runs", "compute": {"num_workers": 0}}, "needs Ray Train"),
        ({"tracking_uri": "http://me:secret@host:5000"}, "holds a password"),
        ({"storage_path": "s3://KEY:SECRET@bucket/runs"}, "holds a password"),
        ({"optimisation": {"seed": -1}}, "seed"),
        ({"compute": {"shard_teacher": True}, "teaching": {"teacher_signal": "stored"}}, "is for a live teacher"),
        ({"cache": {"teacher_label": "teacher"}}, "teacher_label=teacher is no KEY=VALUE"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DistillRun.model_validate(changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_document_tokens": 5000}, "more than max_tokens=4096"),
        ({"four_bit": True, "compute": {"zero_stage": 3}}, "zero_stage=3 cannot spread"),
        ({"optimisation": {"micro_batch_size": 4}}, "use max_tokens"),
        ({"lora": {"target_modules": []}}, "target_modules is empty"),
        ({"serialisation": "prose"}, "serialisation"),
    ],
)
def test_what_cannot_work_with_documents_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LoraDocumentRun.model_validate(changes)


def test_documents_are_distilled_from_what_a_teacher_wrote() -> None:
    with pytest.raises(ValidationError, match=r"needs a dataset_path: the output_dir of rayjobs/label\.py"):
        DistillDocumentRun()
    assert DistillDocumentRun.model_validate({"corpus": {"dataset_path": "asked"}}).control


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        (["--task", "document"], "document"),
        (["--task=text", "--plan"], "text"),
        (["--epochs", "2"], None),
        (["--task"], None),
    ],
)
def test_a_job_knows_its_task_before_its_flags(flags: list[str], task: str | None) -> None:
    assert task_of(flags) == task


@pytest.mark.parametrize(
    ("batch", "micro", "workers", "expected"),
    [(32, None, 1, 1), (32, 8, 1, 4), (32, 8, 2, 2), (32, 64, 2, 1), (32, 16, 0, 2)],
)
def test_accumulation_follows_from_the_global_batch(batch: int, micro: int | None, workers: int, expected: int) -> None:
    optimisation = Optimisation(batch_size=batch, micro_batch_size=micro)
    compute = Compute(num_workers=workers)
    check_batch(optimisation, compute)
    assert micro_batches(optimisation, compute) == expected


@pytest.mark.parametrize(
    ("epochs", "evaluations", "total", "expected"),
    [
        (2.0, None, 100, {25, 50, 75, 100}),  # twice an epoch, so that each epoch leaves a checkpoint
        (10.0, None, 40, set(range(2, 41, 2))),
        (0.1, None, 7, {7}),
        (2.0, 3, 100, {33, 67, 100}),
        (2.0, 4, 2, {1, 2}),
    ],
)
def test_when_the_validation_split_is_read(
    epochs: float, evaluations: int | None, total: int, expected: set[int]
) -> None:
    assert evaluation_steps(Optimisation(epochs=epochs, evaluations=evaluations), total) == expected


def test_a_password_among_several_places_is_refused() -> None:
    with pytest.raises(ValidationError, match="vote_with holds a password") as refused:
        AskRun(task="text", dataset_path="scans", vote_with=("output/mine", "s3://KEY:SECRET@bucket/read"))
    assert "KEY:SECRET" not in str(refused.value)


def test_a_refused_password_is_not_shown() -> None:
    with pytest.raises(ValidationError) as error:
        DistillRun(tracking_uri="http://me:secret@host:5000")
    assert "secret" not in str(error.value)


def test_an_output_folder_belongs_to_one_corpus(tmp_path: Path) -> None:
    run = DistillRun(output_dir=tmp_path)
    claim(run, "a")
    claim(run, "a")
    with pytest.raises(ValueError, match="the corpus has changed since"):
        claim(run, "b")


def test_a_submitted_job_needs_an_absolute_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(Path("output"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    check_place(Path("/shared/output"))
    with pytest.raises(ValueError, match=r"output_dir=output is relative, and a submitted job"):
        check_place(Path("output"))


@pytest.mark.parametrize(
    ("asked", "workers", "in_cluster", "expected"),
    [(None, 1, 0, 0), (None, 1, 1, 1), (None, 2, 1, 0), (None, 2, 4, 1), (0, 1, 8, 0), (0.5, 2, 1, 0.5)],
)
def test_gpus_are_used_where_there_are_enough(
    asked: float | None, workers: int, in_cluster: float, expected: float
) -> None:
    assert Compute(num_workers=workers, gpus_per_worker=asked).on(in_cluster, cores=None).gpus == expected


def test_a_quota_and_a_binding_are_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    assert machine.cores() == 8
    for quota, expected in (("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)):
        (tmp_path / "cpu.max").write_text(quota)
        assert machine.cores() == expected


@pytest.mark.parametrize(
    ("compute", "gpus", "cores", "models", "threads"),
    [
        (Compute(), 0, 2, 1, 2),
        (Compute(), 0, 16, 2, 8),
        (Compute(num_workers=3), 0, 8, 1, 2),
        (Compute(num_workers=8), 0, 4, 1, 1),
        (Compute(), 0, None, 1, 1),
        (Compute(), 1, 16, 1, 1),
        (Compute(cpus_per_worker=3), 0, 16, 2, 3),
    ],
)
def test_a_single_machine_gives_its_cores(
    compute: Compute, gpus: float, cores: int | None, models: int, threads: int
) -> None:
    assert compute.on(gpus, cores, models).threads == threads


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"teacher_model": "large", "student_model": "mobile"}, "have nothing in common"),
    ],
)
def test_models_that_do_not_match_are_refused_before_anything_else(models: dict, words: str, tmp_path: Path) -> None:
    from tests.models_small import LIKES, small_trocr_folder

    folders = {
        key: str(small_trocr_folder(tmp_path / name, name)) if name in LIKES else name
        for key, name in models.items()
        if key in ("teacher_model", "student_model")
    }
    run = DistillRun(**folders)
    with pytest.raises(ValueError, match=words):
        check_models(run)
    check_models(run.model_copy(update={"teaching": Teaching(targets="sequence")}))


def test_a_ctc_head_is_for_students_that_write_token_by_token(tmp_path: Path) -> None:
    from tdtrain.models.students import build_student
    from tdtrain.models.trocr_load import load_trocr
    from tests.models_small import small_trocr_folder

    with pytest.raises(ValueError, match=r"student_model mobile reads by CTC alone"):
        check_models(DistillRun(student_model="mobile", ctc_head=True))
    plain = str(small_trocr_folder(tmp_path / "base", "base"))
    check_models(DistillRun(teacher_model=plain, student_model=plain, ctc_head=True))
    build_student(plain, "ab1 ", 0, tmp_path / "student", ctc_head=True)
    student = load_trocr(str(tmp_path / "student"))
    assert student.ctc_codec is not None and student.ctc_codec.tokens == ("", " ", "1", "a", "b")
    assert student.module.ctc_head is not None and student.module.ctc_head.out_features == 5


def test_an_output_folder_belongs_to_one_run(tmp_path: Path) -> None:
    run = DistillRun(output_dir=tmp_path)
    check_free(run)
    assert not any(tmp_path.iterdir())  # who was only looked at may come again with other flags
    claim(run, "a")
    check_free(run.model_copy(update={"register_model": "timetables", "tracking_uri": "http://127.0.0.1:5000"}))
    with pytest.raises(ValueError, match=r"holds another run, with optimisation\.seed=0"):
        check_free(run.model_copy(update={"optimisation": Optimisation(seed=1)}))


def test_checkpoints_of_different_runs_never_meet(tmp_path: Path) -> None:
    """Runs may share a storage_path: what they learn from, and with what, names the folder."""

    def place(corpus: str = "a", **changes: object) -> str:
        nobody = Opened(display=None, tracker=None, gpus_in_cluster=0.0, cores=2)  # type: ignore[arg-type]
        job = Stages(DistillRun(output_dir=tmp_path, **changes), nobody)
        job.corpus = corpus
        return job.storage

    own = place(storage_path="s3://bucket/runs")
    assert own.startswith("s3://bucket/runs/")
    others = [
        place("b", storage_path="s3://bucket/runs"),
        place(storage_path="s3://bucket/runs", optimisation={"seed": 1}),
        place(storage_path="s3://bucket/runs", teacher_model="ppocrv6-tiny"),
    ]
    assert len({own, *others}) == 4
    assert place(storage_path="s3://bucket/runs", tracking_uri="http://127.0.0.1:5000") == own
    assert place().startswith(str(tmp_path / "checkpoints"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teaching": {"on_policy": 0.25, "teacher_signal": "live"}}, r"on_policy=0\.25 is for teachers and students"),
        ({"teaching": {"hidden_weight": 1.0, "teacher_signal": "live"}}, r"hidden_weight=1\.0 is for teachers"),
        ({"cache": {"cache_as": "hidden"}}, "cache_as=hidden is for teachers that write token by token"),
        ({"mix": {"jsd": 1.0}}, r"jsd=1\.0 is for teachers and students that write token by token"),
        ({"teaching": {"vocabulary_bridge": "align"}}, "vocabulary_bridge=align is for teachers and students"),
        ({"teaching": {"trim_vocabulary": True}}, "student_model mobile-stitched reads by CTC"),
    ],
)
def test_what_needs_tokens_is_refused_for_ctc_readers(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_models(DistillRun(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teaching": {"on_policy": 0.25}}, r"on_policy=0\.25 asks the teacher at every step, but teacher_signal=auto"),
        ({"teaching": {"hidden_weight": 1.0}}, r"hidden_weight=1\.0 asks the teacher at every step"),
        (
            {"teaching": {"on_policy": 0.2, "teacher_signal": "live", "vocabulary_bridge": "uld"}},
            "vocabulary_bridge=uld compares different ones; use rehead",
        ),
        ({"mix": {"forward_kl": 0.0}}, "all divergences have weight 0"),
        ({"cache": {"teacher_views": 2}, "corpus": {"augment": False}}, "teacher_views=2 are augmented pictures"),
        ({"teaching": {"on_policy": 0.2, "teacher_signal": "live", "alpha": 0.0}}, "alpha=0.0 with targets=both"),
        ({"teaching": {"on_policy": 0.2, "teacher_signal": "live", "targets": "sequence"}}, "with targets=sequence"),
        ({"compute": {"shard_teacher": True}}, "shard_teacher=True is for a live teacher, but teacher_signal=auto"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DistillRun(**changes)


def test_the_bridge_is_found_out_from_the_tokenizers(tmp_path: Path) -> None:
    from tdtrain.models.bridges import bridge_of
    from tests.models_small import small_trocr_folder

    large, base, small = (str(small_trocr_folder(tmp_path / like, like)) for like in ("large", "base", "small"))
    assert bridge_of("auto", large, base) == "same" and bridge_of("auto", large, small) == "rehead"
    assert bridge_of("uld", large, small) == "uld" and bridge_of("auto", "ppocrv6-small", "mobile") == "same"
    with pytest.raises(ValueError, match=r"400 tokens and student_model .* has 1[0-9]{2}, not the same ones"):
        bridge_of("same", large, small)
