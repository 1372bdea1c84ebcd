"""Percentile intervals from a bootstrap over groups, and paired differences of two models.

A group (a speaker, a source recording) is drawn with all its clips, since clips of one group are
alike: resampling clips would call the same evidence many times independent and give intervals that
are too narrow (Efron & Tibshirani 1993, ch. 8). Each resample draws as many groups as there are,
with replacement; an interval spans the 2.5th to the 97.5th percentile of the metric over resamples
in which it is defined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harken.labels import Labels
from harken.ranking import Array, Ints
from harken.seeds import generator
from harken.thresholds import Thresholds, decide
from harken.weighted import Flags, Floats, Predictions, Scorer, Values

Groups = Sequence[object] | npt.NDArray[Any] | None

LEVEL = 0.95
"""Share of the resamples that an interval spans."""
FEW_GROUPS = 10
"""With fewer groups than this an interval is called rough."""
BLOCK = 1 << 18
"""Numbers per array in one pass over resamples: 2 MiB, which stays near the processor."""


@dataclass(frozen=True)
class Interval:
    """Where a metric may lie.

    Attributes:
        low: 2.5th percentile, or None where no resample defines the metric.
        high: 97.5th percentile, or None likewise.
        left_out: Number of resamples in which the metric is undefined.
    """

    low: float | None
    high: float | None
    left_out: int


def unit_index(groups: Groups, num_clips: int) -> Ints:
    """Return each clip's unit: its group's number; a clip without a group stands for itself."""
    if groups is None:
        return np.arange(num_clips)
    own = [(row, "") if group is None else (-1, str(group)) for row, group in enumerate(groups)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(own))}
    return np.array([numbers[key] for key in own], dtype=np.intp)


def draws(num_units: int, num_resamples: int, seed: int, block: int) -> Iterator[Array]:
    """Yield how often each unit is drawn, float64 `(units, up to block resamples)`.

    What is drawn does not depend on `block`.
    """
    rng = generator(seed, "bootstrap")
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = rng.integers(num_units, size=(size, num_units))
        drawn += np.arange(size)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=size * num_units)
        yield np.ascontiguousarray(counts.reshape(size, num_units).T, dtype=np.float64)


def resample(scorers: Sequence[Scorer], num_resamples: int, seed: int) -> list[Values]:
    """Return every scorer's metrics under the same resamples, so that they are paired."""
    predictions = scorers[0].predictions
    block = max(1, BLOCK // len(predictions.target))
    parts: list[list[Values]] = [[] for _ in scorers]
    for weights in draws(predictions.num_units, num_resamples, seed, block):
        for scorer, values in zip(scorers, parts, strict=True):
            values.append(scorer(weights))
    return [_joined(values) for values in parts]


def _joined(parts: list[Values]) -> Values:
    def join(tables: list[dict[str, Array]]) -> dict[str, Array]:
        return {name: np.concatenate([t[name] for t in tables], axis=-1) for name in tables[0]}

    return Values(join([part.overall for part in parts]), join([part.per_class for part in parts]))


def interval(values: Array) -> Interval:
    """Return the percentile interval of a metric's resamples `(resamples,)`, NaN left out."""
    defined = values[~np.isnan(values)]
    left_out = len(values) - len(defined)
    if not len(defined):
        return Interval(None, None, left_out)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high), left_out)


def scorer_of(
    labels: Labels,
    target: Floats,
    score: Floats,
    thresholds: Thresholds,
    unit: Ints,
    decision: Flags | None = None,
) -> Scorer:
    """Return the scorer of a set of predictions; see `harken.metrics.summarise`."""
    assert target.shape == score.shape == (len(unit), labels.num_classes)
    if labels.task == "regression":
        decision = np.zeros((0, labels.num_classes), dtype=np.bool_)
    elif decision is None:
        decision = decide(labels, score, thresholds)
    return Scorer(Predictions.known(labels, target, score, decision, unit))


def grouping_notes(groups: Groups, num_units: int) -> list[str]:
    """Return what a reader of the intervals must know about the groups behind them."""
    unit = "clips" if groups is None else "groups"
    if num_units < 2:
        return [f"no intervals: a bootstrap needs at least two {unit}"]
    notes = []
    if groups is None:
        notes.append(
            "intervals resample clips, since there are no groups; they are too narrow where "
            "several clips come from one speaker or recording"
        )
    if num_units < FEW_GROUPS:
        notes.append(f"intervals are rough: they rest on {num_units} {unit}")
    return notes


def compare(
    labels: Labels,
    target: Floats,
    score_a: Floats,
    score_b: Floats,
    *,
    groups: Groups = None,
    thresholds_a: Thresholds = None,
    thresholds_b: Thresholds = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two models on the same clips, both under the same resamples.

    Args:
        labels: The columns.
        target: `(clips, classes)`, NaN for missing.
        score_a: Model A's scores `(clips, classes)`.
        score_b: Model B's scores `(clips, classes)`.
        groups: Each clip's group; None resamples clips.
        thresholds_a: Model A's thresholds; see `harken.thresholds.decide`.
        thresholds_b: Model B's thresholds.
        num_resamples: Number of resamples; 0 gives no intervals.
        seed: Root of the draws.

    Returns:
        `num_clips`, `num_groups`, `notes`, and `metrics`: by name `{a, b, difference: {value, low,
        high}}`, where the difference is b - a. A difference whose interval excludes 0 is more than
        the luck of these groups. Undefined numbers are None.
    """
    unit = unit_index(groups, len(target))
    a = scorer_of(labels, target, score_a, thresholds_a, unit)
    b = scorer_of(labels, target, score_b, thresholds_b, unit)
    num_units = a.predictions.num_units
    points = [scorer.point().overall for scorer in (a, b)]
    values: list[dict[str, Array]] = []
    if num_resamples and num_units > 1:
        values = [resampled.overall for resampled in resample((a, b), num_resamples, seed)]
    metrics = {}
    for name in points[0]:
        one, two = (float(point[name][0]) for point in points)
        spread = interval(values[1][name] - values[0][name]) if values else None
        metrics[name] = {
            "a": number(one),
            "b": number(two),
            "difference": bounded(two - one, spread),
        }
    return {
        "num_clips": len(a.predictions.target),
        "num_groups": None if groups is None else num_units,
        "metrics": metrics,
        "notes": grouping_notes(groups, num_units) if num_resamples else [],
    }


def number(value: float) -> float | None:
    """Return the value, or None (JSON's null) where it is undefined."""
    return float(value) if np.isfinite(value) else None


def bounded(value: float, spread: Interval | None) -> dict[str, float | None]:
    """Return `{value, low, high}`, with None for what is undefined."""
    if spread is None or not np.isfinite(value):
        return {"value": number(value), "low": None, "high": None}
    return {"value": number(value), "low": spread.low, "high": spread.high}
