"""The numbers of a run as the page's rows: metrics, classes, folds, groups, mistakes."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.labels import Task
from harken.report.contents import Contents

NAMES = {
    "balanced_accuracy": "Balanced accuracy (UAR)",
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "d_prime": "d′",
    "lwlrap": "lwlrap",
    "mae": "Mean absolute error",
    "rmse": "Root mean square error",
    "r2": "R²",
}
"""Metrics whose words are not their names with spaces."""

LEADING: dict[Task, tuple[str, ...]] = {
    "single": ("balanced_accuracy", "accuracy", "roc_auc", "f1_macro"),
    "multi": ("average_precision", "lwlrap", "roc_auc", "f1_macro", "hamming_loss"),
    "regression": ("mae", "rmse", "r2", "pearson"),
}
"""What the page shows first."""

MAX_FACTS = 8

_OWN = ("id", "path", "start", "duration", "split", "fold", "target", "decision", "loss", "row")


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval, NaN where unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def text(self) -> str:
        """The number with three decimals, or a dash."""
        return number(self.value)

    @property
    def interval(self) -> str:
        """`low - high`, or nothing."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return f"{number(self.low)} – {number(self.high)}" if known else ""

    @property
    def on_scale(self) -> bool:
        """Whether the number and its interval lie between 0 and 1."""
        ends = [x for x in self if math.isfinite(x)]
        return math.isfinite(self.value) and all(0 <= x <= 1 for x in ends)


class Metric(NamedTuple):
    """One line of the results; `chance` is what guessing reaches, or None."""

    key: str
    name: str
    test: Estimate
    valid: Estimate
    chance: float | None


class Mistake(NamedTuple):
    """A clip that was decided wrongly, or that cost most.

    Attributes:
        row: Its row of predictions.
        wrong: Whether the decision was wrong.
        scores: The largest scores, `(name, score)`.
        facts: What else the table says of it, `(name, text)`.
    """

    row: dict[str, Any]
    wrong: bool
    scores: list[tuple[str, float]]
    facts: list[tuple[str, str]]


def number(value: Any) -> str:
    """Write a number for people: three decimals, fewer for large ones, a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return text.replace("-", "−")


def title(key: str) -> str:
    """Return a metric's name in words."""
    words = key.replace("_", " ")
    return NAMES.get(key) or words[:1].upper() + words[1:]


def estimate(told: Any) -> Estimate:
    """Read `{value, low, high}` or a bare number."""
    if isinstance(told, Mapping):
        ends = (told.get(name) for name in ("value", "low", "high"))
        return Estimate(*(_float(end) for end in ends))
    return Estimate(_float(told))


def _float(told: Any) -> float:
    return float(told) if isinstance(told, int | float) else math.nan


def metrics(contents: Contents) -> list[Metric]:
    """Return all metrics, the leading ones of the task first."""
    told = contents.test.get("metrics") or {}
    valid = (contents.metrics.get("valid") or {}).get("metrics") or {}
    first = LEADING[contents.task]
    order = [key for key in first if key in told] + [key for key in told if key not in first]
    chances = {"balanced_accuracy": 1 / max(2, len(contents.names)), "roc_auc": 0.5}
    if contents.task != "single":
        chances.pop("balanced_accuracy")
    return [
        Metric(key, title(key), estimate(told[key]), estimate(valid.get(key)), chances.get(key))
        for key in order
    ]


def classes(contents: Contents) -> tuple[list[str], list[tuple[str, int, list[Estimate]]]]:
    """Return the columns and the rows `(label, support, values)` of the per-class table."""
    told = contents.test.get("per_class") or []
    keys = list(
        dict.fromkeys(key for row in told for key in row if key not in ("label", "support"))
    )
    keys = [key for key in keys if any(_is_number(row.get(key)) for row in told)]
    rows = [
        (str(r.get("label")), int(r.get("support") or 0), [estimate(r.get(k)) for k in keys])
        for r in told
    ]
    return [title(key) for key in keys], rows


def _is_number(told: Any) -> bool:
    return math.isfinite(estimate(told).value)


def confusion(contents: Contents) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return rows `(true label, [(count, share of the row)])`, or nothing."""
    counts = np.array(contents.test.get("confusion") or [], dtype=float)
    if counts.ndim != 2 or len(counts) == 0 or counts.shape[0] != counts.shape[1]:
        return []
    names = [str(name) for name in contents.test.get("labels") or contents.names]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    return [
        (name, [(int(c), float(s)) for c, s in zip(*pair, strict=True)])
        for name, *pair in zip(names, counts, shares, strict=True)
    ]


def mixed_up(rows: list[tuple[str, list[tuple[int, float]]]], most: int = 5) -> list[str]:
    """Return the most frequent confusions as sentences."""
    names = [name for name, _ in rows]
    pairs = [
        (count, share, true, said)
        for true, cells in rows
        for said, (count, share) in zip(names, cells, strict=True)
        if said != true and count
    ]
    return [
        f"{true} taken for {said}: {count} of its clips ({share:.0%})"
        for count, share, true, said in sorted(pairs, key=lambda p: (-p[0], -p[1]))[:most]
    ]


def folds(contents: Contents) -> tuple[list[str], list[tuple[str, list[str]]], list[str]]:
    """Return the columns, the rows `(fold, values)` and `mean ± std` of the fold table."""
    told = contents.metrics.get("folds") or []
    mean, std = contents.metrics.get("mean") or {}, contents.metrics.get("std") or {}
    keys = [m.key for m in metrics(contents) if m.key in mean][:8]
    seen = contents.metrics.get("valid") or {} if contents.shares_test else {}
    own = [key for key in keys[:1] if key in (seen.get("mean") or {})]
    rows = []
    for fold in told:
        values = fold.get("test") or {}
        values = values.get("metrics", values)
        valid = fold.get("valid") or {}
        texts = [estimate(v.get(k)).text for v, ks in ((values, keys), (valid, own)) for k in ks]
        rows.append((str(fold.get("name")), texts))
    summary = [f"{estimate(mean.get(k)).text} ± {estimate(std.get(k)).text}" for k in keys]
    summary += [f"{estimate(seen['mean'][k]).text} ± {estimate(seen['std'][k]).text}" for k in own]
    names = [title(key) for key in keys] + [f"{title(key)}, own validation part" for key in own]
    return names, rows, summary


def is_wrong(contents: Contents, frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Return bool `(clips,)`: the decision is not the target; never for regression."""
    if contents.task == "regression" or "decision" not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    said = frame["decision"].cast(pl.String).fill_null("").to_list()
    if contents.task == "single":
        told = frame["target"].cast(pl.String).fill_null("").to_list()
        return np.array([a != b for a, b in zip(told, said, strict=True)], dtype=bool)
    sets = [set(cell.split("|")) for cell in said]
    decided = np.array([[name in chosen for name in contents.names] for chosen in sets])
    target = contents.target(frame)
    wrong: npt.NDArray[np.bool_] = (np.isfinite(target) & (decided != (target > 0.5))).any(axis=1)
    return wrong


