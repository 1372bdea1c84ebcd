"""Probes: small models of scikit-learn on embeddings, tuned on validation rows only.

A probe says how much of a label can be read from an embedding. Embeddings are standardised by the
training rows' mean and deviation; each setting is fitted on training rows and judged on validation
rows; where its metric cannot part them, likelihood does, and then the plainer model wins. Test
rows take no part.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harken.calibrate import Calibrate, Calibration, to_scores
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.metrics import default_monitor, higher_is_better, quick_metrics

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Kind = Literal["logistic", "knn", "ridge"]
Predict = Callable[[Array], Array]
"""From standardised embeddings `(rows, dim)` to logits `(rows, classes)`."""

GRIDS: dict[Kind, tuple[float, ...]] = {
    "logistic": (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "knn": (100, 50, 20, 10, 5, 3, 1),
    "ridge": (1e6, 1e5, 1e4, 1e3, 1e2, 10.0, 1.0, 0.1),
}
"""Settings that are tried, the plainest model first: C, k and alpha."""
NAMES: dict[Kind, str] = {"logistic": "C", "knn": "k", "ridge": "alpha"}

SMALL = 2**24
"""Numbers in the training vectors up to which one thread is enough: 20,000 clips of width 768."""
_VOTES = 1e-3
"""Votes that every class has, so that a class without neighbours has a logit."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table of embeddings.

    Attributes:
        vectors: `(rows, dim)`; a sparse array of scipy is taken as it is, without standardising.
        target: `(rows, classes)`, NaN for missing.
        weight: `(rows,)`.
    """

    vectors: Floats
    target: Floats
    weight: Floats

    def take(self, rows: npt.NDArray[Any]) -> Rows:
        """Return some of the rows."""
        return Rows(self.vectors[rows], self.target[rows], self.weight[rows])


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        kind: `logistic`, `knn` or `ridge`.
        chosen: The setting that won.
        tried: Every setting with the validation metric that it reached.
        metric: That metric's name.
        calibration: Temperature and thresholds, from validation rows.
        notes: What a reader should know.
    """

    kind: Kind
    chosen: float
    tried: list[dict[str, float | None]]
    metric: str
    calibration: Calibration
    predict: Predict = field(repr=False)
    centre: Array = field(repr=False)
    spread: Array = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def logits(self, vectors: Floats) -> Array:
        """Return logits `(rows, classes)` of embeddings; values for regression."""
        return self.predict(_standardise(vectors, self.centre, self.spread))

    def to_json(self) -> dict[str, Any]:
        """Return what `probe.json` says."""
        return {
            "model": self.kind,
            NAMES[self.kind]: self.chosen,
            "metric": self.metric,
            "tried": self.tried,
            "notes": self.notes,
        }


def fit_probe(
    kind: Kind,
    labels: Labels,
    train: Rows,
    valid: Rows,
    calibrate: Calibrate | None = None,
    monitor: str | None = None,
    clips: Manifest | None = None,
) -> Probe:
    """Fit a probe on training rows; validation rows choose its setting.

    Args:
        kind: `logistic` (classes only), `knn` or `ridge`.
        labels: What is learned.
        train: Rows to fit and to standardise by.
        valid: Rows that choose the setting and calibrate.
        calibrate: Temperature and thresholds to fit; ridge always gets a temperature.
        monitor: The metric that chooses; None takes the task's own.
        clips: The clips of the validation rows, where thresholds depend on what the table says.

    Raises:
        ConfigError: there is no such probe, or it does not suit the task.
        DataError: no training or validation row has a target, or a vector is not finite.
    """
    if kind not in GRIDS:
        raise ConfigError(
            f"there is no probe {kind!r}", where="--model", fix=f"one of {', '.join(GRIDS)}"
        )
    if kind == "logistic" and labels.task == "regression":
        raise ConfigError(
            "logistic regression needs classes", where="--model", fix="--model ridge or knn"
        )
    metric = monitor or default_monitor(labels.task)
    higher = higher_is_better(metric, labels)
    if clips is not None:
        clips = clips.filter(np.asarray(~np.isnan(valid.target).all(axis=1)))
    train, valid = _known(train, "training"), _known(valid, "validation")
    centre, spread = _moments(train.vectors)
    fitted = Rows(_standardise(train.vectors, centre, spread), train.target, train.weight)
    seen = _standardise(valid.vectors, centre, spread)
    notes: list[str] = []
    tried: list[dict[str, float | None]] = []
    best: tuple[tuple[float, float], float, Predict] | None = None
    with _few_threads(fitted.vectors):
        for setting, predict in _FITS[kind](labels, fitted, notes):
            scores = to_scores(labels, predict(seen))
            value = quick_metrics(labels, valid.target, scores)[metric]
            tried.append({NAMES[kind]: setting, metric: value})
            gain = -np.inf if value is None else value if higher else -value
            merit = (gain, -_surprise(labels, valid.target, scores))
            if best is None or merit > best[0]:
                best = merit, setting, predict
    assert best is not None
    if all(row[metric] is None for row in tried):
        notes.append(f"no validation row defines {metric}, so likelihood alone chose")
    calibrate = calibrate or Calibrate()
    if kind == "ridge" and labels.task != "regression":
        # The values of a ridge regression on 0 and 1 are no logits; a temperature makes them some.
        calibrate = calibrate.model_copy(update={"temperature": True})
    calibration = calibrate.fit(labels, valid.target, best[2](seen), clips)
    _, chosen, predict = best
    return Probe(kind, chosen, tried, metric, calibration, predict, centre, spread, notes)


