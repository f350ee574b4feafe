"""The batch pass over shards on a real local Ray gives what reading in process gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tdtrain.data.rows import LINE_SCHEMA
from tdtrain.evaluate.batch import read_corpus
from tdtrain.evaluate.score import read_lines_with
from tests.unit.evaluate.readers import ShadeReader, shade_line

pytestmark = pytest.mark.ray


@pytest.fixture
def running_ray() -> Iterator[None]:
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    if started:
        ray.shutdown()


def test_same_readings_in_the_same_order(running_ray: None, tmp_path: Path) -> None:
    lines = [shade_line(20 + i, 255 - i, f"p{i // 3}", "x") for i in range(24)]
    shards = []
    for number, part in enumerate((lines[::2], lines[1::2])):
        rows = [asdict(line) | {"tags": list(line.tags.items())} for line in part]
        shards.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.Table.from_pylist(rows, schema=LINE_SCHEMA), shards[-1])
    wanted = [*reversed(lines[4:]), lines[5]]

    loads = {"a": ShadeReader, "b": ShadeReader}
    told: list[tuple[int, int]] = []
    ids = [line.id for line in wanted]
    readings = read_corpus(
        loads, shards, ids, num_actors=2, batch_size=4, progress=lambda done, total: told.append((done, total))
    )

    assert readings == dict.fromkeys(loads, read_lines_with(ShadeReader(), wanted))
    assert told[-1] == (4, 4)
    with pytest.raises(ValueError, match="1 of 2 lines are in none of the 2 shards, first id nowhere"):
        read_corpus({"a": ShadeReader}, shards, [lines[0].id, "nowhere"])
