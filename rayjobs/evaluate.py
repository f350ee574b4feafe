"""Score a reader on a corpus: results.json and report.html.

    python rayjobs/evaluate.py --model output/distill/student --dataset_path scans --output_dir output/scored
    ray job submit --working-dir . -- python rayjobs/evaluate.py --model s --dataset_path s3://bucket/scans \\
        --output_dir /shared/scored --baseline ppocrv6-small
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_job, show
from tdtrain.config import EvaluateRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    run = parse(EvaluateRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.scoring import score  # after --dry_run: torch and Ray take seconds to import

    run_job(score, run)


if __name__ == "__main__":
    main()
