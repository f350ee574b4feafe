"""Distil a large reader of timetables into a small one; or a service's documents into a language model.

    python rayjobs/distill.py                                     # the sample corpus, on this machine
    ray job submit --working-dir . -- python rayjobs/distill.py \\
        --teacher_model ppocrv6-small --student_model mobile --dataset_path s3://bucket/scans \\
        --output_dir /shared/scans --temperature 2.0 --alpha 0.5 --epochs 10 --batch_size 32 --learning_rate 1e-3

`--task document` teaches a language model the documents that rayjobs/label.py had a service write, with LoRA, and
measures it on the pages that are annotated by hand; `--task document --help` explains the flags.

    python rayjobs/label.py --task document --service claude --service_model MODEL --dataset_path scans
    python rayjobs/distill.py --task document --dataset_path output/asked
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_documents, run_job, show, task_of
from tdtrain.config import DistillDocumentRun, DistillRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    if task_of(sys.argv[1:]) == "document":
        run_documents(parse(DistillDocumentRun, __doc__))
        return
    run = parse(DistillRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.pipeline import distill  # after --dry_run: torch and Ray take seconds to import

    run_job(distill, run)


if __name__ == "__main__":
    main()
