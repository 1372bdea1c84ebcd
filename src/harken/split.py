"""The slot `data.split`: which clips train, which choose, and which are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import AfterValidator, Field, model_validator

from harken.choice import Choice
from harken.deal import Deck, Flags, Ints, Strata, number_units
from harken.errors import DataError
from harken.manifest import Manifest
from harken.tables import as_text, matches, near_value


def _size(value: float) -> float:
    if value == 0 or (isinstance(value, int) and value > 0) or 0 < value < 1:
        return value
    raise ValueError("must be a share between 0 and 1, such as 0.15, or a whole number of groups")


def _some(value: float) -> float:
    if value == 0:
        raise ValueError("must not be 0: every run needs these clips")
    return _size(value)


Size = Annotated[int | float, AfterValidator(_some)]
SizeOrNone = Annotated[int | float, AfterValidator(_size)]

WORDS = {
    "train": ["train", "training"],
    "valid": ["valid", "validation", "val", "dev", "development"],
    "test": ["test", "testing", "eval", "evaluation"],
}
"""What the splits are called in tables."""


@dataclass(frozen=True)
class Fold:
    """One way to part the clips.

    Attributes:
        name: `1`, or the published name of the fold that is tested.
        split: `train`, `valid`, `test` or an empty string (unused) for each clip, `(rows,)`.
        grouped: Whether parts must not share a group.
    """

    name: str
    split: npt.NDArray[np.str_]
    grouped: bool = True

    def rows(self, split: str) -> Ints:
        """Return the numbers of a split's clips."""
        return np.flatnonzero(self.split == split).astype(np.int64)


