"""The slot `calibrate.thresholds`: which score is enough for a label, and for which clips.

What is fitted is fitted on validation clips only. A rule whose `columns` are not empty gives each
clip its own thresholds, from the table's columns; the clip is still decided once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harken.choice import Choice, nearest
from harken.covariates import Known
from harken.difficulty import Difficulty
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.subgroups import Subgroups, read_numbers
from harken.thresholds import (
    Array,
    Criterion,
    Floats,
    fit_thresholds,
    num_thresholds,
    positive_index,
)

EASIEST, SPAN = 2.0, 9.0
"""The easiest word of the scale of difficulties, and how far the hardest (11) is from it."""


@dataclass(frozen=True)
class Limits:
    """What a rule found.

    Attributes:
        overall: One threshold for each label (in two-class tasks: of the positive class), or None.
        notes: What a reader should know of them.
        subgroups: The thresholds of each subgroup.
    """

    overall: tuple[float, ...] | None
    notes: tuple[str, ...] = ()
    subgroups: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Threshold(Choice):
    """How scores become decisions."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns that a clip's thresholds depend on."""
        return ()

    @property
    def fitted(self) -> bool:
        """Whether it needs validation clips."""
        return False

    def resolved(self) -> Self:
        """Return the rule with the files that it refers to read in."""
        return self

    def check(self, labels: Labels, clips: Manifest) -> None:
        """Refuse a table that the rule cannot be used on, before anything is trained.

        Raises:
            ConfigError: the rule does not suit the labels.
            DataError: a column is missing or cannot be used.
        """

    def fit(self, labels: Labels, target: Floats, score: Floats, clips: Manifest | None) -> Limits:
        """Find the thresholds on validation clips.

        Args:
            labels: The columns.
            target: `(rows, classes)`, NaN for missing.
            score: Calibrated scores `(rows, classes)`.
            clips: The clips, where `columns` are not empty.

        Raises:
            ConfigError: the rule does not suit the labels.
            DataError: a column is missing or cannot be used.
        """
        raise NotImplementedError

    def limits(
        self,
        overall: tuple[float, ...],
        subgroups: Mapping[str, tuple[float, ...]],
        clips: Manifest,
    ) -> Array:
        """Return the thresholds of some clips, `(rows, labels)`.

        Args:
            overall: What `fit` found over all.
            subgroups: What it found for each subgroup.
            clips: Any clips.

        Raises:
            DataError: a column is missing or cannot be used.
        """
        return np.tile(np.asarray(overall, dtype=np.float64), (len(clips), 1))


