"""Have a model read every image of a folder: text from a reader, timetable JSON from a language model.

    python rayjobs/predict.py --model output/distill/student --dataset_path scans
    ray job submit --working-dir . -- python rayjobs/predict.py --model /shared/llama/merged \\
        --dataset_path s3://bucket/scans --output_dir s3://bucket/documents --num_workers 8 --gpus_per_worker 1

Leaves NAME.txt or NAME.json for each image, in the formats of a corpus's annotations/, and failed.jsonl with the
reasons where there are any. The same command again does what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_job, show
from tdtrain.config import PredictRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    run = parse(PredictRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.predicting import predict  # after --dry_run: torch and Ray take seconds to import

    run_job(predict, run)


if __name__ == "__main__":
    main()
