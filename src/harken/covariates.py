"""Side information about clips (age, word, speaker, site…) as named, checked numbers.

Columns are learned from training rows only and travel in the run folder (`covariates.json`). Their
values travel with the waveforms as `Batch.covariates`, one float a column: a number as it stands in
the table, a category as its place among the known names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from harken.choice import Config, nearest
from harken.errors import ConfigError, DataError
from harken.manifest import Manifest
from harken.multi_hot import TargetTable
from harken.tables import as_text, find_column

Values = npt.NDArray[np.float32]
Encoding = Literal["number", "category"]

UNKNOWN = -1.0
"""The place of a category that training has not seen, for those who can do without."""

_CARE = {"unknown": 0, "error": 1, "default": 2}
"""Whose wish decides where several want one column."""


class Covariate(Config):
    """A column of the table that is read as side information; its bare name is enough."""

    name: str = Field(min_length=1)
    """The table's column."""
    encoding: Encoding | None = None
    """`number`, or `category`: one of the names seen in training. Null takes the column's own
    nature: numbers are numbers, anything else is a category."""
    on_missing: Literal["error", "default", "unknown"] = "error"
    """Empty cells, and names that training has not seen: `error` stops and names the row, `default`
    takes `default` for them, and `unknown` leaves categories open (place -1), as a loss reads them
    that weighs known groups only."""
    default: str | float | None = None
    """The value for missing and unknown cells, such as a name or a typical age."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _default_is_used(self) -> Self:
        if self.on_missing == "default" and self.default is None:
            raise ValueError("on_missing: default needs a default, such as default: 6")
        if self.on_missing != "default" and self.default is not None:
            raise ValueError("a default is used with on_missing: default only")
        if self.on_missing == "unknown" and self.encoding != "category":
            raise ValueError("on_missing: unknown is for encoding: category")
        return self


@dataclass(frozen=True)
class Known:
    """A column as training rows taught it.

    Attributes:
        name: Its name in the table.
        encoding: `number` or `category`.
        names: The categories in order; empty for numbers.
        mean: Mean over training rows (numbers).
        std: Standard deviation over training rows (numbers), 1 where it would be 0.
        default: The value for missing and unknown cells, such as `UNKNOWN`, or None where these are
            errors.
    """

    name: str
    encoding: Encoding
    names: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    default: float | None = None

    @classmethod
    def learn(cls, config: Covariate, frame: pl.DataFrame, origin: str) -> Self:
        """Learn a column from training rows.

        Raises:
            DataError: it is missing, empty, or holds no numbers though it should.
            ConfigError: the default is not one of its names, or no number.
        """
        cells = find_column(frame, config.name, origin)
        encoding = config.encoding or ("number" if cells.dtype.is_numeric() else "category")
        if encoding == "number":
            return cls._learn_number(config, frame, cells, origin)
        names = tuple(_sorted(_texts(cells).drop_nulls().unique().to_list()))
        if not names:
            raise DataError(f"the covariate {config.name!r} is empty", where=origin)
        default = UNKNOWN if config.on_missing == "unknown" else None
        if config.default is not None:
            text = str(as_text(pl.Series([config.default]))[0])
            if text not in names:
                raise ConfigError(
                    f"the default {text!r} is none of the training rows' values of "
                    f"{config.name!r}{nearest(text, names)}",
                    where="covariates.default",
                )
            default = float(names.index(text))
        return cls(config.name, "category", names, default=default)

    @classmethod
    def _learn_number(
        cls, config: Covariate, frame: pl.DataFrame, cells: pl.Series, origin: str
    ) -> Self:
        if isinstance(config.default, str):
            raise ConfigError(
                f"{config.name!r} is a number, and its default is {config.default!r}",
                where="covariates.default",
            )
        values = _numbers(cells, frame, origin)
        known = values[~np.isnan(values)]
        if not len(known):
            raise DataError(f"the covariate {config.name!r} is empty", where=origin)
        std = float(known.std()) or 1.0
        return cls(config.name, "number", (), float(known.mean()), std, config.default)

    @property
    def needed(self) -> bool:
        """Whether new clips have to tell it: not where only the loss of training reads it."""
        return self.default != UNKNOWN or not self.names

    def encode(self, frame: pl.DataFrame, origin: str) -> Values:
        """Return float32 `(rows,)`.

        Raises:
            DataError: a cell is missing or unknown, and the recipe gives no default.
        """
        if not self.needed and self.name not in frame.columns:
            return np.full(len(frame), UNKNOWN, dtype=np.float32)
        cells = find_column(frame, self.name, origin)
        if self.encoding == "number":
            values = _numbers(cells, frame, origin)
        else:
            places = {name: float(place) for place, name in enumerate(self.names)}
            codes = _texts(cells).replace_strict(places, default=None, return_dtype=pl.Float64)
            values = codes.fill_null(np.nan).to_numpy()
        bad = np.isnan(values)
        if bad.any() and self.default is None:
            first = int(bad.argmax())
            cell = cells[first]
            known = ", ".join(self.names[:12])
            what = "is missing" if cell is None or cell == "" else f"{cell!r} was not in training"
            more = f" (and in {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
            row = frame["row"][first] if "row" in frame.columns else first + 1
            raise DataError(
                f"the covariate {self.name!r} {what}{more}"
                + (f"; known: {known}" if known else ""),
                where=f"{origin}:{row}",
                fix=f"fill it in, or give {self.name} on_missing: default and a default",
            )
        default = np.nan if self.default is None else self.default
        return np.where(bad, default, values).astype(np.float32)


@dataclass(frozen=True)
class Covariates:
    """All side information of a run, column by column.

    Attributes:
        columns: What is known of each; a table column may be there as a number and as a category.
    """

    columns: tuple[Known, ...] = ()

    @classmethod
    def learn(
        cls,
        wanted: Sequence[Covariate],
        table: Manifest,
        rows: npt.NDArray[np.integer[Any]] | None = None,
    ) -> Self:
        """Learn every column that is wanted from training rows.

        Args:
            wanted: Columns; the same one may be wanted several times, in the same way.
            table: The clips.
            rows: The training rows; None takes all.

        Raises:
            ConfigError: one column is wanted in two contradictory ways.
            DataError: a column cannot be read.
        """
        frame = table.frame if rows is None else table.frame[rows]
        found: dict[tuple[str, Encoding], tuple[Covariate, Known]] = {}
        for config in wanted:
            known = Known.learn(config, frame, table.origin)
            key = known.name, known.encoding
            if key in found and found[key][1] != known:
                before = found[key][0]
                if before.default is not None and config.default is not None:
                    raise ConfigError(f"{config.name!r} is given two defaults", where="covariates")
                if _CARE[config.on_missing] <= _CARE[before.on_missing]:
                    continue  # Asked for in passing, by a loss or a threshold.
            found[key] = config, known
        return cls(tuple(known for _, known in found.values()))

    def encode(self, table: Manifest) -> Values:
        """Return float32 `(rows, columns)`.

        Raises:
            DataError: a cell is missing or unknown, and the recipe gives no default.
        """
        parts = [known.encode(table.frame, table.origin) for known in self.columns]
        return np.stack(parts, axis=1) if parts else np.zeros((len(table), 0), dtype=np.float32)

    def place(self, column: str, encoding: Encoding | None = None) -> int:
        """Return where a column's values lie in `Batch.covariates`.

        Raises:
            ConfigError: there is none of that name.
        """
        for place, known in enumerate(self.columns):
            if known.name == column and encoding in (None, known.encoding):
                return place
        names = [known.name for known in self.columns]
        raise ConfigError(f"there is no covariate {column!r}{nearest(column, names)}")

    def known(self, column: str, encoding: Encoding | None = None) -> Known:
        """Return what is known of a column."""
        return self.columns[self.place(column, encoding)]

    def to_json(self) -> list[dict[str, Any]]:
        """Return a readable list."""
        return [asdict(known) | {"names": list(known.names)} for known in self.columns]

    @classmethod
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> Self:
        """Read what `to_json` returned."""
        return cls(tuple(Known(**{**entry, "names": tuple(entry["names"])}) for entry in value))


@dataclass(frozen=True)
class TrainingTable:
    """What a loss may count on training rows.

    Attributes:
        targets: float32 `(training rows, classes)`, an array or what reads like one.
        covariates: The run's side information.
        values: float32 `(training rows, covariate columns)`.
        ids: The manifest's row numbers of the training rows, int64 `(training rows,)`.
    """

    targets: TargetTable
    covariates: Covariates = field(default_factory=Covariates)
    values: Values = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def target(self) -> npt.NDArray[np.float32]:
        """The targets as an array."""
        return np.asarray(self.targets)

    def codes(self, column: str) -> npt.NDArray[np.int64]:
        """Return a category's places `(training rows,)`."""
        place = self.covariates.place(column, "category")
        return np.asarray(self.values[:, place], dtype=np.int64)