def in_short(value: Any) -> Any:
    """Read a number as a fixed threshold, and the other name of Youden's."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "fixed", "value": value}
    if value == "balanced_accuracy":
        return "youden"
    if isinstance(value, Mapping) and value.get("kind") == "balanced_accuracy":
        return {**value, "kind": "youden"}
    return value


class NoThreshold(Threshold):
    """The largest score, or 1/2 where any number of labels may hold."""

    kind: Literal["none"] = "none"

    def fit(self, labels: Labels, target: Floats, score: Floats, clips: Manifest | None) -> Limits:
        """Return no thresholds."""
        return Limits(None)


class FixedThreshold(Threshold):
    """Thresholds that the recipe says; a bare number is enough."""

    kind: Literal["fixed"] = "fixed"
    value: float | dict[str, float]
    """One number for every label, or one for each; labels that are not named take 1/2."""

    @model_validator(mode="after")
    def _between(self) -> Self:
        values = self.value.values() if isinstance(self.value, dict) else [self.value]
        if any(not 0 < value < 1 for value in values):
            raise ValueError("a threshold lies between 0 and 1")
        return self

    def check(self, labels: Labels, clips: Manifest) -> None:
        """Refuse labels that there are not."""
        self._of(labels)

    def fit(self, labels: Labels, target: Floats, score: Floats, clips: Manifest | None) -> Limits:
        """Return the numbers."""
        return Limits(self._of(labels))

    def _of(self, labels: Labels) -> tuple[float, ...]:
        if not isinstance(self.value, dict):
            return (self.value,) * num_thresholds(labels)
        names = labels.names
        if num_thresholds(labels) == 1 and labels.task == "single":
            names = (names[positive_index(labels)],)
        strange = [name for name in self.value if name not in names]
        if strange:
            known = ", ".join(names)
            raise ConfigError(
                f"no threshold is asked of {strange[0]!r}{nearest(strange[0], names)}; of {known}",
                where="calibrate.thresholds.value",
            )
        return tuple(self.value.get(name, 0.5) for name in names)


class FittedThreshold(Threshold):
    """What fitted thresholds have in common."""

    by: Subgroups | None = None
    """Column whose subgroups get thresholds of their own, such as age or word, with `bins` for
    numbers; null fits one for all. Clips of other values than validation clips have, and subgroups
    without both sides, take the threshold of all."""
    shrinkage: float = Field(20.0, ge=0)
    """How much a subgroup's threshold is drawn to that of all: with n clips of its rarer side it is
    (n · its own + shrinkage · that of all) / (n + shrinkage). 0 takes its own."""
    on_missing: Literal["error", "overall"] = "error"
    """Clips whose cell in `by` is empty: stop, or take the threshold of all."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of the subgroups."""
        return () if self.by is None else (self.by.column,)

    @property
    def fitted(self) -> bool:
        """It needs validation clips."""
        return True

    @property
    def criterion(self) -> Criterion:
        """What is maximised."""
        raise NotImplementedError

    def check(self, labels: Labels, clips: Manifest) -> None:
        """Refuse a column that is missing or cannot be used."""
        if self.by is not None:
            fill = "fill it in, or set calibrate.thresholds.on_missing: overall"
            strict = self.on_missing == "error"
            self.by.check(clips.frame, clips.origin, fill=fill if strict else None)

    def fit(self, labels: Labels, target: Floats, score: Floats, clips: Manifest | None) -> Limits:
        """Fit the thresholds of all clips, and of each subgroup."""
        overall, notes = fit_thresholds(labels, target, score, self.criterion)
        if self.by is None:
            return Limits(overall, tuple(notes))
        if clips is None:
            raise ConfigError(
                "thresholds by subgroup need the table of clips",
                where="calibrate.thresholds.by",
                fix="calibrate.thresholds.by=null",
            )
        members = self.by.members(clips.frame, clips.origin)
        found = {}
        for place, name in enumerate(members.names):
            rows = members.codes == place
            own = self._own(labels, target[rows], score[rows], overall)
            if own is not None:
                found[name] = own
        left = [name for name in members.names if name not in found]
        if left:
            shown = ", ".join(left[:10]) + (" and others" if len(left) > 10 else "")
            notes.append(f"no threshold of their own, for want of one side: {shown}")
        return Limits(overall, tuple(notes), found)

    def _own(
        self, labels: Labels, target: Floats, score: Floats, overall: tuple[float, ...]
    ) -> tuple[float, ...] | None:
        """Return a subgroup's thresholds, drawn to those of all; None where nothing is its own."""
        fitted = np.array(fit_thresholds(labels, target, score, self.criterion)[0])
        columns = np.arange(labels.num_classes)
        if labels.task == "single":
            columns = columns[[positive_index(labels)]]
        known = ~np.isnan(target[:, columns])
        positive = ((target[:, columns] >= 0.5) & known).sum(axis=0)
        rarer = np.minimum(positive, known.sum(axis=0) - positive)
        if not rarer.any():
            return None
        weight = np.where(rarer > 0, rarer / np.maximum(rarer + self.shrinkage, 1e-12), 0.0)
        mixed = weight * fitted + (1 - weight) * np.array(overall)
        return tuple(mixed.tolist())

    def limits(
        self,
        overall: tuple[float, ...],
        subgroups: Mapping[str, tuple[float, ...]],
        clips: Manifest,
    ) -> Array:
        """Return each clip's thresholds: its subgroup's, or those of all."""
        assert self.by is not None
        names = list(subgroups)
        members = self.by.members(clips.frame, clips.origin, self._names(names))
        if members.missing.any() and self.on_missing == "error":
            raise _missing(clips, self.by.column, members.missing)
        table = np.array([subgroups.get(n, overall) for n in members.names] + [overall])
        return np.asarray(table[members.codes], dtype=np.float64)

    def _names(self, fitted: list[str]) -> tuple[str, ...]:
        assert self.by is not None
        return self.by.bands if self.by.bins is not None else tuple(fitted)


