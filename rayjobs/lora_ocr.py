"""Adapt a reader of timetables to your pages with LoRA: a few percent of the weights, and the base stays as it is.

    python rayjobs/lora_ocr.py                                    # the sample corpus, on this machine
    ray job submit --working-dir . -- python rayjobs/lora_ocr.py \\
        --model_name microsoft/trocr-base-printed --dataset_path s3://bucket/scans --output_dir /shared/lora \\
        --rank 16 --alpha 32 --target_modules query key value --epochs 5 --batch_size 8 --learning_rate 3e-4

`--teacher_model` distils a larger reader into the adapters in the same job.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_job, show
from tdtrain.config import LoraOcrRun


def main() -> None:
    """Parses the run, shows it with --dry_run, or runs it."""
    run = parse(LoraOcrRun, __doc__)
    if run.dry_run:
        show(run)
        return
    from tdtrain.adapting import adapt  # after --dry_run: torch and Ray take seconds to import

    run_job(adapt, run)


if __name__ == "__main__":
    main()
