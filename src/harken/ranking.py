"""Rank statistics of weighted clips, sorted once and evaluated for many weightings together.

A weighting says how often each *unit* (a group of clips, or one clip) was drawn: float64
`(units, resamples)`, whole numbers. Ones give the ordinary statistic. Every function returns NaN
where the statistic is not defined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, NaN where the denominator is 0."""
    safe = np.where(denominator == 0, np.nan, denominator)
    return np.asarray(numerator / safe)


def _ties(ranked: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """Return for every place of a sorted array where its run of equal values starts and ends."""
    new = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    first = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    return first[run], np.append(first[1:], len(ranked))[run]


def _running(values: Array) -> Array:
    """Return sums over the first 0, 1, … rows: `(rows + 1, resamples)`."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


class Ranking:
    """ROC-AUC and average precision of one column of scores.

    Args:
        positive: bool `(clips,)`.
        score: `(clips,)`.
        unit: Each clip's unit, int `(clips,)`.
    """

    def __init__(
        self, positive: npt.NDArray[np.bool_], score: npt.NDArray[Any], unit: Ints
    ) -> None:
        order = np.argsort(-score, kind="stable")
        start, end = _ties(score[order])
        self._unit = unit[order]
        self._places = np.flatnonzero(positive[order])
        self._start, self._end = start[self._places], end[self._places]
        before = np.concatenate([[0], np.cumsum(positive[order])])
        self._positives_start, self._positives_end = before[self._start], before[self._end]
        self.is_one_sided = len(self._places) in (0, len(order))

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """Return ROC-AUC (ties count one half) and average precision, `(resamples,)` each.

        Average precision is `Σ (R_n - R_{n-1}) P_n` over thresholds, as in scikit-learn; it needs a
        positive clip, ROC-AUC a negative one too.
        """
        if not len(self._places):
            return np.full(weights.shape[1], np.nan), np.full(weights.shape[1], np.nan)
        drawn = weights[self._unit]
        hits = drawn[self._places]
        all_sums, hit_sums = _running(drawn), _running(hits)
        num_positive = hit_sums[-1]
        num_negative = all_sums[-1] - num_positive
        reached, hits_reached = all_sums[self._end], hit_sums[self._positives_end]
        # A positive with weight has itself among those reached, so the 1 changes no sum.
        precision = hits_reached / np.maximum(reached, 1)
        average_precision = ratio(np.einsum("ij,ij->j", hits, precision), num_positive)
        worse = reached - hits_reached + all_sums[self._start] - hit_sums[self._positives_start]
        lost = np.einsum("ij,ij->j", hits, worse) / 2
        return 1 - ratio(lost, num_positive * num_negative), average_precision


class Midranks:
    """Ranks of one column of values; equal values share the mean of their ranks.

    Args:
        values: `(clips,)`.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._order = np.argsort(values, kind="stable")
        start, end = _ties(values[self._order])
        back = np.argsort(self._order, kind="stable")
        self._start, self._end = start[back], end[back]

    def __call__(self, drawn: Array) -> Array:
        """Return ranks `(clips, resamples)` for clips drawn so often, `(clips, resamples)`."""
        sums = _running(drawn[self._order])
        return np.asarray((sums[self._start] + sums[self._end] + 1) / 2)


def correlation(first: Array, second: Array, drawn: Array) -> Array:
    """Return Pearson's correlation `(resamples,)`, NaN where either side is constant.

    Args:
        first: `(clips, resamples)`, or `(clips, 1)` where all resamples share the values.
        second: Likewise.
        drawn: How often each clip was drawn, `(clips, resamples)`.
    """
    first, first_spread = centred(first, drawn)
    second, second_spread = centred(second, drawn)
    product = np.sqrt(first_spread * second_spread)
    return np.clip(ratio((drawn * first * second).sum(axis=0), product), -1, 1)


def centred(values: Array, drawn: Array) -> tuple[Array, Array]:
    """Return values less their weighted mean, and their weighted sum of squares, 0 if constant."""
    centre = (drawn * values).sum(axis=0) / np.maximum(drawn.sum(axis=0), 1)
    centred = values - centre
    spread = (drawn * centred**2).sum(axis=0)
    # Rounding can leave equal values a spread above 0, so they are recognised by their ends.
    low = np.where(drawn > 0, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(drawn > 0, values, -np.inf).max(axis=0, initial=-np.inf)
    return centred, np.where(high > low, spread, 0.0)
