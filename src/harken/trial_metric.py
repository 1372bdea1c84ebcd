"""The one number of a run that a search compares, and the file in which a tuning service reads it.

The number is of validation clips, never of test clips: macro over labels where the metric has one
value per label, and the mean over folds where there are several.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from harken.checkpoint import RunFolder
from harken.choice import nearest
from harken.errors import ConfigError, RunError
from harken.metrics import default_monitor
from harken.predictor import read_run_recipe

METRIC_FILE = "/tmp/hypertune/output.metrics"
"""Where Vertex AI looks when it names no file; it is this very path, whatever TMPDIR says."""

_KEPT_LINES = 100


def summary_metric(run: RunFolder, name: str | None = None) -> tuple[str, float]:
    """Return the name and the value of a run's one number.

    Args:
        run: A finished run, of one split or of folds.
        name: A metric of `metrics.json`, or `loss`; None takes the run's `train.monitor`, or the
            task's own.

    Raises:
        RunError: the run is not finished, has no validation clips, or the number is undefined.
        ConfigError: there is no such metric.
    """
    if not run.has("metrics.json"):
        raise RunError(
            "this run is not finished: it has no metrics.json",
            where=str(run.path),
            fix=f"harken train {run.path}/recipe.yaml --resume --out {run.path}",
        )
    name = name or _monitored(run)
    parts = _losses(run) if name == "loss" else _validations(run)
    known = {key for part in parts for key in part}
    if not known:
        raise RunError(
            "this run has no validation clips, so nothing may be chosen by it",
            where=str(run.path),
            fix="give data.split a valid part, such as data.split.valid=0.2",
        )
    if name not in known:
        raise ConfigError(
            f"there is no metric {name!r}{nearest(name, known)}",
            where="search.metric",
            fix=f"one of loss, {', '.join(sorted(known))}",
        )
    values = [value for part in parts if (value := part.get(name)) is not None]
    if not values:
        raise RunError(f"{name} is undefined for its validation clips", where=str(run.path))
    return name, float(np.mean(values))


def _monitored(run: RunFolder) -> str:
    parts = run.folds or [run]
    return read_run_recipe(parts[0]).train.monitor or default_monitor(run.labels().task)


def _validations(run: RunFolder) -> list[dict[str, float | None]]:
    """Return the validation metrics of each fold, of those that have any."""
    metrics = run.read_json("metrics.json")
    if "folds" in metrics:
        return [fold["valid"] for fold in metrics["folds"] if fold["valid"]]
    told: Mapping[str, Any] = metrics.get("valid", {}).get("metrics", {})
    return [{name: entry["value"] for name, entry in told.items()}] if told else []


def _losses(run: RunFolder) -> list[dict[str, float | None]]:
    """Return the mean validation loss of each fold's kept weights."""
    found: list[dict[str, float | None]] = []
    for part in run.folds or [run]:
        if not part.has("metrics.json"):
            continue
        seen = part.read_table("predictions.parquet").filter(pl.col("split") == "valid")
        known = seen.filter(pl.col("loss").is_finite())["loss"].to_numpy()
        if len(seen):
            found.append({"loss": float(known.mean()) if len(known) else None})
    return found


def trial_id() -> str | None:
    """Return the number that a tuning service gave this process's trial, if it runs one."""
    return os.environ.get("CLOUD_ML_TRIAL_ID") or None


def report_metric(name: str, value: float, *, epochs: int = 0, checkpoint: str = "") -> Path:
    """Write a trial's one number where the tuning service reads it.

    The file named by `CLOUD_ML_HP_METRIC_FILE` holds a line of JSON for each report; its newest 100
    lines are kept. A trial that is started again replaces its line, so that it has one number.

    Args:
        name: The metric, as the study calls it (`metricId`).
        value: The number.
        epochs: The epochs trained (`global_step`).
        checkpoint: The run folder.

    Returns:
        The file.

    Raises:
        RunError: the number is not finite, or the file cannot be written.
    """
    if not math.isfinite(value):
        raise RunError(f"{name} is {value}, which no service can compare", where=checkpoint or None)
    path = Path(os.environ.get("CLOUD_ML_HP_METRIC_FILE") or METRIC_FILE)
    trial = trial_id() or "0"
    line = {
        "timestamp": time.time(),
        "trial": trial,
        name: str(float(value)),
        "global_step": str(epochs),
        "checkpoint_path": checkpoint,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_of_others(path, trial, name)[1 - _KEPT_LINES :]
        # Written in place: the service may have mounted this one file into the container.
        path.write_text("".join(f"{text}\n" for text in [*kept, json.dumps(line, sort_keys=True)]))
    except OSError as error:
        raise RunError(f"cannot tell the tuning service: {error}", where=str(path)) from error
    return path


def _lines_of_others(path: Path, trial: str, name: str) -> list[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not _is_of(line, trial, name)]


def _is_of(line: str, trial: str, name: str) -> bool:
    try:
        told = json.loads(line)
    except json.JSONDecodeError:
        return False
    return isinstance(told, dict) and told.get("trial") == trial and name in told
