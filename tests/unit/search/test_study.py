"""Optuna's study and Ray Tune's state are of two moments where a driver fell between them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import optuna
import pytest
from optuna.trial import TrialState

from tdtrain.search.runs import SearchRun
from tdtrain.search.space import parse_axis
from tdtrain.search.study import Study, study_of

Searcher = Literal["tpe", "nsga2", "random"]


def study(folder: Path, searcher: Searcher = "random") -> Study:
    several = {"objectives": ("score", "parameters"), "scheduler": "none"} if searcher == "nsga2" else {}
    search = SearchRun(output_dir=folder, searcher=searcher, **several)  # type: ignore[arg-type]
    return study_of(search, [parse_axis(spec) for spec in search.axes], [])


def report(score: float, number: int = 1) -> dict:
    return {"score": score, "parameters": 1, "training_iteration": number}


def trials(of: Study) -> list[optuna.trial.FrozenTrial]:
    return list(of.study.get_trials())


def test_what_is_told_of_an_ended_trial_once_more_changes_nothing(tmp_path: Path) -> None:
    first, saved = study(tmp_path), tmp_path / "searcher.pkl"
    first.suggest("a")
    first.on_trial_result("a", report(0.5))
    first.save(str(saved))
    first.on_trial_result("a", report(0.4, 2))
    first.on_trial_complete("a", report(0.4, 2))
    before = trials(first)
    again = study(tmp_path)  # the next driver's: it knows the study, and what was saved
    again.restore(str(saved))
    again.on_trial_result("a", report(0.3))
    again.on_trial_result("a", report(0.3, 2))
    again.on_trial_complete("a", report(0.3, 2))
    assert trials(again) == before and before[0].value == 0.4
    assert again.suggest("b") and len(trials(again)) == 2


@pytest.mark.parametrize("searcher", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("asked", [1, 3])
def test_values_that_nobody_was_told_of_are_the_next_trials(searcher: Searcher, asked: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole", searcher)
    expected = [whole.suggest(f"{number}") for number in range(6)]
    assert len({str(one) for one in expected}) == 6
    first, saved = study(tmp_path, searcher), tmp_path / "searcher.pkl"
    got = [first.suggest("0")]
    first.save(str(saved))
    for number in range(asked):
        first.suggest(f"lost{number}")
    again = study(tmp_path, searcher)
    again.restore(str(saved))
    got += [again.suggest(f"{number}") for number in range(1, 6)]
    assert got == expected
    assert [one.state for one in trials(again)] == [TrialState.RUNNING] * 6
