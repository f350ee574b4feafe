"""Checks a corpus, packs it into Parquet shards for training, and prints its data card.

    python rayjobs/prepare.py --output_dir runs/lines                       # the sample corpus
    python rayjobs/prepare.py --dataset_path scans --output_dir runs/lines

On a cluster (paths that every node sees, or s3:// and gs://):

    ray job submit --working-dir . -- python rayjobs/prepare.py --dataset_path s3://b/scans --output_dir s3://b/lines
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tdtrain.cli import run_job
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.prepare import prepare
from tdtrain.data.storage import absolute
from tdtrain.ray_start import connect
from tdtrain.train.nodes import check_nodes


def main(
    output_dir: str,
    dataset_path: str | None = None,
    sample_pages: int = 300,
    annotated_pages: int = 20,
    seed: int = 0,
    options: Annotated[PackOptions, tyro.conf.OmitArgPrefixes] = PackOptions(),  # noqa: B008 - frozen
) -> None:
    """Checks and packs a corpus.

    Args:
        output_dir: where the packed corpus goes; any pyarrow filesystem.
        dataset_path: folder with images/ and perhaps annotations/ and boxes/. Left out: the sample corpus.
        sample_pages: pages of the sample corpus.
        annotated_pages: how many of them are annotated.
        seed: of the sample corpus.
        options: how to pack.
    """

    def job(options: PackOptions) -> None:
        connect()
        check_nodes(
            {"output_dir": absolute(output_dir)}, {"dataset_path": absolute(dataset_path)} if dataset_path else {}
        )
        prepare(output_dir, dataset_path, sample_pages, annotated_pages, seed, options)

    run_job(job, options)


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True, description=__doc__)
