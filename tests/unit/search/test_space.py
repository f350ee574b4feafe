"""A space: how it is written, what of it is refused, and that every value comes back as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.config import DistillRun, LoraOcrRun
from tdtrain.search.admission import check_resumes, check_temperature, hold, room, values_in
from tdtrain.search.paths import check_paths, is_shared
from tdtrain.search.runs import GUIDE, SearchRun
from tdtrain.search.space import Axis, check_space, parse_axis, put
from tdtrain.search.study import distribution_of
from tdtrain.search.trials import shared_key
from tdtrain.search.tuner import grid, resources_of
from tdtrain.searching import fixed

RUNS = {"distill": DistillRun(), "lora_ocr": LoraOcrRun()}

MANY = [f"{path}=choice({', '.join(map(str, range(1, 9)))})" for path in (
    "teaching.temperature", "optimisation.epochs", "optimisation.warmup_share")]  # fmt: skip
"""512 combinations."""


@pytest.mark.parametrize(
    ("spec", "axis"),
    [
        ("teaching.temperature=uniform(1, 10.0)", Axis("teaching.temperature", "uniform", (1, 10.0))),
        (" optimisation.learning_rate=log(1e-5,1e-3) ", Axis("optimisation.learning_rate", "log", (1e-5, 1e-3))),
        ("lora.rank=choice(8, 16)", Axis("lora.rank", "choice", (8, 16))),
        ("student_model=choice(nano, mobile-stitched)", Axis("student_model", "choice", ("nano", "mobile-stitched"))),
        ('lora.target_modules=choice(["query"], ["all"])', Axis("lora.target_modules", "choice", (["query"], ["all"]))),
        ("lora.dora=choice(true, false)", Axis("lora.dora", "choice", (True, False))),
    ],
)
def test_an_axis_is_read_as_it_is_written(spec: str, axis: Axis) -> None:
    assert parse_axis(spec) == axis
    assert parse_axis(str(axis)) == axis


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("teaching.temperature", "is no axis; write"),
        ("teaching.temperature=normal(1, 2)", "is no axis; write"),
        ("teaching.temperature=uniform(10, 1)", "10 is not less than 1"),
        ("teaching.temperature=uniform(1, 1)", "is empty"),
        ("optimisation.learning_rate=log(0, 1)", "goes through zero"),
        ("optimisation.learning_rate=log(-1, 1)", "goes through zero"),
        ("teaching.temperature=uniform(1)", "needs two numbers"),
        ("teaching.temperature=uniform(true, 2)", "needs two numbers"),
        ("teaching.temperature=uniform(1, nan)", "needs two numbers, LOW and HIGH"),
        ("teaching.temperature=uniform(1, Infinity)", "finite"),
        ("teaching.temperature=log(NaN, 2)", "finite"),
        ("lora.rank=choice()", "nothing to choose from"),
        ("lora.rank=choice($(x))", "is no value"),
    ],
)
def test_what_is_no_axis_says_why(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match="space=") as error:
        parse_axis(spec)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("job", "specs", "words"),
    [
        ("distill", ["teaching.heat=uniform(1, 2)"], "there is no heat; there are temperature, alpha"),
        ("distill", ["lora.rank=choice(8)"], "there is no lora; there are"),
        ("distill", ["teaching.alpha=uniform(0, 2)"], "teaching.alpha=2"),
        ("lora_ocr", ["lora.rank=choice(8, 0)"], "lora.rank=0"),
        ("lora_ocr", ["lora.rank=uniform(1.0, 8.5)"], "lora.rank takes whole numbers"),
        ("distill", ["teaching.alpha=uniform(0, 1)", "teaching.alpha=uniform(0, 1)"], "teaching.alpha twice"),
        ("distill", ["teaching.on_policy=choice(0.0, 0.5)"], "on_policy=0.5"),  # needs a live teacher
        ("distill", ["teaching.alpha=uniform(0.1, 2)", *MANY], "teaching.alpha=2"),
        ("lora_ocr", ["lora.rank=choice(8, 0)", "lora.lora_dropout=choice(0.0, 0.1)"], "lora.rank=0"),
    ],
)
def test_a_combination_that_cannot_run_is_refused_before_any_trial(job: str, specs: list[str], words: str) -> None:
    with pytest.raises(ValueError, match="space") as error:
        check_space(RUNS[job], [parse_axis(spec) for spec in specs])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("job", "spec", "values"),
    [
        ("distill", "teaching.alpha=uniform(0, 1)", (0.0, 1.0)),
        ("lora_ocr", "lora.rank=log(8.0, 64.0)", (8, 64)),
        ("lora_ocr", "optimisation.micro_batch_size=uniform(4, 16)", (4, 16)),
    ],
)
def test_a_range_is_of_the_numbers_that_its_field_takes(job: str, spec: str, values: tuple) -> None:
    (axis,) = check_space(RUNS[job], [parse_axis(spec)])
    assert axis.values == values and axis.whole is isinstance(values[0], int)
    assert type(distribution_of(axis).high) is type(values[1])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("compute.num_workers=choice(1, 2)", "does not change what is learnt"),
        ("output_dir=choice(a, b)", "does not change what is learnt"),
        ("corpus.sample_pages=uniform(10, 20)", r"use corpus.sample_pages=choice\(\.\.\.\)"),
    ],
)
def test_what_trials_share_cannot_be_a_range_and_places_cannot_vary(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_paths([parse_axis(spec)])


def test_what_changes_the_corpus_is_made_before_and_augmentation_is_not() -> None:
    axes = [parse_axis("student_model=choice(nano, mobile)"), parse_axis("corpus.augment=choice(true, false)")]
    assert [is_shared(axis.path) for axis in axes] == [True, False]
    assert shared_key(axes, {"student_model": "nano", "corpus.augment": True}) == '{"student_model": "nano"}'


def test_the_spaces_that_come_with_jobs_can_run() -> None:
    for job in ("distill", "lora_ocr"):
        axes = [parse_axis(spec) for spec in GUIDE[job]]  # type: ignore[index]
        check_paths(axes)
        check_space(RUNS[job], axes)
        assert SearchRun(job=job).axes == GUIDE[job]  # type: ignore[index, arg-type]


@given(low=st.floats(1e-6, 1e3), ratio=st.floats(1.001, 1e3), at=st.floats(0, 1), whole=st.booleans())
def test_a_value_in_a_range_comes_into_the_run(low: float, ratio: float, at: float, whole: bool) -> None:
    axis = parse_axis(f"teaching.temperature=uniform({low!r}, {low * ratio!r})")
    value = low + at * (low * ratio - low)
    run = put(RUNS["distill"], {axis.path: axis.value_of(value)})
    assert run.teaching.temperature == value  # type: ignore[attr-defined]
    assert RUNS["distill"].teaching.temperature == 1.0  # type: ignore[attr-defined]


def test_a_list_goes_to_a_searcher_as_text_and_comes_back_as_a_list() -> None:
    axis = parse_axis('lora.target_modules=choice(["query", "key"], ["all"])')
    assert axis.told == ['["query", "key"]', '["all"]']
    run = put(RUNS["lora_ocr"], {axis.path: axis.value_of('["all"]')})
    assert run.lora.target_modules == ("all",)  # type: ignore[attr-defined]
    assert values_in(run, [axis]) == {axis.path: '["all"]'} and values_in(RUNS["lora_ocr"], [axis]) == {}
    nobody = parse_axis("teacher.teacher_model=choice(null, ppocrv6-small)")
    assert values_in(RUNS["lora_ocr"], [nobody]) == {nobody.path: None}  # as it is, which is not outside


def test_a_grid_has_every_choice_and_the_ends_of_every_range() -> None:
    axes = [parse_axis("a=choice(1, 2)"), parse_axis("b=log(1.0, 100.0)"), parse_axis("c=uniform(1, 3)")]
    points = grid(axes, 3)
    assert len(points) == 2 * 3 * 3 == len({tuple(point.values()) for point in points})
    assert sorted({point["b"] for point in points}) == pytest.approx([1.0, 10.0, 100.0])
    assert {point["c"] for point in points} == {1, 2, 3}


def test_ranges_of_whole_numbers_stay_whole() -> None:
    distribution = distribution_of(parse_axis("lora.rank=log(4, 64)"))
    assert type(distribution).__name__ == "IntDistribution" and (distribution.low, distribution.high) == (4, 64)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"objectives": ("score", "parameters")}, "use scheduler=none"),
        ({"objectives": ("parameters",)}, "does not change"),
        ({"searcher": "nsga2", "scheduler": "none"}, "several objectives"),
        ({"objectives": ("score", "score"), "scheduler": "none"}, "twice"),
        ({"scheduler": "pbt", "searcher": "grid"}, "changes values itself"),
        ({"job": "lora_document", "objectives": ("score", "ms_per_line"), "scheduler": "none"}, "is of readers"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(given_: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SearchRun(**given_)


def test_trials_have_as_many_evaluations_whatever_their_epochs_and_no_control() -> None:
    run = fixed(put(DistillRun(), {"optimisation.epochs": 3.0}))
    assert run.optimisation.evaluations == 6 and not run.control  # type: ignore[union-attr]


def test_more_than_the_cluster_has_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdtrain.search.admission.cores_of_machine", lambda: 4)
    search = SearchRun()
    with pytest.raises(ValueError, match="num_workers=1 with gpus_per_worker=2, and the cluster has 1 GPUs"):
        room(search, put(DistillRun(), {"compute.gpus_per_worker": 2.0}).compute, {"CPU": 6.0, "GPU": 1.0})
    with pytest.raises(ValueError, match="num_workers=1 with cpus_per_worker=8, and the cluster has 4 CPUs"):
        room(search, put(DistillRun(), {"compute.cpus_per_worker": 8.0}).compute, {"CPU": 6.0})
    compute, at_once = room(search, DistillRun().compute, {"CPU": 6.0})
    assert at_once == 4 and compute.cpus == 1
    compute, at_once = room(SearchRun(trials_at_once=2), DistillRun().compute, {"CPU": 6.0})
    assert at_once == 2 and compute.cpus == 2
    several = put(DistillRun(), {"compute.num_workers": 2}).compute
    assert room(search, several, {"CPU": 6.0})[1] == 2
    halves = put(DistillRun(), {"compute.gpus_per_worker": 0.5}).compute
    assert room(search, halves, {"CPU": 6.0, "GPU": 1.0})[1] == 2


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    search = SearchRun(output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"resume=True, and output_dir=.* holds no search"):
        check_resumes(search.model_copy(update={"resume": True}))
    hold(search, DistillRun())
    hold(search.model_copy(update={"fit_best": True, "resume": True}), DistillRun())
    check_resumes(search.model_copy(update={"resume": True}))
    with pytest.raises(ValueError, match="holds another search"):
        hold(search.model_copy(update={"num_trials": 3}), DistillRun())
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        hold(search.model_copy(update={"output_dir": tmp_path / "file" / "out"}), DistillRun())


def test_a_trial_reserves_all_that_it_trains_with_where_its_label_is() -> None:
    compute = put(DistillRun(), {"compute.gpus_per_worker": 0.5, "compute.worker_label": "pool=spot"}).compute
    needed = resources_of(compute)
    assert needed.bundles == [{"CPU": 1.0, "GPU": 0.5}]
    assert needed._kwargs == {"bundle_label_selector": [{"pool": "spot"}]}
    driver = resources_of(put(DistillRun(), {"compute.num_workers": 4, "compute.worker_label": "pool=spot"}).compute)
    assert set(driver.bundles[0]) == {"memory"} and driver._kwargs == {"bundle_label_selector": [{"pool": "!spot"}]}
    with pytest.raises(ValueError, match=r"worker_label=spot is no KEY=VALUE"):
        put(DistillRun(), {"compute.worker_label": "spot"})


def test_labels_of_one_temperature_serve_no_space_of_several() -> None:
    told = parse_axis("teaching.temperature=log(1.0, 10.0)")
    written = DistillRun(teacher_model="microsoft/trocr-large-printed", student_model="microsoft/trocr-small-printed")
    with pytest.raises(ValueError, match=r"teaching.temperature.*trocr-large-printed.*one temperature; use --cache_as"):
        check_temperature(written, [told])
    check_temperature(put(written, {"cache.cache_as": "hidden"}), [told])
    check_temperature(DistillRun(), [told])
    for change in ({"teaching.teacher_signal": "live"}, {"teaching.targets": "sequence"}):
        check_temperature(put(written, change), [told])  # labels are not asked
    models = parse_axis("teacher_model=choice(ppocrv6-small, microsoft/trocr-large-printed)")
    with pytest.raises(ValueError, match="teacher_model=microsoft/trocr-large-printed"):
        check_temperature(DistillRun(), [told, models])
