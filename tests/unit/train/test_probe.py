"""What nodes say about folders and versions, and what the driver makes of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from tdtrain.admission import places_of
from tdtrain.config import DistillRun, LoraOcrRun
from tdtrain.data.storage import open_folder
from tdtrain.options import Corpus, OptionalTeacher
from tdtrain.train.nodes import by_address, check_own_node, complaints
from tdtrain.train.probe import OWN_CODE, PACKAGES, Seen, differences, look, marked, there, versions
from tests.buckets import local_bucket


def test_a_node_that_sees_what_the_driver_wrote_has_nothing_to_say(tmp_path: Path) -> None:
    writes = {"output_dir": str(tmp_path / "new" / "out"), "storage_path": str(tmp_path)}
    with marked(writes) as places:
        seen = look(places, "node")
        assert (seen.amiss, seen.versions) == ({}, versions())
        assert len(list(tmp_path.rglob("driver-node"))) == 2
    assert list(tmp_path.iterdir()) == []


def test_folders_that_somebody_uses_by_now_stay(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with marked({"output_dir": str(out)}):
        (out / "run.json").write_text("{}")
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_node_of_another_disk_says_so(tmp_path: Path) -> None:
    disk, theirs = tmp_path / "disk", tmp_path / "theirs"
    disk.mkdir()
    with marked({"output_dir": str(disk / "out")}) as places:
        disk.rename(tmp_path / "ours")
        theirs.mkdir()
        theirs.rename(disk)
        seen = look(places, "node")
        assert seen.amiss == {"output_dir": "lacks what the driver wrote there"}
        assert list(disk.iterdir()) == []  # and nothing was made there


def test_the_driver_says_what_it_cannot_write_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"storage_path=.*/file/runs cannot be written"):
        with marked({"storage_path": str(tmp_path / "file" / "runs")}):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_corpus_is_read_by_one_of_its_files(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "images").mkdir(parents=True)
    assert there({"dataset_path": str(corpus)}) == ()
    (corpus / "images" / "1.png").write_bytes(b"picture")
    (place,) = there({"dataset_path": str(corpus)})
    assert place.file == "images/1.png" and look((place,), "node").amiss == {}
    (corpus / "images" / "1.png").unlink()
    assert look((place,), "node").amiss == {"dataset_path": "lacks images/1.png"}
    assert not list(corpus.rglob("*node*"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with local_bucket() as uri:
        yield uri


def test_buckets_are_looked_at_as_folders_are(bucket: str) -> None:
    with marked({"storage_path": f"{bucket}/runs"}) as places:
        assert look(places, "node").amiss == {}
    assert look(places, "node").amiss == {"storage_path": "lacks what the driver wrote there"}
    open_folder(f"{bucket}/corpus").write("images/1.png", b"picture")
    (place,) = there({"dataset_path": f"{bucket}/corpus"})
    assert place.file == "images/1.png" and look((place,), "node").amiss == {}


def test_versions_are_compared_without_their_builds() -> None:
    ours = {"Python": "3.11", "torch": "2.13.0", OWN_CODE: "a"}
    assert differences(ours, ours) == ""
    assert (
        differences(ours, ours | {"torch": "2.12.0", OWN_CODE: "b"})
        == "torch 2.12.0, not 2.13.0, other code of tdtrain"
    )
    assert {"Python", OWN_CODE, *PACKAGES} == set(versions())
    assert "+" not in versions()["torch"]


@pytest.mark.parametrize("path", ["S3://bucket/x", "az://bucket/x", "s3:///x"])
def test_an_address_that_is_none_is_named(path: str) -> None:
    with (
        pytest.raises(ValueError, match=f"storage_path={path} cannot be written .*use"),
        marked({"storage_path": path}),
    ):
        pass


def test_complaints_name_field_folder_nodes_and_a_way_out() -> None:
    lacks = Seen(versions(), {"output_dir": "lacks what the driver wrote there"})
    older = Seen(versions() | {"transformers": "4.0"}, {})
    answers = {"10.0.0.3": lacks, "10.0.0.1": Seen(versions(), {}), "10.0.0.2": lacks, "10.0.0.4": older}
    assert complaints(answers, {"output_dir": "/out"}) == [
        "output_dir=/out on node 10.0.0.2, 10.0.0.3 lacks what the driver wrote there; "
        "give a folder on a disk that all nodes share",
        f"node 10.0.0.4 has transformers 4.0, not {versions()['transformers']}; "
        "install what the driver has, in the node's image or by the job's runtime env",
    ]
    assert complaints({"10.0.0.1": "has not answered within 300 s"}, {})[0].startswith("node 10.0.0.1 has not answered")


def test_a_worker_says_what_its_own_node_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/a.parquet").touch()
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.7")
    places = there({"lines": str(tmp_path / "lines")})
    check_own_node(versions(), places)
    (tmp_path / "lines/a.parquet").unlink()
    with pytest.raises(ValueError, match=rf"^lines={tmp_path}/lines on node 10.0.0.7 lacks a.parquet; put it where"):
        check_own_node(versions(), places)
    with pytest.raises(ValueError, match=r"^node 10.0.0.7 has Python .*, not 2.7; install what the driver has"):
        check_own_node(versions() | {"Python": "2.7"}, ())


def test_of_a_host_that_was_booted_again_its_present_life_answers() -> None:
    seen = Seen(versions(), {})
    for answers in permutations([("10.0.0.2", "runs no task"), ("10.0.0.2", seen), ("10.0.0.3", "runs no task")]):
        assert by_address(answers) == {"10.0.0.2": seen, "10.0.0.3": "runs no task"}


def test_folders_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("teacher").mkdir()
    run = DistillRun(teacher_model="teacher", storage_path="s3://bucket/runs", corpus=Corpus(dataset_path="scans"))
    writes, reads = places_of(run)
    assert writes == {"output_dir": f"{tmp_path}/output/distill", "storage_path": "s3://bucket/runs"}
    assert reads == {
        "teacher_model": f"{tmp_path}/teacher"
    }  # a corpus that is not there is refused in words of its own
    other = LoraOcrRun(
        teacher=OptionalTeacher(teacher_model="teacher"), corpus=Corpus(dataset_path="s3://bucket/scans")
    )
    assert places_of(other)[1] == {"dataset_path": "s3://bucket/scans", "teacher_model": f"{tmp_path}/teacher"}
    assert os.listdir() == ["teacher"]
