"""Figures of a corpus of documents, from the counts of its pages: rates with intervals, by size and by layout."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tdtrain.evaluate.fields import PageCounts
from tdtrain.evaluate.significance import Interval, bootstrap_ratio, paired_permutation_p

SMALL = 15
"""Pages of up to so many blocks are counted apart."""


class GroupF1(BaseModel):
    """Block F1 of the pages of one kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_f1: float
    num_pages: int
    num_blocks: int


class DocumentScores(BaseModel):
    """What one writer scored. Rates are fractions; intervals are 95 %, bootstrapped by page, None below two pages.

    Attributes:
        block_f1, block_precision, block_recall: of time blocks whose day, name, start and end are all right.
        field_f1, field_precision, field_recall: of (field, value) pairs.
        anls: mean over pages of ANLS*.
        tree_accuracy: mean over pages of max(0, 1 - edits / size of the truth's tree).
        exact: share of the pages with every field and block, and no other.
        valid_json, valid_schema: share of the answers.
        ended: share of those that ended by themselves; a model's others were closed after their last whole block.
        seconds_per_page: mean, in batches; None for what takes no time worth the name.
        by_blocks, by_layout: block F1 of small and large pages, and by the pages' layout tag.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    block_f1: float
    block_f1_ci: Interval | None
    block_precision: float
    block_recall: float
    field_f1: float
    field_f1_ci: Interval | None
    field_precision: float
    field_recall: float
    anls: float
    tree_accuracy: float
    exact: float
    valid_json: float
    valid_schema: float
    ended: float = 1.0
    seconds_per_page: float | None = None
    num_pages: int
    num_blocks: int
    by_blocks: dict[str, GroupF1] = {}
    by_layout: dict[str, GroupF1] = {}


class DocumentComparison(BaseModel):
    """Two writers on the same pages. `difference` is block F1 of a minus that of b."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    a: str
    b: str
    difference: float
    p_value: float
    """Two-sided, paired permutation test over pages, of wrong and missing blocks."""


def score_documents(
    counts: Sequence[PageCounts],
    page_ids: Sequence[str],
    layouts: Sequence[str | None],
    seconds: Sequence[float] | None = None,
    ended: Sequence[bool] | None = None,
    model: str = "",
) -> DocumentScores:
    """All figures of one writer.

    Args:
        counts, page_ids, layouts, seconds, ended: one a page.
    """
    num = len(counts)

    def f1(kind: str) -> tuple[float, Interval | None]:
        right = [2.0 * getattr(page, f"{kind}_right") for page in counts]
        there = [float(getattr(page, f"{kind}_said") + getattr(page, f"{kind}_true")) for page in counts]
        return _ratio(sum(right), sum(there)), bootstrap_ratio(right, there, page_ids)

    def total(name: str) -> float:
        return float(sum(getattr(page, name) for page in counts))

    def kinds(names: Sequence[str | None], order: Sequence[str]) -> dict[str, GroupF1]:
        own = {kind: [page for name, page in zip(names, counts, strict=True) if name == kind] for kind in order}
        return {kind: _group(pages) for kind, pages in own.items() if pages}

    small, large = f"up to {SMALL} blocks", f"over {SMALL} blocks"
    sizes = [small if page.blocks_true <= SMALL else large for page in counts]
    block_f1, block_ci = f1("blocks")
    field_f1, field_ci = f1("fields")
    return DocumentScores(
        model=model,
        block_f1=block_f1,
        block_f1_ci=block_ci,
        block_precision=_ratio(total("blocks_right"), total("blocks_said")),
        block_recall=_ratio(total("blocks_right"), total("blocks_true")),
        field_f1=field_f1,
        field_f1_ci=field_ci,
        field_precision=_ratio(total("fields_right"), total("fields_said")),
        field_recall=_ratio(total("fields_right"), total("fields_true")),
        anls=total("anls") / num,
        tree_accuracy=sum(max(0.0, 1 - page.tree_edits / page.tree_size) for page in counts) / num,
        exact=total("exact") / num,
        valid_json=total("valid_json") / num,
        valid_schema=total("valid_schema") / num,
        ended=sum(ended) / num if ended else 1.0,
        seconds_per_page=sum(seconds) / num if seconds else None,
        num_pages=num,
        num_blocks=sum(page.blocks_true for page in counts),
        by_blocks=kinds(sizes, (small, large)),
        by_layout=kinds(layouts, sorted({layout for layout in layouts if layout is not None})),
    )


def compare_documents(
    a: str, b: str, counts_a: Sequence[PageCounts], counts_b: Sequence[PageCounts], page_ids: Sequence[str]
) -> DocumentComparison:
    """Whether writer a's block F1 differs from writer b's."""
    p = paired_permutation_p([_wrong(page) for page in counts_a], [_wrong(page) for page in counts_b], page_ids)
    return DocumentComparison(a=a, b=b, difference=_group(counts_a).block_f1 - _group(counts_b).block_f1, p_value=p)


def _wrong(page: PageCounts) -> int:
    return page.blocks_said + page.blocks_true - 2 * page.blocks_right


def _group(counts: Sequence[PageCounts]) -> GroupF1:
    right = sum(page.blocks_right for page in counts)
    true = sum(page.blocks_true for page in counts)
    said = sum(page.blocks_said for page in counts)
    return GroupF1(block_f1=_ratio(2 * right, said + true), num_pages=len(counts), num_blocks=true)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
