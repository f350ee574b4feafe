"""Teach a language model to write your pages as timetable JSON, with LoRA: pages are read, laid out as text, learnt.

    python rayjobs/lora_document.py                              # SmolLM2-135M on the sample corpus, on this machine
    ray job submit --working-dir . -- python rayjobs/lora_document.py \\
        --model_name meta-llama/Meta-Llama-3-8B-Instruct --dataset_path s3://bucket/scans --output_dir /shared/llama \\
        --rank 32 --alpha 64 --learning_rate 2e-4 --zero_stage 3 --gradient_checkpointing --num_workers 4

`--plan` prints the memory that each worker needs, from the model's config alone.

The corpus is a folder of images/ with annotations/NAME.json. Leaves adapter/ for plain peft, merged/ for plain
transformers, results.json and report.html, which compares with the base model and with rules.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import parse, run_documents
from tdtrain.config import LoraDocumentRun


def main() -> None:
    """Parses the run, shows it with --dry_run, plans its memory with --plan, or runs it."""
    run_documents(parse(LoraDocumentRun, __doc__))


if __name__ == "__main__":
    main()
