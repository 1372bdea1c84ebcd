"""The slot `data.derive`: columns that are made of others before the labels are learned."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from harken.choice import Choice
from harken.errors import DataError
from harken.manifest import Manifest
from harken.tables import as_text, find_column
from harken.target import Name

RESERVED = ("id", "path", "row", "start", "duration")
"""Columns that say which sound a clip is; no derived column takes their place."""

_STRANGE = object()
_RANGE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*\.\.\s*(-?\d+(?:\.\d+)?)\s*")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


def _free(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a column that harken itself needs")
    return name


Columns = Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1)]
NewName = Annotated[Name, AfterValidator(_free)]
Value = int | float | str | None


class Derive(Choice):
    """A column that is made of others, or made anew."""

    def apply(self, manifest: Manifest) -> Manifest:
        """Return the clips with the derived column, and a note of what it holds.

        Raises:
            DataError: a column is missing or is there already, or a cell cannot be used.
        """
        raise NotImplementedError

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that it reads."""
        raise NotImplementedError


class _NewColumn(Derive):
    """What all kinds that make one new column of numbers share."""

    name: NewName
    """Name of the new column."""
    replace: bool = False
    """Whether a column of that name may be there already, and is replaced."""

    def apply(self, manifest: Manifest) -> Manifest:
        """Return the clips with the new column, and a note of what it holds."""
        if not self.replace:
            _refuse_taken(
                manifest, self.name, "leave it out of data.derive, or set its replace: true"
            )
        cells = self._cells(manifest).alias(self.name)
        return _with_column(manifest, cells, "derived")

    def _cells(self, manifest: Manifest) -> pl.Series:
        raise NotImplementedError


class AnyOf(_NewColumn):
    """1 where any of some columns is above a value, 0 where none is.

    `{kind: any_of, name: distortions, columns: [distorted Cs, distorted V]}`
    """

    kind: Literal["any_of"] = "any_of"
    columns: Columns
    """Columns of numbers."""
    above: float = 0.0
    """What a cell must exceed."""
    missing_if: Literal["any", "all"] = "any"
    """Where no cell is above: `any` empty cell leaves the result empty, since that cell might have
    been above; or only when `all` are empty, which takes the others' word for it."""

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that it reads."""
        return self.columns

    def _cells(self, manifest: Manifest) -> pl.Series:
        cells = _numbers_of(manifest, self.columns)
        is_above, lacks = cells > self.above, _lacking(cells, self.missing_if)
        found = pl.DataFrame({"above": is_above.max_horizontal(), "lacks": lacks})
        flag = pl.col("above").fill_null(False)
        return found.select(pl.when(flag | ~pl.col("lacks")).then(flag.cast(pl.Int64))).to_series()


class MaxOf(_NewColumn):
    """The largest of some columns, such as the scores of several raters."""

    kind: Literal["max_of"] = "max_of"
    columns: Columns
    """Columns of numbers."""
    missing_if: Literal["any", "all"] = "all"
    """The result is empty where `any` of the cells is empty, or only where `all` are."""

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that it reads."""
        return self.columns

    def _cells(self, manifest: Manifest) -> pl.Series:
        cells = _numbers_of(manifest, self.columns)
        largest, lacks = cells.max_horizontal(), _lacking(cells, self.missing_if)
        found = pl.DataFrame({"largest": largest, "lacks": lacks})
        return found.select(pl.when(~pl.col("lacks")).then(pl.col("largest"))).to_series()


