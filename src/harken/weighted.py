"""Every metric as a function of how often each unit of the data was drawn.

A `Scorer` reads a set of predictions once, and then values any number of weightings together (see
`ranking`): ones give the metrics themselves, a bootstrap's counts give their resamples. So a metric
and its interval cannot follow different definitions. What is undefined is NaN, never 0.

Names and definitions are scikit-learn's, with `zero_division=nan`: a class whose precision, recall
or F1 is 0/0 is left out of macro and weighted means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harken.errors import DataError
from harken.labels import Labels
from harken.ranking import Array, Ints, Midranks, Ranking, centred, correlation, ratio
from harken.tagging import d_prime, ranked_precision
from harken.thresholds import positive_index

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

TOP = 3
"""`top_3_accuracy` is given where there are more classes than this."""


@dataclass(frozen=True)
class Values:
    """Metrics of several weightings.

    Attributes:
        overall: By name, `(resamples,)`.
        per_class: By name, `(classes, resamples)`.
    """

    overall: dict[str, Array]
    per_class: dict[str, Array]


def known_rows(labels: Labels, target: Floats) -> Flags:
    """Return bool `(clips,)`: which have a target (all of it, where a clip has one label)."""
    missing = np.isnan(target)
    if labels.task == "single":
        # A row of zeros names no class; taken as it is, it would count for the first one.
        return np.asarray(~missing.any(axis=1) & target.any(axis=1))
    return np.asarray(~missing.all(axis=1))


@dataclass(frozen=True)
class Predictions:
    """Clips with at least one known target, and their predictions.

    Attributes:
        labels: The columns.
        target: float64 `(clips, classes)`, NaN for missing.
        score: `(clips, classes)`, in the precision that the model returned.
        decision: bool `(clips, classes)`; empty for regression.
        unit: int `(clips,)`, the group that each clip is drawn with.
        num_units: Number of groups.
    """

    labels: Labels
    target: Array
    score: Floats
    decision: Flags
    unit: Ints
    num_units: int

    @classmethod
    def known(
        cls, labels: Labels, target: Floats, score: Floats, decision: Flags, unit: Ints
    ) -> Predictions:
        """Keep the clips that have a target (all of it, where a clip has one label).

        Raises:
            DataError: no clip has a target, or a score is not finite.
        """
        kept = known_rows(labels, target)
        if not kept.any():
            raise DataError("no clip has a target, so nothing can be measured")
        if not np.isfinite(score[kept]).all():
            raise DataError("some scores are not finite", fix="lower the learning rate")
        names, units = np.unique(unit[kept], return_inverse=True)
        exact = target[kept].astype(np.float64)
        chosen = decision[kept] if len(decision) else decision
        return cls(labels, exact, score[kept], chosen, units, len(names))

    def sums(self, columns: Floats | Flags) -> Array:
        """Return sums over each unit's clips of `(clips, n)` columns: `(units, n)`."""
        values = np.asarray(columns, dtype=np.float64)
        if self.num_units == len(values):
            return values[np.argsort(self.unit)]
        sums = [np.bincount(self.unit, column, self.num_units) for column in values.T]
        return np.stack(sums, axis=1)


class Scorer:
    """All metrics of one set of predictions; call it with weights `(units, resamples)`."""

    def __init__(self, predictions: Predictions) -> None:
        tasks: dict[str, Callable[[Predictions], Callable[[Array], Values]]] = {
            "single": _Single,
            "multi": _Multi,
            "regression": _Regression,
        }
        self.predictions = predictions
        self._measures = tasks[predictions.labels.task](predictions)

    def __call__(self, weights: Array) -> Values:
        """Return every metric under each weighting."""
        return self._measures(weights)

    def point(self) -> Values:
        """Return the metrics of the clips as they are, with one resample on the last axis."""
        return self(np.ones((self.predictions.num_units, 1)))