class F1Threshold(FittedThreshold):
    """The threshold with the best F1 on validation clips."""

    kind: Literal["f1"] = "f1"

    @property
    def criterion(self) -> Criterion:
        """What is maximised."""
        return "f1"


class YoudenThreshold(FittedThreshold):
    """The threshold with the best sensitivity + specificity - 1 on validation clips (Youden 1950).

    It is also the one of the best balanced accuracy (UAR), and may be called so.
    """

    kind: Literal["youden"] = "youden"

    @property
    def criterion(self) -> Criterion:
        """What is maximised."""
        return "youden"


class FormulaThreshold(Threshold):
    """A threshold that falls with the speaker's age and rises with the word's difficulty.

    It is base + per_decade · age/10 + per_difficulty · (difficulty - 2)/9, which runs from .40 to
    .53 for children of 2 to 10 years, and is compared with the calibrated score of the positive
    class (or of each label).
    """

    kind: Literal["formula"] = "formula"
    base: float = 0.5
    """The threshold at age 0, of the easiest word."""
    age: str | None = "age"
    """Column of ages in years; null leaves age out."""
    per_decade: float = -0.1
    """What ten years change."""
    word: str = "word"
    """Column of words, whose difficulty counts."""
    difficulty: Difficulty | None = None
    """How hard a word is, from 2 to 11; null leaves words out."""
    per_difficulty: float = 0.05
    """What the hardest word (11) changes against the easiest (2)."""
    on_missing: Literal["error", "overall"] = "error"
    """Clips whose age or word is missing: stop, or take `base`."""

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.age is None and self.difficulty is None:
            raise ValueError("with neither age nor difficulty this is a fixed threshold")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of ages and words."""
        said = () if self.difficulty is None else (self.difficulty.covariate(self.word).name,)
        return (() if self.age is None else (self.age,)) + said

    def resolved(self) -> Self:
        """Return the rule with the table of difficulties read in."""
        found = self.difficulty and self.difficulty.resolved()
        return self.model_copy(update={"difficulty": found})

    def check(self, labels: Labels, clips: Manifest) -> None:
        """Refuse ages that are no numbers, and words that cannot be scored."""
        self.limits((self.base,) * num_thresholds(labels), {}, clips)

    def fit(self, labels: Labels, target: Floats, score: Floats, clips: Manifest | None) -> Limits:
        """Return the threshold where nothing is known of a clip."""
        return Limits((self.base,) * num_thresholds(labels))

    def limits(
        self,
        overall: tuple[float, ...],
        subgroups: Mapping[str, tuple[float, ...]],
        clips: Manifest,
    ) -> Array:
        """Return each clip's threshold, the same for every label."""
        found = np.full(len(clips), self.base)
        terms = []
        if self.age is not None:
            ages = read_numbers(clips.frame, self.age, clips.origin).astype(np.float64)
            terms.append((self.age, self.per_decade * ages / 10))
        if self.difficulty is not None:
            hard = _difficulties(self.difficulty, self.word, clips)
            terms.append((self.columns[-1], self.per_difficulty * (hard - EASIEST) / SPAN))
        for column, term in terms:
            if self.on_missing == "error" and np.isnan(term).any():
                raise _missing(clips, column, np.isnan(term))
            found = found + term
        found = np.where(np.isnan(found), self.base, found)
        return np.tile(found[:, None], (1, len(overall)))


def _difficulties(difficulty: Difficulty, word: str, clips: Manifest) -> Array:
    """Return how hard each clip is to say, NaN where that is missing."""
    wanted = difficulty.covariate(word)
    if wanted.encoding == "number":
        return read_numbers(clips.frame, wanted.name, clips.origin).astype(np.float64)
    # The words are those of these clips: one that training has not heard is as hard as any.
    known = Known.learn(wanted, clips.frame, clips.origin)
    scores = np.array([*difficulty.scores(known.names), np.nan])
    return np.asarray(scores[known.encode(clips.frame, clips.origin).astype(np.int64)])


def _missing(clips: Manifest, column: str, where: Any) -> DataError:
    first, count = int(where.argmax()), int(where.sum())
    more = f" (and in {count - 1} more rows)" if count > 1 else ""
    return DataError(
        f"the thresholds depend on {column}, which is missing{more}",
        where=clips.place(first),
        fix="fill it in, or set calibrate.thresholds.on_missing: overall",
    )
