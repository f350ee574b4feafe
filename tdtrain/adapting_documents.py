"""The jobs that adapt a language model to documents: pages -> lines -> readings -> examples -> adapters -> merged ->
answers -> report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import torch

from tdtrain.compute import Compute
from tdtrain.config import DistillDocumentRun, LoraDocumentRun
from tdtrain.data.documents import PageText, read_pages
from tdtrain.data.known import NOTHING
from tdtrain.data.lexicon import FILE as LEXICON
from tdtrain.data.lexicon import Lexicon
from tdtrain.data.manifest import Manifest
from tdtrain.data.order import in_order_of_page
from tdtrain.data.pack_options import PackOptions
from tdtrain.data.rows import SPLITS
from tdtrain.data.sequences import Example, write_sequences
from tdtrain.data.serialise import serialise
from tdtrain.evaluate.documents import evaluate_documents
from tdtrain.models.causal import Prompter, check_four_bit, load_causal, outline, save_causal
from tdtrain.models.lora import adapt
from tdtrain.page_readings import annotated_text, read_annotated_pages
from tdtrain.ray_start import wherever
from tdtrain.report.documents import DocumentResults, report_documents
from tdtrain.stages import Stages, opened
from tdtrain.train.fits import check_fits
from tdtrain.train.language import plan_language
from tdtrain.train.launch import fit
from tdtrain.train.memory import FP32
from tdtrain.train.runs import LanguageRun

ADAPTER, MERGED = "adapter", "merged"
WORDS = {"student": "on all annotated pages", "student_undistilled": "on those that are annotated by hand"}


def adapt_to_documents(run: LoraDocumentRun) -> DocumentResults | None:
    """Trains adapters, merges them, and compares the model with what it was and with rules. The same run again resumes
    where it was.

    Leaves `adapter/`, which plain peft loads, and `merged/`, which plain transformers loads. A control, if wanted,
    leaves its own in `control/`.

    Returns: None where no page of the test split has an annotation, so that nothing could be measured.
    Raises: ValueError on what cannot work, before anything is trained.
    """
    if run.four_bit:
        check_four_bit(run.model_name)
    module, prompter = outline(run.model_name)
    with torch.device("meta"):
        adapters = adapt(module, run.model_name, run.lora)
    with opened(run) as place:
        job = Stages(run, place)
        job.display.say(adapters.words())
        if tight := check_fits(run, job.compute):
            job.display.say(f"[yellow]memory[/yellow]: {tight}")
        manifest = job.pack_corpus(need_labels=False, options=PackOptions(use_boxes=False))
        texts = read_annotated_pages(job, manifest, run.reader)
        pages = [page for page in read_pages(manifest, texts) if page.truth is not None]
        unmended = [copy(page) for page in pages]
        lexicon = mend(job, pages) if run.lexicon else None
        longest = write_examples(run, job, pages, prompter, job.output)
        learners, lexica = {"student": job.output}, {"student": lexicon}
        if isinstance(run, DistillDocumentRun) and run.control:  # it knows nothing that a teacher wrote
            learners["student_undistilled"] = job.output / "control"
            lexica["student_undistilled"] = mend(job, unmended, by_hand=True) if run.lexicon else None
            write_control_examples(run, job, unmended, prompter, job.output / "control")
        steps = None
        for role, folder in learners.items():
            with job.stage("train", f"the adapters of {run.model_name}, {WORDS[role]}"):
                steps = train(run, job, manifest, lexica[role], role, folder, adapters.num_parameters, steps)
        by_split = {split: [page for page in pages if page.split == split] for split in SPLITS}
        if not by_split["test"]:
            job.display.say("Nothing was measured, for no page of the test split has an annotation.")
            return None
        with job.stage("evaluate", "the model, its base and rules write the test pages"):
            most, perfect = run.max_answer_tokens, annotated_text(manifest, texts)
            for page in perfect:
                page.known = lexicon.known(page.lines) if lexicon else NOTHING
            evaluation = evaluate_documents(
                {role: str(folder / MERGED) for role, folder in learners.items()} | {"baseline": run.model_name},
                by_split["test"],
                perfect,
                run.serialisation,
                # Who knows no end goes on for ever.
                dict.fromkeys(learners, most) | {"baseline": min(most, longest + longest // 4)},
                job.actors,
                job.cpus_per_actor,
                job.compute.gpus,
                job.display.counting("evaluate", "batches of pages"),
                {"student_undistilled": [page for page in unmended if page.split == "test"]},
            )
        done = run.model_copy(update={"compute": job.compute})
        return report_documents(done, evaluation, manifest, job.timings_s, job.left_out, job.tracker, job.display.say)


def mend(job: Stages, pages: Sequence[PageText], by_hand: bool = False) -> Lexicon:
    """Mends the lines of the pages by the words of the training split's documents; `by_hand`: of those alone that no
    teacher wrote."""
    told = (page for page in pages if page.split == "train" and not (by_hand and page.labelled_by))
    lexicon = Lexicon.of((page.page_id, page.truth) for page in told if page.truth)
    changed = total = 0
    for page in pages:
        lines, total = lexicon.mended(page.lines, page.page_id), total + len(page.lines)
        page.known = lexicon.known(lines, page.page_id)
        changed += sum(line != before for line, before in zip(lines, page.lines, strict=True))
        page.lines = lines
    job.display.say(f"  {changed:,} of {total:,} lines are mended by the words of other pages' documents")
    return lexicon


def write_control_examples(
    run: LoraDocumentRun, job: Stages, pages: Sequence[PageText], prompter: Prompter, output: Path
) -> None:
    """`write_examples` of pages that somebody annotated. Raises ValueError where they are too few, or all there are."""
    by_hand = [page for page in pages if page.labelled_by is None]
    if len(by_hand) == len(pages):
        raise ValueError(
            f"control=True compares with pages that a teacher annotated, and dataset_path={run.corpus.dataset_path} "
            "has none; label it with rayjobs/label.py --task document, or use rayjobs/lora_document.py"
        )
    job.display.say("  annotated by hand:")
    try:
        write_examples(run, job, by_hand, prompter, output)
    except ValueError as error:
        raise ValueError(
            f"control=True learns from pages that are annotated by hand: {error}; or --no-control"
        ) from None


def write_examples(
    run: LoraDocumentRun, job: Stages, pages: Sequence[PageText], prompter: Prompter, output: Path
) -> int:
    """Writes the pages of the training and validation splits as tokens; counts those that are too long.

    Returns: tokens of the longest answer that is learnt.
    Raises: ValueError where no page is left to learn from.
    """
    most = run.max_document_tokens or run.max_tokens
    longest = 0
    for split in ("train", "validation"):
        found, own = [], [page for page in pages if page.split == split and page.truth]
        for page in (page for page in own if page.lines):
            answer = in_order_of_page(page.truth, page.lines).canonical()  # type: ignore[arg-type]
            found.append(prompter.example(page.page_id, serialise(page.lines, run.serialisation, page.known), answer))
        kept = [example for example in found if len(example.tokens) <= most]
        nothing = len(own) - len(found)
        left_out = {f"longer than {most} tokens": len(found) - len(kept)}
        job.left_out.setdefault(split, left_out | ({"no line was found": nothing} if nothing else {}))
        words = f"; {nothing:,} left out, no line was found on them" if nothing else ""
        job.display.say(f"  {split}: {_words(kept)}{_too_long(len(found) - len(kept), most)}{words}")
        if split == "train" and len(kept) < run.optimisation.batch_size:
            raise ValueError(
                f"{len(kept)} of {len(found)} annotated training pages have at most {most} tokens with their answer, "
                f"fewer than batch_size={run.optimisation.batch_size}; lower it, raise max_document_tokens and "
                "max_tokens, or annotate more pages"
            )
        shutil.rmtree(output / "sequences" / split, ignore_errors=True)
        write_sequences(str(output / "sequences" / split), kept)
        longest = max([longest, *(len(example.tokens) - example.num_prompt for example in kept)])
    return longest


def train(
    run: LoraDocumentRun,
    job: Stages,
    manifest: Manifest,
    lexicon: Lexicon | None,
    name: str,
    output: Path,
    num_parameters: int,
    steps: int | None = None,
) -> int:
    """Trains the adapters, and merges them into a folder of their own that appears at once.

    Args:
        num_parameters: of the model.
        steps: None: as many as `epochs` take.

    Returns: how many it were.
    """
    training = language_run(run, manifest, output / "sequences", name, steps, job.storage, job.compute)
    planned = plan_language(training)
    job.display.say(f"  {planned.total_steps:,} steps of {run.optimisation.batch_size} documents")
    fit(training, output / ADAPTER, job.watch, planned)
    if not (output / MERGED).exists():
        try:
            wherever(merge, output, run.model_dump_json(indent=2), lexicon, memory=2 * FP32 * num_parameters)
        except MemoryError as error:
            raise ValueError(
                f"model_name={run.model_name}: adapters are merged in fp32, and {error}; add a node that has them, and "
                "run again"
            ) from error
    return planned.total_steps


def merge(output: Path, run: str, lexicon: Lexicon | None) -> None:
    """Adapters and the model that they are for become one, in a folder that appears at once."""
    merged = output / MERGED
    partial_folder = merged.with_suffix(".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    module, prompter = load_causal(str(output / ADAPTER))
    save_causal(module, prompter, partial_folder, dict(module.state_dict()))
    (partial_folder / "run.json").write_text(run)
    if lexicon is not None:
        (partial_folder / LEXICON).write_text(lexicon.json(), encoding="utf-8")
    os.replace(partial_folder, merged)


def language_run(
    run: LoraDocumentRun,
    manifest: Manifest,
    sequences: Path,
    name: str,
    steps: int | None,
    storage: str,
    compute: Compute,
) -> LanguageRun:
    """The adapters' training, as in `train`."""
    return LanguageRun(
        name=name,
        model=run.model_name,
        sequences=str(sequences),
        max_steps=steps,
        corpus=manifest.fingerprint,
        storage=storage,
        lora=run.lora,
        max_tokens=run.max_tokens,
        gradient_checkpointing=run.gradient_checkpointing,
        four_bit=run.four_bit,
        optimisation=run.optimisation,
        compute=compute,
    )


def _words(examples: Sequence[Example]) -> str:
    if not examples:
        return "no pages"
    answers = sum(len(example.tokens) - example.num_prompt for example in examples)
    tokens = sum(len(example.tokens) for example in examples)
    return f"{len(examples):,} pages, {tokens:,} tokens, {answers:,} of them answers"


def _too_long(number: int, most: int) -> str:
    return f"; {number:,} left out, longer than {most:,} tokens" if number else ""
