"""The summary over the folds of a run: each, their mean, and all predictions judged together."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from harken.checkpoint import RunFolder
from harken.labels import Labels
from harken.recipe import Recipe
from harken.verbs.measure import one_row_a_clip, summarise_predictions, write_tables, write_votes

SHARED_TEST = (
    "the {count} folds share their test clips: each clip counts once, by its mean score over the "
    "models"
)
NOT_TESTED = "a trial does not look at its test clips; harken evaluate measures them"
SEEN = "these clips chose the epochs and thresholds of the models that judge them here"


def summarise_folds(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Write the summary over the finished folds: each, mean ± std, and pooled predictions."""
    folds = [fold for fold in run.folds if fold.has("metrics.json")]
    names, labels = [fold.path.name.removeprefix("fold-") for fold in folds], folds[0].labels()
    told = [fold.read_json("metrics.json") for fold in folds]
    every = pl.concat([fold.read_table("predictions.parquet") for fold in folds])
    tested = every.filter(pl.col("split") == "test")
    if not len(tested):
        return _summarise_valid(run, labels, names, told, every)
    pooled = one_row_a_clip(labels, tested)
    parts = {split: [_bare(metrics.get(split)) for metrics in told] for split in ("test", "valid")}
    summary: dict[str, Any] = {
        "folds": [
            {"name": name, "test": test, "valid": valid}
            for name, test, valid in zip(names, *parts.values(), strict=True)
        ],
        **_mean_and_std(parts["test"]),
        "valid": _mean_and_std(parts["valid"]),
        "pooled": summarise_predictions(recipe, labels, pooled),
    }
    if len(pooled) < len(tested):
        summary["pooled"]["notes"].append(SHARED_TEST.format(count=len(folds)))
        seen = one_row_a_clip(labels, every.filter(pl.col("split") == "valid"))
        summary["valid"]["pooled"] = summarise_predictions(recipe, labels, seen, [SEEN])
    run.write_json("labels.json", labels.to_json())
    run.write_table("predictions.parquet", pooled)
    write_tables(run, summary["pooled"])
    write_votes(run, recipe, labels, pooled)
    run.write_json("metrics.json", summary)
    return summary


def _summarise_valid(
    run: RunFolder,
    labels: Labels,
    names: list[str],
    told: list[dict[str, Any]],
    seen: pl.DataFrame,
) -> dict[str, Any]:
    """Write the summary over folds that have not looked at their test clips, trials of a search."""
    parts = [_bare(metrics.get("valid")) for metrics in told]
    folds = zip(names, parts, strict=True)
    summary = {
        "folds": [{"name": name, "test": {}, "valid": valid} for name, valid in folds],
        "valid": _mean_and_std(parts),
        "notes": [NOT_TESTED],
    }
    run.write_json("labels.json", labels.to_json())
    run.write_table("predictions.parquet", one_row_a_clip(labels, seen))
    run.write_json("metrics.json", summary)
    return summary


def _bare(metrics: dict[str, Any] | None) -> dict[str, float | None]:
    """Return the numbers of one split's metrics, without intervals."""
    return {name: entry["value"] for name, entry in (metrics or {}).get("metrics", {}).items()}


def _mean_and_std(values: list[dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Return each metric's mean and standard deviation over the folds that define it."""
    table = {name: [part.get(name) for part in values] for part in values for name in part}
    known = {name: [v for v in each if v is not None] for name, each in table.items()}
    return {
        "mean": {name: float(np.mean(v)) if v else None for name, v in known.items()},
        "std": {
            name: float(np.std(v, ddof=1)) if len(v) > 1 else None for name, v in known.items()
        },
    }
