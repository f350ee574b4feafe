"""The best of a search once more, with seeds it was not chosen by, beside the job as it was given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from ray import tune

from tdtrain.config import LoraDocumentRun
from tdtrain.data.manifest import Manifest, annotated_lines
from tdtrain.data.rows import content_id
from tdtrain.evaluate.batch import read_corpus
from tdtrain.evaluate.score import line_edits
from tdtrain.evaluate.significance import bootstrap_ratio, paired_permutation_p
from tdtrain.evaluate.test_split import load_on
from tdtrain.search.outcome import Fitted, Outcome, Row, rows_of
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Scalar
from tdtrain.search.state import journal_of
from tdtrain.search.trial import SEED, run_trial
from tdtrain.search.trials import Trials, shared_key
from tdtrain.search.tuner import run_all
from tdtrain.search.watch import Told

FIRST_SEED = 1000
"""Far from those that searches are run with."""


def fit_best(
    search: SearchRun,
    trials: Trials,
    outcome: Outcome,
    at_once: int,
    base: Mapping[str, Scalar],
    told_of: Callable[[int], Told],
) -> Fitted | None:
    """Trains both with every seed, as trials that nobody stops. None where no trial was measured.

    Args:
        told_of: who hears of so many trials.
    """
    if outcome.pick is None:
        return None
    picked = outcome.rows[outcome.pick]
    arms = {"best": picked.values} | ({"given": dict(base)} if len(base) == len(trials.axes) else {})
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + search.fit_seeds))
    jobs = [values | {SEED: seed} for values in arms.values() for seed in seeds]
    name = f"fit_best-{content_id(json.dumps(jobs))[:8]}"  # other seeds, or another pick, are other trainings
    journal = journal_of(search.output_dir.absolute(), name)
    done = run_all(
        partial(run_again, jobs=jobs, trials=trials, journal=journal),
        search.output_dir.absolute(),
        name,
        1,
        at_once,
        trials,
        told_of(len(jobs)),
        values={"number": tune.grid_search(list(range(len(jobs))))},
    )
    by_number = {int(row.values["number"] or 0): row for row in rows_of(done, ("score",), journal)}
    by_arm = {
        arm: [by_number[place * len(seeds) + number] for number in range(len(seeds))] for place, arm in enumerate(arms)
    }
    scores = {arm: tuple(row.figures.get("score") for row in own) for arm, own in by_arm.items()}
    known = [score for score in scores["best"] if score is not None]
    searched = picked.figures["score"] if "score" in picked.figures else picked.points[-1].score
    fitted = Fitted(
        seeds=seeds,
        searched=searched,
        best=scores["best"],
        given=scores.get("given", ()),
        optimism=fmean(known) - searched if known else None,
    )
    manifest = trials.ready[shared_key(trials.axes, picked.values)].manifest
    return with_test(fitted, by_arm, manifest, trials, at_once)


def run_again(config: dict, jobs: Sequence[dict], trials: Trials, journal: Path) -> None:
    """One of the trainings."""
    run_trial(jobs[config["number"]], trials, ("score",), journal)


def with_test(
    fitted: Fitted, by_arm: Mapping[str, Sequence[Row]], manifest: Manifest, trials: Trials, at_once: int
) -> Fitted:
    """The same with what the models read of the test split."""
    if isinstance(trials.run, LoraDocumentRun):  # whose test pages are written by rayjobs/lora_document.py
        return fitted
    lines = annotated_lines(manifest, "test", trials.run.corpus.max_evaluation_lines)
    models = {f"{arm} {row.number}": row.model for arm, rows in by_arm.items() for row in rows if row.model}
    if not lines or not models:
        return fitted
    gpus = trials.compute.gpus
    loads = {name: partial(load_on, "cuda" if gpus else "cpu", model) for name, model in models.items()}
    shards = [f"{manifest.root}/{shard.path}" for shard in manifest.shards_of("test")]
    readings = read_corpus(loads, shards, [line.id for line in lines], num_actors=at_once, gpus_per_actor=gpus)
    edits = {name: line_edits(lines, read) for name, read in readings.items()}
    characters = [one.characters for one in next(iter(edits.values()))]
    cers: dict[str, list[float]] = {}
    sums: dict[str, list[float]] = {}
    for name, counted in edits.items():
        arm = name.split()[0]
        made = [one.character_edits for one in counted]
        cers.setdefault(arm, []).append(sum(made) / sum(characters))
        sums[arm] = [a + b for a, b in zip(sums.get(arm, [0.0] * len(made)), made, strict=True)]
    changes: dict = {"best_test": tuple(cers.get("best", ())), "given_test": tuple(cers.get("given", ()))}
    changes["best_edits"] = tuple(sums.get("best", ()))
    if len(cers.get("best", ())) == len(cers.get("given", ())) > 0:
        pages, times = [line.page_id for line in lines], len(cers["best"])
        apart = [(a - b) / times for a, b in zip(sums["best"], sums["given"], strict=True)]
        changes |= {
            "difference": sum(apart) / sum(characters),
            "difference_ci": bootstrap_ratio(apart, characters, pages),
            "p_value": paired_permutation_p(
                [round(value) for value in sums["best"]], [round(value) for value in sums["given"]], pages
            ),
        }
    return fitted.model_copy(update=changes)