class Split(Choice):
    """How clips become train, valid and test."""

    grouped: bool = True
    """Keep groups together, where the table has a `group` column; recordings always are. False
    allows a group in several parts, as published splits by take have it: a model is then judged on
    speakers that it knows."""
    stratify: bool = True
    """Keep the proportions of the classes in every part, as nearly as groups allow."""

    def assign(
        self,
        manifest: Manifest,
        strata: Strata | None = None,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> list[Fold]:
        """Part the clips; the same seed parts them alike.

        Args:
            manifest: The clips.
            strata: What `Labels.strata` returns, or None.
            seed: Root of the draws.
            names: Names of the strata, where each of them must occur in training. Without names
                this is asked of class numbers only.

        Returns:
            One fold, or one for each part that is tested in turn. Carved parts share no group and
            no recording; `check_splits` verifies those that the table says.

        Raises:
            DataError: a part is empty, or training lacks a class; says which and what to do.
        """
        grouped = self.grouped and "group" in manifest
        units = number_units(manifest, grouped)
        unit = "group" if grouped else "recording"
        deck = Deck(manifest, units, strata if self.stratify else None, seed, unit)
        folds = [replace(fold, grouped=self.grouped) for fold in self.folds_of(deck)]
        for fold in folds:
            where = manifest.origin if len(folds) == 1 else f"{manifest.origin}, fold {fold.name}"
            self._refuse_empty(fold, where)
            if strata is not None and (strata.ndim == 1 or names is not None):
                _refuse_missing_class(manifest, strata, fold, names, where)
        return folds

    def folds_of(self, deck: Deck) -> list[Fold]:
        """Part the clips; this is what a kind of split defines.

        Raises:
            DataError: the clips cannot be parted so.
        """
        raise NotImplementedError

    @property
    def tests(self) -> bool:
        """Whether there must be test clips."""
        return True

    @property
    def validates(self) -> bool:
        """Whether there must be validation clips."""
        return getattr(self, "valid", None) != 0

    def _refuse_empty(self, fold: Fold, where: str) -> None:
        needed = {"train": True, "valid": self.validates, "test": self.tests}
        for part in (name for name, is_needed in needed.items() if is_needed):
            if not (fold.split == part).any():
                raise DataError(
                    f"there are no {part} clips",
                    where=where,
                    fix=f"change data.split, for instance data.split.{part}",
                )


def _refuse_missing_class(
    manifest: Manifest, strata: Strata, fold: Fold, names: Sequence[str] | None, where: str
) -> None:
    num_classes = len(names) if names is not None else int(strata.max()) + 1
    train = strata[fold.split == "train"]
    if strata.ndim == 1:
        present = np.bincount(train[train >= 0], minlength=num_classes)
    else:
        present = np.asarray((train > 0).sum(axis=0)).ravel()
    missing = np.flatnonzero(present == 0)
    if not len(missing):
        return
    flags = strata == missing[0] if strata.ndim == 1 else strata[:, [missing[0]]] > 0
    rows = flags.nonzero()[0]
    called = f"{names[missing[0]]!r}" if names is not None else f"number {missing[0]}"
    seen = f", such as {manifest.place(rows[0])}" if len(rows) else ""
    more = f" (and {len(missing) - 1} more classes)" if len(missing) > 1 else ""
    raise DataError(
        f"no training clip of the class {called}, which has {len(rows)} clips in all{seen}{more}",
        where=where,
        fix="leave the class out, merge it with another, or change the split's sizes",
    )


def _fold(name: str, **parts: Flags) -> Fold:
    split = np.zeros(len(next(iter(parts.values()))), dtype="<U5")
    for part, rows in parts.items():
        split[rows] = part
    return Fold(name, split)


class RandomSplit(Split):
    """Parts drawn at random: a float is a share of the clips, a whole number counts groups."""

    kind: Literal["random"] = "random"
    train: Size | None = None
    """Size of training; null is all the rest."""
    valid: Size = 0.15
    """Size of validation."""
    test: SizeOrNone = 0.15
    """Size of the test part; 0 for none."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        sizes = [size for size in (self.train, self.valid, self.test) if isinstance(size, float)]
        if sum(sizes) > 1 + 1e-9 or (self.train is None and sum(sizes) >= 1):
            raise ValueError(f"shares add up to {sum(sizes):g}")
        return self

    @property
    def tests(self) -> bool:
        """Whether there must be test clips."""
        return bool(self.test)

    def folds_of(self, deck: Deck) -> list[Fold]:
        """Carve test, then valid, then (where its size is given) train."""
        count = len(deck.manifest)
        rest = np.ones(count, dtype=bool)
        test = deck.carve(rest, self.test, "test", whole=count) if self.test else ~rest
        rest &= ~test
        valid = deck.carve(rest, self.valid, "valid", whole=count)
        rest &= ~valid
        sizes = (self.train, self.valid, self.test)
        is_all = self.train is None or sum(s for s in sizes if isinstance(s, float)) > 1 - 1e-9
        train = rest if is_all else deck.carve(rest, self.train or 0, "train", whole=count)
        return [_fold("1", train=train, valid=valid, test=test)]


class KFold(Split):
    """Every group is tested once, in the fold that is held out; validation comes from the rest."""

    kind: Literal["kfold"] = "kfold"
    folds: int = Field(5, ge=2)
    """Number of folds."""
    valid: SizeOrNone = 0.15
    """Size of validation: a share of the training folds, or a number of groups; 0 leaves it out,
    for runs that choose nothing by it (`train.keep: last`)."""
    test: SizeOrNone = 0
    """Size of a test part that is held out of all folds. With one, each fold validates on its own
    part of the rest, and `valid` is not used."""
    test_column: str | None = None
    """Column that says which clips are held out of all folds, by one of the words test, testing,
    eval or evaluation; its other cells do not matter. It takes the place of `test`."""

    @model_validator(mode="after")
    def _holds_out_one_part(self) -> Self:
        if self.test and self.test_column:
            raise ValueError("test and test_column both say what is held out: leave one out")
        return self

    def folds_of(self, deck: Deck) -> list[Fold]:
        """Deal the clips, and carve validation out of each fold's training part."""
        everything = np.ones(len(deck.manifest), dtype=bool)
        held_out = deck.carve(everything, self.test, "test") if self.test else ~everything
        if self.test_column is not None:
            held_out = self._said(deck.manifest, self.test_column)
        parts = deck.deal(~held_out, self.folds)
        return [self._one(deck, parts, held_out, number) for number in range(self.folds)]

    def _one(self, deck: Deck, parts: Ints, held_out: Flags, number: int) -> Fold:
        name, own = str(number + 1), parts == number
        rest = ~held_out & ~own
        if held_out.any():
            return _fold(name, train=rest, valid=own, test=held_out)
        valid = deck.carve(rest, self.valid, "valid", name) if self.valid else ~rest & rest
        return _fold(name, train=rest & ~valid, valid=valid, test=own)

    def _said(self, manifest: Manifest, column: str) -> Flags:
        cells = as_text(manifest.column(column)).str.strip_chars().str.to_lowercase()
        held_out = matches(cells, list(WORDS["test"])).to_numpy()
        if not held_out.any():
            raise DataError(
                f"no cell of column {column!r} is test, so nothing is held out",
                where=manifest.origin,
                fix="data.split.test_column=null",
            )
        return held_out


class FoldSplit(Split):
    """Published folds: each value of a column is tested once, the others train."""

    kind: Literal["fold"] = "fold"
    column: str = "fold"
    """Column with the folds."""
    valid: SizeOrNone = 0.15
    """Size of validation: a share of the training folds, or a number of groups; 0 leaves it out,
    for runs that choose nothing by it (`train.keep: last`)."""

    def folds_of(self, deck: Deck) -> list[Fold]:
        """Test each fold in turn, and carve validation out of the others."""
        column = deck.manifest.column(self.column)
        values = as_text(column)
        if values.null_count():
            row = values.is_null().arg_max() or 0
            raise DataError(f"no {self.column}", where=deck.manifest.place(row))
        names = as_text(column.unique().sort()).to_list()
        if len(names) < 2:
            raise DataError(
                f"column {self.column!r} knows only the fold {names[0]!r}",
                where=deck.manifest.origin,
                fix="data.split.kind=kfold makes folds",
            )
        return [self._one(deck, (values == name).to_numpy(), name) for name in names]

    def _one(self, deck: Deck, test: Flags, name: str) -> Fold:
        valid = deck.carve(~test, self.valid, "valid", name) if self.valid else test & ~test
        return _fold(name, train=~test & ~valid, valid=valid, test=test)


class ColumnSplit(Split):
    """Parts that a column of the table says."""

    kind: Literal["column"] = "column"
    column: str = "split"
    """The column."""
    train: list[Any] | None = None
    """Its values that train; null takes all that the other lists do not name. Without any lists
    the words train, valid (validation, val, dev) and test (eval) are understood."""
    valid: list[Any] | Size = 0.15
    """Its values that validate, or the size of the part that is carved out of training where no row
    says valid: a share, or a number of groups."""
    test: list[Any] | None = None
    """Its values that are tested; an empty list is no test part."""

    @model_validator(mode="after")
    def _names_no_value_twice(self) -> Self:
        values = [str(v) for part in (self.train, self._valid, self.test) for v in part or []]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"the value {twice[0]} is named twice")
        return self

    @property
    def tests(self) -> bool:
        """Whether there must be test clips."""
        return self.test is None or bool(self.test)

    @property
    def _valid(self) -> list[Any] | None:
        return self.valid if isinstance(self.valid, list) else None

    def folds_of(self, deck: Deck) -> list[Fold]:
        """Read the column, and carve validation where it says none."""
        column = deck.manifest.column(self.column)
        lists = {"train": self.train, "valid": self._valid, "test": self.test}
        if any(lists.values()):
            parts = self._listed(column, lists, deck.manifest.origin)
        else:
            parts = self._understood(column, deck.manifest.origin)
        if not parts["valid"].any() and not isinstance(self.valid, list):
            parts["valid"] = deck.carve(parts["train"], self.valid, "valid")
            parts["train"] = parts["train"] & ~parts["valid"]
        return [_fold("1", **parts)]

    def _listed(
        self, column: pl.Series, lists: dict[str, list[Any] | None], origin: str
    ) -> dict[str, Flags]:
        for part, values in lists.items():
            for value in values or []:
                if not matches(column, [value]).any():
                    raise DataError(
                        f"no cell of column {self.column!r} is {value!r}"
                        f"{near_value(column, value)}",
                        where=origin,
                        fix=f"change data.split.{part}",
                    )
        parts = {name: matches(column, values or []).to_numpy() for name, values in lists.items()}
        if lists["train"] is None:
            parts["train"] = ~parts["valid"] & ~parts["test"] & column.is_not_null().to_numpy()
        return parts

    def _understood(self, column: pl.Series, origin: str) -> dict[str, Flags]:
        words = as_text(column).str.strip_chars().str.to_lowercase()
        parts = {part: matches(words, list(known)).to_numpy() for part, known in WORDS.items()}
        known = parts["train"] | parts["valid"] | parts["test"] | words.is_null().to_numpy()
        if not known.all():
            raise DataError(
                f"column {self.column!r} says {words[int(known.argmin())]!r}, "
                "which is not train, valid or test",
                where=origin,
                fix="name its values in data.split.train, data.split.valid and data.split.test",
            )
        return parts
