"""Runs side by side: one number for each label, their sum and mean, distances, and the rank.

Only like is compared with like. A run that holds other labels, other clips' kind, or lacks a number
that most runs have is listed and not ranked, with its reason; it takes no part in means either.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.metrics import LOWER_IS_BETTER

Setting = str | int | float | bool | None
State = Literal["ranked", "not compared", "pruned", "failed", "unfinished", "broken"]
Table = npt.NDArray[np.float64]
LabelSet = tuple[str, frozenset[str]]
"""A task and its labels."""

ORDER: tuple[State, ...] = ("ranked", "not compared", "pruned", "failed", "unfinished", "broken")
"""The order of the states in tables."""
WHOLE = ""
"""The label of metrics that exist only over all labels, such as accuracy."""
DIGITS = 12
"""Sums that agree to so many digits share a rank."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: Its name in tables.
        path: Where it lies.
        settings: What it was made with, by recipe path.
        searched: The paths that its study chose; empty for a run outside a study.
        searched_by: The metric that its study compares; empty for a run outside a study.
        is_whole: Whether `settings` holds all there are, so that an absent one is null.
        study: Its study's name, or None.
        trial: Its number in the study, or None.
        state: `ranked` wherever it has numbers, before runs are compared.
        reason: Why it is not ranked.
        values: The metric of each label; None where it is undefined.
        metric: What `values` holds.
        task: `single`, `multi` or `regression`.
        split: Whose clips the numbers are of: `valid` or `test`.
        low: 2.5th percentile of the mean over labels, where the run folder tells it.
        high: 97.5th percentile likewise.
        num_clips: Clips behind the numbers.
        num_folds: Folds that the numbers are a mean of.
        clips: A fingerprint of those clips; equal ones are of the same clips.
        notes: What a reader must know of the numbers.
    """

    name: str
    path: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    searched_by: str = ""
    is_whole: bool = True
    study: str | None = None
    trial: int | None = None
    state: State = "ranked"
    reason: str = ""
    values: Mapping[str, float | None] = field(default_factory=dict)
    metric: str = ""
    task: str = ""
    split: str = ""
    low: float | None = None
    high: float | None = None
    num_clips: int | None = None
    num_folds: int | None = None
    clips: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A run with its place among the others; None where it is not ranked."""

    run: Run
    rank: int | None = None
    combined: float | None = None
    mean: float | None = None
    dist_avg: float | None = None
    dist_max: float | None = None


@dataclass(frozen=True)
class Standings:
    """The ranking of a collection of runs.

    Attributes:
        metric: What is compared.
        split: The clips that were asked for.
        labels: The labels that are compared, in the order of the first run.
        others: Labels that too few runs have a number for; they count for nobody.
        settings: Recipe paths that differ between the runs, searched ones first.
        rows: The runs, best first, and then those without a rank.
        notes: What a reader must know.
    """

    metric: str
    split: str
    labels: tuple[str, ...]
    others: tuple[str, ...]
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The runs that have a rank."""
        return tuple(row for row in self.rows if row.rank is not None)

    def column(self, label: str) -> str:
        """Return the name of a label's column, such as `roc_auc_clear`."""
        return f"{self.metric}_{label}" if label else self.metric

    def frame(self) -> pl.DataFrame:
        """Return the table: rank, run, settings, numbers, state and reason; nulls for no number."""
        rows = self.rows
        table: dict[str, list[Any]] = {
            "rank": [row.rank for row in rows],
            "run": [row.run.name for row in rows],
        }
        if any(row.run.study is not None for row in rows):
            table["study"] = [row.run.study for row in rows]
            table["trial"] = [row.run.trial for row in rows]
        table |= {name: [row.run.settings.get(name) for row in rows] for name in self.settings}
        for label in (*self.labels, *self.others):
            table[self.column(label)] = [row.run.values.get(label) for row in rows]
        for name in ("combined", "mean"):
            table[name] = [getattr(row, name) for row in rows]
        for name in ("low", "high"):
            table[name] = [getattr(row.run, name) if row.rank else None for row in rows]
        for name in ("dist_avg", "dist_max"):
            table[name] = [getattr(row, name) for row in rows]
        for name in ("split", "num_clips", "num_folds", "state", "path"):
            table[name] = [getattr(row.run, name) for row in rows]
        table["note"] = ["; ".join(filter(None, [r.run.reason, *r.run.notes])) for r in rows]
        return pl.DataFrame([_series(name, cells) for name, cells in table.items()])


