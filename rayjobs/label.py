"""Have a teacher label a packed corpus once, for all the runs that learn from it.

    python rayjobs/prepare.py --output_dir runs/lines
    python rayjobs/label.py --dataset_path runs/lines --output_dir runs/labels
    python rayjobs/distill.py --dataset_path runs/lines --teacher_cache runs/labels --no_adapt_teacher

    ray job submit --working-dir . -- python rayjobs/label.py --teacher_model microsoft/trocr-large-printed \\
        --dataset_path s3://bucket/lines --output_dir s3://bucket/labels --teacher_actors 8 --teacher_gpus 1
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_job, show
from tdtrain.config import LabelRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    run = parse(LabelRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.labelling import label_corpus  # after --dry_run: torch and Ray take seconds to import

    run_job(label_corpus, run)


if __name__ == "__main__":
    main()
