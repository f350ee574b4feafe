"""Every job in rayjobs/, run as a user runs it, small."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from transformers import AutoTokenizer

from tests.checkpoints import committed
from tests.corpora import line_corpus, packed_lines
from tests.models_small import small_llama_folder, small_trocr_folder, timetable_texts

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
FIXED = ("cer", "wer", "accuracy", "cer_digits", "ms_per_line_p50", "ms_per_line_p95", "num_parameters")


def run(*command: object, ok: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=1000, check=False
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def in_manifest(overlay: str) -> dict[str, str]:
    """The flags of the job in cluster/kuberay/jobs."""
    manifest = yaml.safe_load((ROOT / "cluster/kuberay/jobs" / overlay / "kustomization.yaml").read_text())
    changes = [change for patch in manifest["patches"] for change in yaml.safe_load(patch["patch"])]
    (entrypoint,) = (change["value"] for change in changes if change["path"] == "/spec/entrypoint")
    _, script, *flags = shlex.split(entrypoint)
    assert script == "/opt/tdtrain/rayjobs/distill.py"
    return dict(zip(flags[::2], flags[1::2], strict=True))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Sample pages, an adapted teacher, a stitched student, its control: what no argument at all runs, but small. It is
    the command of a cluster's first job. Its folder, and the command."""
    out = tmp_path_factory.mktemp("distil")
    flags = in_manifest("cpu") | {"--output_dir": str(out)}
    del flags["--tracking_uri"]
    command = ["rayjobs/distill.py", *itertools.chain(*flags.items())]
    run(*command)
    return out, command


def test_distill_leaves_results_a_report_and_a_student(distilled: tuple[Path, list[str]]) -> None:
    out, _ = distilled
    results = json.loads((out / "results.json").read_text())
    assert set(results["readers"]) == {"teacher", "teacher_before", "student_before", "student_undistilled", "student"}
    for reader in results["readers"].values():
        assert all(reader[key] is not None for key in FIXED)
    assert 0 <= results["p_value_student_vs_undistilled"] <= 1
    assert {"gap_closed", "run", "versions"} <= set(results)
    assert results["run"]["student_model"] == "mobile-stitched" and results["readers"]["student_before"]["cer"] < 0.3
    page = (out / "report.html").read_text()
    assert "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "student" / "README.md").exists() and (out / "mlflow.db").exists()


def test_plain_transformers_loads_the_student_without_tdtrain(distilled: tuple[Path, list[str]]) -> None:
    student = distilled[0] / "student"
    code = (
        "import sys, torch\nfrom transformers import AutoModelForTextRecognition\n"
        f"model = AutoModelForTextRecognition.from_pretrained({str(student)!r})\n"
        "assert not any(name.startswith('tdtrain') for name in sys.modules)\n"
        "print('parameters', sum(p.numel() for p in model.parameters()), '.')\n"
    )
    printed = run("-I", "-c", code)
    assert 100_000 < int(printed.split("parameters ")[1].split()[0]) < 1_000_000


def test_evaluate_scores_a_folder_of_lines_against_a_baseline(
    distilled: tuple[Path, list[str]], tmp_path: Path
) -> None:
    corpus = line_corpus(tmp_path / "corpus", timetable_texts(30, seed=5))
    command = ["rayjobs/evaluate.py", "--model", distilled[0] / "student", "--dataset_path", corpus]
    run(*command, "--output_dir", tmp_path / "out", "--baseline", "ppocrv6-tiny", "--num_workers", "0")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["readers"]) == {"student", "baseline"}
    assert results["readers"]["student"]["num_lines"] == 30
    assert (tmp_path / "out" / "report.html").exists()


def test_the_same_command_again_trains_nothing_again_and_another_is_refused(distilled: tuple[Path, list[str]]) -> None:
    out, command = distilled
    first = json.loads((out / "results.json").read_text())
    roles = set(first["readers"]) - {"teacher_before"}
    weights = {role: (out / role / "model.safetensors").stat().st_mtime_ns for role in roles}
    run(*command)
    again = json.loads((out / "results.json").read_text())
    assert weights == {role: (out / role / "model.safetensors").stat().st_mtime_ns for role in weights}
    assert {role: scores["cer"] for role, scores in again["readers"].items()} == {
        role: scores["cer"] for role, scores in first["readers"].items()
    }
    assert again["timings_s"]["train"] >= first["timings_s"]["train"] > 1
    runs = sqlite3.connect(out / "mlflow.db").execute("select status from runs").fetchall()
    assert runs == [("FINISHED",)]
    refused = run(*command, "--seed", "1", ok=False)
    assert "holds another run, with optimisation.seed=0" in refused and "Traceback" not in refused


def test_an_archive_that_nobody_annotated_makes_a_student(tmp_path: Path) -> None:
    corpus = line_corpus(tmp_path / "corpus", annotated=0, num=120)
    command = [
        "rayjobs/distill.py", "--teacher_model", "ppocrv6-tiny", "--student_model", "nano", "--dataset_path", corpus,
        "--output_dir", tmp_path / "out", "--epochs", "1", "--num_workers", "0", "--min_confidence", "0.3",
    ]  # fmt: skip
    assert "no annotated line to train on" in run(*command, ok=False)
    assert "Nothing was measured" in run(*command, "--no_control")
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()


