"""What came out of a search: a row for each trial, the front of those that no other beats, and the one to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna
from pydantic import BaseModel, ConfigDict

from tdtrain.evaluate.significance import Interval
from tdtrain.search.runs import SearchRun
from tdtrain.search.state import reports_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

OUTCOME, FITTED = "outcome.json", "fitted.json"
Status = Literal["finished", "stopped early", "failed", "not finished"]


class Point(BaseModel):
    """One report of a trial: its evaluation's number, its best score so far, seconds since the trial began."""

    model_config = ConfigDict(frozen=True)

    round: int
    score: float
    now: float
    time_s: float


class Row(BaseModel):
    """A trial.

    Attributes:
        values: by dotted path.
        figures: of the objectives; empty where it failed.
        reason: why it failed.
        in_steps_s, in_trial_s: seconds in training steps, and in the trial altogether, over all processes that trained
            it.
        model: folder of its best weights.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    trial: str
    values: dict[str, float | int | str | bool | None]
    status: Status
    reason: str | None = None
    figures: dict[str, float] = {}
    points: tuple[Point, ...] = ()
    in_steps_s: float = 0.0
    in_trial_s: float = 0.0
    model: str | None = None

    @property
    def rounds(self) -> int:
        """Evaluations that it came to."""
        return self.points[-1].round if self.points else 0


class Outcome(BaseModel):
    """A search.

    Attributes:
        front: numbers of the trials that no other beats in all objectives, by the first of them.
        pick: of the front, the one to take, see `pick_of`.
        shared_s: seconds that took what is made once for all trials: corpus, teacher, labels.
        importance: share of the score's variance that each field explains (fANOVA, Hutter et al. 2014).
    """

    model_config = ConfigDict(frozen=True)

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    front: tuple[int, ...]
    pick: int | None
    importance: dict[str, float] = {}
    rounds: int
    wall_s: float = 0.0
    shared_s: float = 0.0


class Fitted(BaseModel):
    """The best and the job as it was given, each trained with fresh seeds.

    Attributes:
        searched: the score by which the best was chosen.
        best, given: validation scores, one a seed; None of a seed that failed.
        optimism: how much better the search's figure was than the mean of the fresh ones, in the score's unit.
        best_test, given_test: CER on the test split, one a seed; empty where nothing is annotated there.
        best_edits: of each line of the test split, added up over the best's seeds.
        difference: of the test split's CER, best less given, over all seeds; negative is better.
        p_value: two-sided paired permutation test over pages, edits added up over seeds.
    """

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, ...]
    searched: float
    best: tuple[float | None, ...]
    given: tuple[float | None, ...]
    optimism: float | None
    best_test: tuple[float, ...] = ()
    given_test: tuple[float, ...] = ()
    best_edits: tuple[float, ...] = ()
    difference: float | None = None
    difference_ci: Interval | None = None
    p_value: float | None = None


def rows_of(trials: Sequence[TuneTrial], objectives: Sequence[str], journal: Path) -> list[Row]:
    """What Ray Tune knows of trials, as rows in the order in which they were made, with what they reported."""
    reports = reports_of(journal)
    made = sorted(trials, key=lambda trial: int(str(trial.experiment_tag).split("_")[0]))  # a resumed search shuffles
    return [_row(number, trial, objectives, reports.get(trial.trial_id, [])) for number, trial in enumerate(made)]


def _row(number: int, trial: TuneTrial, objectives: Sequence[str], reports: Sequence[Mapping]) -> Row:
    last = reports[-1] if reports else {}
    reason = last.get("failure")
    if reason is None and trial.status == "ERROR":
        reason = _last_line(Path(str(trial.error_file)) if trial.error_file else None)
    seen = [one for one in reports if math.isfinite(one.get("score", math.nan))]
    best = min(seen, key=lambda one: one["now"]) if seen else {}
    figures = {name: float(last[name]) for name in objectives if math.isfinite(last.get(name, math.nan))}
    if seen and "score" in figures:  # its own: weights that it went on from bring the score of another
        figures["score"] = min(one["now"] for one in seen)
    status: Status = "finished" if last.get("complete") else "stopped early"
    if reason is not None:
        status, figures = "failed", {}
    elif trial.status != "TERMINATED":
        status = "not finished"
    return Row(
        number=number,
        trial=trial.trial_id,
        # Of a population with those that its best weights were learnt last with.
        values=dict(best.get("values") or trial.config),
        status=status,
        reason=reason,
        figures=figures,
        points=tuple(
            Point(round=one["training_iteration"], score=one["score"], now=one["now"], time_s=one["time_total_s"])
            for one in seen
        ),
        in_steps_s=_over_processes(reports, "in_steps_s"),
        in_trial_s=_over_processes(reports, "in_trial_s"),
        model=last.get("model") or best_model(trial),
    )


def _over_processes(reports: Sequence[Mapping], name: str) -> float:
    """Seconds, of which each process that trained a trial reports its own so far."""
    return sum({one["begun"]: float(one[name]) for one in reports if "begun" in one}.values())


def best_model(trial: TuneTrial) -> str | None:
    """The folder of a trial's best weights, None where there are none."""
    held = trial.run_metadata.checkpoint_manager
    kept = [
        (one.metrics["now"], -one.metrics["training_iteration"], one.checkpoint.path)
        for one in (held.best_checkpoint_results if held else [])
        if one.checkpoint is not None
    ]
    return str(Path(min(kept)[2]) / "model") if kept else None


