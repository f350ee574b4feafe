"""What is made of trials: the front, the pick, importance, a study that is another one's, and the page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdtrain.config import DistillRun
from tdtrain.report.search import next_words, rungs_of, write_search_report
from tdtrain.search.outcome import Fitted, Outcome, Point, Row, front_of, outcome_of, pick_of, storage_of
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import parse_axis
from tdtrain.search.study import check_study, study_of
from tdtrain.search.told import Told
from tdtrain.search.tuner import grid

BOTH = ("score", "parameters")


def row(number: int, *figures: float, status: str = "finished", reason: str | None = None) -> Row:
    return Row(
        number=number,
        trial=f"t{number}",
        values={"teaching.temperature": 1.0 + number, "teaching.alpha": 0.1, "optimisation.learning_rate": 1e-4},
        status=status,  # type: ignore[arg-type]
        reason=reason,
        figures=dict(zip(BOTH, figures, strict=False)),
        points=(Point(round=1, score=figures[0], now=figures[0], time_s=3.0),) if figures else (),
        in_steps_s=2.0,
        in_trial_s=3.0,
    )


def test_the_front_is_what_no_other_beats() -> None:
    rows = [row(0, 0.1, 50), row(1, 0.2, 20), row(2, 0.2, 30), row(3, 0.4, 10), row(4), row(5, 0.1, 50)]
    assert front_of(rows, BOTH) == [0, 5, 1, 3]
    assert front_of(rows, ("score",)) == [0, 5]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_trial_is_beaten_by_one_of_the_front_or_belongs_to_it(figures: list[tuple[int, int]]) -> None:
    rows = [row(number, *pair) for number, pair in enumerate(figures)]
    front = front_of(rows, BOTH)
    for number, (a, b) in enumerate(figures):
        under = [figures[one] for one in front if figures[one][0] <= a and figures[one][1] <= b]
        assert under and (number in front) == all(pair == (a, b) for pair in under)
    assert pick_of([rows[number] for number in front], BOTH) in front


def test_the_pick_is_near_the_best_of_all() -> None:
    front = [row(0, 0.10, 100), row(1, 0.12, 20), row(2, 0.5, 10)]
    assert pick_of(front, BOTH) == 1
    assert pick_of([front[0]], ("score",)) == 0
    assert pick_of([], BOTH) is None


def search_in(folder: Path, **changes: object) -> SearchRun:
    return SearchRun(output_dir=folder, **changes)  # type: ignore[arg-type]


def test_importance_finds_the_field_that_matters(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    axes = [parse_axis(spec) for spec in search.axes]
    study = study_of(search, axes, []).study
    for number in range(20):
        trial = study.ask({axis.path: optuna.distributions.FloatDistribution(*axis.values) for axis in axes})
        if number % 2:  # stopped on its way
            trial.report(trial.params["teaching.alpha"], 1)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, trial.params["teaching.alpha"])
    for state in (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED):  # before it reported anything
        study.tell(study.ask(), state=state)
    outcome = outcome_of(search, [row(0, 0.1)], 4, 1.0)
    assert max(outcome.importance, key=lambda path: outcome.importance[path]) == "teaching.alpha"
    assert sum(outcome.importance.values()) == pytest.approx(1)
    assert outcome.pick == 0 and outcome.front == (0,)


def test_a_study_of_another_space_is_refused_and_ones_own_gone_on_with(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    axes = [parse_axis(spec) for spec in search.axes]
    point = {"teaching.temperature": 1.0, "teaching.alpha": 0.5, "optimisation.learning_rate": 3e-4}
    first = study_of(search, axes, [point])
    assert first.suggest("a") and len(first.study.trials) == 1
    assert len(study_of(search, axes, [point]).study.trials) == 1  # it is not asked for twice
    other = search_in(tmp_path / "other", study_storage=storage_of(search), study=search.study_name)
    with pytest.raises(ValueError, match=r"study=.* in study_storage is another search's, .* with --study"):
        check_study(other, axes)
    with pytest.raises(ValueError, match=r"study=.* is there already, over teaching.temperature=log\(1.0, 10.0\)"):
        study_of(search, axes[:1], [])


def test_a_grid_of_which_a_killed_driver_asked_for_a_part_is_asked_for_to_its_end(tmp_path: Path) -> None:
    search = search_in(tmp_path, searcher="grid", scheduler="none", num_trials=2)
    axes = [parse_axis(spec) for spec in search.axes]
    points = grid(axes, 2)
    study_of(search, axes, points[:3])
    whole = study_of(search, axes, points)
    assert [whole.suggest(f"{number}") for number in range(8)] == points


@pytest.mark.parametrize("where", ["sqlite:////nowhere/at/all.db", "no-such-thing://x"])
def test_a_storage_that_cannot_be_used_is_named(where: str, tmp_path: Path) -> None:
    search = search_in(tmp_path, study_storage=where)
    with pytest.raises(ValueError, match="study_storage cannot be used"):
        check_study(search, [parse_axis(spec) for spec in search.axes])


def test_the_next_command_has_the_flags_of_the_job_and_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["rayjobs/tune.py", "--job", "lora_ocr", "--", "--dataset_path", "my scans"])
    specs = (
        'lora.target_modules=choice(["query", "key"], ["all"])', "optimisation.learning_rate=log(1e-4, 1e-2)",
        "lora.dora=choice(true, false)", "optimisation.patience=choice(null, 2)",
    )  # fmt: skip
    axes = [parse_axis(spec) for spec in specs]
    told = (axes[0].told[0], 0.00123456789, False, None)
    best = row(1, 0.1).model_copy(update={"values": dict(zip((axis.path for axis in axes), told, strict=True))})
    assert (
        "; python rayjobs/lora_ocr.py --dataset_path 'my scans' --target_modules query key --learning_rate 0.00123457 "
        "--no_dora trains it again;"
    ) in next_words(SearchRun(job="lora_ocr"), axes, best, None)


def test_a_trial_that_says_why_it_failed_has_failed_in_mlflow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges: dict[tuple[str, str], float] = {}
    monkeypatch.setattr(
        "tdtrain.search.told.gauge", lambda name, value, run, what: gauges.update({(name, what): value})
    )
    ended: dict[str, bool] = {}
    children = SimpleNamespace(
        begin=lambda *_: None, report=lambda *_: None, end=lambda trial, failed: ended.update({trial: failed})
    )
    display = SimpleNamespace(counting=lambda *_: lambda *_: None)
    told = Told(display, SimpleNamespace(children=lambda: children), 2, "search")  # type: ignore[arg-type]
    for trial, figures in (("a", {"score": 0.1, "loss": 2.0, "images_per_s": 30.0}), ("b", {"failure": "loss is nan"})):
        told(trial, figures | {"training_iteration": 1}, "reported")
        told(trial, {}, "ended")
    assert ended == {"a": False, "b": True}
    told("c", {"score": 0.05}, "known")  # to a driver before this one
    assert told._words() == "best score 0.0500" and told._ended == 3
    assert gauges == {("score", "best trial"): 0.1, ("loss", "trial a"): 2.0, ("images_per_s", "trial a"): 30.0}


@pytest.mark.parametrize("pick", [True, False])
def test_the_page_tells_of_every_trial_and_runs_nothing(pick: bool, tmp_path: Path) -> None:
    rows = (
        row(0, 0.10, 100) if pick else row(0, status="failed", reason="out of memory"),
        row(1, 0.12, 20) if pick else row(1, status="failed", reason="out of memory"),
        row(2, status="failed", reason="the loss is nan at step 3; <b>lines</b>"),
    )
    search = search_in(tmp_path, objectives=BOTH, scheduler="none")
    front = tuple(front_of(rows, BOTH))
    outcome = Outcome(
        objectives=BOTH, rows=rows, front=front, pick=front[-1] if front else None, rounds=1, shared_s=30.0
    )
    fitted = Fitted(
        seeds=(1000, 1001), searched=0.1, best=(0.11, 0.12), given=(0.2, None), optimism=0.015,
        best_test=(0.1, 0.1), given_test=(0.2, 0.2), difference=-0.1, p_value=0.001,
    )  # fmt: skip
    said = write_search_report(search, DistillRun(), outcome, fitted if pick else None)
    said = [words.replace("\u00a0", " ") for words in said]
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and "<b>lines</b>" not in page and "the loss is nan at step 3" in page
    for one in rows:
        assert f'<tr class="trial-{one.number}' in page
    if pick:
        assert said[0] == "Trial 1: 12 % CER, 20 parameters" and 'class="trial-1"' in page
        assert any("1.5 % CER worse than the search's" in words for words in said)
        assert any("10 % CER, the job as it was given 20 %" in words for words in said)
        assert any("took 30 s, once: a trial takes" in words for words in said)
    else:
        assert said[0] == "No trial could be measured" and "out of memory" in said[1]


def test_rungs_are_those_of_asha() -> None:
    assert rungs_of(SearchRun(reduction=3), 10) == [1, 3, 9]
    assert rungs_of(SearchRun(scheduler="none"), 10) == ()
