"""Metrics of predictions: their names, which way is better, and the tables of `metrics.json`.

Names and definitions follow scikit-learn; `balanced_accuracy` is also known as UAR, the macro
`average_precision` as mAP. In two-class tasks `sensitivity`, `specificity`, `roc_auc` and
`average_precision` are those of the positive class; otherwise the latter two are means over the
classes for which they are defined (one against the rest). What is undefined is None, never 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harken.bootstrap import (
    Groups,
    Interval,
    bounded,
    grouping_notes,
    interval,
    number,
    resample,
    scorer_of,
    unit_index,
)
from harken.choice import nearest
from harken.errors import ConfigError
from harken.labels import Labels, Task
from harken.thresholds import Thresholds
from harken.weighted import Flags, Floats, Predictions, Scorer, Values

_AVERAGED = tuple(
    f"{name}_{mean}"
    for name in ("precision", "recall", "f1")
    for mean in ("macro", "micro", "weighted")
)

METRICS: dict[Task, tuple[str, ...]] = {
    "single": (
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "roc_auc",
        "average_precision",
        *_AVERAGED,
        "log_loss",
        "top_3_accuracy",
    ),
    "multi": (
        "average_precision",
        "roc_auc",
        "d_prime",
        "lwlrap",
        *_AVERAGED,
        "hamming_loss",
        "subset_accuracy",
    ),
    "regression": ("mae", "rmse", "r2", "pearson", "spearman"),
}
"""The overall metrics of each task. `sensitivity` and `specificity` need two classes,
`top_3_accuracy` more than three."""

LOWER_IS_BETTER = frozenset({"loss", "log_loss", "hamming_loss", "mae", "rmse"})
"""Metrics to be minimised; all others are to be maximised."""

_REASONS = {
    "precision": "never predicted",
    "recall": "no clip of it",
    "f1": "neither present nor predicted",
    "specificity": "no clip without it",
    "roc_auc": "needs clips with it and clips without it",
    "average_precision": "no clip of it",
    "r2": "needs two different values",
    "pearson": "needs two different values",
    "spearman": "needs two different values",
}


def default_monitor(task: Task) -> str:
    """Return the metric that chooses the best epoch when the recipe names none."""
    monitors: dict[Task, str] = {
        "single": "balanced_accuracy",
        "multi": "average_precision",
        "regression": "mae",
    }
    return monitors[task]


def higher_is_better(metric: str, labels: Labels | None = None) -> bool:
    """Return whether more of a metric, or of `loss`, is better.

    Args:
        metric: Its name.
        labels: Where given, only metrics that such a task has are known.

    Raises:
        ConfigError: there is no such metric.
    """
    tasks: tuple[Task, ...] = ("single", "multi", "regression")
    known = ["loss", *dict.fromkeys(name for task in tasks for name in METRICS[task])]
    if labels is not None:
        known = ["loss", *(name for name in METRICS[labels.task] if _exists(name, labels))]
    if metric not in known:
        raise ConfigError(
            f"there is no metric {metric!r}{nearest(metric, known)}",
            where="train.monitor",
            fix=f"one of {', '.join(known)}",
        )
    return metric not in LOWER_IS_BETTER


def _exists(metric: str, labels: Labels) -> bool:
    if metric in ("sensitivity", "specificity"):
        return labels.num_classes == 2
    return metric != "top_3_accuracy" or labels.num_classes > 3


def quick_metrics(
    labels: Labels, target: Floats, score: Floats, thresholds: Thresholds = None
) -> dict[str, float | None]:
    """Return the overall metrics without intervals, for every epoch.

    Args:
        labels: The columns.
        target: `(clips, classes)`, NaN for missing.
        score: `(clips, classes)` after softmax or sigmoid.
        thresholds: See `harken.thresholds.decide`.

    Raises:
        DataError: no clip has a target, or a score is not finite.
    """
    scorer = scorer_of(labels, target, score, thresholds, np.arange(len(target)))
    return {name: number(values[0]) for name, values in scorer.point().overall.items()}


def summarise(
    labels: Labels,
    target: Floats,
    score: Floats,
    *,
    groups: Groups = None,
    thresholds: Thresholds = None,
    decision: Flags | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return one split's part of `metrics.json`.

    Args:
        labels: The columns.
        target: `(clips, classes)`, NaN for missing.
        score: `(clips, classes)` after softmax or sigmoid; the values themselves for regression.
        groups: Each clip's group, which the bootstrap draws; None draws clips.
        thresholds: See `harken.thresholds.decide`.
        decision: bool `(clips, classes)`, where decisions were made already (pooled folds, each by
            its own thresholds); it stands in for `thresholds`.
        num_resamples: Resamples behind each interval; 0 gives none.
        seed: Root of the draws.

    Returns:
        `num_clips` (with a target), `num_groups` (None without groups), `metrics` by name and
        `per_class` rows of `{value, low, high}`, `confusion` counts (rows: true classes; None
        unless each clip has one label), `labels` and `notes`. Undefined numbers are None.

    Raises:
        ConfigError: the thresholds do not suit the task.
        DataError: no clip has a target, or a score is not finite.
    """
    unit = unit_index(groups, len(target))
    scorer = scorer_of(labels, target, score, thresholds, unit, decision)
    known, point = scorer.predictions, scorer.point()
    spread = _Spread(scorer, num_resamples, seed)
    notes = _counting_notes(len(target), len(known.target))
    notes += grouping_notes(groups, known.num_units) if num_resamples else []
    return {
        "num_clips": len(known.target),
        "num_groups": None if groups is None else known.num_units,
        "metrics": {
            name: bounded(float(values[0]), spread.overall(name))
            for name, values in point.overall.items()
        },
        "per_class": _class_rows(
            known, point, spread, np.nan if decision is not None else thresholds
        ),
        "confusion": _confusion(known),
        "labels": list(labels.names),
        "notes": notes + _undefined_notes(labels, point) + spread.notes(point),
    }


