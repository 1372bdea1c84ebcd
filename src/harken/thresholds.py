"""From scores to decisions: a threshold for each label, the same for all clips or each its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.errors import ConfigError
from harken.labels import Labels

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Thresholds = float | Sequence[float] | Array | None
"""One for all labels, one for each label, or float64 `(clips, labels)`: every clip has its own."""
Criterion = Literal["f1", "youden"]

FEW = 10
"""Below so many positives or negatives a fitted threshold is called rough."""


def positive_index(labels: Labels) -> int:
    """Return the column of the positive class: the named one, else the last."""
    return labels.names.index(labels.positive) if labels.positive else labels.num_classes - 1


def num_thresholds(labels: Labels) -> int:
    """Return how many thresholds a task has.

    Raises:
        ConfigError: it has none: regression, and one label out of three or more.
    """
    if labels.task == "multi":
        return labels.num_classes
    if labels.task == "single" and labels.num_classes == 2:
        return 1
    what = "regression" if labels.task == "regression" else "a task of three or more classes"
    raise ConfigError(f"{what} has no thresholds", where="calibrate.thresholds", fix="use none")


def decide(labels: Labels, score: Floats, thresholds: Thresholds = None) -> Flags:
    """Return bool `(rows, classes)`: the labels that are given to each clip.

    One label per clip is the one with the largest score; with a threshold, two-class tasks choose
    the positive class where its score reaches it. Several labels are those that reach 1/2 or
    their thresholds. Each clip may have its own (`(rows, labels)`).

    Raises:
        ConfigError: the task takes no thresholds, or another number of them.
    """
    if labels.task == "single" and thresholds is None:
        return _one_hot(np.argmax(score, axis=1), labels.num_classes)
    limits = np.atleast_1d(np.asarray(0.5 if thresholds is None else thresholds, dtype=np.float64))
    wanted = num_thresholds(labels)
    if limits.shape[-1] not in (1, wanted):
        raise ConfigError(f"{limits.shape[-1]} thresholds for {wanted} decisions per clip")
    # Python numbers would be rounded to float32 beside float32 scores, hence the conversion.
    exact = np.asarray(score, dtype=np.float64)
    if labels.task == "multi":
        return exact >= limits
    positive = positive_index(labels)
    chosen = np.where(exact[:, positive] >= limits[..., 0], positive, 1 - positive)
    return _one_hot(chosen, 2)


def decision_text(labels: Labels, score: Array, thresholds: Thresholds) -> pl.Series:
    """Return each row's decision: a label, labels joined by `|`, or the value."""
    regression = labels.task == "regression"
    return labels.to_text(score if regression else decide(labels, score, thresholds))


def fit_thresholds(
    labels: Labels, target: Floats, score: Floats, rule: Criterion
) -> tuple[tuple[float, ...], list[str]]:
    """Return the best threshold per label and notes on doubtful ones.

    `f1` maximises F1; `youden` maximises sensitivity + specificity - 1 (Youden 1950).

    Raises:
        ConfigError: the task has no thresholds.
    """
    columns = range(labels.num_classes)
    if num_thresholds(labels) == 1 and labels.task == "single":
        columns = range(positive_index(labels), positive_index(labels) + 1)
    found, notes = [], []
    for column in columns:
        observed = ~np.isnan(target[:, column])
        positive = target[observed, column] >= 0.5
        rarer = min(positive.sum(), (~positive).sum())
        found.append(_best_threshold(positive, score[observed, column], rule) if rarer else 0.5)
        if rarer < FEW:
            text = f"is fitted on {rarer} clips" if rarer else "stays at 0.5: one side is absent"
            notes.append(f"threshold of {labels.names[column]!r} {text}")
    return tuple(found), notes


def _best_threshold(positive: Flags, score: Floats, rule: str) -> float:
    """Return the cut with the best value, between two scores, nearest to 1/2 among equals."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order].astype(np.float64)
    hits = np.concatenate([[0], np.cumsum(positive[order])])
    taken = np.arange(len(ranked) + 1)
    num_positive = hits[-1]
    if rule == "f1":
        value = 2 * hits / (taken + num_positive)
    else:
        value = hits / num_positive - (taken - hits) / (len(ranked) - num_positive)
    upper = np.concatenate([[max(1.0, np.nextafter(ranked[0], np.inf))], ranked])
    lower = np.concatenate([ranked, [min(0.0, ranked[-1])]])
    middle = (upper + lower) / 2
    cut = np.where(middle > lower, middle, upper)
    # A cut between equal scores cannot be made.
    value = np.where((upper > lower) | (taken == len(ranked)), value, -np.inf)
    best = np.flatnonzero(value >= value.max() - 1e-12)
    return float(cut[best[np.argmin(np.abs(cut[best] - 0.5))]])


def _one_hot(chosen: npt.NDArray[np.intp], num_classes: int) -> Flags:
    return np.asarray(chosen[:, None] == np.arange(num_classes))
