"""What a run folder holds, read for the page: whatever is missing is empty, not an error."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from harken import storage
from harken.errors import RunError
from harken.labels import Task
from harken.storage import Location, Place

Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Contents:
    """The files of a run folder, or of a k-fold root with its `fold-*` folders.

    Attributes:
        folder: The run folder.
        recipe_text: `recipe.yaml` as it stands.
        recipe: The same, parsed.
        environment: `environment.json`.
        labels: `labels.json`.
        metrics: `metrics.json`.
        histories: Rows of `metrics.jsonl` by name of the fold; one entry without folds.
        predictions: `predictions.parquet`, or None.
        splits: `splits.parquet`, or None.
        quarantine: The recordings that were left out, with reasons.
        networks: `network.json` by name of the fold; one entry without folds.
    """

    folder: Place
    recipe_text: str
    recipe: dict[str, Any]
    environment: dict[str, Any]
    labels: dict[str, Any]
    metrics: dict[str, Any]
    histories: dict[str, list[dict[str, Any]]]
    predictions: pl.DataFrame | None
    splits: pl.DataFrame | None
    quarantine: list[dict[str, Any]]
    networks: dict[str, dict[str, Any]]

    @property
    def is_kfold(self) -> bool:
        """Whether this is the root of several folds."""
        return "pooled" in self.metrics or "folds" in self.metrics

    @property
    def shares_test(self) -> bool:
        """Whether all folds were judged on the same held-out clips."""
        return "pooled" in _mapping(self.metrics.get("valid"))

    @property
    def test(self) -> dict[str, Any]:
        """The results on test clips, pooled over the folds where there are some."""
        return _mapping(self.metrics.get("pooled") or self.metrics.get("test"))

    @property
    def names(self) -> list[str]:
        """The label names in column order."""
        known = self.labels.get("names") or self.test.get("labels")
        if not known and self.predictions is not None:
            columns = self.predictions.columns
            known = [name.removeprefix("score_") for name in columns if name.startswith("score_")]
        return [str(name) for name in known or []]

    @property
    def task(self) -> Task:
        """`single`, `multi` or `regression`."""
        told: Task = self.labels.get("task", "single" if self.test.get("confusion") else "multi")
        return told

    @property
    def positive(self) -> int:
        """The column whose score counts in a two-class task: the named one, else the last."""
        named = str(self.labels.get("positive"))
        return self.names.index(named) if named in self.names else len(self.names) - 1

    def judged(self) -> pl.DataFrame | None:
        """Return the predictions of test clips, with a score for every label, or None."""
        frame = self.predictions
        if frame is None or frame.is_empty():
            return None
        if any(f"score_{name}" not in frame.columns for name in self.names) or not self.names:
            return None
        if "split" in frame.columns and (frame["split"] == "test").any():
            frame = frame.filter(pl.col("split") == "test")
        return frame

    def scores(self, frame: pl.DataFrame) -> Values:
        """Return float64 `(clips, classes)`."""
        return _matrix(frame, [f"score_{name}" for name in self.names])

    def target(self, frame: pl.DataFrame) -> Values:
        """Return float64 `(clips, classes)`: 0 and 1, or values; NaN where unknown."""
        columns = [f"target_{name}" for name in self.names]
        if all(column in frame.columns for column in columns):
            return _matrix(frame, columns)
        if self.task == "regression":
            return _matrix(frame, ["target"])
        told = [str(cell or "") for cell in frame["target"]]
        sets = [{cell} if self.task == "single" else set(cell.split("|")) for cell in told]
        return np.array([[float(name in names) for name in self.names] for names in sets])


def read_contents(run: Location) -> Contents:
    """Read a run folder, on this machine or in a bucket.

    Raises:
        RunError: there is no such folder, it is no run folder, or one of its files is damaged.
    """
    folder = storage.place(run)
    known = ("recipe.yaml", "metrics.json", "metrics.jsonl", "predictions.parquet")
    parts = [p for p in storage.entries(folder) if p.name.startswith("fold-")]
    folds = sorted(filter(storage.is_folder, parts), key=lambda p: _natural(p.name))
    if not folds and not any(storage.is_file(folder / name) for name in known):
        raise RunError(
            "this is not a run folder", where=str(folder), fix="give the folder of `--out`"
        )
    places = [folder, *folds]
    recipe_text = next((t for p in places if (t := _text(p / "recipe.yaml"))), "")
    own = _rows(folder / "metrics.jsonl")
    histories = {folder.name: own} if own else {p.name: _rows(p / "metrics.jsonl") for p in folds}
    return Contents(
        folder=folder,
        recipe_text=recipe_text,
        recipe=_parsed(recipe_text, folder),
        environment=_first(places, "environment.json"),
        labels=_first(places, "labels.json"),
        metrics=_mapping(_json(folder / "metrics.json")),
        histories={name: rows for name, rows in histories.items() if rows},
        predictions=_frame(folder / "predictions.parquet"),
        splits=_frame(folder / "splits.parquet"),
        quarantine=_quarantine(places),
        networks={p.name: told for p in places if (told := _mapping(_json(p / "network.json")))},
    )


def _quarantine(places: list[Place]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        told = _json(place / "quarantine.json")
        if isinstance(told, dict):
            told = told.get("clips", [])
        for row in told or []:
            found.setdefault(f"{row.get('id')} {row.get('path')}", row)
    return list(found.values())


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def _text(path: Place) -> str:
    return storage.read_bytes(path).decode() if storage.is_file(path) else ""


def _json(path: Place) -> Any:
    text = _text(path)
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise RunError(f"this file is damaged: {error}", where=str(path)) from error


def _first(places: list[Place], name: str) -> dict[str, Any]:
    return next((told for place in places if (told := _mapping(_json(place / name)))), {})


def _mapping(told: Any) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


def _parsed(text: str, folder: Place) -> dict[str, Any]:
    try:
        return _mapping(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RunError("this file is damaged", where=str(folder / "recipe.yaml")) from error


def _rows(path: Place) -> list[dict[str, Any]]:
    rows = []
    for line in _text(path).splitlines():
        try:
            rows.append(_mapping(json.loads(line)))
        except ValueError:
            # The last line of a run that was killed may be half written.
            continue
    return rows


def _frame(path: Place) -> pl.DataFrame | None:
    if not storage.is_file(path):
        return None
    try:
        source = path if isinstance(path, Path) else io.BytesIO(storage.read_bytes(path))
        return pl.read_parquet(source)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RunError("this file is damaged", where=str(path)) from error


def _matrix(frame: pl.DataFrame, columns: list[str]) -> Values:
    cast = frame.select(pl.col(columns).cast(pl.Float64, strict=False).fill_null(float("nan")))
    return cast.to_numpy()