def _few_threads(vectors: Floats) -> AbstractContextManager[Any]:
    """Keep small problems on one thread.

    Thousands of tiny products that wait for each other's threads take 25 times longer than one
    thread where other processes want the processors too (measured).
    """
    control = importlib.import_module("threadpoolctl")  # scikit-learn brings it.
    limits: AbstractContextManager[Any] = control.threadpool_limits(
        1 if vectors.size < SMALL else None
    )
    return limits


def _known(rows: Rows, part: str) -> Rows:
    known = np.asarray(~np.isnan(rows.target).all(axis=1))
    if not known.any():
        raise DataError(f"no {part} clip has a label")
    if not np.isfinite(rows.vectors.data if _is_sparse(rows.vectors) else rows.vectors).all():
        raise DataError("some embeddings are not finite")
    return rows.take(known)


def _is_sparse(vectors: Any) -> bool:
    return hasattr(vectors, "tocsr")


def _moments(vectors: Floats) -> tuple[Array, Array]:
    """Return each dimension's mean and deviation; for sparse vectors 0 and 1."""
    if _is_sparse(vectors):
        return np.zeros(()), np.ones(())
    spread = vectors.std(axis=0, dtype=np.float64)
    return vectors.mean(axis=0, dtype=np.float64), np.where(spread > 1e-12, spread, 1.0)


def _standardise(vectors: Any, centre: Array, spread: Array) -> Any:
    if _is_sparse(vectors):
        return vectors
    return np.asarray((np.asarray(vectors, np.float64) - centre) / spread)


def _surprise(labels: Labels, target: Floats, scores: Array) -> float:
    """Return the mean negative log-likelihood, which parts settings that a coarse metric cannot."""
    if labels.task == "regression":
        return 0.0
    if labels.task == "single":
        return float(-np.nanmean(target * np.log(np.clip(scores, 1e-12, 1))))
    chance = np.where(target >= 0.5, scores, 1 - scores)
    return float(-np.nanmean(np.where(np.isnan(target), np.nan, np.log(np.clip(chance, 1e-12, 1)))))


def _fit_logistic(labels: Labels, train: Rows, notes: list[str]) -> Iterator[tuple[float, Predict]]:
    """Fit logistic regressions from strong to weak penalties, each from where the last ended."""
    from sklearn.linear_model import LogisticRegression

    single = labels.task == "single"
    columns = [_classes(train)] if single else _flags(train)
    models = [LogisticRegression(max_iter=2000, tol=1e-6, warm_start=True) for _ in columns]
    for setting in GRIDS["logistic"]:
        parts = []
        for (rows, known), model in zip(columns, models, strict=True):
            if len(np.unique(known)) < 2:
                parts.append(_constant(known))
                continue
            model.set_params(C=setting)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.fit(train.vectors[rows], known, sample_weight=train.weight[rows])
            if caught and not notes:
                notes.append("a logistic regression stopped before it had converged")
            weights, bias = model.coef_.copy(), model.intercept_.copy()
            parts.append(_linear(weights, bias, model.classes_ if single else None, labels))
        yield setting, _side_by_side(parts)


