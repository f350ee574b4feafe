"""The job that searches: what trials share is made once, then Ray Tune tries values, then the best is measured.

job -> corpus, teacher, labels -> trials -> outcome.json, best/, report.html -> (the best again, with fresh seeds)
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from functools import partial

from tdtrain.adapting import check_teacher, label_lines
from tdtrain.adapting_documents import mend, write_examples
from tdtrain.admission import check_models, check_place, places_of
from tdtrain.compute import evaluation_steps
from tdtrain.config import DistillRun, LoraOcrRun
from tdtrain.data.documents import read_pages
from tdtrain.data.pack_options import PackOptions
from tdtrain.models.causal import outline
from tdtrain.page_readings import read_annotated_pages
from tdtrain.pipeline import Job, Prepared, prepare
from tdtrain.ray_start import SPARE_CPUS, check_label, connect, cores_of_machine, within_reach
from tdtrain.report.search import write_search_report
from tdtrain.report.tracking import Tracker
from tdtrain.search.admission import check_memory, check_resumes, check_temperature, hold, room, values_in
from tdtrain.search.fit_best import fit_best
from tdtrain.search.outcome import FITTED, OUTCOME, Outcome, outcome_of, rows_of
from tdtrain.search.paths import check_paths, is_shared
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import Axis, Value, check_space, parse_axis, put
from tdtrain.search.state import journal_of, seconds_of
from tdtrain.search.study import check_study
from tdtrain.search.told import Told
from tdtrain.search.trials import Adapting, Searched, Trials, shared_key
from tdtrain.search.tuner import num_trials_of, tune_trials
from tdtrain.stages import NEVER_REPORTED, Opened, Stages
from tdtrain.train.nodes import check_nodes
from tdtrain.train.progress import Display


def search_job(search: SearchRun, run: Searched) -> Outcome:
    """Searches, and leaves outcome.json, best/ (the best trial's model) and report.html. The same search again resumes.

    Raises: ValueError on what cannot work, before anything is trained.
    """
    axes = tuple(parse_axis(spec) for spec in search.axes)
    check_paths(axes, exploits=search.scheduler == "pbt")
    run = fixed(run)
    axes = check_space(run, axes)
    check_place(search.output_dir)
    if isinstance(run, DistillRun):
        check_models(run)
    if isinstance(run, LoraOcrRun):
        check_teacher(run)
    if search.scheduler in ("pbt", "hyperband") and run.compute.num_workers > 1:
        raise ValueError(
            f"scheduler={search.scheduler} pauses trials and has their weights go on in other processes, and "
            f"num_workers={run.compute.num_workers} would spread them; leave num_workers out, or use another scheduler"
        )
    check_temperature(run, axes)
    check_study(search, axes)
    check_resumes(search)
    connect(at_least=max(SPARE_CPUS, run.compute.num_workers * run.compute.cpus))
    check_label(run.compute.labels)
    writes, reads = places_of(run)
    check_nodes(writes | {"output_dir": str(search.output_dir.absolute())}, reads)
    compute, at_once = room(search, run.compute, within_reach(run.compute.labels))
    tight = check_memory(run, axes, compute, at_once)
    hold(search, run)
    with Tracker(search.output_dir, search.tracking_uri, run_name=search.output_dir.name, resume=True) as tracker:
        with Display(search.output_dir.name) as display:
            tracker.log_run({"search": search.model_dump(mode="json"), "run": run.model_dump(mode="json")})
            place = Opened(display, tracker, within_reach({}).get("GPU", 0.0), cores_of_machine())
            trials = Trials(
                run, axes, compute, share(search, run, axes, place), search.output_dir.absolute() / "workers"
            )
            base = values_in(run, axes)
            if outside := [axis for axis in axes if axis.path not in base]:
                display.say(f"the job as it was given is no trial, nor compared: it is outside of {outside[0]}")
            if tight:
                display.say(f"[yellow]memory[/yellow]: {tight}")
            rounds, num_trials = rounds_of(trials), num_trials_of(search, axes)
            display.say(
                f"[bold]search[/bold]: {num_trials} trials, {at_once} at once with {compute.cpus:g} CPUs"
                f"{f' and {compute.gpus:g} GPUs' if compute.gpus else ''} each, over {', '.join(map(str, axes))}"
            )
            told = Told(display, tracker, num_trials, search.output_dir.name)
            done = tune_trials(search, trials, rounds, at_once, base if len(base) == len(axes) else {}, told)
            rows = rows_of(done, search.objectives, journal_of(search.output_dir.absolute(), "trials"))
            outcome = outcome_of(search, rows, rounds, seconds_of(search.output_dir / "trials"), seconds_shared(search))
            publish_best(search, outcome, tracker)
            if outcome.pick is not None:
                tracker.log_metrics({f"best/{name}": told for name, told in outcome.rows[outcome.pick].figures.items()})
            again = partial(Told, display, tracker, run=f"{search.output_dir.name} again", what="again")
            fitted = fit_best(search, trials, outcome, at_once, base, again) if search.fit_best else None
            (search.output_dir / OUTCOME).write_text(outcome.model_dump_json(indent=1))
            if fitted is not None:
                (search.output_dir / FITTED).write_text(fitted.model_dump_json(indent=1))
            write_search_report(search, run, outcome, fitted)
            for name in (OUTCOME, *([FITTED] if fitted else []), "report.html"):
                tracker.log_artifact(search.output_dir / name)
            display.say(f"report: {search.output_dir / 'report.html'}")
    return outcome


def fixed(run: Searched) -> Searched:
    """The job as trials take it: as many evaluations whatever its epochs, and no control, which nobody would use."""
    changes: dict[str, Value] = {"optimisation.evaluations": run.optimisation.evaluations or max(
        1, round(2 * run.optimisation.epochs)
    )}  # fmt: skip
    if isinstance(run, DistillRun):
        changes["control"] = False
    return put(run, changes)


def share(search: SearchRun, run: Searched, axes: Sequence[Axis], place: Opened) -> dict[str, Prepared | Adapting]:
    """What trials share, made once for each combination of the values that change it."""
    varying = [axis for axis in axes if is_shared(axis.path)]
    ready = {}
    for number, told in enumerate(itertools.product(*(axis.told for axis in varying))):
        values = dict(zip((axis.path for axis in varying), told, strict=True))
        one = put(run, {axis.path: axis.value_of(values[axis.path]) for axis in varying})
        one = one.model_copy(update={"output_dir": search.output_dir / "shared" / str(number)})
        if varying:
            place.display.say(f"[bold]shared[/bold]: {', '.join(f'{path}={value}' for path, value in values.items())}")
        ready[shared_key(axes, values)] = share_one(one, place)
    return ready


def seconds_shared(search: SearchRun) -> float:
    """What `share` took, all times together that the search was started, of what every trial finds there."""
    told = [json.loads(path.read_text()) for path in (search.output_dir / "shared").glob("*/timings.json")]
    return sum(seconds for timings in told for seconds in timings.values()) / max(1, len(told))


def share_one(run: Searched, place: Opened) -> Prepared | Adapting:
    """Corpus, teacher, labels and the model as it begins, or a corpus of documents as tokens."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(run, DistillRun):
        job = Job(run, place)
        job.streamed, job.compares = False, True
        return prepare(job)[0]
    stages = Stages(run, place)
    if isinstance(run, LoraOcrRun):
        stages.compares = True
        manifest = stages.pack_corpus(need_labels=run.teacher.teacher_model is None)
        return Adapting(manifest, labels=label_lines(run, stages, manifest))
    manifest = stages.pack_corpus(need_labels=False, options=PackOptions(use_boxes=False))
    texts = read_annotated_pages(stages, manifest, run.reader)
    pages = [page for page in read_pages(manifest, texts) if page.truth is not None]
    if run.lexicon:
        mend(stages, pages)
    write_examples(run, stages, pages, outline(run.model_name)[1], stages.output)
    return Adapting(manifest, sequences=stages.output / "sequences")


def rounds_of(trials: Trials) -> int:
    """Evaluations of a trial that nobody stops. Raises ValueError where trials at the ends of the space could not be
    trained on what they share, or nothing could be compared."""
    for end in (0, -1):
        planned = trials.plan({axis.path: axis.told[end] for axis in trials.axes})
        if not planned.validation:
            raise ValueError(NEVER_REPORTED)
    return len(evaluation_steps(planned.run.optimisation, planned.total_steps))


def publish_best(search: SearchRun, outcome: Outcome, tracker: Tracker) -> None:
    """The model of the trial to take, in best/."""
    if outcome.pick is None or (model := outcome.rows[outcome.pick].model) is None:
        return
    partial, best = search.output_dir / "best.partial", search.output_dir / "best"
    for folder in (partial, best):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, partial)
    partial.rename(best)
    if search.register_model:
        tracker.register_model(best, search.register_model)
