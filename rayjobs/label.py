"""Have a teacher label a packed corpus once, for all the runs that learn from it; or a service write pages as JSON.

    python rayjobs/prepare.py --output_dir runs/lines
    python rayjobs/label.py --dataset_path runs/lines --output_dir runs/labels
    python rayjobs/distill.py --dataset_path runs/lines --teacher_cache runs/labels --no_adapt_teacher

    ray job submit --working-dir . -- python rayjobs/label.py --teacher_model microsoft/trocr-large-printed \\
        --dataset_path s3://bucket/lines --output_dir s3://bucket/labels --teacher_actors 8 --teacher_gpus 1

`--task document` asks a service about each page of a folder of images, and leaves a corpus with annotations/NAME.json;
`--task text` leaves boxes/NAME.json, the lines of each. What was answered once is never paid again, and never more than
a budget; `--task text --help` explains the flags.

    python rayjobs/label.py --task document --service_url http://localhost:8000/v1 --service_model qwen2.5-vl \\
        --dataset_path scans --output_dir output/asked --calls_per_second 2 --max_pages 100
    python rayjobs/distill.py --task document --dataset_path output/asked
    python rayjobs/label.py --task text --service google-vision --dataset_path scans --output_dir output/read
    python rayjobs/distill.py --dataset_path output/read
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.ask_config import AskRun
from tdtrain.cli import parse, run_job, show, task_of
from tdtrain.config import LabelRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    if task_of(sys.argv[1:]) in ("document", "text"):
        asked = parse(AskRun, __doc__)
        if asked.dry_run:
            show(asked)
        from tdtrain.asking_pages import ask_pages

        run_job(ask_pages, asked)
        return
    run = parse(LabelRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.labelling import label_corpus  # after --dry_run: torch and Ray take seconds to import

    run_job(label_corpus, run)


if __name__ == "__main__":
    main()