class _Counts:
    """True positives, positives, predicted and observed clips of each class."""

    def __init__(self, predictions: Predictions) -> None:
        observed = ~np.isnan(predictions.target)
        actual = predictions.target >= 0.5
        if predictions.labels.task == "single":
            classes = np.arange(predictions.labels.num_classes)
            actual = predictions.target.argmax(axis=1)[:, None] == classes
        self.observed, self.actual = observed, actual & observed
        self.decision = predictions.decision & observed
        parts = [self.actual & self.decision, self.actual, self.decision, observed]
        self._sums = predictions.sums(np.concatenate(parts, axis=1)).T

    def __call__(self, weights: Array) -> tuple[Array, Array, Array, Array]:
        hit, actual, predicted, observed = np.split(self._sums @ weights, 4)
        return hit, actual, predicted, observed


class _Classification:
    """What tasks with one label and with several labels per clip share."""

    def __init__(self, predictions: Predictions) -> None:
        self.labels = predictions.labels
        self.counts = _Counts(predictions)
        self.rankings = [
            Ranking(
                self.counts.actual[known, c], predictions.score[known, c], predictions.unit[known]
            )
            for c, known in enumerate(self.counts.observed.T)
        ]

    def tables(self, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return metrics per class, and their macro, micro and weighted means."""
        hit, actual, predicted, observed = self.counts(weights)
        ranks = [ranking(weights) for ranking in self.rankings]
        per_class = {
            "precision": ratio(hit, predicted),
            "recall": ratio(hit, actual),
            "f1": ratio(2 * hit, actual + predicted),
            "specificity": ratio(observed - actual - predicted + hit, observed - actual),
            "roc_auc": np.stack([auc for auc, _ in ranks]),
            "average_precision": np.stack([average for _, average in ranks]),
        }
        micro = {
            "precision": ratio(hit.sum(axis=0), predicted.sum(axis=0)),
            "recall": ratio(hit.sum(axis=0), actual.sum(axis=0)),
            "f1": ratio(2 * hit.sum(axis=0), (actual + predicted).sum(axis=0)),
        }
        means = {}
        for name in ("precision", "recall", "f1"):
            means[f"{name}_macro"] = mean_defined(per_class[name])
            means[f"{name}_micro"] = micro[name]
            means[f"{name}_weighted"] = mean_defined(per_class[name], actual)
        return per_class, means


class _Single(_Classification):
    """One label per clip."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(predictions)
        truth = self.counts.actual.argmax(axis=1)
        rows = np.arange(len(truth))
        columns = {
            "accuracy": predictions.decision[rows, truth],
            "log_loss": _log_loss(predictions.score, truth),
        }
        if self.labels.num_classes > TOP:
            columns[f"top_{TOP}_accuracy"] = _rank_of_truth(predictions.score, truth) < TOP
        self._means = tuple(columns)
        stacked = np.stack([*columns.values(), np.ones(len(truth))], axis=1)
        self._sums = predictions.sums(stacked).T

    def __call__(self, weights: Array) -> Values:
        per_class, means = self.tables(weights)
        sums = self._sums @ weights
        simple = {name: ratio(sums[i], sums[-1]) for i, name in enumerate(self._means)}
        overall = {
            "accuracy": simple.pop("accuracy"),
            "balanced_accuracy": mean_defined(per_class["recall"]),
            **self._ranked(per_class),
            **means,
            **simple,
        }
        return Values(overall, per_class)

    def _ranked(self, per_class: dict[str, Array]) -> dict[str, Array]:
        if self.labels.num_classes > 2:
            ranks = ("roc_auc", "average_precision")
            return {name: mean_defined(per_class[name]) for name in ranks}
        positive = positive_index(self.labels)
        names = {"sensitivity": "recall", "specificity": "specificity"}
        names |= {"roc_auc": "roc_auc", "average_precision": "average_precision"}
        return {name: per_class[column][positive] for name, column in names.items()}


class _Multi(_Classification):
    """Any number of labels per clip; missing ones take no part."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(predictions)
        wrong = (self.counts.actual != self.counts.decision) & self.counts.observed
        actual, observed = self.counts.actual, self.counts.observed
        precision = ranked_precision(actual, observed, predictions.score)
        columns = [wrong.sum(axis=1), observed.sum(axis=1), ~wrong.any(axis=1)]
        columns += [precision, actual.sum(axis=1)]
        stacked = np.stack([*columns, np.ones(len(wrong))], axis=1)
        self._sums = predictions.sums(stacked).T

    def __call__(self, weights: Array) -> Values:
        per_class, means = self.tables(weights)
        wrong, cells, exact, precision, positives, clips = self._sums @ weights
        auc = mean_defined(per_class["roc_auc"])
        overall = {
            "average_precision": mean_defined(per_class["average_precision"]),
            "roc_auc": auc,
            "d_prime": d_prime(auc),
            "lwlrap": ratio(precision, positives),
            **means,
            "hamming_loss": ratio(wrong, cells),
            "subset_accuracy": ratio(exact, clips),
        }
        return Values(overall, per_class)


class _Regression:
    """Values; with several columns the overall metric is the mean over them."""

    def __init__(self, predictions: Predictions) -> None:
        known = ~np.isnan(predictions.target)
        self._columns = [
            _Errors(predictions.target[k, c], predictions.score[k, c], predictions.unit[k])
            for c, k in enumerate(known.T)
        ]

    def __call__(self, weights: Array) -> Values:
        tables = [column(weights) for column in self._columns]
        per_class = {name: np.stack([table[name] for table in tables]) for name in tables[0]}
        overall = {name: mean_defined(values) for name, values in per_class.items()}
        return Values(overall, per_class)


class _Errors:
    """The metrics of one column of values."""

    def __init__(self, target: Array, score: Floats, unit: Ints) -> None:
        centre = target.mean() if len(target) else 0.0
        self._target = (target - centre)[:, None]
        self._score = (score.astype(np.float64) - centre)[:, None]
        self._unit = unit
        self._target_ranks = Midranks(target)
        self._score_ranks = Midranks(score)

    def __call__(self, weights: Array) -> dict[str, Array]:
        drawn = weights[self._unit]
        total = drawn.sum(axis=0)
        error = self._score - self._target
        squares = (drawn * error**2).sum(axis=0)
        ranks = self._target_ranks(drawn), self._score_ranks(drawn)
        return {
            "mae": ratio((drawn * np.abs(error)).sum(axis=0), total),
            "rmse": np.sqrt(ratio(squares, total)),
            "r2": 1 - ratio(squares, centred(self._target, drawn)[1]),
            "pearson": correlation(self._target, self._score, drawn),
            "spearman": correlation(*ranks, drawn),
        }


def mean_defined(values: Array, weights: Array | None = None) -> Array:
    """Return the mean over classes `(classes, resamples)` → `(resamples,)` of what is defined."""
    defined = ~np.isnan(values)
    share = defined if weights is None else defined * weights
    return ratio((np.where(defined, values, 0.0) * share).sum(axis=0), share.sum(axis=0))


def _log_loss(score: Floats, truth: Ints) -> Array:
    """Return -log of the true class's score, kept one rounding step away from 0 and 1."""
    step = np.finfo(score.dtype).eps
    chosen = np.clip(score[np.arange(len(truth)), truth], step, 1 - step)
    return np.asarray(-np.log(chosen.astype(np.float64)))


def _rank_of_truth(score: Floats, truth: Ints) -> Ints:
    """Return how many classes come before the true one; of equal scores the last comes first."""
    own = score[np.arange(len(truth)), truth][:, None]
    later = np.arange(score.shape[1]) > truth[:, None]
    return np.asarray(((score > own) | ((score == own) & later)).sum(axis=1))
