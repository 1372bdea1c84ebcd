"""From scores to decisions: temperature and thresholds, fitted on validation clips only.

Nothing here may see test clips. Scores are what the model returns after softmax (`single`) or
sigmoid (`multi`); logits are what it returns before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harken.choice import Config
from harken.errors import ConfigError, DataError
from harken.labels import Labels

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Thresholds = float | Sequence[float] | None

FEW = 10
"""Below so many positives or negatives a fitted threshold is called rough."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of the search; separable validation clips would else ask for a temperature of 0."""


class Calibrate(Config):
    """What is fitted on validation clips after training."""

    temperature: bool = False
    """Divide logits by the temperature with the best validation likelihood (Guo et al. 2017)."""
    thresholds: Literal["none", "f1", "youden"] | Annotated[float, Field(gt=0, lt=1)] = "none"
    """How scores become decisions: `none` takes the largest score, or 1/2 where any number of
    labels may hold; `f1` and `youden` fit a threshold per label (in two-class tasks: of the
    positive class); a number fixes it."""

    def fit(self, labels: Labels, target: Floats, logits: Floats) -> Calibration:
        """Fit temperature and thresholds.

        Args:
            labels: The columns.
            target: `(validation rows, classes)`, NaN for missing.
            logits: `(validation rows, classes)`.

        Raises:
            ConfigError: the task has no thresholds or no temperature.
            DataError: there are no validation rows to fit on.
        """
        wants_fit = self.temperature or self.thresholds in ("f1", "youden")
        if wants_fit and not len(_observed_rows(target)):
            raise DataError(
                "no validation clips to calibrate on", where="calibrate", fix="split some off"
            )
        temperature = fit_temperature(labels, target, logits) if self.temperature else 1.0
        if self.thresholds == "none":
            return Calibration(temperature)
        if isinstance(self.thresholds, float):
            return Calibration(temperature, (self.thresholds,) * num_thresholds(labels))
        scores = to_scores(labels, logits, temperature)
        thresholds, notes = fit_thresholds(labels, target, scores, self.thresholds)
        return Calibration(temperature, thresholds, tuple(notes))


@dataclass(frozen=True)
class Calibration:
    """What `Calibrate` found; it belongs to the model.

    Attributes:
        temperature: What logits are divided by.
        thresholds: One per label (`multi`), one for the positive class (two-class tasks), or None.
        notes: What a reader of the thresholds should know.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def scores(self, labels: Labels, logits: Floats) -> Array:
        """Return calibrated scores `(rows, classes)`."""
        return to_scores(labels, logits, self.temperature)

    def to_json(self) -> dict[str, Any]:
        """Return a readable mapping."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Calibration:
        """Read what `to_json` returned."""
        thresholds = value["thresholds"]
        return cls(
            temperature=float(value["temperature"]),
            thresholds=None if thresholds is None else tuple(map(float, thresholds)),
            notes=tuple(value["notes"]),
        )


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
    their thresholds.

    Raises:
        ConfigError: the task takes no thresholds, or another number of them.
    """
    if labels.task == "single" and thresholds is None:
        return _one_hot(np.argmax(score, axis=1), labels.num_classes)
    limits = np.atleast_1d(np.asarray(0.5 if thresholds is None else thresholds, dtype=np.float64))
    wanted = num_thresholds(labels)
    if len(limits) not in (1, wanted):
        raise ConfigError(f"{len(limits)} thresholds for {wanted} decisions per clip")
    # Python numbers would be rounded to float32 beside float32 scores, hence the conversion.
    exact = np.asarray(score, dtype=np.float64)
    if labels.task == "multi":
        return exact >= limits
    positive = positive_index(labels)
    chosen = np.where(exact[:, positive] >= limits[0], positive, 1 - positive)
    return _one_hot(chosen, 2)


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


def fit_thresholds(
    labels: Labels, target: Floats, score: Floats, rule: Literal["f1", "youden"]
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


def _one_hot(chosen: npt.NDArray[np.intp], num_classes: int) -> Flags:
    return np.asarray(chosen[:, None] == np.arange(num_classes))


def _sigmoid(values: Array) -> Array:
    # Both branches stay below exp(0), so neither overflows.
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1, small) / (1 + small))
