"""Metrics of subgroups (ages, words, sexes, sites), all under the same bootstrap.

Everything with an interval here is a quotient of sums over clips, so one product of a sparse matrix
with the bootstrap's weights gives it for hundreds of subgroups at once. The weights are those of
the overall metrics: speakers are drawn with all their clips, into whatever subgroup these fall, and
subgroups are compared under the same draws. What is undefined is None, never 0: a subgroup with few
clips, or with one class, has no balanced accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse

from harken.bootstrap import (
    BLOCK,
    FEW_GROUPS,
    Groups,
    bounded,
    draws,
    interval,
    unit_index,
)
from harken.labels import Labels
from harken.ranking import Array, Ints, Ranking, ratio
from harken.subgroups import Members, Subgroups
from harken.thresholds import positive_index
from harken.weighted import Flags, Floats, known_rows, mean_defined

MAIN = {"single": "balanced_accuracy", "multi": "f1_macro", "regression": "mae"}
"""The metric by which the best and the worst subgroup are told, by task."""


class By(Subgroups):
    """A column whose subgroups are measured one by one; its bare name is enough."""

    min_clips: int = Field(5, ge=1)
    """Subgroups of fewer clips are counted and not measured."""


def by_group(
    labels: Labels,
    target: Floats,
    score: Floats,
    decision: Flags | None,
    members: Members,
    *,
    groups: Groups = None,
    min_clips: int = 5,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure every subgroup.

    Args:
        labels: The columns.
        target: `(clips, classes)`, NaN for missing.
        score: `(clips, classes)`.
        decision: bool `(clips, classes)`; None for regression.
        members: Which subgroup each clip is in.
        groups: Each clip's group (speaker), which the bootstrap draws; None draws clips.
        min_clips: Smaller subgroups are not measured.
        num_resamples: Resamples behind each interval; 0 gives none.
        seed: Root of the draws.

    Returns:
        `groups`: for each subgroup `group`, `num_clips`, `num_groups` (None without groups),
        `metrics` by name `{value, low, high}`, `classes` by label `{clips, right}` (empty for
        regression) and `note`; `gap` between the best and the worst of them in the task's main
        metric (None where fewer than two are defined); and `notes`.
    """
    kept = known_rows(labels, target) & (members.codes >= 0)
    unit = unit_index(groups, len(target))[kept]
    decided = np.zeros((0, labels.num_classes), dtype=np.bool_)
    clips = _Clips(
        labels,
        target[kept].astype(np.float64),
        score[kept],
        decided if decision is None else decision[kept],
        members.codes[kept],
        np.unique(unit, return_inverse=True)[1],
        len(members.names),
    )
    point, resampled = clips.values(num_resamples, seed)
    few = clips.num_clips < min_clips
    thin = clips.units_of < 2
    rows = []
    for place, name in enumerate(members.names):
        if not clips.num_clips[place]:
            continue
        metrics = {}
        for metric, values in point.items():
            value = np.nan if few[place] else float(values[place])
            known = resampled.get(metric)
            spread = None if known is None or thin[place] else interval(known[place])
            metrics[metric] = bounded(value, spread)
        rows.append(
            {
                "group": name,
                "num_clips": int(clips.num_clips[place]),
                "num_groups": None if groups is None else int(clips.units_of[place]),
                "metrics": metrics,
                "classes": clips.classes(place),
                "note": clips.note(place, min_clips),
            }
        )
    usable = ~few & np.isfinite(point[MAIN[labels.task]])
    return {
        "groups": rows,
        "gap": _gap(labels, members.names, usable, point, resampled),
        "notes": _notes(members, clips, groups, num_resamples),
    }


