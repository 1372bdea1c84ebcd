"""From scores to decisions: temperature and thresholds, fitted on validation clips only.

Nothing here may see test clips. Scores are what the model returns after softmax (`single`) or
sigmoid (`multi`); logits are what it returns before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from harken.choice import Config
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.threshold_rules import NoThreshold, Threshold, in_short
from harken.thresholds import Array, Floats, Thresholds, num_thresholds

TEMPERATURES = (0.05, 20.0)
"""Bounds of the search; separable validation clips would else ask for a temperature of 0."""


class Calibrate(Config):
    """What is fitted on validation clips after training."""

    temperature: bool = False
    """Divide logits by the temperature with the best validation likelihood (Guo et al. 2017)."""
    thresholds: Annotated[
        Threshold,
        BeforeValidator(
            in_short, json_schema_input_type=Threshold | Annotated[float, Field(gt=0, lt=1)]
        ),
    ] = NoThreshold()
    """How scores become decisions: `none` takes the largest score, or 1/2 where any number of
    labels may hold; `f1` and `youden` fit a threshold per label (in two-class tasks: of the
    positive class), and with `by` one for each subgroup too; a number or `fixed` says it; `formula`
    computes it from each clip's age and word."""

    def resolved(self) -> Calibrate:
        """Return the settings with the files that they refer to read in."""
        return self.model_copy(update={"thresholds": self.thresholds.resolved()})

    def check(self, labels: Labels, clips: Manifest) -> None:
        """Refuse what cannot work before anything is trained.

        Raises:
            ConfigError: the task has no thresholds or no temperature.
            DataError: a column that the thresholds read is missing or cannot be used.
        """
        if self.temperature and labels.task == "regression":
            raise ConfigError("regression has no temperature", where="calibrate.temperature")
        if not isinstance(self.thresholds, NoThreshold):
            num_thresholds(labels)
            self.thresholds.check(labels, clips)

    def fit(
        self, labels: Labels, target: Floats, logits: Floats, clips: Manifest | None = None
    ) -> Calibration:
        """Fit temperature and thresholds.

        Args:
            labels: The columns.
            target: `(validation rows, classes)`, NaN for missing.
            logits: `(validation rows, classes)`.
            clips: The validation clips, for thresholds that depend on the table's columns.

        Raises:
            ConfigError: the task has no thresholds or no temperature.
            DataError: there are no validation rows to fit on, or a column cannot be used.
        """
        if (self.temperature or self.thresholds.fitted) and not len(_observed_rows(target)):
            raise DataError(
                "no validation clips to calibrate on", where="calibrate", fix="split some off"
            )
        temperature = fit_temperature(labels, target, logits) if self.temperature else 1.0
        if isinstance(self.thresholds, NoThreshold):
            return Calibration(temperature)
        num_thresholds(labels)
        found = self.thresholds.fit(labels, target, to_scores(labels, logits, temperature), clips)
        rule = self.thresholds if self.thresholds.columns else None
        return Calibration(temperature, found.overall, found.notes, rule, found.subgroups)


