"""From lines and what readers made of them to the figures that are reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from tdtrain.data.batches import decode
from tdtrain.data.rows import Line
from tdtrain.evaluate.metrics import LineEdits, edits
from tdtrain.evaluate.significance import Interval, bootstrap_ratio, paired_permutation_p
from tdtrain.evaluate.timing import Timing
from tdtrain.models.reader import Reader, Reading, read_images


class GroupScores(BaseModel):
    """Figures of the lines that share a tag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cer: float | None
    """None where the group's references hold no character."""
    accuracy: float
    num_lines: int


class Scores(BaseModel):
    """What one reader scored. Rates are fractions (0.01 is 1 %); intervals are 95 %, bootstrapped by page.

    An interval is None with fewer than two pages, `cer_digits` where no reference holds a digit, and the times where
    nothing was timed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    """What was read with, in words, such as `PP-OCRv6 small`."""
    cer: float
    wer: float
    accuracy: float
    cer_digits: float | None
    cer_ci: Interval | None
    wer_ci: Interval | None
    accuracy_ci: Interval | None
    cer_digits_ci: Interval | None
    ms_per_line_p50: float | None = None
    ms_per_line_p95: float | None = None
    ms_per_line_batched_p50: float | None = None
    timing: Timing | None = None
    num_parameters: int
    size_mb: float
    """Weights, in 10^6 bytes."""
    num_lines: int
    num_pages: int
    num_characters: int
    by_damage: dict[str, GroupScores] = {}
    by_field: dict[str, GroupScores] = {}


class Comparison(BaseModel):
    """Two readers on the same lines. `difference` is CER of a minus CER of b: below zero where a reads better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: str
    b: str
    difference: float
    difference_ci: Interval | None
    p_value: float


def read_lines_with(reader: Reader, lines: Sequence[Line], batch_size: int = 32) -> list[Reading]:
    """Reads lines in this process, in their order."""
    return read_images(reader, [decode(line.image) for line in lines], batch_size)


def line_edits(lines: Sequence[Line], readings: Sequence[Reading]) -> list[LineEdits]:
    """The error counts of every line. Raises ValueError for lines nobody annotated, or unpaired lists."""
    if len(lines) != len(readings):
        raise ValueError(f"lines ({len(lines)}) and readings ({len(readings)}) must pair up; read every line once")
    bare = [line for line in lines if line.text is None]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(lines)} lines carry no text, first {bare[0].source}; score annotated lines only"
        )
    return [edits(line.text or "", reading.text) for line, reading in zip(lines, readings, strict=True)]


def score_lines(
    lines: Sequence[Line],
    readings: Sequence[Reading],
    timing: Timing | None = None,
    *,
    num_parameters: int,
    size_mb: float,
    model: str = "",
    seed: int = 0,
) -> Scores:
    """All figures of one reader on annotated lines.

    Args:
        readings: one a line, same order.
        timing: from `time_readers`; without it the times are None.
        size_mb: size of the weights, 10^6 bytes.
        seed: of the bootstrap.

    Raises: ValueError without any annotated character, with lines that lack a text, or with unpaired lists.
    """
    counted = line_edits(lines, readings)
    if not sum(line.characters for line in counted):
        raise ValueError(f"none of the {len(lines)} lines holds any text to score against; add annotated pages")
    pages = [line.page_id for line in lines]

    def rate(
        numerator: Callable[[LineEdits], int], denominator: Callable[[LineEdits], int]
    ) -> tuple[float | None, Interval | None]:
        tops, bottoms = [numerator(line) for line in counted], [denominator(line) for line in counted]
        value = sum(tops) / sum(bottoms) if sum(bottoms) else None
        return value, bootstrap_ratio(tops, bottoms, pages, seed=seed)

    cer, cer_ci = rate(lambda line: line.character_edits, lambda line: line.characters)
    wer, wer_ci = rate(lambda line: line.word_edits, lambda line: line.words)
    accuracy, accuracy_ci = rate(lambda line: int(line.correct), lambda line: 1)
    cer_digits, cer_digits_ci = rate(lambda line: line.digit_edits, lambda line: line.digits)
    assert cer is not None and wer is not None and accuracy is not None  # characters imply words and lines
    return Scores(
        model=model,
        cer=cer,
        wer=wer,
        accuracy=accuracy,
        cer_digits=cer_digits,
        cer_ci=cer_ci,
        wer_ci=wer_ci,
        accuracy_ci=accuracy_ci,
        cer_digits_ci=cer_digits_ci,
        ms_per_line_p50=timing.ms_per_line_p50 if timing else None,
        ms_per_line_p95=timing.ms_per_line_p95 if timing else None,
        ms_per_line_batched_p50=timing.ms_per_line_batched_p50 if timing else None,
        timing=timing,
        num_parameters=num_parameters,
        size_mb=size_mb,
        num_lines=len(lines),
        num_pages=len(set(pages)),
        num_characters=sum(line.characters for line in counted),
        by_damage=_by_tag("damage", lines, counted),
        by_field=_by_tag("field", lines, counted),
    )


def compare(
    lines: Sequence[Line],
    readings: Mapping[str, Sequence[Reading]],
    a: str,
    b: str,
    seed: int = 0,
) -> Comparison:
    """Whether reader a's CER differs from reader b's: difference, 95 % interval and p, paired by page."""
    edits_a, edits_b = line_edits(lines, readings[a]), line_edits(lines, readings[b])
    pages = [line.page_id for line in lines]
    tops_a, tops_b = [line.character_edits for line in edits_a], [line.character_edits for line in edits_b]
    tops = [first - second for first, second in zip(tops_a, tops_b, strict=True)]
    characters = [line.characters for line in edits_a]
    return Comparison(
        a=a,
        b=b,
        difference=sum(tops) / sum(characters),
        difference_ci=bootstrap_ratio(tops, characters, pages, seed=seed),
        p_value=paired_permutation_p(tops_a, tops_b, pages, seed=seed),
    )


def _by_tag(tag: str, lines: Sequence[Line], counted: Sequence[LineEdits]) -> dict[str, GroupScores]:
    """Figures per value of a tag; lines without it are `untagged`. Empty where no line carries the tag."""
    groups: dict[str, list[LineEdits]] = {}
    for line, line_counts in zip(lines, counted, strict=True):
        groups.setdefault(line.tags.get(tag, "untagged"), []).append(line_counts)
    if set(groups) == {"untagged"}:
        return {}
    scores = {}
    for name, group in sorted(groups.items()):
        characters = sum(line.characters for line in group)
        scores[name] = GroupScores(
            cer=sum(line.character_edits for line in group) / characters if characters else None,
            accuracy=sum(line.correct for line in group) / len(group),
            num_lines=len(group),
        )
    return scores
