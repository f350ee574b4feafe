"""Search the values of a job's fields under which its model reads best, with Ray Tune.

    python rayjobs/tune.py                                        # temperature, alpha and learning rate of distill
    python rayjobs/tune.py --job lora_ocr --objectives score parameters --scheduler none -- --dataset_path scans
    ray job submit --working-dir . -- python rayjobs/tune.py --num_trials 64 --output_dir /shared/search \\
        --space "teaching.temperature=log(1.0, 10.0)" "optimisation.learning_rate=log(1e-5, 1e-3)" -- \\
        --dataset_path s3://bucket/scans --epochs 4

What stands after -- are the flags of the job that is searched, as rayjobs/distill.py, rayjobs/lora_ocr.py or
rayjobs/lora_document.py takes them. Its own output_dir does not count: everything lies in that of the search.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import BaseModel

from tdtrain.cli import parse, run_job, show
from tdtrain.config import DistillRun, LoraDocumentRun, LoraOcrRun
from tdtrain.search.paths import check_paths
from tdtrain.search.runs import SearchRun
from tdtrain.search.space import check_space, parse_axis

JOBS = {"distill": DistillRun, "lora_ocr": LoraOcrRun, "lora_document": LoraDocumentRun}


def main() -> None:
    """Parses search and job, shows both with --dry_run, or runs the search."""
    given = sys.argv[1:]
    place = given.index("--") if "--" in given else len(given)
    search = parse(SearchRun, __doc__, given[:place])
    run = parse(JOBS[search.job], f"What {search.job} does in each trial.", given[place + 1 :])
    run_job(lambda _: check(search, run), search)
    if search.dry_run:
        show(search.model_copy(update={"space": search.axes}))
        show(run)
        return
    from tdtrain.searching import search_job  # after --dry_run: torch and Ray take seconds to import

    run_job(lambda _: search_job(search, run), search)


def check(search: SearchRun, run: BaseModel) -> None:
    """Raises ValueError where the space cannot be searched."""
    axes = [parse_axis(spec) for spec in search.axes]
    check_space(run, axes)
    check_paths(axes, exploits=search.scheduler == "pbt")


if __name__ == "__main__":
    main()