def _fit_ridge(labels: Labels, train: Rows, notes: list[str]) -> Iterator[tuple[float, Predict]]:
    """Fit ridge regressions on 0 and 1, or on values; missing cells leave a row out of a label."""
    from sklearn.linear_model import Ridge

    del notes
    for setting in GRIDS["ridge"]:
        parts = []
        for columns, rows in _same_rows(train.target):
            model = Ridge(alpha=setting)
            known = train.target[rows][:, columns]
            model.fit(train.vectors[rows], known, sample_weight=train.weight[rows])
            parts.append((columns, np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)))
        weights = np.zeros((labels.num_classes, train.vectors.shape[1]))
        bias = np.zeros(labels.num_classes)
        for columns, coefficients, intercepts in parts:
            weights[columns], bias[columns] = coefficients, intercepts
        yield setting, _affine(weights, bias - 0.5 * (labels.task == "multi"))


def _fit_knn(labels: Labels, train: Rows, notes: list[str]) -> Iterator[tuple[float, Predict]]:
    """Let the nearest training rows vote; neighbours are searched for once."""
    from sklearn.neighbors import NearestNeighbors

    del notes
    count = len(train.vectors)
    settings = [int(k) for k in GRIDS["knn"] if k <= count] or [1]
    search = NearestNeighbors(n_neighbors=settings[0], algorithm="brute").fit(train.vectors)
    known = ~np.isnan(train.target)
    value = np.where(known, train.target, 0.0)
    weight = known * train.weight[:, None]
    prior = (value * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
    last: list[tuple[Array, Ints]] = []

    def neighbours(vectors: Array) -> Ints:
        # All settings are judged on the same rows, whose neighbours are the same.
        if not last or last[0][0] is not vectors:
            last[:] = [(vectors, search.kneighbors(vectors, return_distance=False))]
        return last[0][1]

    def predict(vectors: Array, k: int) -> Array:
        near = neighbours(vectors)[:, :k]
        votes = weight[near].sum(axis=1)
        share = (value[near] * weight[near]).sum(axis=1) / np.maximum(votes, 1e-12)
        share = np.where(votes > 0, share, prior)
        if labels.task == "regression":
            return np.asarray(share)
        share = (share + _VOTES) / (1 + _VOTES * labels.num_classes)
        if labels.task == "single":
            return np.asarray(np.log(share))
        share = np.clip(share, _VOTES, 1 - _VOTES)
        return np.asarray(np.log(share) - np.log1p(-share))

    for k in settings:
        yield float(k), partial(predict, k=k)


_FITS: dict[Kind, Callable[[Labels, Rows, list[str]], Iterator[tuple[float, Predict]]]] = {
    "logistic": _fit_logistic,
    "knn": _fit_knn,
    "ridge": _fit_ridge,
}


def _classes(train: Rows) -> tuple[Ints, Ints]:
    """Return the rows with a class, and their class numbers."""
    rows = np.flatnonzero(~np.isnan(train.target).any(axis=1))
    return rows, train.target[rows].argmax(axis=1)


def _flags(train: Rows) -> list[tuple[Ints, Ints]]:
    """Return for each label the rows that know it, and whether it holds."""
    every = [(np.flatnonzero(~np.isnan(column)), column) for column in train.target.T]
    return [(rows, (column[rows] >= 0.5).astype(np.int64)) for rows, column in every]


def _same_rows(target: Floats) -> Iterator[tuple[list[int], Ints]]:
    """Part the columns by which rows know them, so that those of like rows are fitted at once."""
    known = ~np.isnan(target)
    patterns: dict[bytes, list[int]] = {}
    for column in range(target.shape[1]):
        patterns.setdefault(known[:, column].tobytes(), []).append(column)
    for columns in patterns.values():
        rows = np.flatnonzero(known[:, columns[0]])
        if len(rows):
            yield columns, rows


def _affine(weights: Array, bias: Array) -> Predict:
    return lambda vectors: np.asarray(vectors @ weights.T + bias)


def _linear(weights: Array, bias: Array, classes: Ints | None, labels: Labels) -> Predict:
    """Return logits of all classes; those that no training row has stay far below the others."""
    if classes is None:
        return _affine(weights, bias)
    if len(classes) == 2:
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    full = np.zeros((labels.num_classes, weights.shape[1]))
    offset = np.full(labels.num_classes, -30.0)
    full[classes], offset[classes] = weights, bias
    return _affine(full, offset)


def _constant(known: Ints) -> Predict:
    """Return the smoothed log odds of a label that all training rows agree on."""
    rate = (known.sum() + 0.5) / (len(known) + 1)
    odds = float(np.log(rate / (1 - rate)))
    return lambda vectors: np.full((vectors.shape[0], 1), odds)


def _side_by_side(parts: list[Predict]) -> Predict:
    return lambda vectors: np.concatenate([part(vectors) for part in parts], axis=1)
