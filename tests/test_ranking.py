"""Rank statistics: scikit-learn's and scipy's on repeated rows, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from harken.ranking import Midranks, Ranking, correlation, ratio


@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    )
)
@settings(max_examples=150, deadline=None)
def test_weighted_ranks_are_those_of_repeated_rows(
    rows: list[tuple[bool, int, int, int]],
) -> None:
    positive = np.array([row[0] for row in rows])
    score = np.array([row[1] for row in rows]) / 7
    weights = np.array([row[2:] for row in rows], dtype=float)
    aucs, averages = Ranking(positive, score, np.arange(len(rows)))(weights)
    for column, (auc, average) in enumerate(zip(aucs, averages, strict=True)):
        times = weights[:, column].astype(int)
        truth, values = np.repeat(positive, times), np.repeat(score, times)
        assert np.isnan(average) == (not truth.any())
        assert np.isnan(auc) == (len(np.unique(truth)) < 2)
        if truth.any():
            assert average == pytest.approx(average_precision_score(truth, values))
        if len(np.unique(truth)) == 2:
            assert auc == pytest.approx(roc_auc_score(truth, values))


def test_units_share_their_weight() -> None:
    rng = np.random.default_rng(0)
    positive, score, unit = rng.random(40) < 0.4, rng.random(40), rng.integers(0, 5, 40)
    weights = rng.integers(0, 4, (5, 6)).astype(float)
    by_unit = Ranking(positive, score, unit)(weights)
    by_clip = Ranking(positive, score, np.arange(40))(weights[unit])
    np.testing.assert_allclose(by_unit, by_clip)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=25
    )
)
@settings(max_examples=100, deadline=None)
def test_weighted_correlations_are_those_of_repeated_rows(
    rows: list[tuple[int, int, int]],
) -> None:
    x, y, times = (np.array(column) for column in zip(*rows, strict=True))
    drawn = times[:, None].astype(float)
    ranks = Midranks(x)(drawn), Midranks(y)(drawn)
    repeated = np.repeat(x, times), np.repeat(y, times)
    if all(len(np.unique(side)) > 1 for side in repeated):
        np.testing.assert_allclose(np.repeat(ranks[0][:, 0], times), stats.rankdata(repeated[0]))
        assert correlation(*ranks, drawn)[0] == pytest.approx(stats.spearmanr(*repeated)[0])
        pearson = correlation(x[:, None].astype(float), y[:, None].astype(float), drawn)
        assert pearson[0] == pytest.approx(stats.pearsonr(*repeated)[0])
    else:
        assert np.isnan(correlation(*ranks, drawn)[0])


def test_a_constant_side_has_no_correlation_whatever_its_rounding() -> None:
    drawn = np.full((7, 1), 3.0)
    constant, line = np.full((7, 1), 0.1), np.arange(7.0)[:, None]
    assert np.isnan(correlation(constant, line, drawn)[0])
    assert np.isnan(correlation(line, constant, drawn)[0])
    once = np.zeros((7, 1))
    once[3] = 5
    assert np.isnan(correlation(line / 3, line, once)[0])


def test_a_ratio_of_nothing_is_undefined() -> None:
    assert np.isnan(ratio(np.array([0.0, 1.0]), np.array([0.0, 2.0]))).tolist() == [True, False]