def _texts(cells: pl.Series) -> pl.Series:
    text = as_text(cells).str.strip_chars().to_frame("t")
    empty = pl.col("t").str.to_lowercase().is_in(["", "nan"])
    return text.select(pl.when(~empty).then(pl.col("t"))).to_series()


def _numbers(cells: pl.Series, frame: pl.DataFrame, origin: str) -> npt.NDArray[np.float64]:
    text = _texts(cells) if cells.dtype == pl.String else cells
    values = text.cast(pl.Float64, strict=False).fill_nan(None)
    bad = values.is_null() & text.is_not_null()
    if cells.dtype.is_float():
        bad &= ~cells.is_nan().fill_null(False)
    if bad.any():
        first = bad.arg_max() or 0
        row = frame["row"][first] if "row" in frame.columns else first + 1
        raise DataError(
            f"the covariate {cells.name!r} must be a number, and this is {cells[first]!r}",
            where=f"{origin}:{row}",
            fix="or read it as a category: encoding: category",
        )
    return values.fill_null(np.nan).to_numpy()


def _sorted(names: list[str]) -> list[str]:
    values = pl.Series(names, dtype=pl.String).cast(pl.Float64, strict=False)
    if values.null_count():
        return sorted(names)
    return [name for _, name in sorted(zip(values, names, strict=True))]
