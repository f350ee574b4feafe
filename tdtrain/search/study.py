"""Who picks values: Optuna, by Ray Tune's interface, with what it learns in a storage where its dashboard finds it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from tdtrain.search.outcome import storage_of
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis, Scalar


class Study(OptunaSearch):
    """Optuna's study is written at once, Ray Tune's state a moment later; a driver may fall between the two. What the
    study knows and Ray Tune does not, is then asked for or told once more: the values of a trial of which nobody knows
    are the next trial's, and what is told of an ended trial is let be.

    What is picked depends on the seed and on what the study holds, and on nothing that a fall would lose.
    """

    def __init__(self, sampler_of: Callable[[int], BaseSampler], **options: Any) -> None:
        self._sampler_of = sampler_of
        super().__init__(sampler=sampler_of(0), **options)

    @property
    def study(self) -> optuna.Study:
        """Optuna's own."""
        study: Any = self._ot_study
        assert isinstance(study, optuna.Study)
        return study

    def suggest(self, trial_id: str) -> dict | None:
        """The values of a trial."""
        if trial_id not in self._ot_trials:
            known = {one.number for one in self._ot_trials.values()}
            trials = self.study.get_trials(deepcopy=False)
            lost = [one for one in trials if one.state == TrialState.RUNNING and one.number not in known]
            if lost:
                self._ot_trials[trial_id] = optuna.trial.Trial(self.study, lost[0]._trial_id)
            begun = sum(one.state != TrialState.WAITING for one in trials)
            self.study.sampler = self._sampler_of(begun)
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """A report of a trial under way."""
        trial = self._known(trial_id)
        if not trial.state.is_finished() and result["training_iteration"] not in trial.intermediate_values:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The last word on a trial."""
        if not self._known(trial_id).state.is_finished():
            super().on_trial_complete(trial_id, result, error)

    def _known(self, trial_id: str) -> FrozenTrial:
        trials: list[FrozenTrial] = self.study.get_trials(deepcopy=False)
        return trials[self._ot_trials[trial_id].number]


def study_of(search: SearchRun, axes: Sequence[Axis], points: list[dict[str, Scalar]]) -> Study:
    """The study of a search, begun or gone on with.

    Args:
        points: values that are tried first.

    Raises: ValueError where the study is one of another space.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    check_study(search, axes)
    storage = RDBStorage(storage_of(search))
    begun = begin_study(storage, search, axes)
    objectives: Any = list(search.objectives) if len(search.objectives) > 1 else search.objectives[0]
    return Study(
        Samplers(search),
        space={axis.path: distribution_of(axis) for axis in axes},
        metric=objectives,
        mode=["min"] * len(search.objectives) if len(search.objectives) > 1 else "min",
        points_to_evaluate=points[begun:],  # a driver may have fallen while it put them there
        study_name=search.study_name,
        storage=storage,
    )


class Samplers:
    """The one that picks the values of a search's nth trial."""

    def __init__(self, search: SearchRun) -> None:
        self._search = search

    def __call__(self, trial: int) -> BaseSampler:
        search = self._search
        seed = search.search_seed * 100_003 + trial
        if search.searcher == "tpe":
            return TPESampler(seed=seed, multivariate=True, constant_liar=True)
        if search.searcher == "nsga2":
            return NSGAIISampler(seed=seed, population_size=max(2, min(50, search.num_trials // 4)))
        return RandomSampler(seed=seed)


def check_study(search: SearchRun, axes: Sequence[Axis]) -> None:
    """Raises ValueError where there is a study of that name already, over another space, or no such storage."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own = search.study_storage is None
    if own and not (search.output_dir / "study.db").exists():
        return
    try:
        held = optuna.load_study(study_name=search.study_name, storage=RDBStorage(storage_of(search)))
    except KeyError:
        return
    except Exception as error:  # of whatever database it is
        where = "study.db" if own else "study_storage"
        raise ValueError(f"{where} cannot be used ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    owner = held.user_attrs.get("owner")
    if owner is not None and owner != owner_of(search):
        raise ValueError(
            f"study={search.study_name} in study_storage is another search's, whose trials would be taken for this "
            "one's; give this one another name with --study"
        )
    mine, theirs = space_of(search, axes), held.user_attrs.get("space")
    if theirs is not None and theirs != mine:
        raise ValueError(
            f"study={search.study_name} is there already, over {', '.join(theirs[0])} for {', '.join(theirs[1])}; give "
            "this one another name with --study, or use another output_dir"
        )


def space_of(search: SearchRun, axes: Sequence[Axis]) -> list[list[str]]:
    """What a study says of its space."""
    return [[str(axis) for axis in axes], list(search.objectives)]


def owner_of(search: SearchRun) -> str | None:
    """The name by which studies know this folder; None where it has none yet."""
    path = search.output_dir / "study_owner.txt"
    return path.read_text() if path.exists() else None


def begin_study(storage: RDBStorage, search: SearchRun, axes: Sequence[Axis]) -> int:
    """Names the study's space and owner in it. Returns how many combinations were put there before."""
    directions = [optuna.study.StudyDirection.MINIMIZE] * len(search.objectives)
    study = optuna.create_study(
        storage=storage, study_name=search.study_name, directions=directions, load_if_exists=True
    )
    owner = owner_of(search) or uuid.uuid4().hex
    (search.output_dir / "study_owner.txt").write_text(owner)
    study.set_user_attr("owner", owner)
    study.set_user_attr("space", space_of(search, axes))
    return len(study.trials)


def distribution_of(axis: Axis) -> BaseDistribution:
    """An axis, to Optuna."""
    if axis.kind == "choice":
        return CategoricalDistribution(axis.told)
    low, high = axis.values
    kind: Any = IntDistribution if axis.whole else FloatDistribution
    return kind(low, high, log=axis.kind == "log")
