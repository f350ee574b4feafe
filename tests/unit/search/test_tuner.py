"""What Ray Tune is told, and kept from: values outside the space, brackets of the dead, kills that end all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.schedulers.pbt import _explore

from tdtrain.config import DistillRun
from tdtrain.ray_start import are_others, check_room, check_room_on_a_node, within_reach
from tdtrain.search.admission import room
from tdtrain.search.outcome import _row
from tdtrain.search.paths import check_paths
from tdtrain.search.runs import SearchRun
from tdtrain.search.schedulers import HyperBand, Remembered, scheduler_of, within
from tdtrain.search.space import parse_axis, put
from tdtrain.search.state import write_report
from tdtrain.search.study import Samplers
from tdtrain.search.tuner import num_trials_of, resources_of
from tdtrain.search.watch import kills_are_failures

AXES = (
    parse_axis("teaching.alpha=uniform(0.1, 0.9)"),
    parse_axis("optimisation.learning_rate=log(1e-4, 1e-3)"),
    parse_axis("teaching.targets=choice(soft, sequence)"),
    parse_axis("optimisation.batch_size=uniform(8, 16)"),
)


def test_values_of_a_population_stay_in_the_space() -> None:
    search = SearchRun(scheduler="pbt")
    scheduler: Any = scheduler_of(search, AXES, 4, Path("none"))
    values: dict[str, Any] = {
        "teaching.alpha": 0.85, "optimisation.learning_rate": 1e-3, "teaching.targets": "soft",
        "optimisation.batch_size": 16,
    }  # fmt: skip
    for _ in range(100):
        values, _ = _explore(values, scheduler._hyperparam_mutations, 0.25, (1.2, 0.8), scheduler._custom_explore_fn)
        assert 0.1 <= values["teaching.alpha"] <= 0.9 and 1e-4 <= values["optimisation.learning_rate"] <= 1e-3
        assert values["teaching.targets"] in ("soft", "sequence")
        assert values["optimisation.batch_size"] in range(8, 17)
    assert scheduler._metric == "now"
    for ended in ({"complete": True}, {"failure": "loss is nan"}):  # nobody's weights come after the last report
        assert scheduler.on_trial_result(None, None, ended | {"now": 1.0, "training_iteration": 4}) == "CONTINUE"
    assert within({"teaching.alpha": 1.02}, AXES[:1]) == {"teaching.alpha": 0.9}


@pytest.mark.parametrize(
    "spec",
    [
        "lora.rank=choice(2, 8)", "lora.dora=choice(true, false)", "corpus=choice(a)",
        "optimisation.epochs=choice(1, 2)", "optimisation.batch_size=uniform(8, 16)",
    ],
)  # fmt: skip
def test_a_population_is_of_one_shape(spec: str) -> None:
    check_paths([parse_axis(spec)])
    check_paths([AXES[0], AXES[1]], exploits=True)
    with pytest.raises(ValueError, match="scheduler=pbt has trials go on from each other's weights"):
        check_paths([parse_axis(spec)], exploits=True)


def test_a_trial_of_before_is_in_no_bracket() -> None:
    scheduler: Any = scheduler_of(SearchRun(scheduler="hyperband"), AXES, 9, Path("none"))
    assert isinstance(scheduler, HyperBand)
    ended = SimpleNamespace(is_finished=lambda: True)
    scheduler.on_trial_add(None, ended)
    assert not scheduler._trial_info


def test_a_trial_that_ray_killed_for_its_memory_has_failed_and_the_search_goes_on() -> None:
    told: list[Exception] = []
    actor = SimpleNamespace(actor_id="a", _on_error=lambda _, error: told.append(error))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    task: Any = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    killed = OutOfMemoryError("Task was killed due to the node running low on memory.")
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        RayActorManager._actor_task_failed(manager, task, killed)
    with kills_are_failures():
        RayActorManager._actor_task_failed(manager, task, killed)
    (error,) = told
    assert isinstance(error, RayActorError) and "low on memory" in str(error)


def test_generations_are_many_enough_to_breed() -> None:
    search = SearchRun(searcher="nsga2", scheduler="none", objectives=("score", "parameters"), num_trials=16)
    assert Samplers(search)(0)._population_size == 4  # type: ignore[attr-defined]
    assert Samplers(search.model_copy(update={"num_trials": 1}))(0)._population_size == 2  # type: ignore[attr-defined]


def test_a_worker_has_to_fit_on_one_node_and_data_have_to_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdtrain.search.admission.cores_of_machine", lambda: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}] * 4)
    there = {"CPU": 16.0, "GPU": 4.0}
    with pytest.raises(ValueError, match="cpus_per_worker=8 and gpus_per_worker=0, and no node"):
        room(SearchRun(), put(DistillRun(), {"compute.cpus_per_worker": 8.0}).compute, {"CPU": 16.0})
    with pytest.raises(ValueError, match="gpus_per_worker=2, and no node"):
        room(SearchRun(), put(DistillRun(), {"compute.gpus_per_worker": 2.0}).compute, there)
    two = put(DistillRun(), {"compute.num_workers": 2}).compute
    assert room(SearchRun(), two, {"CPU": 16.0})[1] == 7
    fifths = put(DistillRun(), {"compute.gpus_per_worker": 0.2}).compute
    assert room(SearchRun(), fifths, {"CPU": 16.0, "GPU": 1.0})[1] == 5


def test_the_score_of_a_trial_is_its_own() -> None:
    trial: Any = SimpleNamespace(
        status="TERMINATED", config={}, trial_id="a", run_metadata=SimpleNamespace(checkpoint_manager=None)
    )
    reports = [
        {"training_iteration": number, "score": 0.1, "now": now, "time_total_s": 1.0, "complete": number == 2}
        for number, now in ((1, 0.4), (2, 0.3))
    ]
    assert _row(0, trial, ("score",), reports).figures == {"score": 0.3}  # not that of whose weights it went on from


def test_the_seconds_of_a_trial_are_those_of_all_processes_that_trained_it() -> None:
    trial: Any = SimpleNamespace(
        status="TERMINATED", config={}, trial_id="a", run_metadata=SimpleNamespace(checkpoint_manager=None)
    )
    reports = [
        {"training_iteration": number, "score": 0.1, "now": 0.1, "time_total_s": 1.0}
        | {"begun": begun, "in_steps_s": in_steps, "in_trial_s": 2 * in_steps}
        for number, begun, in_steps in ((1, 100.5, 1.0), (2, 100.5, 2.0), (3, 200.5, 3.0), (4, 200.5, 5.0))
    ]
    row = _row(0, trial, ("score",), [*reports, {"training_iteration": 5, "failure": "it fell"}])
    assert (row.in_steps_s, row.in_trial_s) == (7.0, 14.0)


def test_nodes_without_the_label_of_trials_are_not_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdtrain.search.admission.cores_of_machine", lambda: None)
    nodes = [
        {"Alive": alive, "Labels": {"pool": pool}, "Resources": {"CPU": 4.0}}
        for alive, pool in ((True, "spot"), (True, "head"), (False, "spot"), (True, "spot"))
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    spot = put(DistillRun(), {"compute.worker_label": "pool=spot"}).compute
    assert room(SearchRun(), spot, within_reach(spot.labels))[1] == 8
    assert room(SearchRun(), DistillRun().compute, within_reach({}))[1] == 12
    many = put(DistillRun(), {"compute.worker_label": "pool=spot", "compute.num_workers": 8}).compute
    with pytest.raises(ValueError, match=r"num_workers=8 .* nodes with worker_label=pool=spot have 6 CPUs beside 2"):
        room(SearchRun(), many, within_reach(many.labels))
    with pytest.raises(ValueError, match=r"num_workers=9 .* nodes with worker_label=pool=spot have 8 CPUs, so"):
        check_room(many.model_copy(update={"num_workers": 9}))


def test_a_worker_s_node_has_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    spot = {"Alive": True, "Labels": {"pool": "spot"}, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [spot, spot, {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}])
    wide = put(DistillRun(), {"compute.gpus_per_worker": 2.0}).compute
    check_room_on_a_node(wide)
    with pytest.raises(ValueError, match="gpus_per_worker=2, and no node with worker_label=pool=spot has both"):
        check_room_on_a_node(wide.model_copy(update={"worker_label": "pool=spot"}))
    assert are_others({"pool": "spot"})
    monkeypatch.setattr(ray, "nodes", lambda: [spot, spot])
    assert not are_others({"pool": "spot"})
    driver = put(DistillRun(), {"compute.num_workers": 2, "compute.worker_label": "pool=spot"}).compute
    assert resources_of(driver, apart=False)._kwargs == {}  # there is no node to keep it on


def test_the_values_of_a_row_are_those_of_its_best_weights() -> None:
    trial: Any = SimpleNamespace(
        status="TERMINATED", config={"x": 3}, trial_id="a", run_metadata=SimpleNamespace(checkpoint_manager=None)
    )
    reports = [
        {"training_iteration": number, "score": 0.1, "now": now, "time_total_s": 1.0, "values": {"x": number}}
        for number, now in ((1, 0.4), (2, 0.1), (3, 0.3))
    ]
    assert _row(0, trial, ("score",), reports).values == {"x": 2}
    assert _row(0, trial, ("score",), []).values == {"x": 3}


def test_rungs_survive_the_driver_and_so_does_what_the_median_is_of(tmp_path: Path) -> None:
    trial: Any = type("Under way", (), {"trial_id": "a", "status": "RUNNING", "is_finished": lambda _: False})()
    first: Any = scheduler_of(SearchRun(), AXES, 9, tmp_path / "trials.jsonl")
    first.on_trial_add(None, trial)
    report = {"training_iteration": 1, "score": 0.3, "now": 0.3}
    first.on_trial_result(None, trial, report)
    again: Any = scheduler_of(SearchRun(), AXES, 9, tmp_path / "trials.jsonl")
    Remembered(again).set_state(Remembered(first).get_state())
    rungs = [recorded for bracket in again._brackets for _, recorded in bracket._rungs]
    assert {"a": 0.3} in [{key: abs(value) for key, value in recorded.items()} for recorded in rungs]
    write_report(tmp_path / "trials.jsonl", report | {"trial_id": "a"})
    median: Any = scheduler_of(SearchRun(scheduler="median"), AXES, 9, tmp_path / "trials.jsonl")
    median.on_trial_add(None, trial)
    assert [one["score"] for one in median._results[trial]] == [0.3]


def test_a_population_takes_turns_and_equals_do_not_follow_each_other() -> None:
    scheduler: Any = scheduler_of(SearchRun(scheduler="pbt"), AXES, 4, Path("none"))
    kind = type("Waiting", (), {"status": "PAUSED", "config": {}, "is_finished": lambda _: False})
    first, second, third, fourth = trials = [kind() for _ in range(4)]
    for trial, name, score in zip(trials, "abcd", (-0.5, -0.1, -0.1, -0.1), strict=True):
        trial.trial_id = name
        scheduler._trial_state[trial] = SimpleNamespace(last_train_time=1, last_score=score)
    assert scheduler._quantiles() == ([first], [fourth])
    scheduler._trial_state[first].last_score = -0.1
    assert scheduler._quantiles() == ([], [fourth])
    controller: Any = SimpleNamespace(get_trials=lambda: trials)
    scheduler._turns = {"a": 4, "b": 2, "c": 3}
    assert scheduler.choose_trial_to_run(controller) is fourth
    scheduler._turns["d"] = 5
    assert scheduler.choose_trial_to_run(controller) is second
    scheduler._trial_state[second].last_train_time = 2
    assert scheduler.choose_trial_to_run(controller) is third


def test_a_machine_is_shared_out_among_trials_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tdtrain.search.tuner.cores_of_machine", lambda: 2)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    compute = DistillRun().compute
    assert [resources_of(compute, at_once=number).bundles for number in (1, 2, 3)] == [
        [{"CPU": 4.0}], [{"CPU": 2.0}], [{"CPU": 1.333}]
    ]  # fmt: skip
    assert resources_of(compute).bundles == [{"CPU": 1.0}]
    monkeypatch.setattr("tdtrain.search.admission.cores_of_machine", lambda: None)
    with pytest.raises(ValueError, match="trials_at_once=2 cannot be kept by scheduler=pbt"):
        room(SearchRun(scheduler="pbt", trials_at_once=2), compute, {"CPU": 16.0})


def test_all_points_of_a_grid_are_counted() -> None:
    axes = [parse_axis("teaching.temperature=log(1.0, 10.0)"), parse_axis("corpus.augment=choice(true, false)")]
    assert num_trials_of(SearchRun(searcher="grid", scheduler="none", num_trials=3), axes) == 6
    assert num_trials_of(SearchRun(num_trials=3), axes) == 3
