"""The manifest: one row a clip, with where its sound lies and all that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from harken import storage
from harken.errors import DataError
from harken.tables import as_text, find_column, read_table

_TYPES: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "path": pl.String,
    "start": pl.Float64,
    "duration": pl.Float64,
    "row": pl.Int64,
}
_OPTIONAL: dict[str, type[pl.DataType]] = {
    "group": pl.String,
    "split": pl.String,
    "weight": pl.Float64,
}


class Clip(NamedTuple):
    """A recording, or a part of one.

    Attributes:
        id: Its name, unique in the manifest.
        path: Absolute path or URL.
        start: Seconds into the recording; None is its beginning.
        duration: Seconds; None lasts to the end.
    """

    id: str
    path: str
    start: float | None = None
    duration: float | None = None


@dataclass(frozen=True)
class Manifest:
    """The clips, in order.

    Making one checks it: ids and paths are there, ids are unique, times and weights make sense.

    Attributes:
        frame: Columns `id`, `path` (absolute or URL), `start` and `duration` (seconds or null),
            `row` (line in the source, counted from 1 with the header); where known `group`, `fold`,
            `split`, `weight`; then every other column of the source under its own name.
        origin: The source's file name, which errors name with the row.
        notes: What a reader should know about the reading, such as files that were left out.

    Raises:
        DataError: a row cannot be used; says which.
    """

    frame: pl.DataFrame
    origin: str = "table"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", self._typed(self.frame))
        self._check()

    def __len__(self) -> int:
        return self.frame.height

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.frame.columns

    def __contains__(self, column: str) -> bool:
        return column in self.frame.columns

    def column(self, name: str) -> pl.Series:
        """Return a column.

        Raises:
            DataError: there is none of that name; says which ones there are.
        """
        return find_column(self.frame, name, self.origin)

    def place(self, index: int) -> str:
        """Return `file.csv:17` for a clip's number."""
        return f"{self.origin}:{self.frame['row'][int(index)]}"

    def clips(self) -> list[Clip]:
        """Return all clips as tuples."""
        columns = (self.frame[name].to_list() for name in Clip._fields)
        return list(map(Clip, *columns))

    def filter(self, keep: pl.Expr | pl.Series | npt.NDArray[np.bool_]) -> Manifest:
        """Return the clips for which an expression or a mask `(rows,)` holds.

        Raises:
            DataError: none is left.
        """
        mask = pl.Series(keep) if isinstance(keep, np.ndarray) else keep
        return Manifest(self.frame.filter(mask), self.origin, self.notes)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Manifest:
        """Return the clips of some numbers, in that order."""
        return Manifest(self.frame[np.asarray(rows)], self.origin, self.notes)

    def save(self, url: str) -> None:
        """Write a `.csv` or `.parquet` file, atomically."""
        if url.endswith(".csv"):
            storage.write_atomic(url, lambda path: self.frame.write_csv(path))
        else:
            storage.write_atomic(url, lambda path: self.frame.write_parquet(path))

    @classmethod
    def load(cls, url: str, origin: str | None = None) -> Self:
        """Read what `save` wrote."""
        frame = read_table(url)
        if "table_row" in frame.columns:
            frame = frame.drop("row").rename({"table_row": "row"})
        return cls(frame, origin or url.rpartition("/")[2])

    def _typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        for name in ("id", "path"):
            find_column(frame, name, self.origin)
        if "row" not in frame.columns:
            frame = frame.with_row_index("row", offset=1)
        missing = [name for name in ("start", "duration") if name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in missing)
        types = _TYPES | {name: t for name, t in _OPTIONAL.items() if name in frame.columns}
        texts = [as_text(frame[n]).alias(n) for n, t in types.items() if t is pl.String]
        frame = frame.with_columns(texts).with_columns(
            self._numbers(frame, n, t) for n, t in types.items() if t is not pl.String
        )
        if "fold" in frame.columns and frame["fold"].dtype.is_float():
            frame = frame.with_columns(as_text(frame["fold"]).alias("fold"))
        return frame.select(*_TYPES, pl.exclude(*_TYPES))

    def _numbers(self, frame: pl.DataFrame, name: str, dtype: type[pl.DataType]) -> pl.Series:
        column = frame[name]
        cast = column.cast(dtype, strict=False)
        if cast.null_count() > column.null_count():
            bad = int((cast.is_null() & column.is_not_null()).arg_max() or 0)
            raise DataError(
                f"{name} must be a number, and this is {column[bad]!r}",
                where=f"{self.origin}:{frame['row'][bad]}",
            )
        return cast.fill_nan(None) if dtype is pl.Float64 else cast

    def _check(self) -> None:
        if not len(self):
            raise DataError("no clip is left: the table has no rows", where=self.origin)
        self._refuse(pl.col("path").fill_null("").str.len_bytes() == 0, "no path to a recording")
        self._refuse(pl.col("id").fill_null("").str.len_bytes() == 0, "no id")
        self._refuse(~(pl.col("start") >= 0), "start must be 0 or more seconds")
        self._refuse(~(pl.col("duration") > 0), "the end must come after the start")
        if "group" in self:
            no_group = pl.col("group").is_null() | (pl.col("group") == "")
            self._refuse(no_group, "no group", "give every clip a group, or none")
        if "weight" in self:
            fine = pl.col("weight").is_finite() & (pl.col("weight") >= 0)
            self._refuse(~fine.fill_null(False), "weight must be a number of 0 or more")
        self._refuse_twins()

    def _refuse(self, bad: pl.Expr, message: str, fix: str | None = None) -> None:
        mask = self.frame.select(bad.fill_null(False)).to_series()
        if not mask.any():
            return
        more = f" (and in {mask.sum() - 1} more rows)" if mask.sum() > 1 else ""
        raise DataError(message + more, where=self.place(mask.arg_max() or 0), fix=fix)

    def _refuse_twins(self) -> None:
        ids = self.frame["id"]
        if ids.n_unique() == len(ids):
            return
        second = ids.is_first_distinct().arg_min() or 0
        first = ids.index_of(ids[second]) or 0
        raise DataError(
            f"the id {ids[second]!r} stands in row {self.frame['row'][first]} and again here",
            where=self.place(second),
            fix="give every clip an id of its own, or name another column as data.source.id",
        )
