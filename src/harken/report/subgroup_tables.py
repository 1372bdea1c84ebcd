"""Subgroups and speakers as the page's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from harken.metrics import LOWER_IS_BETTER
from harken.report.contents import Contents
from harken.report.results import LEADING, Estimate, Metric, estimate, number, title

MAX_SUBGROUPS, MAX_CLASSES = 60, 12


class Subgroup(NamedTuple):
    """One row of a table of subgroups.

    Attributes:
        name: The word, age band, sex….
        clips: Its clips.
        groups: Its speakers, or a dash.
        values: Its metrics.
        classes: Clips and share of right decisions of each label.
        note: Why metrics are missing.
    """

    name: str
    clips: str
    groups: str
    values: list[Estimate]
    classes: list[tuple[int, float]]
    note: str


class Partition(NamedTuple):
    """The clips by one column.

    Attributes:
        column: Its name.
        metrics: Titles of the metrics, the one that tells the gap first.
        labels: The labels of the table of classes; empty where there is none.
        rows: The subgroups that are shown: all in their own order, or the worst of very many.
        num_rows: How many there are.
        gap: The gap between best and worst as a sentence, or nothing.
        notes: What else to know.
    """

    column: str
    metrics: list[str]
    labels: list[str]
    rows: list[Subgroup]
    num_rows: int
    gap: str
    notes: list[str]


def partitions(contents: Contents) -> list[Partition]:
    """Return the tables of subgroups, one for each column that the run was asked for."""
    told = contents.test.get("by") or {}
    return [_partition(column, found) for column, found in told.items() if found["groups"]]


def _partition(column: str, told: Mapping[str, Any]) -> Partition:
    groups = told["groups"]
    keys = list(groups[0]["metrics"])
    shown = list(range(len(groups)))
    if len(groups) > MAX_SUBGROUPS:
        sign = -1 if keys[0] in LOWER_IS_BETTER else 1
        merit = [estimate(group["metrics"][keys[0]]).value for group in groups]
        worst = np.argsort([sign * v if math.isfinite(v) else math.inf for v in merit])
        shown = worst[:MAX_SUBGROUPS].tolist()
    labels = list(groups[0]["classes"])
    return Partition(
        column=column.replace("_", " "),
        metrics=[title(key) for key in keys],
        labels=labels if len(labels) <= MAX_CLASSES else [],
        rows=[_subgroup(groups[place], keys) for place in shown],
        num_rows=len(groups),
        gap=_gap(told.get("gap")),
        notes=[str(note) for note in told.get("notes") or []],
    )


def _subgroup(told: Mapping[str, Any], keys: list[str]) -> Subgroup:
    counts = told["classes"].values()
    return Subgroup(
        name=str(told["group"]),
        clips=number(told["num_clips"]),
        groups=number(told["num_groups"]),
        values=[estimate(told["metrics"][key]) for key in keys],
        classes=[(c["clips"], c["right"] / c["clips"] if c["clips"] else 0.0) for c in counts],
        note=str(told.get("note") or ""),
    )


def _gap(told: Mapping[str, Any] | None) -> str:
    if not told:
        return ""
    gap = estimate(told)
    between = f"between {told['best']} (best) and {told['worst']} (worst)"
    interval = f", 95 % interval {gap.interval}" if gap.interval else ""
    return f"{title(told['metric'])} differs by {number(abs(gap.value))} {between}{interval}."


def votes(contents: Contents) -> tuple[list[Metric], list[str]]:
    """Return the leading metrics of speakers, each decided once, and what to know of them."""
    told = contents.test.get("vote") or {}
    found = told.get("metrics") or {}
    first = LEADING[contents.task] + ("sensitivity", "specificity")
    order = [key for key in first if key in found]
    rows = [Metric(k, title(k), estimate(found[k]), Estimate(math.nan), None) for k in order]
    return rows, [str(note) for note in told.get("notes") or []]