def error(contents: Contents, frame: pl.DataFrame) -> npt.NDArray[np.floating]:
    """Return float64 `(clips,)`: the mean absolute error of a regression's known columns."""
    distance = np.abs(contents.scores(frame) - contents.target(frame))
    known = np.isfinite(distance)
    total = np.where(known, distance, 0).sum(axis=1)
    mean: npt.NDArray[np.floating] = total / known.sum(axis=1).clip(1)
    return mean


def groups(contents: Contents, frame: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table of groups (speakers), the hardest first."""
    if "group" not in frame.columns or frame["group"].null_count() == len(frame):
        return [], []
    regression = contents.task == "regression"
    score = error(contents, frame) if regression else 1.0 - is_wrong(contents, frame)
    word = "Mean absolute error" if regression else "Right"
    found = frame.select(pl.col("group").cast(pl.String), pl.col("target").cast(pl.String))
    losses = frame["loss"] if "loss" in frame.columns else pl.Series([None] * len(frame))
    table = (
        found.with_columns(score=pl.Series(score), loss=losses.cast(pl.Float64))
        .group_by("group")
        .agg(
            clips=pl.len(),
            score=pl.col("score").mean(),
            loss=pl.col("loss").mean(),
            targets=pl.col("target").n_unique(),
            target=pl.col("target").first(),
        )
        .sort(["score", "loss", "group"], descending=[regression, True, False])
    )
    rows = []
    for row in table.iter_rows(named=True):
        target = row["target"] if row["targets"] == 1 else f"{row['targets']} different"
        hit = number(row["score"]) if regression else f"{row['score']:.0%}"
        rows.append([row["group"], target or "–", number(row["clips"]), hit, number(row["loss"])])
    return ["Group", "Target", "Clips", word, "Mean loss"], rows


def mistakes(contents: Contents, frame: pl.DataFrame, most: int) -> list[Mistake]:
    """Return the wrong decisions with the greatest loss; without any, the costliest right ones."""
    wrong = is_wrong(contents, frame)
    regression = contents.task == "regression"
    cost = error(contents, frame) if regression else _losses(frame)
    order = np.lexsort((-cost, ~wrong))
    kept = order[: min(most, int(wrong.sum()) or most)]
    scores = contents.scores(frame)
    rows = frame.to_dicts() if len(frame) < 1000 else None
    return [
        _mistake(contents, rows[i] if rows else frame.row(int(i), named=True), scores[i], wrong[i])
        for i in kept
    ]


def _losses(frame: pl.DataFrame) -> npt.NDArray[np.floating]:
    if "loss" not in frame.columns:
        return np.zeros(len(frame))
    return frame["loss"].cast(pl.Float64).fill_null(0).fill_nan(0).to_numpy()


def _mistake(
    contents: Contents, row: dict[str, Any], scores: npt.NDArray[np.floating], wrong: bool
) -> Mistake:
    best = sorted(zip(contents.names, scores.tolist(), strict=True), key=lambda pair: -pair[1])
    # The label's and the group's own columns say again what the page shows already.
    shown = {str(row.get("target")), str(row.get("group"))}
    facts = [
        (name.replace("_", " "), number(value))
        for name, value in row.items()
        if name not in _OWN and not name.startswith(("score_", "target_", "table_", "threshold_"))
        if name == "group" or (value is not None and str(value) not in shown)
    ]
    return Mistake(row, bool(wrong), best[:3], facts[:MAX_FACTS])


def parts(contents: Contents) -> list[tuple[str, str]]:
    """Return `(split, clips)` of the table of splits."""
    frame = contents.splits
    if frame is None or "split" not in frame.columns or contents.is_kfold:
        return []
    counts = [(name, int((frame["split"] == name).sum())) for name in ("train", "valid", "test")]
    return [(name, number(count)) for name, count in counts]


def network(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a run says of its network as `(name, text)`; lists of numbers in short."""
    rows = []
    for key, value in told.items():
        if isinstance(value, list):
            text = " ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in value)
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        rows.append((key.replace("_", " "), text))
    return rows


def flat(told: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested mappings as `(a.b.c, text)`."""
    rows: list[tuple[str, str]] = []
    for key, value in told.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif value is not None:
            text = shlex.join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{key}", text))
    return rows
