"""What all jobs that train a model share: stages that are timed, a corpus that is packed, and who watches.

Each stage leaves its result in a folder and is not repeated when that is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tdtrain.admission import ELSEWHERE, check_free, check_place, claim, places_of
from tdtrain.config import TrainingRun
from tdtrain.data.manifest import Manifest, check_learnable, check_measurable, load_manifest
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.prepare import prepare
from tdtrain.data.rows import content_id
from tdtrain.data.storage import open_folder
from tdtrain.machine import cores
from tdtrain.report.tracking import Tracker
from tdtrain.train.progress import Display
from tdtrain.train.state import Record

TRACK_EVERY_STEPS = 10
NEVER_REPORTED = "score is never reported, for no page of the validation split is annotated; annotate more pages"


@dataclass(frozen=True)
class Opened:
    """A job that was let in: who shows it, who tracks it, and what there is to run it on."""

    display: Display
    tracker: Tracker
    gpus_in_cluster: float
    cores: int | None
    """Of the machine, if it is a single one."""


@contextmanager
def opened(run: TrainingRun) -> Iterator[Opened]:
    """Connects to Ray where it is used, shows and tracks the job. Raises ValueError on a place that cannot be used."""
    check_place(run.output_dir)
    check_free(run)
    gpus = 0.0
    there: int | None = cores()
    if run.compute.num_workers > 0:
        from tdtrain.ray_start import check_elastic, check_label, check_room, connect, cores_of_machine, within_reach
        from tdtrain.train.nodes import check_nodes

        reserved = run.compute.num_workers * run.compute.cpus * run.models_at_once
        connect(at_least=max(2, reserved))
        there = cores_of_machine()
        gpus = within_reach({}).get("GPU", 0.0)  # those that an autoscaler may add are worth waiting for
        decided = run.compute.on(gpus, there, run.models_at_once)
        check_label(run.compute.labels)
        check_room(decided)
        check_elastic(decided)
        check_nodes(*places_of(run))
    name, begun = run.output_dir.name, (run.output_dir / "run.json").exists()
    with Tracker(run.output_dir, run.tracking_uri, run_name=name, resume=begun) as tracker, Display(name) as display:
        tracker.log_run(run.model_dump(mode="json"))
        yield Opened(display, tracker, gpus, there)


class Stages:
    """A job under way: its run, its folders, and who watches."""

    def __init__(self, run: TrainingRun, job: Opened) -> None:
        self.on_ray = run.compute.num_workers > 0
        models = run.models_at_once if self.on_ray else 1
        self.compute = run.compute.on(job.gpus_in_cluster, job.cores, models)
        self.display = job.display
        self.tracker = job.tracker
        self.output = run.output_dir.absolute()
        least = 1 if self.compute.gpus else 2  # one GPU serves one reader
        self.actors = max(least, run.compute.num_workers) if self.on_ray else 0
        reserved = self.compute.cpus * max(1, run.compute.num_workers) * models
        self.cpus_per_actor = max(1, int(reserved // max(1, self.actors)))
        self.left_out: dict[str, dict[str, int]] = {}
        self._run = run
        self.compares = False  # trainings, by what they read of the validation split
        self.corpus = ""
        self._timings = self.output / "timings.json"
        self.timings_s: dict[str, float] = json.loads(self._timings.read_text()) if self._timings.exists() else {}

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        """Says what is done, and remembers how long it took, over all the times that the job was started."""
        self.display.say(f"[bold]{name}[/bold]: {words}")
        started = time.perf_counter()
        yield
        self.timings_s[name] = round(self.timings_s.get(name, 0.0) + time.perf_counter() - started, 1)
        open_folder(self.output).write(self._timings.name, json.dumps(self.timings_s).encode())

    def watch(self, name: str, record: Record, total: int) -> None:
        """Shows and tracks a training step."""
        self.display(name, record, total)
        if record.step % TRACK_EVERY_STEPS == 0 or record.score is not None:
            figures = {key: value for key, value in vars(record).items() if key != "step"}
            self.tracker.log_metrics({f"{name}/{key}": value for key, value in figures.items()}, record.step)

    def pack_corpus(self, need_labels: bool, options: PackOptions | None = None) -> Manifest:
        """The packed corpus of the run, packed if it is not yet, and checked; with `need_labels` for what annotations
        have to serve."""
        run, source = self._run, self._run.corpus.dataset_path
        with self.stage("corpus", "pages into lines"):
            if source is not None and open_folder(source).exists("manifest.json"):
                packed = source
            else:
                packed = str(self.output / "lines")
                pages, annotated = run.corpus.sample_pages, run.corpus.annotated_pages
                prepare(packed, source, pages, annotated, run.corpus.sample_seed, options, use_ray=self.on_ray)
            manifest = load_manifest(packed)
            check_learnable(manifest, need_labels=need_labels)
            if self.compares and not manifest.num_annotated("validation"):
                raise ValueError(NEVER_REPORTED)
            if need_labels:
                check_measurable(manifest)
            claim(run, manifest.fingerprint)
        self.corpus = manifest.fingerprint
        return manifest

    @property
    def storage(self) -> str:
        """Where checkpoints go: a folder by content, so that runs that share a storage_path never resume each other."""
        learnt = self._run.model_dump_json(exclude=ELSEWHERE | {"storage_path"})
        content = content_id(learnt, self.corpus, str(self.output))[:12]
        return f"{self._run.storage_path or self.output / 'checkpoints'}/{content}"
