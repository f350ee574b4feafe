"""From a folder of scans, or none, to a packed corpus and its card on the terminal."""

from __future__ import annotations

from pathlib import Path

from tdtrain.data.card import print_card
from tdtrain.data.manifest import Manifest
from tdtrain.data.pack import pack
from tdtrain.data.pack_options import PackOptions
from tdtrain.ray_start import connect


def prepare(
    output_dir: str | Path,
    dataset_path: str | None = None,
    sample_pages: int = 300,
    annotated_pages: int = 20,
    seed: int = 0,
    options: PackOptions | None = None,
    use_ray: bool = True,
) -> Manifest:
    """Validates and packs a corpus, and prints its data card.

    Args:
        output_dir: where the packed corpus goes; a sample corpus is drawn in its `sample` folder.
        dataset_path: the corpus; None: the sample corpus.
        sample_pages: pages of the sample corpus.
        annotated_pages: how many of them are annotated.
        seed: of the sample corpus.
        options: see PackOptions; None: the defaults.
        use_ray: False: in this process.

    Raises:
        ValueError: see `pack`.
    """
    if dataset_path is None:
        if "://" in str(output_dir):
            raise ValueError(
                f"output_dir={output_dir}: the sample corpus is drawn on a local disk; give a local folder"
            )
        from tdtrain.data.sample.corpus import write_sample  # its fonts and renderer are for samples only

        if use_ray:
            connect()
        sample = Path(output_dir) / "sample"
        write_sample(sample, sample_pages, annotated_pages, seed=seed, workers=None if use_ray else 0)
        dataset_path = str(sample)
    manifest = pack(dataset_path, output_dir, options, use_ray=use_ray)
    print_card(output_dir)
    return manifest