_NUMBERS = ("combined", "mean", "low", "high", "dist_avg", "dist_max")


def _series(name: str, cells: list[Any]) -> pl.Series:
    """Return a column; settings that are not all numbers or all truth values become text."""
    known = [cell for cell in cells if cell is not None]
    kinds = {type(cell) for cell in known}
    if name in _NUMBERS or (kinds and kinds <= {int, float} and float in kinds):
        return pl.Series(name, cells, dtype=pl.Float64)
    if len(kinds) > 1:
        return pl.Series(name, [None if c is None else as_words(c) for c in cells], dtype=pl.String)
    return pl.Series(name, cells) if known else pl.Series(name, cells, dtype=pl.String)


def as_words(value: Setting) -> str:
    """Return a setting as a recipe would write it."""
    return value if isinstance(value, str) else json.dumps(value)


def number_text(value: float) -> str:
    """Write a number briefly: `300`, `0.0003`, `1e-5`."""
    text = f"{value:.6g}"
    mantissa, e, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if e else text


def setting_text(value: Setting) -> str:
    """Return a setting as people read it: four digits, and a dash for what is null."""
    if value is None:
        return "–"
    return number_text(float(f"{value:.4g}")) if isinstance(value, float) else as_words(value)


def combined(values: Sequence[float]) -> float:
    """Return the sum of a run's metric over labels, `Σ_l AUC_l`."""
    return float(np.sum(values))


def distance_to_average(values: Table) -> Table:
    """Return each run's `Σ_l |AUC_l − mean of AUC_l over runs|`.

    Args:
        values: `(runs, labels)`.

    Returns:
        `(runs,)`. Small: an ordinary run. It has no sign, so it is large for the best and for the
        worst.
    """
    return np.asarray(np.abs(values - values.mean(axis=0)).sum(axis=1))


def distance_to_best(values: Table, *, lower_is_better: bool = False) -> Table:
    """Return each run's `Σ_l |AUC_l − best AUC_l over runs|`.

    Args:
        values: `(runs, labels)`.
        lower_is_better: Whether the best is the least, as with errors.

    Returns:
        `(runs,)`. 0: best at every label. Since the best differs from label to label, no run needs
        to reach 0.
    """
    best = values.min(axis=0) if lower_is_better else values.max(axis=0)
    return np.asarray(np.abs(values - best).sum(axis=1))


def rank_runs(runs: Sequence[Run], split: str) -> Standings:
    """Compare runs.

    The labels are those of most runs, each of which at least half of those runs have a number for.
    """
    notes: list[str] = []
    runs = _of_one_split(list(runs), split)
    sets = Counter(_label_set(run) for run in runs if run.state == "ranked")
    wanted = sets.most_common(1)[0][0] if sets else ("", frozenset())
    metric = next((run.metric for run in runs if _label_set(run) == wanted and run.metric), "")
    runs, labels, others = _alike(runs, wanted)
    compared = [run for run in runs if run.state == "ranked"]
    if others:
        names = ", ".join(others)
        notes.append(f"{metric} is undefined for {names} in most runs: it counts in no sum or mean")
    notes += _about_clips(compared)
    rows = [*_placed(compared, labels, metric), *(Row(r) for r in runs if r.state != "ranked")]
    rows.sort(key=lambda row: (ORDER.index(row.run.state), row.rank or 0, row.run.name))
    return Standings(metric, split, labels, others, _differing(runs), tuple(rows), tuple(notes))