def test_trocr_into_trocr_with_a_live_teacher(tmp_path: Path) -> None:
    corpus = line_corpus(tmp_path / "corpus", num=120)
    texts = timetable_texts(120)
    teacher = small_trocr_folder(tmp_path / "teacher", "large", texts, ctc=True)
    student = small_trocr_folder(tmp_path / "student", "base", texts, ctc=True)
    run(
        "rayjobs/distill.py", "--teacher_model", teacher, "--student_model", student, "--dataset_path", corpus,
        "--output_dir", tmp_path / "out", "--epochs", "1", "--batch_size", "16", "--num_workers", "0",
        "--no_adapt_teacher", "--min_confidence", "0",
    )  # fmt: skip
    assert "student" in json.loads((tmp_path / "out" / "results.json").read_text())["readers"]


def test_large_into_small_across_vocabularies(tmp_path: Path) -> None:
    """The guide's command, with folders in place of the hub's names: the student gets the teacher's tokens, and few."""
    corpus = line_corpus(tmp_path / "corpus", num=120)
    teacher, student = (small_trocr_folder(tmp_path / like, like, timetable_texts(120)) for like in ("large", "small"))
    command = [
        "rayjobs/distill.py", "--teacher_model", teacher, "--student_model", student, "--dataset_path", corpus,
        "--output_dir", tmp_path / "out", "--epochs", "1", "--batch_size", "16", "--num_workers", "0",
        "--no_adapt_teacher", "--min_confidence", "0", "--temperature", "5.0",
    ]  # fmt: skip
    refused = run(*command, "--vocabulary_bridge", "same", ok=False)
    assert "not the same ones; leave it out, or choose one of rehead" in refused and "Traceback" not in refused
    run(*command, "--trim_vocabulary")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["run"]["teaching"]["temperature"] == 5.0
    assert results["readers"]["student"]["num_parameters"] < results["readers"]["teacher"]["num_parameters"]
    tokens = {
        role: set(AutoTokenizer.from_pretrained(tmp_path / folder).get_vocab())
        for role, folder in (("teacher", "large"), ("student", "out/student"))
    }
    assert tokens["student"] < tokens["teacher"]


