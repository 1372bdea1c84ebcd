"""What is learned: the task, the label names in order, and how table cells become targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.choice import nearest
from harken.errors import ConfigError, DataError
from harken.manifest import Manifest
from harken.multi_hot import MultiHot, TargetTable
from harken.tables import as_text, find_column
from harken.target import Target as Target
from harken.target import Task as Task

Targets = npt.NDArray[np.float32]

NUM_BINS = 5
"""Values of a regression are stratified by fifths."""


@dataclass(frozen=True)
class Labels:
    """The columns of logits, scores and targets, in order.

    Attributes:
        task: `single` (one of the names), `multi` (any of the names) or `regression` (values).
        names: One name per column.
        columns: The table columns that hold the targets.
        separator: What parts several labels inside one cell (`multi` tasks with one column).
        groups: The names again, parted into classifiers that sit side by side.
        positive: Positive class of a two-class task; None elsewhere.
        missing: What becomes of clips with empty cells: `error`, `drop` or `mask`.
    """

    task: Task
    names: tuple[str, ...]
    columns: tuple[str, ...]
    separator: str | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    positive: str | None = None
    missing: Literal["error", "drop", "mask"] = "error"

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.names,))
        if self.positive is None and self.task == "single" and len(self.names) == 2:
            object.__setattr__(self, "positive", self.names[-1])

    @property
    def num_classes(self) -> int:
        """Number of columns of logits."""
        return len(self.names)

    @classmethod
    def learn(cls, target: Target, table: Manifest | pl.DataFrame) -> Self:
        """Find the label names in a table.

        Raises:
            DataError: a column is missing, fewer than two classes, or labels not in `labels`.
            ConfigError: `groups` or `positive` name labels that there are not.
        """
        frame, origin = _opened(table)
        target = target.resolved()
        cells = [_asked_for(target, frame, name, origin) for name in target.columns]
        task = target.task or _guess_task(target, cells[0].dtype)
        parted = target.separator is not None or cells[0].dtype == pl.List
        own = len(cells) > 1 or task == "regression" or (task == "multi" and not parted)
        if own and target.labels is not None:
            raise ConfigError(
                "labels of task: multi in one column need its separator",
                where="data.target.separator",
            )
        names = target.columns if own else target.labels or _names_in(cells[0], target.separator)
        if len(names) < (2 if task == "single" else 1):
            found = f"only the class {names[0]!r}" if names else "no label at all"
            raise DataError(f"{found} in column {target.columns[0]!r}", where=origin)
        names = _ordered(names, target.groups)
        if task == "multi":
            _refuse_bars(names, origin)
        if target.positive is not None and target.positive not in names:
            hint = nearest(target.positive, names)
            raise ConfigError(
                f"there is no label {target.positive!r}{hint}", where="data.target.positive"
            )
        labels = cls(
            task=task,
            names=tuple(names),
            columns=tuple(names if own else target.columns),
            separator=target.separator,
            groups=tuple(map(tuple, target.groups or [])),
            positive=target.positive,
            missing=target.missing or ("error" if task == "single" else "mask"),
        )
        labels.targets(table)
        return labels

    def encode(self, table: Manifest | pl.DataFrame) -> Targets:
        """Return the targets as an array, float32 `(rows, classes)`; see `targets`."""
        return np.asarray(self.targets(table))

    def targets(self, table: Manifest | pl.DataFrame) -> TargetTable:
        """Return the targets float32 `(rows, classes)`; cells with several labels stay sparse.

        One-hot (or soft, from several columns) for `single`, 0/1 for `multi`, values for
        `regression`; NaN where a cell is empty.

        Raises:
            DataError: a cell cannot be read, is empty where it must not be, or holds a label that
                is not among the names; says which row.
        """
        frame, origin = _opened(table)
        cells = [find_column(frame, name, origin) for name in self.columns]
        target: TargetTable
        if len(cells) == 1 and self.task == "single":
            target = self._one_hot(self._codes(frame, cells[0], origin))
        elif self.separator or cells[0].dtype == pl.List:
            target = self._many_hot(frame, cells[0], origin)
        else:
            read = _read_flags if self.task == "multi" else _read_values
            columns = [read(frame, column, origin) for column in cells]
            target = np.stack(columns, axis=1).astype(np.float32)
            if self.task == "single":
                _refuse_no_distribution(frame, target, origin)
        if self.missing == "error":
            message = f"no label in {self._where()}"
            _refuse(frame, _lacking(target), origin, message, _FIX_MISSING)
        return target

    def usable(self, table: Manifest | pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Return bool `(rows,)`: which clips `missing: drop` leaves in; all, under other policies.

        Pass the result to `Manifest.filter` before splitting, and say how many are left out.
        """
        target = self.targets(table)
        if self.missing != "drop":
            return np.ones(len(target), dtype=bool)
        return np.asarray(~_lacking(target))

    def strata(self, table: Manifest | pl.DataFrame) -> Any:
        """Return what splits keep the proportions of.

        `single`: int64 `(rows,)`, class numbers, -1 for missing. `multi`: float32 `(rows, classes)`
        of 0/1, a sparse array where cells hold several labels. `regression`: float32 `(rows, fifths
        of every column)` of 0/1.
        """
        frame, origin = _opened(table)
        if self.task == "single" and len(self.columns) == 1:
            return self._codes(frame, find_column(frame, self.columns[0], origin), origin)
        target = self.targets(table)
        if isinstance(target, MultiHot):
            return target.flags
        if self.task == "single":
            best = np.nan_to_num(target, nan=-1.0).argmax(axis=1)
            return np.where(np.isnan(target).any(axis=1), -1, best)
        return np.nan_to_num(target) if self.task == "multi" else _fifths(target)

    def to_text(self, values: npt.NDArray[np.floating[Any]] | npt.NDArray[np.bool_]) -> pl.Series:
        """Return targets or decisions `(rows, classes)` as one readable value a row.

        The name of the largest column for `single`, names joined by `|` for `multi`, the value (or
        values joined by `|`) for `regression`; null where everything is missing.
        """
        array = np.asarray(values, dtype=np.float64)
        empty = np.isnan(array).all(axis=1)
        if self.task == "single":
            codes = np.where(empty, -1, np.nan_to_num(array, nan=-np.inf).argmax(axis=1))
            return pl.Series([*self.names, None], dtype=pl.String)[codes % (self.num_classes + 1)]
        if self.task == "regression" and self.num_classes == 1:
            return pl.Series(array[:, 0], nan_to_null=True)
        columns = pl.from_numpy(array, schema=list(self.names)).fill_nan(None)
        if self.task == "multi":
            parts = [pl.when(pl.col(n) >= 0.5).then(pl.lit(n)).otherwise(None) for n in self.names]
        else:
            parts = [pl.col(name).cast(pl.String).fill_null("") for name in self.names]
        joined = columns.select(pl.concat_str(parts, separator="|", ignore_nulls=True)).to_series()
        return joined.to_frame("t").select(pl.when(~pl.Series(empty)).then(pl.col("t"))).to_series()

    def to_json(self) -> dict[str, Any]:
        """Return a readable mapping."""
        lists = {"names": list(self.names), "columns": list(self.columns)}
        return asdict(self) | lists | {"groups": [list(group) for group in self.groups]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        tuples = {"names": tuple(value["names"]), "columns": tuple(value["columns"])}
        return cls(**{**value, **tuples, "groups": tuple(map(tuple, value["groups"]))})

    def _where(self) -> str:
        return f"column {self.columns[0]!r}" if len(self.columns) == 1 else "the target columns"

    def _codes(self, frame: pl.DataFrame, cells: pl.Series, origin: str) -> npt.NDArray[np.int64]:
        text = _labels_of(cells)
        codes = text.cast(pl.Enum(self.names), strict=False).to_physical().cast(pl.Int64)
        self._refuse_strangers(frame, text, codes, origin)
        return codes.fill_null(-1).to_numpy()

    def _refuse_strangers(
        self, frame: pl.DataFrame, text: pl.Series, codes: pl.Series, origin: str
    ) -> None:
        strange = (codes.is_null() & text.is_not_null()).to_numpy()
        if strange.any():
            label = text[int(strange.argmax())]
            known = ", ".join(self.names[:20])
            hint = nearest(label, self.names)
            message = f"the label {label!r} is not one of {known}{hint}"
            _refuse(
                frame, strange, origin, message, "name it in data.target.labels, or leave it out"
            )

    def _one_hot(self, codes: npt.NDArray[np.int64]) -> Targets:
        target = np.zeros((len(codes), self.num_classes), dtype=np.float32)
        known = np.flatnonzero(codes >= 0)
        target[known, codes[known]] = 1.0
        target[codes < 0] = np.nan
        return target

    def _many_hot(self, frame: pl.DataFrame, cells: pl.Series, origin: str) -> MultiHot:
        lists = _parted(cells, self.separator)
        sizes = lists.list.len().fill_null(0).to_numpy()
        flat = lists.filter(sizes > 0).explode()
        codes = self._flat_codes(flat)
        rows = np.repeat(np.arange(len(lists)), sizes)
        if codes.null_count() > flat.null_count():
            self._refuse_strangers(frame[rows], flat.cast(pl.String), codes, origin)
        known = codes.is_not_null().to_numpy()
        classes = codes.to_numpy()[known].astype(np.int64)
        missing = lists.is_null().to_numpy()
        return MultiHot.of(rows[known], classes, missing, self.num_classes)

    def _flat_codes(self, flat: pl.Series) -> pl.Series:
        own = pl.Enum(self.names)
        if flat.dtype != own:
            flat = flat.cast(pl.String).cast(own, strict=False)
        return flat.to_physical()


_FIX_MISSING = "fill it in, or set data.target.missing: drop"


def required_names(labels: Labels, table: Manifest | pl.DataFrame) -> tuple[str, ...] | None:
    """Return the classes that must occur in training, as `Split.assign` asks for them.

    None for values, and where the source says what classes there are, so that some may lack clips.
    """
    frame, _ = _opened(table)
    fixed = _fixed_names(frame[labels.columns[0]])
    return None if labels.task == "regression" or fixed is not None else labels.names


def _fixed_names(cells: pl.Series) -> list[str] | None:
    inner = cells.dtype.inner if isinstance(cells.dtype, pl.List) else cells.dtype
    return inner.categories.to_list() if isinstance(inner, pl.Enum) else None


def _lacking(target: TargetTable) -> npt.NDArray[np.bool_]:
    """Return bool `(rows,)`: where some of a clip's targets are missing."""
    if isinstance(target, MultiHot):
        return target.missing
    return np.asarray(np.isnan(target).any(axis=1))


def _opened(table: Manifest | pl.DataFrame) -> tuple[pl.DataFrame, str]:
    return (table.frame, table.origin) if isinstance(table, Manifest) else (table, "table")


def _asked_for(target: Target, frame: pl.DataFrame, name: str, origin: str) -> pl.Series:
    """Return a column; where a label file named it and there is none, say that file's line."""
    place = target.place(name)
    if place is not None and name not in frame.columns:
        hint = nearest(name, frame.columns) or f"; it has {', '.join(frame.columns[:20])}"
        raise DataError(f"{origin} has no column {name!r}{hint}", where=place)
    return find_column(frame, name, origin)


def _guess_task(target: Target, dtype: pl.DataType) -> Task:
    several = len(target.columns) > 1 or target.separator is not None or dtype == pl.List
    return "multi" if several else "single"


def _labels_of(cells: pl.Series) -> pl.Series:
    """Return cells as label names without blanks around; empty ones and `nan` are null."""
    text = as_text(cells).str.strip_chars().to_frame("cell")
    missing = pl.col("cell").str.to_lowercase().is_in(["", "nan"])
    return text.select(pl.when(~missing).then(pl.col("cell"))).to_series()


def _parted(cells: pl.Series, separator: str | None) -> pl.Series:
    """Return lists of label names; null for empty cells."""
    if cells.dtype == pl.List and _fixed_names(cells) is not None:
        return cells
    if cells.dtype == pl.List:
        return cells.list.eval(pl.element().cast(pl.String).str.strip_chars())
    text = _labels_of(cells)
    parts = text.str.split(separator or "\0")
    names = pl.element().str.strip_chars()
    lists = parts.list.eval(names.filter(names != ""))
    return pl.select(pl.when(text.is_not_null()).then(lists)).to_series()


def _names_in(cells: pl.Series, separator: str | None) -> list[str]:
    fixed = _fixed_names(cells)
    if fixed is not None:
        return fixed
    several = separator or cells.dtype == pl.List
    found = _parted(cells, separator).explode() if several else _labels_of(cells)
    names: list[str] = found.drop_nulls().unique().to_list()
    values = pl.Series(names, dtype=pl.String).cast(pl.Float64, strict=False)
    if values.null_count():
        return sorted(names)
    return [name for _, name in sorted(zip(values, names, strict=True))]


def _ordered(names: list[str], groups: list[list[str]] | None) -> list[str]:
    """Return the names in the order of their groups, which must hold each of them once."""
    if groups is None:
        return names
    flat = [name for group in groups for name in group]
    odd = sorted(set(flat) ^ set(names)) or sorted({n for n in flat if flat.count(n) > 1})
    if odd:
        raise ConfigError(
            f"groups must hold each of the {len(names)} labels once; see {', '.join(odd[:5])}",
            where="data.target.groups",
        )
    return flat


def _refuse_bars(names: list[str], origin: str) -> None:
    """Refuse names that could not be told apart again where decisions are joined by `|`."""
    name = next((name for name in names if "|" in name), None)
    if name is not None:
        text = f"the label {name!r} holds a |, which joins labels in predictions"
        raise DataError(text, where=origin, fix="rename it in the table")


def _read_flags(frame: pl.DataFrame, cells: pl.Series, origin: str) -> npt.NDArray[np.float64]:
    text = _labels_of(cells).str.to_lowercase()
    words = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
    flags = text.replace_strict(words, default=None, return_dtype=pl.Float64)
    bad = (flags.is_null() & text.is_not_null()).to_numpy()
    if bad.any():
        cell = cells[int(bad.argmax())]
        message = f"column {cells.name!r} must hold 0 or 1, and this is {cell!r}"
        _refuse(frame, bad, origin, message, "or set data.target.task: regression")
    return flags.fill_null(np.nan).to_numpy()


def _read_values(frame: pl.DataFrame, cells: pl.Series, origin: str) -> npt.NDArray[np.float64]:
    text = _labels_of(cells) if cells.dtype == pl.String else cells
    values = text.cast(pl.Float64, strict=False).fill_nan(None)
    bad = (
        (values.is_null() & text.is_not_null()) | values.is_infinite().fill_null(False)
    ).to_numpy()
    if cells.dtype.is_float():
        bad &= ~cells.is_nan().fill_null(False).to_numpy()
    if bad.any():
        cell = cells[int(bad.argmax())]
        _refuse(
            frame, bad, origin, f"column {cells.name!r} must hold numbers, and this is {cell!r}"
        )
    return values.fill_null(np.nan).to_numpy()


def _refuse_no_distribution(frame: pl.DataFrame, target: Targets, origin: str) -> None:
    known = ~np.isnan(target).any(axis=1)
    off = known & ((np.abs(target.sum(axis=1) - 1.0) > 1e-3) | (target < 0).any(axis=1))
    message = "the target columns of a single-label task must be shares that add up to 1"
    _refuse(frame, off, origin, message, "or set data.target.task: multi")
    target[~known] = np.nan


def _refuse(
    frame: pl.DataFrame,
    bad: npt.NDArray[np.bool_],
    origin: str,
    message: str,
    fix: str | None = None,
) -> None:
    if not bad.any():
        return
    first, count = int(bad.argmax()), int(bad.sum())
    row = frame["row"][first] if "row" in frame.columns else first + 1
    more = f" (and so in {count - 1} more rows)" if count > 1 else ""
    raise DataError(message + more, where=f"{origin}:{row}", fix=fix)


def _fifths(target: Targets) -> Targets:
    """Return 0/1 `(rows, columns x fifths)`: in which fifth of its column each value lies."""
    edges = np.nanquantile(target, np.linspace(0, 1, NUM_BINS + 1)[1:-1], axis=0)
    place = (target[None] > edges[:, None]).sum(axis=0)
    flags = (place[:, :, None] == np.arange(NUM_BINS)) & ~np.isnan(target)[:, :, None]
    return np.asarray(flags.reshape(len(target), -1), dtype=np.float32)