@dataclass(frozen=True)
class Calibration:
    """What `Calibrate` found; it belongs to the model.

    Attributes:
        temperature: What logits are divided by.
        thresholds: One per label (`multi`), one for the positive class (two-class tasks), or None.
        notes: What a reader of the thresholds should know.
        rule: What gives each clip its own thresholds, or None where all have the same.
        subgroups: The thresholds of each subgroup, where the rule fits some.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    rule: Threshold | None = None
    subgroups: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns that the thresholds depend on."""
        return () if self.rule is None else self.rule.columns

    def scores(self, labels: Labels, logits: Floats) -> Array:
        """Return calibrated scores `(rows, classes)`."""
        return to_scores(labels, logits, self.temperature)

    def limits(self, labels: Labels, clips: Manifest | None) -> Thresholds:
        """Return the thresholds of some clips, `(rows, labels)` where each has its own.

        Raises:
            DataError: they depend on a column that is missing or cannot be used.
        """
        if self.rule is None or self.thresholds is None:
            return self.thresholds
        if clips is None:
            names = ", ".join(self.columns)
            raise DataError(f"the thresholds depend on {names}, and nothing is known of the clips")
        limits = self.rule.limits(self.thresholds, self.subgroups, clips)
        return np.broadcast_to(limits, (len(clips), num_thresholds(labels)))

    def to_json(self) -> dict[str, Any]:
        """Return a readable mapping."""
        return {
            "temperature": self.temperature,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "notes": list(self.notes),
            "rule": None if self.rule is None else self.rule.model_dump(mode="json"),
            "subgroups": {name: list(values) for name, values in self.subgroups.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        """Read what `to_json` returned, also before there were thresholds by subgroup."""
        thresholds, rule = value["thresholds"], value.get("rule")
        found = value.get("subgroups") or {}
        return cls(
            temperature=float(value["temperature"]),
            thresholds=None if thresholds is None else tuple(map(float, thresholds)),
            notes=tuple(value["notes"]),
            rule=rule and Threshold.member(rule["kind"]).model_validate(rule),
            subgroups={name: tuple(map(float, values)) for name, values in found.items()},
        )


def to_scores(labels: Labels, logits: Floats, temperature: float = 1.0) -> Array:
    """Return softmax (`single`), sigmoid (`multi`) or the values themselves (`regression`)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if labels.task == "regression":
        return scaled
    if labels.task == "multi":
        return _sigmoid(scaled)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(labels: Labels, target: Floats, logits: Floats) -> float:
    """Return the temperature T that maximises the likelihood of the targets given logits / T.

    The negative log-likelihood is convex in 1/T, so bisection of its slope finds the optimum.

    Raises:
        ConfigError: the task is a regression.
    """
    slope = _likelihood_slope(labels, target, logits)
    low, high = (float(np.log(1 / t)) for t in reversed(TEMPERATURES))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(float(np.exp(middle))) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _likelihood_slope(labels: Labels, target: Floats, logits: Floats) -> Callable[[float], float]:
    """Return the derivative of the negative log-likelihood by the inverse temperature."""
    if labels.task == "regression":
        raise ConfigError("regression has no temperature", where="calibrate.temperature")
    rows = _observed_rows(target)
    known, values = target[rows].astype(np.float64), logits[rows].astype(np.float64)
    observed = ~np.isnan(known)
    goal = np.where(observed, known, 0.0)

    def slope(inverse: float) -> float:
        error = to_scores(labels, values, 1 / inverse) - goal
        return float((error * values)[observed].sum())

    return slope


def reliability(
    labels: Labels, target: Floats, score: Floats, num_bins: int = 15
) -> dict[str, Any]:
    """Return how far scores are from frequencies.

    `ece` is the expected calibration error over bins of equal width (Guo et al. 2017): of the
    largest score against accuracy (`single`), of every observed score against its label (`multi`).
    `brier` is the mean squared error of the scores, as scikit-learn has it: summed over classes,
    for two classes of the positive one only, over observed cells in multi-label tasks. Each of
    `bins` is `{low, high, count, confidence, accuracy}`, the last two null where it is empty.

    Raises:
        ConfigError: the task is a regression.
        DataError: no row has a target.
    """
    if labels.task == "regression":
        raise ConfigError("regression has no calibration curve")
    rows = _observed_rows(target)
    if not len(rows):
        raise DataError("no clip has a target")
    known, exact = target[rows].astype(np.float64), score[rows].astype(np.float64)
    if labels.task == "multi":
        observed = ~np.isnan(known)
        confidence, correct = exact[observed], known[observed]
        brier = np.mean((confidence - correct) ** 2)
    else:
        confidence = exact.max(axis=1)
        correct = (exact.argmax(axis=1) == known.argmax(axis=1)).astype(np.float64)
        brier = np.mean(((exact - known) ** 2).sum(axis=1)) / (2 if labels.num_classes == 2 else 1)
    bins = _bins(confidence, correct, num_bins)
    gaps = [
        b["count"] * abs(b["confidence"] - b["accuracy"]) / len(confidence)
        for b in bins
        if b["count"]
    ]
    return {"ece": float(sum(gaps)), "brier": float(brier), "bins": bins}


def _bins(confidence: Array, correct: Array, num_bins: int) -> list[dict[str, Any]]:
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    result = []
    for number in range(num_bins):
        inside = place == number
        result.append(
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()) if inside.any() else None,
                "accuracy": float(correct[inside].mean()) if inside.any() else None,
            }
        )
    return result


def _observed_rows(target: Floats) -> npt.NDArray[np.intp]:
    return np.flatnonzero(~np.isnan(target).all(axis=1))


def _sigmoid(values: Array) -> Array:
    # Both branches stay below exp(0), so neither overflows.
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1, small) / (1 + small))
