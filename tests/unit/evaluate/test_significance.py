from __future__ import annotations

import itertools

import numpy as np
import pytest

from tdtrain.evaluate.significance import bootstrap_ratio, paired_permutation_p


def corpus(rng: np.random.Generator, pages: int, lines: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Lines whose error rate is their page's own: mean rate 0.1, errors strongly tied to the page."""
    rates_P = rng.beta(1, 9, size=pages)
    lengths_PL = rng.integers(10, 30, size=(pages, lines))
    errors_PL = rng.binomial(lengths_PL, rates_P[:, None])
    return errors_PL.ravel(), lengths_PL.ravel(), [f"p{p}" for p in range(pages) for _ in range(lines)]


def test_interval_covers_the_truth_where_lines_of_a_page_err_together() -> None:
    rng = np.random.default_rng(0)
    hits_by_page, hits_by_line, runs = 0, 0, 150
    for run in range(runs):
        errors, lengths, pages = corpus(rng, 40, 10)
        by_page = bootstrap_ratio(errors, lengths, pages, resamples=400, seed=run)
        by_line = bootstrap_ratio(errors, lengths, [str(i) for i in range(len(errors))], resamples=400, seed=run)
        assert by_page and by_line
        hits_by_page += by_page.low <= 0.1 <= by_page.high
        hits_by_line += by_line.low <= 0.1 <= by_line.high
    assert 0.87 <= hits_by_page / runs <= 0.99
    assert hits_by_line / runs < 0.75


def test_interval_is_seeded_and_ignores_the_order_of_lines() -> None:
    errors, lengths, pages = corpus(np.random.default_rng(1), 12, 4)
    first = bootstrap_ratio(errors, lengths, pages, seed=3)
    turned = np.random.default_rng(2).permutation(len(errors))
    assert first == bootstrap_ratio(errors[turned], lengths[turned], [pages[i] for i in turned], seed=3)
    assert first != bootstrap_ratio(errors, lengths, pages, seed=4)


def test_nothing_is_claimed_from_one_page() -> None:
    assert bootstrap_ratio([1, 2], [10, 10], ["p", "p"]) is None
    assert bootstrap_ratio([0, 0], [0, 0], ["p", "q"]) is None
    assert bootstrap_ratio([], [], []) is None


def test_p_matches_all_sign_flips() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 9, size=20), rng.integers(0, 7, size=20)
    pages = [f"p{i // 2}" for i in range(20)]
    difference_P = (a - b).reshape(10, 2).sum(axis=1)
    flips = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = float((np.abs(flips @ difference_P) >= abs(difference_P.sum())).mean())
    assert paired_permutation_p(a, b, pages) == pytest.approx(exact, abs=0.015)


def test_p_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    pages = [f"p{i // 3}" for i in range(90)]
    found = []
    for run in range(300):
        page_hardness = np.repeat(rng.gamma(2, 2, size=30), 3)
        a, b = rng.poisson(page_hardness), rng.poisson(page_hardness)
        found.append(paired_permutation_p(a, b, pages, permutations=199, seed=run))
    shares = [np.mean(np.array(found) <= level) for level in (0.05, 0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.05, 0.25, 0.5, 0.75], abs=0.07)


def test_p_is_small_for_a_real_difference_and_one_for_none() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.poisson(6, size=60), rng.poisson(2, size=60)
    pages = [f"p{i // 2}" for i in range(60)]
    assert paired_permutation_p(a, b, pages) == 1 / 10_000
    assert paired_permutation_p(b, a, pages) == 1 / 10_000
    assert paired_permutation_p(a, a, pages) == 1.0


def test_few_pages_cannot_be_significant() -> None:
    assert paired_permutation_p([9, 9, 9], [0, 0, 0], ["p", "q", "r"]) == pytest.approx(0.25, abs=0.02)


def test_unpaired_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="one page id a line"):
        bootstrap_ratio([1], [2], [])