def test_large_into_small_on_two_workers_under_zero_2_survives_a_kill(tmp_path: Path) -> None:
    """It trains while the teacher labels; all is killed after a checkpoint; the same command goes on from there."""
    corpus = line_corpus(tmp_path / "corpus", num=160)
    teacher, student = (small_trocr_folder(tmp_path / like, like, timetable_texts(160)) for like in ("large", "small"))
    out = tmp_path / "out"
    command = [
        "rayjobs/distill.py", "--teacher_model", teacher, "--student_model", student, "--dataset_path", corpus,
        "--output_dir", out, "--epochs", "18", "--batch_size", "16", "--no_adapt_teacher", "--min_confidence", "0",
        "--cache_k", "64", "--num_workers", "2", "--zero_stage", "2", "--no_control", "--evaluations", "4",
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=file, stderr=file)
    saved = 0
    while not saved:
        assert process.poll() is None, log.read_text()[-5000:]
        time.sleep(0.2)
        saved = committed(out)
    for child in [*psutil.Process(process.pid).children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    said = run(*command)
    assert "the teacher labels meanwhile" in said
    steps = [int(step) for step in re.findall(r"student +([0-9]+)/[0-9]+", said)]
    history = json.loads((out / "student" / "progress.json").read_text())["history"]
    assert 0 < saved < steps[0] and [record["step"] for record in history] == list(range(1, steps[-1] + 1))
    assert "student" in json.loads((out / "results.json").read_text())["readers"]


def test_label_makes_a_cache_that_distil_finds(tmp_path: Path) -> None:
    lines = packed_lines(tmp_path, num=120)
    teacher, student = (small_trocr_folder(tmp_path / like, like, timetable_texts(120)) for like in ("large", "base"))
    caches = tmp_path / "caches"
    said = run("rayjobs/label.py", "--dataset_path", lines, "--teacher_model", teacher, "--output_dir", caches)
    assert "134 bytes a position" in " ".join(said.split())
    run(
        "rayjobs/distill.py", "--teacher_model", teacher, "--student_model", student, "--dataset_path", lines,
        "--output_dir", tmp_path / "out", "--epochs", "1", "--num_workers", "0", "--no_adapt_teacher",
        "--min_confidence", "0", "--teacher_cache", caches, "--no_control",
    )  # fmt: skip
    assert len(list(caches.iterdir())) == 1 and not (tmp_path / "out" / "labels").exists()
    other = run("rayjobs/label.py", "--dataset_path", lines, "--teacher_model", teacher, "--output_dir", caches,
                "--cache_as", "hidden")  # fmt: skip
    assert "Another cache lies there" in other


def test_lora_adapts_a_reader_with_a_teacher_and_leaves_what_plain_peft_loads(tmp_path: Path) -> None:
    corpus, out = line_corpus(tmp_path / "corpus", annotated=80, num=120), tmp_path / "out"
    command = [
        "rayjobs/lora_ocr.py", "--model_name", "ppocrv6-tiny", "--dataset_path", corpus, "--output_dir", out, "--rank",
        "4", "--epochs", "1", "--batch_size", "16", "--teacher_model", "ppocrv6-small", "--min_confidence", "0.5",
    ]  # fmt: skip
    refused = run(*command, "--target_modules", "query", ok=False)
    assert "it has channel_conv1 (9)" in refused and "Traceback" not in refused and not out.exists()
    said = " ".join(run(*command, "--target_modules", "all").split())
    assert "adapters in all: 25 layers" in said
    results = json.loads((out / "results.json").read_text())
    assert set(results["readers"]) == {"student", "baseline", "teacher"} and "25 layers" in results["notes"][0]
    code = (
        "import sys\nfrom peft import PeftModel\nfrom transformers import AutoModelForTextRecognition as Auto\n"
        f"merged = Auto.from_pretrained({str(out / 'merged')!r})\n"
        f"adapted = PeftModel.from_pretrained(merged, {str(out / 'adapter')!r})\n"
        "assert not any(name.startswith('tdtrain') for name in sys.modules)\n"
        "print('adapters', sum('lora_A' in name for name, _ in adapted.named_parameters()), '.')\n"
    )
    assert "adapters 25 ." in run("-I", "-c", code)


def test_lora_teaches_a_language_model_documents_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "rayjobs/lora_document.py", "--model_name", small_llama_folder(tmp_path / "llama"), "--reader", "ppocrv6-tiny",
        "--sample_pages", "6", "--annotated_pages", "6", "--output_dir", out, "--epochs", "1", "--batch_size", "2",
        "--max_answer_tokens", "24", "--max_document_tokens", "3000",
    ]  # fmt: skip
    refused = run(*command, "--max_tokens", "2000", ok=False)
    assert "max_document_tokens=3000 is more than" in refused
    said = run(*command)
    assert "adapters in q_proj: 2, k_proj: 2, v_proj: 2, o_proj: 2 layers" in " ".join(said.split())
    results = json.loads((out / "results.json").read_text())
    assert set(results["writers"]) == {"student", "baseline", "student_true_text", "rules", "rules_true_text"}
    assert all(scores["num_blocks"] > 0 for scores in results["writers"].values())
    assert results["writers"]["rules_true_text"]["valid_schema"] == 1.0
    assert json.loads((out / "merged" / "lexicon.json").read_text()).keys()
    trained = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    run(*command)
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == trained
    code = (
        "import sys\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM as Auto\n"
        f"merged = Auto.from_pretrained({str(out / 'merged')!r})\n"
        f"adapted = PeftModel.from_pretrained(merged, {str(out / 'adapter')!r})\n"
        "print('adapters', sum('lora_A' in name for name, _ in adapted.named_parameters()), '.')\n"
    )
    assert "adapters 8 ." in run("-I", "-c", code)


def test_predict_reads_every_image_once_and_says_what_failed(tmp_path: Path) -> None:
    corpus, out = line_corpus(tmp_path / "corpus", num=20), tmp_path / "out"
    (corpus / "images" / "0003.png").write_bytes(b"no picture")
    command = [
        "rayjobs/predict.py",
        "--model",
        "ppocrv6-tiny",
        "--dataset_path",
        corpus,
        "--output_dir",
        out,
        "--lines",
        "--num_workers",
        "1",
    ]
    assert "19 images done, 0 were there; 1 failed" in " ".join(run(*command).split())
    failed = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in failed] == ["images/0003.png"] and "cannot be decoded" in failed[0]["reason"]
    right = [
        (out / f"{path.stem}.txt").read_text().strip() == path.read_text().strip()
        for path in sorted((corpus / "annotations").glob("*.txt"))
        if path.stem != "0003"
    ]
    assert sum(right) > 5  # no one taught it these pictures
    written = (out / "0000.txt").stat().st_mtime_ns
    (out / "0001.txt").unlink()
    assert "1 images done, 18 were there; 1 failed" in " ".join(run(*command, "--num_workers", "0").split())
    assert (out / "0000.txt").stat().st_mtime_ns == written and (out / "0001.txt").exists()


def test_dry_run_shows_the_run_and_starts_nothing() -> None:
    shown = json.loads(run("rayjobs/distill.py", "--dry_run", "--alpha", "0.3", "--batch-size", "8"))
    assert shown["teaching"]["alpha"] == 0.3 and shown["optimisation"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--alpha", "1.5"], "alpha"),
        (["--temperature", "0"], "temperature"),
        (["--batch_size", "30", "--num_workers", "4"], "use 28 or 32"),
        (["--annotated_pages", "0"], "control=True needs annotated pages"),
        (["--no_such_flag", "1"], "no_such_flag"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: list[str], expected: str) -> None:
    assert expected in " ".join(run("rayjobs/distill.py", *arguments, ok=False).replace("│", " ").split())
