"""From run folders, wherever they lie, to one number for each label; whatever fails has a reason.

Settings come from the saved recipe, numbers from the saved predictions: names of folders and what
`metrics.json` says decide nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import yaml

from harken import storage
from harken.bootstrap import scorer_of
from harken.errors import DataError, HarkenError, RunError
from harken.labels import Labels
from harken.metrics import METRICS
from harken.standings import WHOLE, Run, Setting
from harken.storage import Location
from harken.thresholds import positive_index
from harken.verbs.measure import arrays_of

READERS = 8
"""Run folders that are read at the same time; buckets answer slowly."""

_MARKS = ("recipe.yaml", "trial.json")
_FOLD = re.compile(r"(fold-[^/]+)/recipe\.yaml")
_FOREIGN = (HarkenError, pl.exceptions.PolarsError, yaml.YAMLError, OSError, ValueError, TypeError)
"""What files that somebody else wrote, or half wrote, may raise."""

# The loader in C is ten times faster, and not part of every PyYAML.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Values = dict[str, float | None]


class UnfinishedError(RunError):
    """A run that has no predictions yet."""


@dataclass(frozen=True)
class Folder:
    """A folder that is a run, with the names of all files in it."""

    name: str
    path: str
    files: frozenset[str]

    def has(self, name: str) -> bool:
        """Whether there is this file."""
        return name in self.files

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            RunError: there is none.
        """
        if not self.has(name):
            raise RunError(f"no {name}")
        return storage.read_bytes(storage.join(self.path, name))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return what a JSON file holds.

        Raises:
            RunError: there is none, or it is damaged.
        """
        try:
            told = json.loads(self.read(name))
        except ValueError as error:
            raise RunError(f"{name} is damaged: {error}") from None
        if not isinstance(told, dict):
            raise RunError(f"{name} is damaged: it holds no mapping")
        return told

    @property
    def folds(self) -> list[str]:
        """The names of its folders of folds, in order."""
        found = {match[1] for name in self.files if (match := _FOLD.fullmatch(name))}
        return sorted(found, key=lambda name: (len(name), name))


def find_folders(places: Sequence[Location]) -> list[Folder]:
    """Find the run folders at any depth under some places; the folds of a run are no runs.

    Raises:
        DataError: there is no such place.
    """
    found: dict[str, Folder] = {}
    for place in places:
        for root, files in runs_in(listed(place)).items():
            path = below(place, root)
            name = path if len(places) > 1 else root or path.rpartition("/")[2]
            found.setdefault(_identity(path), Folder(name, path, frozenset(files)))
    return list(found.values())


def listed(place: Location) -> list[str]:
    """List the files under a place, relative to it."""
    base = str(storage.local_path(place)) if storage.is_local(place) else str(place)
    start = len(storage.join(base, "x")) - 1
    return [name[start:] for name in storage.list_files(place)]


def runs_in(files: Iterable[str]) -> dict[str, set[str]]:
    """Return the folders that are runs, each with its files relative to it."""
    by_folder: dict[str, set[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        by_folder.setdefault(folder, set()).add(name)
    marked = {
        folder
        for folder, names in by_folder.items()
        if any(mark in names for mark in _MARKS) and "study.json" not in names
    }
    roots = {folder for folder in marked if not _is_fold(folder, marked)}
    files_of = {root: set(by_folder[root]) for root in sorted(roots)}
    for folder, names in by_folder.items():
        parent, _, name = folder.rpartition("/")
        if name.startswith("fold-") and parent in files_of:
            files_of[parent] |= {f"{name}/{file}" for file in names}
    return files_of


def _is_fold(folder: str, marked: set[str]) -> bool:
    parent, slash, name = folder.rpartition("/")
    return name.startswith("fold-") and parent in marked and bool(slash or "" in marked)


def below(place: Location, root: str) -> str:
    """Return the full name of a folder that lies under a place; the place itself if it is empty."""
    base = str(storage.local_path(place)) if storage.is_local(place) else str(place)
    return storage.join(base, root) if root else base.rstrip("/") or "/"


def _identity(path: str) -> str:
    return str(storage.local_path(path).resolve()) if storage.is_local(path) else path


def read_runs(folders: Sequence[Folder], metric: str | None, split: str) -> list[Run]:
    """Read and measure runs; those that cannot be are there too, with the reason."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda folder: read_run(folder, metric, split), folders))