class _Spread:
    """The intervals of all metrics, or none where there is too little to resample."""

    def __init__(self, scorer: Scorer, num_resamples: int, seed: int) -> None:
        self.num_resamples = num_resamples
        self.values: Values | None = None
        if num_resamples and scorer.predictions.num_units > 1:
            self.values = resample((scorer,), num_resamples, seed)[0]

    def overall(self, name: str) -> Interval | None:
        return None if self.values is None else interval(self.values.overall[name])

    def of_class(self, name: str, column: int) -> Interval | None:
        return None if self.values is None else interval(self.values.per_class[name][column])

    def notes(self, point: Values) -> list[str]:
        """Say which intervals rest on fewer resamples than asked for."""
        if self.values is None:
            return []
        found = {
            name: int(np.isnan(self.values.overall[name]).sum())
            for name, values in point.overall.items()
            if np.isfinite(values[0])
        }
        for name, table in point.per_class.items():
            missing = np.isnan(self.values.per_class[name]).sum(axis=1)[np.isfinite(table[:, 0])]
            found[f"{name} per class"] = int(missing.max(initial=0))
        parts = [f"{name} (up to {count})" for name, count in found.items() if count]
        text = f"resamples left out, of {self.num_resamples}, where a metric is undefined: "
        return [text + ", ".join(parts)] if parts else []


def _class_rows(
    known: Predictions, point: Values, spread: _Spread, thresholds: Thresholds
) -> list[dict[str, Any]]:
    present = ~np.isnan(known.target)
    support = present.sum(axis=0)
    if known.labels.task != "regression":
        support = np.nansum(known.target >= 0.5, axis=0)
    if np.ndim(0.5 if thresholds is None else thresholds) > 1:
        thresholds = np.nan  # Every clip has its own.
    limits = np.broadcast_to(0.5 if thresholds is None else thresholds, len(support))
    rows = []
    for column, label in enumerate(known.labels.names):
        row: dict[str, Any] = {"label": label, "support": int(support[column])}
        if known.labels.task == "multi":
            row["threshold"] = number(float(limits[column]))
        for name, values in point.per_class.items():
            row[name] = bounded(float(values[column, 0]), spread.of_class(name, column))
        rows.append(row)
    return rows


def _confusion(known: Predictions) -> list[list[int]] | None:
    if known.labels.task != "single":
        return None
    size = known.labels.num_classes
    pairs = known.target.argmax(axis=1) * size + known.decision.argmax(axis=1)
    table: list[list[int]] = np.bincount(pairs, minlength=size**2).reshape(size, size).tolist()
    return table


def _counting_notes(given: int, known: int) -> list[str]:
    return [f"{given - known} clips without a target are left out"] if given > known else []


def _undefined_notes(labels: Labels, point: Values) -> list[str]:
    """Say which numbers are null and why."""
    notes = []
    for name, values in point.per_class.items():
        missing = [labels.names[i] for i in np.flatnonzero(np.isnan(values[:, 0]))]
        if missing:
            reason = _REASONS.get(name, "no clip has a target")
            names = ", ".join(map(repr, missing))
            notes.append(f"{name} is undefined for {names}: {reason}")
    return notes