def _placed(runs: list[Run], labels: tuple[str, ...], metric: str) -> list[Row]:
    if not runs:
        return []
    lower = metric in LOWER_IS_BETTER
    values = np.array([[run.values[label] for label in labels] for run in runs], dtype=np.float64)
    sums = [combined(row) for row in values]
    keys = [round(total if lower else -total, DIGITS) for total in sums]
    ahead = sorted(keys)
    average, best = distance_to_average(values), distance_to_best(values, lower_is_better=lower)
    return [
        Row(
            run,
            rank=1 + bisect_left(ahead, key),
            combined=total,
            mean=total / len(labels),
            dist_avg=float(away),
            dist_max=float(below),
        )
        for run, key, total, away, below in zip(runs, keys, sums, average, best, strict=True)
    ]


def _of_one_split(runs: list[Run], split: str) -> list[Run]:
    """Leave out runs of other clips than those asked for, unless there are no others."""
    known = [run for run in runs if run.state == "ranked"]
    if not any(run.split == split for run in known):
        return runs
    why = f"its numbers are of {{}} clips and others' of {split} clips; compare with --split {{}}"
    return [
        replace(run, state="not compared", reason=why.format(run.split, run.split))
        if run.state == "ranked" and run.split != split
        else run
        for run in runs
    ]


def _alike(runs: list[Run], wanted: LabelSet) -> tuple[list[Run], tuple[str, ...], tuple[str, ...]]:
    """Leave out runs of other labels, and those that lack a number which others have."""
    mine = [run for run in runs if run.state == "ranked" and _label_set(run) == wanted]
    order = tuple(mine[0].values) if mine else ()
    missing = {name: sum(run.values[name] is None for run in mine) for name in order}
    labels = tuple(name for name in order if 2 * missing[name] <= len(mine))
    others = tuple(name for name in order if name not in labels)
    checked = [_checked(run, labels, wanted) if run.state == "ranked" else run for run in runs]
    return checked, labels, others


def _label_set(run: Run) -> LabelSet:
    return run.task, frozenset(run.values)


def _checked(run: Run, labels: tuple[str, ...], wanted: LabelSet) -> Run:
    if _label_set(run) != wanted:
        mine, theirs = (", ".join(sorted(n)) or "one number" for n in (run.values, wanted[1]))
        why = f"other labels: it has {mine} ({run.task}), most runs have {theirs} ({wanted[0]})"
        return replace(run, state="not compared", reason=why)
    lacking = [name for name in labels if run.values[name] is None]
    if lacking or not labels:
        shown = ", ".join(lacking or sorted(wanted[1])) or "these clips"
        why = f"{run.metric} is undefined for {shown}, so its sum would miss what others have"
        return replace(run, state="not compared", reason=why)
    return run


def _about_clips(runs: list[Run]) -> list[str]:
    sets = len({run.clips for run in runs})
    if sets < 2:
        return []
    return [
        f"the runs were measured on {sets} different sets of clips: part of what parts them is the "
        "clips, not the settings"
    ]


def _differing(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the settings that differ, searched ones first; an absent one is as one that is null.

    Where a run's settings are known in part only, an absent one may be anything.
    """
    told = [run for run in runs if run.settings]
    paths = list(dict.fromkeys(path for run in told for path in run.settings))
    different = [
        path
        for path in paths
        if len({_key(r.settings.get(path)) for r in told if r.is_whole or path in r.settings}) > 1
    ]
    searched = {path for run in runs for path in run.searched}
    return tuple(sorted(different, key=lambda path: not _below(path, searched)))


def _key(value: Setting) -> object:
    # In YAML 8 and 8.0 are one setting; true is not 1.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value is not None else as_words(value)


def _below(path: str, searched: set[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in searched)