def read_run(folder: Folder, metric: str | None, split: str) -> Run:
    """Read and measure one run; see `Run`. Nothing that its files hold stops anybody else."""
    run = Run(folder.name, folder.path, split=split)
    steps: tuple[Callable[[Run, Folder], Run], ...] = (
        _with_trial,
        _with_recipe,
        lambda r, f: _measured(r, f, metric),
    )
    try:
        for step in steps:
            run = step(run, folder)
            if run.state in ("pruned", "failed"):
                return _settled(run, folder)
    except UnfinishedError as error:
        return replace(run, state="unfinished", reason=error.message)
    except _FOREIGN as error:
        return replace(run, state="broken", reason=reason_of(error))
    return run


def reason_of(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, HarkenError):
        return str(error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _settled(run: Run, folder: Folder) -> Run:
    """Return a pruned or failed trial with the settings of its recipe, if it got so far."""
    try:
        return _with_recipe(run, folder)
    except _FOREIGN:
        return run


def _with_trial(run: Run, folder: Folder) -> Run:
    if not folder.has("trial.json"):
        return run
    told = folder.read_json("trial.json")
    values = told.get("values")
    if not isinstance(values, dict):
        raise RunError("trial.json is damaged: it has no values")
    run = replace(
        run,
        study=None if told.get("study") is None else str(told["study"]),
        trial=told.get("number"),
        settings=flatten(values),
        searched=tuple(map(str, values)),
        searched_by=str(told.get("metric") or ""),
        is_whole=False,
    )
    state, error = told.get("state"), str(told.get("error") or "")
    if state == "pruned":
        return replace(run, state="pruned", reason=error or "the search stopped it early")
    if state == "failed":
        return replace(run, state="failed", reason=error or "the trial says no reason")
    return run


def _with_recipe(run: Run, folder: Folder) -> Run:
    if not folder.has("recipe.yaml"):
        raise UnfinishedError("no recipe.yaml: the trial did not begin")
    try:
        tree = _LOADER(folder.read("recipe.yaml")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"recipe.yaml is damaged: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(tree, dict):
        raise RunError("recipe.yaml is damaged: it holds no mapping")
    tree.pop("search", None)
    return replace(run, settings=flatten(tree), is_whole=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Return the leaves of a recipe by path; a list of plain values is one leaf, as JSON text."""
    found: dict[str, Setting] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{path}.")
        elif isinstance(value, list | Mapping):
            found[path] = json.dumps(value, ensure_ascii=False, default=str)
        else:
            known = value is None or isinstance(value, str | int | float)
            found[path] = value if known else str(value)
    return found


def _measured(run: Run, folder: Folder, metric: str | None) -> Run:
    """Return a run with its numbers: over folds, the mean of those that define one."""
    prefixes = [f"{fold}/" for fold in folder.folds] or [""]
    missing = [p for p in prefixes if not folder.has(f"{p}predictions.parquet")]
    if missing or (folder.folds and not folder.has("metrics.json")):
        what = f"no {missing[0]}predictions.parquet" if missing else "not all folds are done"
        raise UnfinishedError(f"{what}; harken train … --resume goes on with it")
    parts: list[tuple[Values, int]] = []
    digest = hashlib.blake2b(digest_size=8)
    for prefix in prefixes:
        labels = Labels.from_json(_labels_json(folder, prefix))
        metric = metric or ("mae" if labels.task == "regression" else "roc_auc")
        frame = read_predictions(folder, prefix, run.split)
        digest.update(f"{prefix}{sorted(map(str, frame['id']))}".encode())
        parts.append((label_values(labels, frame, metric), len(frame)))
    values, notes = _mean_over_folds([part for part, _ in parts])
    run = replace(
        run,
        task=labels.task,
        metric=str(metric),
        values=values,
        notes=notes,
        num_clips=sum(count for _, count in parts),
        num_folds=len(parts) if folder.folds else None,
        clips=digest.hexdigest(),
    )
    return run if folder.folds else _with_interval(run, folder)


def _labels_json(folder: Folder, prefix: str) -> dict[str, Any]:
    told = folder.read_json(f"{prefix}labels.json")
    if not {"task", "names", "columns", "groups"} <= told.keys():
        raise RunError("labels.json is damaged: it lacks task or names")
    return told


def read_predictions(folder: Folder, prefix: str, split: str) -> pl.DataFrame:
    """Return the predictions of one split.

    Raises:
        RunError: the table is damaged, or holds no clips of that split.
    """
    name = f"{prefix}predictions.parquet"
    try:
        frame = pl.read_parquet(io.BytesIO(folder.read(name)))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise RunError(f"{name} is damaged: {str(error).partition(chr(10))[0][:150]}") from None
    lacking = [column for column in ("id", "split", "target") if column not in frame.columns]
    if lacking:
        raise RunError(f"{name} has no column {lacking[0]!r}")
    rows = frame.filter(pl.col("split") == split)
    if rows.is_empty():
        there = ", ".join(sorted(map(str, frame["split"].drop_nulls().unique()))) or "no"
        raise RunError(f"{name} has no {split} clips (it has {there} clips)")
    return rows


def label_values(labels: Labels, frame: pl.DataFrame, metric: str) -> Values:
    """Return a metric for each label, None where it is undefined.

    In two-class tasks only the positive class is there: the other one's ranking is the same.
    Metrics that exist only over all labels, such as accuracy, have one value, under `WHOLE`.

    Raises:
        DataError: such a task has no such metric, no clip has a target, or a score is not finite.
    """
    lacking = [f"score_{n}" for n in labels.names if f"score_{n}" not in frame.columns]
    if lacking:
        raise DataError(f"the predictions have no column {lacking[0]!r}")
    target, score, decision = arrays_of(labels, frame)
    unit = np.arange(len(frame))
    scorer = scorer_of(labels, target.astype(np.float64), score, None, unit, decision)
    point = scorer.point()
    if metric in point.per_class:
        values = point.per_class[metric][:, 0]
        names = labels.names
        if labels.task == "single" and labels.num_classes == 2:
            place = positive_index(labels)
            names, values = (names[place],), values[place : place + 1]
        return {name: _number(value) for name, value in zip(names, values, strict=True)}
    if metric in point.overall:
        return {WHOLE: _number(point.overall[metric][0])}
    raise DataError(
        f"a {labels.task} task has no {metric}", fix=f"--metric {METRICS[labels.task][0]}"
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean_over_folds(parts: Sequence[Values]) -> tuple[Values, tuple[str, ...]]:
    names = list(dict.fromkeys(name for part in parts for name in part))
    known = {n: [v for part in parts if (v := part.get(n)) is not None] for n in names}
    notes = tuple(
        f"{name or 'the metric'}: mean of the {len(found)} of {len(parts)} folds that define it"
        for name, found in known.items()
        if 0 < len(found) < len(parts)
    )
    return {n: float(np.mean(found)) if found else None for n, found in known.items()}, notes


def _with_interval(run: Run, folder: Folder) -> Run:
    """Add the interval of the mean that the run's own evaluation left, if it is of this number."""
    known = [value for value in run.values.values() if value is not None]
    if not known or not folder.has("metrics.json"):
        return run
    told: Any = folder.read_json("metrics.json")
    for key in (run.split, "metrics", run.metric):
        told = told.get(key) if isinstance(told, dict) else None
    if not isinstance(told, dict) or told.get("low") is None or told.get("value") is None:
        return run
    agrees = abs(float(told["value"]) - float(np.mean(known))) < 1e-6
    return replace(run, low=told["low"], high=told["high"]) if agrees else run