class Threshold(_NewColumn):
    """1 where a column is at least a value, 0 where it is less; empty cells stay empty."""

    kind: Literal["threshold"] = "threshold"
    column: Name
    """A column of numbers."""
    at_least: float
    """The smallest value that gives 1."""

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that it reads."""
        return [self.column]

    def _cells(self, manifest: Manifest) -> pl.Series:
        cells = _numbers_of(manifest, [self.column])
        return (cells.to_series() >= self.at_least).cast(pl.Int64)


class Recode(Derive):
    """Other values in place of a column's own, column by column.

    `{kind: recode, columns: [slow rate], map: {1: 0, 2..5: 1}, missing: [-1, 6]}`
    """

    kind: Literal["recode"] = "recode"
    columns: Columns
    """The columns, which are changed in place unless `into` says otherwise."""
    into: Annotated[list[NewName] | None, BeforeValidator(_listed)] = None
    """Names of new columns for the result, one for each of `columns`, such as the accent beside
    the speaker: `{kind: recode, columns: speaker, into: accent, map: {theo: USA, …}}`."""
    map: dict[Name, Value] = Field(default_factory=dict)
    """New value for each old one; `2..5` stands for all numbers from 2 to 5, both included. What
    is named singly comes before ranges, and earlier ranges before later ones."""
    missing: list[Name] = Field(default_factory=list)
    """Old values that mean `not rated`: they become empty."""
    others: Literal["error", "keep", "missing"] = "error"
    """What becomes of values that are named nowhere."""

    @model_validator(mode="after")
    def _says_something_once(self) -> Self:
        if not self.map and not self.missing:
            raise ValueError("say in map or missing what is to be changed")
        twice = sorted(set(self.map) & set(self.missing))
        if twice:
            raise ValueError(f"the value {twice[0]} is in map and in missing")
        if self.into is None and (odd := sorted(set(self.columns) & set(RESERVED))):
            raise ValueError(f"{odd[0]!r} is a column that harken itself needs")
        if self.into is not None and len(self.into) != len(self.columns):
            raise ValueError(f"into names {len(self.into)} columns for {len(self.columns)}")
        for old in self.map:
            if (ends := _range(old)) and ends[0] > ends[1]:
                raise ValueError(f"the range {old} has no numbers in it")
        return self

    def apply(self, manifest: Manifest) -> Manifest:
        """Return the clips with the columns changed, and a note of what each holds."""
        for name, new in zip(self.columns, self.into or self.columns, strict=True):
            if self.into is not None:
                _refuse_taken(manifest, new, "name another in into")
            cells = self._recoded(manifest, manifest.column(name))
            manifest = _with_column(manifest, cells.alias(new), "recoded")
        return manifest

    @property
    def inputs(self) -> list[str]:
        """Names of the columns that it reads."""
        return self.columns

    def _recoded(self, manifest: Manifest, cells: pl.Series) -> pl.Series:
        text = _text_of(cells)
        known = text.drop_nulls().unique().to_list()
        new = {old: self.new_value(old) for old in known}
        strange = text.is_in([old for old, value in new.items() if value is _STRANGE])
        if self.others == "error":
            self._refuse_strangers(manifest, cells, strange.fill_null(False))
        kept = {old: old if self.others == "keep" else None for old in known}
        spelled = {o: kept[o] if v is _STRANGE else _spelled(v) for o, v in new.items()}
        return _as_numbers(text.replace_strict(spelled, default=None, return_dtype=pl.String))

    def new_value(self, old: str) -> Any:
        """Return the value in place of an old one, None for missing; or a mark for strangers."""
        singles = {_plain(key): value for key, value in self.map.items()}
        singles |= dict.fromkeys(map(_plain, self.missing))
        if _plain(old) in singles:
            return singles[_plain(old)]
        for key, value in self.map.items():
            ends = _range(key)
            if ends and _is_number(old) and ends[0] <= float(old) <= ends[1]:
                return value
        return _STRANGE

    def _refuse_strangers(self, manifest: Manifest, cells: pl.Series, strange: pl.Series) -> None:
        if strange.any():
            first = strange.arg_max() or 0
            known = ", ".join([*self.map, *self.missing])
            raise DataError(
                f"column {cells.name!r} holds {cells[first]!r}, which data.derive does not recode "
                f"(it names {known}); so in {strange.sum()} rows",
                where=manifest.place(first),
                fix="name it in map or missing, or set others: keep or missing",
            )


def apply_all(steps: Iterable[Derive], manifest: Manifest, *, strict: bool = True) -> Manifest:
    """Apply some steps in their order; later ones see what earlier ones made.

    Args:
        steps: What to derive.
        manifest: The clips.
        strict: Whether missing columns are an error. Else a step that lacks all of its columns is
            left out, as in new tables that have no labels, or that hold the derived one already.

    Raises:
        DataError: as `Derive.apply`.
    """
    for step in steps:
        if strict or any(name in manifest for name in step.inputs):
            manifest = step.apply(manifest)
    return manifest


def _refuse_taken(manifest: Manifest, name: str, fix: str) -> None:
    if name in manifest:
        raise DataError(
            f"the column {name!r} is to be derived, and is there already",
            where=manifest.origin,
            fix=fix,
        )


def _with_column(manifest: Manifest, cells: pl.Series, verb: str) -> Manifest:
    note = f"{verb} column {cells.name!r}: {count_values(cells)}"
    frame = manifest.frame.with_columns(cells)
    return Manifest(frame, manifest.origin, (*manifest.notes, note))


def count_values(cells: pl.Series) -> str:
    """Return `12 × 1, 30 × 0, 3 missing`, the most frequent values first, ten at most."""
    text = as_text(cells)
    table = (
        text.drop_nulls().alias("value").value_counts().sort(["count", "value"], descending=True)
    )
    parts = [f"{count} × {value}" for value, count in table.head(10).iter_rows()]
    parts += [f"{table.height - 10} more values"] if table.height > 10 else []
    parts += [f"{text.null_count()} missing"] if text.null_count() else []
    return ", ".join(parts)


def _text_of(cells: pl.Series) -> pl.Series:
    """Return cells as text without blanks around; empty ones and `nan` are null."""
    cells = cells.cast(pl.Int64) if cells.dtype == pl.Boolean else cells
    text = as_text(cells).str.strip_chars().alias("cell").to_frame()
    missing = pl.col("cell").str.to_lowercase().is_in(["", "nan"])
    return text.select(pl.when(~missing).then(pl.col("cell"))).to_series()


def _numbers_of(manifest: Manifest, names: list[str]) -> pl.DataFrame:
    """Return columns as numbers, null where empty."""
    columns = []
    for name in names:
        cells = find_column(manifest.frame, name, manifest.origin)
        text = _text_of(cells)
        numbers = text.cast(pl.Float64, strict=False)
        bad = numbers.is_null() & text.is_not_null()
        if bad.any():
            first = bad.arg_max() or 0
            raise DataError(
                f"column {name!r} must hold numbers, and this is {cells[first]!r}",
                where=manifest.place(first),
                fix="recode it first, in data.derive",
            )
        columns.append(_as_numbers(text).cast(pl.Float64).alias(name))
    return pl.DataFrame(columns)


def _lacking(cells: pl.DataFrame, missing_if: str) -> pl.Series:
    combine = pl.any_horizontal if missing_if == "any" else pl.all_horizontal
    return cells.select(combine(pl.all().is_null()).alias("lacks")).to_series()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(text: str) -> str:
    """Return whole numbers without a point, so that 1.0 and 1 are the same key."""
    whole = re.fullmatch(r"(-?\d+)\.0+", text.strip())
    return whole[1] if whole else text.strip()


def _range(key: str) -> tuple[float, float] | None:
    found = _RANGE.fullmatch(key)
    return (float(found[1]), float(found[2])) if found else None


def _spelled(value: Value) -> str | None:
    return None if value is None else str(value)


def _as_numbers(text: pl.Series) -> pl.Series:
    """Return a column of numbers where all of its cells are, else the text."""
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() > text.null_count():
        return text
    whole = numbers.cast(pl.Int64, strict=False)
    same = (whole.cast(pl.Float64) == numbers).all() and whole.null_count() == text.null_count()
    return whole if same else numbers
