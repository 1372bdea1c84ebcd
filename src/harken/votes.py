"""One decision for a speaker: the mean of the scores of all their clips.

A child is seen once, however many words were recorded; so the speaker is what is decided, and what
is counted. Clips without a target still say how their speaker sounds and take part in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.labels import Labels
from harken.thresholds import Array, Flags, Floats, Thresholds, decide


@dataclass(frozen=True)
class Votes:
    """Speakers, their targets and what their clips decide.

    Attributes:
        labels: The columns.
        voters: The speakers, in the order of their first clip.
        num_clips: int64 `(speakers,)`.
        target: `(speakers, classes)`, NaN where it is unknown.
        score: The mean of the clips' scores, `(speakers, classes)`.
        decision: bool `(speakers, classes)`; None for regression.
        limits: The mean of the clips' thresholds `(speakers, labels)`, or None.
        notes: What a reader should know.
    """

    labels: Labels
    voters: list[str]
    num_clips: npt.NDArray[np.int64]
    target: Array
    score: Array
    decision: Flags | None
    limits: Array | None
    notes: list[str]

    def table(self) -> pl.DataFrame:
        """Return one row for each speaker (`votes.parquet`)."""
        labels = self.labels
        said = self.score if self.decision is None else self.decision
        made: dict[str, Any] = {
            "voter": self.voters,
            "clips": self.num_clips,
            "target": labels.to_text(self.target),
            "decision": labels.to_text(said),
        }
        made |= {f"score_{name}": self.score[:, i] for i, name in enumerate(labels.names)}
        if labels.task != "single":
            made |= {f"target_{name}": self.target[:, i] for i, name in enumerate(labels.names)}
        return pl.DataFrame(made)


def count_votes(
    labels: Labels,
    target: Floats,
    score: Floats,
    voters: Sequence[str | None],
    limits: Thresholds = None,
) -> Votes:
    """Decide for each speaker.

    The mean score meets the mean of the clips' thresholds; without thresholds the largest mean
    wins. A speaker's target is that of their clips; where these differ, it is the majority's (the
    mean, for regression), a tie is unknown, and a note says so.

    Args:
        labels: The columns.
        target: `(clips, classes)`, NaN for missing.
        score: `(clips, classes)`.
        voters: Each clip's speaker; clips without one are left out.
        limits: Thresholds of the clips; see `harken.thresholds.decide`.
    """
    kept = np.array([voter is not None for voter in voters], dtype=bool)
    names = list(dict.fromkeys(str(voter) for voter in voters if voter is not None))
    places = {name: place for place, name in enumerate(names)}
    own = np.array([places[str(v)] for v in voters if v is not None], dtype=np.intp)
    count = np.bincount(own, minlength=len(names))

    def mean(values: Floats) -> Array:
        known = ~np.isnan(values)
        sums = [np.bincount(own, column, len(names)) for column in np.where(known, values, 0).T]
        cells = [np.bincount(own, column, len(names)) for column in known.T]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack(sums, axis=1) / np.stack(cells, axis=1)

    scores = mean(score[kept].astype(np.float64))
    shares = mean(target[kept].astype(np.float64))
    limit = None
    if limits is not None:
        every = (
            np.broadcast_to(
                np.asarray(limits, dtype=np.float64), (len(target), np.shape(limits)[-1])
            )
            if np.ndim(limits)
            else np.full((len(target), 1), limits)
        )
        limit = mean(every[kept])
    decision = None if labels.task == "regression" else decide(labels, scores, limit)
    truth, notes = _targets(labels, shares, target[kept], own)
    if not kept.all():
        notes.insert(0, f"{int((~kept).sum())} clips without a speaker are left out")
    return Votes(labels, names, count.astype(np.int64), truth, scores, decision, limit, notes)


def _targets(
    labels: Labels, shares: Array, target: Floats, own: npt.NDArray[np.intp]
) -> tuple[Array, list[str]]:
    """Return the speakers' targets, and notes on those whose clips differ."""
    known = ~np.isnan(target).any(axis=1) if labels.task == "single" else ~np.isnan(target).all(1)
    with np.errstate(invalid="ignore"):
        differs = (np.abs(target - shares[own]) > 1e-6) & ~np.isnan(target)
    mixed = len(np.unique(own[differs.any(axis=1) & known]))
    count = len(shares)
    if labels.task == "regression":
        said = f"{mixed} of {count} speakers have clips of several values; theirs is the mean"
        return shares, [said] if mixed else []
    if labels.task == "multi":
        truth = np.where(np.isnan(shares) | (shares == 0.5), np.nan, shares > 0.5)
        tied = int((np.abs(shares - 0.5) < 1e-9).any(axis=1).sum())
    else:
        best = np.nanmax(np.where(np.isnan(shares), -1, shares), axis=1, keepdims=True)
        winners = np.abs(shares - best) < 1e-9
        clear = winners.sum(axis=1) == 1
        truth = np.where(clear[:, None], winners, np.nan).astype(np.float64)
        tied = int((winners.sum(axis=1) > 1).sum())
    notes = []
    if mixed:
        notes.append(
            f"{mixed} of {count} speakers have clips of several classes; theirs is the majority's"
        )
    if tied:
        notes.append(f"{tied} of {count} speakers have as many clips of one class as of another")
    return truth, notes
