"""The labelling job: one teacher, one packed corpus, one cache that later runs find by themselves."""

from __future__ import annotations

from pathlib import Path

from tdtrain.config import LabelRun
from tdtrain.data.manifest import load_manifest
from tdtrain.data.storage import absolute, open_folder
from tdtrain.models.load import load_reader
from tdtrain.ray_start import check_label, connect, within_reach
from tdtrain.teachers.cache import LabelManifest, differences, keep_of, name_of
from tdtrain.teachers.label_pass import label, plan_labels
from tdtrain.train.nodes import check_nodes
from tdtrain.train.progress import Display


def label_corpus(run: LabelRun) -> LabelManifest:
    """Labels what is not labelled yet, and says what there is. The same run again resumes.

    Raises: ValueError on what cannot work, before a teacher is started.
    """
    keep = keep_of(run.kept, load_reader(run.teacher_model).kind, run.temperature)
    job = plan_labels(run.teacher_model, run.dataset_path, run.output_dir, run.precision, keep)
    connect()
    check_label(run.kept.labels, "teacher_label")
    resources = within_reach(run.kept.labels)
    check_nodes({"output_dir": absolute(run.output_dir)}, {"dataset_path": absolute(run.dataset_path)})
    gpus = resources.get("GPU", 0.0)
    reserved = float(gpus > 0) if run.kept.teacher_gpus is None else run.kept.teacher_gpus
    actors = run.kept.teacher_actors or max(1, int(gpus if reserved else resources.get("CPU", 0) // 2))
    shards = load_manifest(job.lines).shards_of("train")
    done = sum(open_folder(job.folder).exists(name_of(shard.path)) for shard in shards)
    with Display(Path(run.output_dir).name) as display:
        for other in differences(open_folder(run.output_dir), job.spec):
            display.say(f"Another cache lies there and is left as it is: {other}")
        display.say(f"{job.folder}: {done} of {len(shards)} shards are there; {actors} teachers side by side")
        manifest = label(job, actors, display.counting("label", "lines"), reserved, run.kept.labels)
        display.say(f"{manifest.num_lines:,} lines; {manifest.bytes_per_position:g} bytes a position ({keep.kept})")
    return manifest
