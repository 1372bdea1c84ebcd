"""Subgroups of clips by a column: words, sexes, sites, or bands of a number such as age.

The word *group* is kept for clips that belong together (a speaker's); a subgroup holds many of
these, and one speaker's clips may lie in several.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator, model_validator

from harken.choice import Config
from harken.covariates import UNKNOWN, Covariate, Known
from harken.errors import DataError
from harken.tables import find_column

MANY = 1000
"""More subgroups than these are surely a number that wants bins."""


@dataclass(frozen=True)
class Members:
    """Which subgroup each clip is in.

    Attributes:
        names: The subgroups.
        codes: int64 `(clips,)`, places among the names; -1 for none of them.
        missing: Clips with an empty cell.
    """

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]
    missing: npt.NDArray[np.bool_]

    @property
    def outside(self) -> npt.NDArray[np.bool_]:
        """Clips that have a value, but one that belongs to no subgroup."""
        return np.asarray((self.codes < 0) & ~self.missing)


class Subgroups(Config):
    """A column that parts the clips into subgroups; its bare name is enough."""

    column: str = Field(min_length=1)
    """The table's column."""
    bins: tuple[float, ...] | None = None
    """Edges of bands of a number: `[0, 4, 7, 99]` makes three, 0 to under 4, 4 to under 7, and 7 to
    99. Null takes every value as a subgroup of its own."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @field_validator("bins")
    @classmethod
    def _rising(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (len(value) < 2 or list(value) != sorted(set(value))):
            raise ValueError("bins are two or more rising edges, such as [0, 4, 7, 99]")
        return value

    def names(self, frame: pl.DataFrame, origin: str) -> tuple[str, ...]:
        """Return the subgroups that a table has, in order.

        Raises:
            DataError: there is no such column, it is empty, or holds far too many values.
        """
        if self.bins is not None:
            return self.bands
        cells = find_column(frame, self.column, origin)
        wanted = Covariate(name=self.column, encoding="category", on_missing="unknown")
        names = Known.learn(wanted, frame, origin).names
        if len(names) > MANY:
            fix = f"{{column: {self.column}, bins: [0, 4, 7, 99]}}"
            raise DataError(
                f"column {self.column!r} makes {len(names)} subgroups, more than {MANY}",
                where=origin,
                fix=fix if cells.dtype.is_numeric() else None,
            )
        return names

    def members(
        self, frame: pl.DataFrame, origin: str, names: Sequence[str] | None = None
    ) -> Members:
        """Say which subgroup each clip is in.

        Args:
            frame: The clips.
            origin: Where they come from, for messages.
            names: The subgroups; None takes those of this table.

        Raises:
            DataError: there is no such column, or bins are asked for and a cell is no number.
        """
        find_column(frame, self.column, origin)
        own = tuple(self.names(frame, origin) if names is None else names)
        if self.bins is None:
            known = Known(self.column, "category", own, default=UNKNOWN)
            every = find_column(frame, self.column, origin).cast(pl.String)
            blank = every.str.strip_chars().str.to_lowercase().is_in(["", "nan"])
            missing = (every.is_null() | blank.fill_null(True)).to_numpy()
            codes = known.encode(frame, origin) if own else np.full(len(frame), UNKNOWN)
            return Members(own, codes.astype(np.int64), missing)
        values = self._values(frame, origin)
        edges = np.asarray(self.bins, dtype=values.dtype)
        codes = np.digitize(values, edges) - 1
        codes[values == edges[-1]] = len(edges) - 2
        inside = (codes >= 0) & (codes < len(edges) - 1)
        return Members(own, np.where(inside, codes, -1).astype(np.int64), np.isnan(values))

    def check(self, frame: pl.DataFrame, origin: str, *, fill: str | None = None) -> None:
        """Refuse a table that cannot be parted so, before anything is trained.

        Args:
            frame: All clips of the run.
            origin: Where they come from.
            fill: Where empty cells are errors, what else can be done about them.

        Raises:
            DataError: the column is missing, or a cell of it cannot be used; says which.
        """
        members = self.members(frame, origin)
        bad, what = members.outside, f"lies outside the bins {list(self.bins or [])}"
        cure = "widen the bins"
        if fill is not None and members.missing.any():
            bad, what, cure = members.missing, "is missing", fill
        if bad.any():
            first = int(bad.argmax())
            row = frame["row"][first] if "row" in frame.columns else first + 1
            value = "" if what == "is missing" else f" {frame[self.column][first]}"
            more = f" (and in {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
            raise DataError(f"{self.column}{value} {what}{more}", where=f"{origin}:{row}", fix=cure)

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands between the edges, as people write them."""
        edges = [f"{edge:g}" for edge in self.bins or ()]
        names = [f"{low} to <{high}" for low, high in itertools.pairwise(edges)]
        names[-1] = names[-1].replace("<", "")
        return tuple(names)

    def _values(self, frame: pl.DataFrame, origin: str) -> npt.NDArray[np.float32]:
        return read_numbers(frame, self.column, origin)


def read_numbers(frame: pl.DataFrame, column: str, origin: str) -> npt.NDArray[np.float32]:
    """Return a column of numbers, NaN for empty cells.

    Raises:
        DataError: there is no such column, or a cell is no number.
    """
    return Known(column, "number", default=float("nan")).encode(frame, origin)