class _Clips:
    """The clips of all subgroups, summed over each pair of subgroup and unit."""

    def __init__(
        self,
        labels: Labels,
        target: Array,
        score: Floats,
        decision: Flags,
        codes: npt.NDArray[np.int64],
        unit: Ints,
        num_subgroups: int,
    ) -> None:
        self.labels, self.target, self.score, self.codes = labels, target, score, codes
        self.unit, self.num_units = unit, int(unit.max(initial=-1)) + 1
        self.num_subgroups = num_subgroups
        self.num_clips = np.bincount(codes, minlength=num_subgroups)
        pairs = np.unique(codes * max(self.num_units, 1) + unit) // max(self.num_units, 1)
        self.units_of = np.bincount(pairs, minlength=num_subgroups)
        if labels.task == "regression":
            columns = _error_sums(target, score, codes, num_subgroups)
        else:
            columns = _count_columns(labels, target, decision)
        self.width = columns.shape[1]
        clip, column = np.nonzero(columns)
        where = (codes[clip] * self.width + column, unit[clip])
        shape = (num_subgroups * self.width, self.num_units)
        self._matrix = sparse.csr_array((columns[clip, column], where), shape=shape)
        self.sums = self._summed(np.ones((self.num_units, 1)))[..., 0]

    def _summed(self, weights: Array) -> Array:
        """Return each subgroup's sums under each weighting: `(subgroups, columns, resamples)`."""
        sums = np.asarray(self._matrix @ weights)
        return sums.reshape(self.num_subgroups, self.width, weights.shape[1])

    def values(self, num_resamples: int, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the metrics `(subgroups,)`, and their resamples `(subgroups, resamples)`."""
        measure = _MEASURES[self.labels.task]
        point = {n: v[:, 0] for n, v in measure(self.labels, self.sums[..., None]).items()}
        parts = []
        if num_resamples and self.num_units > 1:
            cells = max(self.num_subgroups * self.width, self.num_units)
            block = max(1, 4 * BLOCK // cells)
            for weights in draws(self.num_units, num_resamples, seed, block):
                parts.append(measure(self.labels, self._summed(weights)))
        resampled = {n: np.concatenate([p[n] for p in parts], axis=1) for n in point if parts}
        return point | self._ranked(), resampled

    def _ranked(self) -> dict[str, Array]:
        """Return what is no quotient of sums, without resamples: `(subgroups,)` each."""
        task, labels = self.labels.task, self.labels
        if task == "regression" or (task == "single" and labels.num_classes > 2):
            return {}
        columns = [positive_index(labels)] if task == "single" else range(labels.num_classes)
        found = np.full((2, len(columns), self.num_subgroups), np.nan)
        order = np.argsort(self.codes, kind="stable")
        ends = np.cumsum(self.num_clips)
        for place, (start, end) in enumerate(zip(ends - self.num_clips, ends, strict=True)):
            rows = order[start:end]
            for row, column in enumerate(columns):
                known = rows[~np.isnan(self.target[rows, column])]
                truth = self.target[known, column] >= 0.5
                if len(known) and 0 < truth.sum() < len(truth):
                    ranking = Ranking(truth, self.score[known, column], np.arange(len(known)))
                    found[:, row, place] = [v[0] for v in ranking(np.ones((len(known), 1)))]
        area, average = (mean_defined(values) for values in found)
        return {"roc_auc": area} | ({"average_precision": average} if task == "multi" else {})

    def classes(self, place: int) -> dict[str, dict[str, int]]:
        """Return how many clips of each label a subgroup has, and how many are decided rightly."""
        if self.labels.task == "regression":
            return {}
        counts = self.sums[place].reshape(-1, self.labels.num_classes)
        return {
            name: {"clips": int(counts[1, i]), "right": int(counts[0, i])}
            for i, name in enumerate(self.labels.names)
        }

    def note(self, place: int, min_clips: int) -> str:
        """Say what a reader of a subgroup's numbers must know."""
        if self.num_clips[place] < min_clips:
            return f"fewer than {min_clips} clips: not measured"
        if self.labels.task != "single":
            return ""
        present = [name for name, told in self.classes(place).items() if told["clips"]]
        if len(present) == 1:
            return f"only {present[0]}: no balanced accuracy"
        absent = [name for name in self.labels.names if name not in present]
        return f"no clip of {', '.join(absent[:5])}" if absent else ""


def _count_columns(labels: Labels, target: Array, decision: Flags) -> Array:
    """Return hits, clips, decisions and known cells of each label, side by side."""
    known = ~np.isnan(target)
    actual = target >= 0.5
    if labels.task == "single":
        actual = target.argmax(axis=1)[:, None] == np.arange(labels.num_classes)
    actual &= known
    decided = decision & known
    parts = [actual & decided, actual] + ([decided, known] if labels.task == "multi" else [])
    return np.concatenate(parts, axis=1).astype(np.float64)


def _error_sums(
    target: Array, score: Floats, codes: npt.NDArray[np.int64], num_subgroups: int
) -> Array:
    """Return known cells, |error|, error², target and target² of each column, side by side."""
    known = ~np.isnan(target)
    filled = np.where(known, target, 0.0)
    clips = np.stack([np.bincount(codes, k, num_subgroups) for k in known.T], axis=1)
    sums = np.stack([np.bincount(codes, v, num_subgroups) for v in filled.T], axis=1)
    # Targets are taken from their subgroup's mean, so that a constant leaves no rounding behind.
    centre = sums / np.maximum(clips, 1)
    centred = np.where(known, target - centre[codes], 0.0)
    error = np.where(known, score.astype(np.float64) - target, 0.0)
    return np.concatenate([known, np.abs(error), error**2, centred, centred**2], axis=1)


def _single(labels: Labels, sums: Array) -> dict[str, Array]:
    hit, actual = np.split(sums, 2, axis=1)
    recall = ratio(hit, actual)
    num_present = (actual > 0).sum(axis=1)
    balanced = mean_defined(recall.swapaxes(0, 1))
    found = {
        "balanced_accuracy": np.where(num_present > 1, balanced, np.nan),
        "accuracy": ratio(hit.sum(axis=1), actual.sum(axis=1)),
    }
    if labels.num_classes == 2:
        positive = positive_index(labels)
        found |= {"sensitivity": recall[:, positive], "specificity": recall[:, 1 - positive]}
    return found


def _multi(labels: Labels, sums: Array) -> dict[str, Array]:
    hit, actual, decided, known = np.split(sums, 4, axis=1)
    f1 = ratio(2 * hit, actual + decided)
    wrong = (actual + decided - 2 * hit).sum(axis=1)
    return {
        "f1_macro": mean_defined(f1.swapaxes(0, 1)),
        "f1_micro": ratio(2 * hit.sum(axis=1), (actual + decided).sum(axis=1)),
        "hamming_loss": ratio(wrong, known.sum(axis=1)),
    }


def _regression(labels: Labels, sums: Array) -> dict[str, Array]:
    count, absolute, squares, centred, spread = np.split(sums, 5, axis=1)
    inner = spread - ratio(centred**2, count)
    # Rounding can leave equal values a spread above 0.
    inner = np.where(inner > 1e-10 * spread, inner, 0.0)
    found = {
        "mae": ratio(absolute, count),
        "rmse": np.sqrt(ratio(squares, count)),
        "r2": 1 - ratio(squares, inner),
    }
    return {name: mean_defined(values.swapaxes(0, 1)) for name, values in found.items()}


_MEASURES = {"single": _single, "multi": _multi, "regression": _regression}


def _gap(
    labels: Labels,
    names: Sequence[str],
    usable: Flags,
    point: dict[str, Array],
    resampled: dict[str, Array],
) -> dict[str, Any] | None:
    """Return how far the worst subgroup is behind the best."""
    metric = MAIN[labels.task]
    places = np.flatnonzero(usable)
    if len(places) < 2:
        return None
    order = places[np.argsort(point[metric][places], kind="stable")]
    low, high = int(order[0]), int(order[-1])
    worst, best = (high, low) if metric == "mae" else (low, high)
    spread = interval(resampled[metric][high] - resampled[metric][low]) if resampled else None
    gap = bounded(float(point[metric][high] - point[metric][low]), spread)
    return {"metric": metric, "best": names[best], "worst": names[worst], **gap}


def _notes(members: Members, clips: _Clips, groups: Groups, num_resamples: int) -> list[str]:
    notes = []
    missing, outside = int(members.missing.sum()), int(members.outside.sum())
    if missing:
        notes.append(f"{missing} clips have no value and are left out")
    if outside:
        notes.append(f"{outside} clips lie outside the bins and are left out")
    if num_resamples:
        unit = "clips" if groups is None else "groups"
        rough = [
            name
            for name, count in zip(members.names, clips.units_of, strict=True)
            if 0 < count < FEW_GROUPS
        ]
        if rough:
            shown = ", ".join(rough[:10]) + (" and others" if len(rough) > 10 else "")
            notes.append(f"intervals rest on fewer than {FEW_GROUPS} {unit} in {shown}")
    return notes


def flat_rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the subgroups of all columns as rows of `by_group.csv`."""
    rows = []
    for column, told in found.items():
        for group in told["groups"]:
            row: dict[str, Any] = {"column": column, "group": group["group"]}
            row |= {"clips": group["num_clips"], "groups": group["num_groups"]}
            for name, value in group["metrics"].items():
                row |= {name: value["value"]}
                row |= {f"{name}_low": value["low"], f"{name}_high": value["high"]}
            for label, counts in group["classes"].items():
                row |= {f"clips_{label}": counts["clips"], f"right_{label}": counts["right"]}
            rows.append(row | {"note": group["note"]})
    return rows
