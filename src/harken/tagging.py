"""Metrics of tagging, where a clip has several labels of many: lwlrap and d′.

Label-weighted label-ranking average precision (lwlrap) asks of every true label how many of the
labels ranked at least as high are true, and averages over all true labels of all clips, as the
DCASE 2019 challenge did (Fonseca et al. 2019); it is scikit-learn's
`label_ranking_average_precision_score` with each clip weighted by its number of labels.

d′ is how far apart two normal distributions of equal variance would be to give the mean ROC-AUC of
the classes that have one: √2 Φ⁻¹(AUC) (Hershey et al. 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from harken.ranking import Array

_BLOCK = 1 << 20
"""Cells that are ranked at once: 8 MiB an array."""


def d_prime(auc: Array) -> Array:
    """Return √2 Φ⁻¹(AUC); NaN where the AUC is, and where it is 0 or 1, which no distance gives."""
    distance = np.sqrt(2) * ndtri(auc)
    return np.asarray(np.where(np.isinf(distance), np.nan, distance))


def ranked_precision(
    actual: npt.NDArray[np.bool_],
    observed: npt.NDArray[np.bool_],
    score: npt.NDArray[np.floating[Any]],
) -> Array:
    """Return the sum over each clip's true labels of the precision at their ranks, `(clips,)`.

    Lwlrap is its sum over clips, divided by the number of their true labels.

    Args:
        actual: Which labels are true, `(clips, classes)`.
        observed: Which are known; the others are not ranked.
        score: `(clips, classes)`.
    """
    size = max(1, _BLOCK // max(score.shape[1], 1))
    parts = [
        _ranked(actual[i : i + size], observed[i : i + size], score[i : i + size])
        for i in range(0, len(score), size)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _ranked(
    actual: npt.NDArray[np.bool_],
    observed: npt.NDArray[np.bool_],
    score: npt.NDArray[np.floating[Any]],
) -> Array:
    # What is not known goes to the end, where no rank counts it.
    known = np.where(observed, score, -np.inf)
    order = np.argsort(-known, axis=1, kind="stable")
    ranked = np.take_along_axis(known, order, axis=1)
    is_true = np.take_along_axis(actual & observed, order, axis=1)
    # Equal scores share the last of their places.
    ends = np.ones(ranked.shape, dtype=bool)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    last = np.where(ends, np.arange(ranked.shape[1]), ranked.shape[1])
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    hits = np.take_along_axis(np.cumsum(is_true, axis=1), last, axis=1)
    return np.asarray(np.where(is_true, hits / (last + 1), 0.0).sum(axis=1))