def outcome_of(search: SearchRun, rows: Sequence[Row], rounds: int, wall_s: float, shared_s: float = 0.0) -> Outcome:
    """The front, the pick and what matters."""
    front = front_of(rows, search.objectives)
    return Outcome(
        objectives=search.objectives,
        rows=tuple(rows),
        front=tuple(front),
        pick=pick_of([rows[number] for number in front], search.objectives),
        importance=importance_of(search),
        rounds=rounds,
        wall_s=round(wall_s, 1),
        shared_s=round(shared_s, 1),
    )


def front_of(rows: Sequence[Row], objectives: Sequence[str]) -> list[int]:
    """The numbers of the rows that no other row is at least as good as in all objectives and better in one."""
    measured = [row for row in rows if all(name in row.figures for name in objectives)]

    def beats(one: Row, other: Row) -> bool:
        pairs = [(one.figures[name], other.figures[name]) for name in objectives]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    best = [row for row in measured if not any(beats(other, row) for other in measured)]
    return [row.number for row in sorted(best, key=lambda row: (row.figures[objectives[0]], row.number))]


def pick_of(front: Sequence[Row], objectives: Sequence[str]) -> int | None:
    """The one nearest to the best of every objective at once, each scaled from 0 (the front's best) to 1 (its worst)
    and all weighing the same; of one objective the best. None where no trial was measured."""
    if not front:
        return None

    def far(row: Row) -> float:
        total = 0.0
        for name in objectives:
            low, high = (end(other.figures[name] for other in front) for end in (min, max))
            total += ((row.figures[name] - low) / (high - low)) ** 2 if high > low else 0.0
        return total

    return min(front, key=lambda row: (far(row), row.number)).number


def importance_of(search: SearchRun) -> dict[str, float]:
    """fANOVA over the trials of the study, of the first objective; empty where it has too few."""
    if search.scheduler == "pbt":
        return {}  # values change on the way
    study = optuna.load_study(study_name=search.study_name, storage=storage_of(search))
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # picked by a driver that was killed before it ran
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    measured = [(trial, figure) for trial in study.get_trials(states=states) if math.isfinite(figure := _first(trial))]
    if len(measured) < 4 or len({figure for _, figure in measured}) < 2:
        return {}
    kept = optuna.create_study()
    kept.add_trials([
        optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=figure)
        for trial, figure in measured
    ])  # fmt: skip
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(kept, evaluator=evaluator)


def _first(trial: optuna.trial.FrozenTrial) -> float:
    """The first objective's figure; of a trial that was stopped on its way its last."""
    if trial.values:
        return float(trial.values[0])
    return float(trial.intermediate_values[trial.last_step]) if trial.last_step is not None else math.nan


def storage_of(search: SearchRun) -> str:
    """Where the Optuna study lies."""
    return search.study_storage or f"sqlite:///{search.output_dir.absolute() / 'study.db'}"


def _last_line(path: Path | None) -> str:
    lines = path.read_text().strip().splitlines() if path is not None and path.exists() else []
    return lines[-1][:300] if lines else "it ended without a word"
