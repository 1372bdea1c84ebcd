"""The source `table`: a CSV, TSV, JSONL or Parquet file with a row for each clip."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from harken import storage
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources.source import Source
from harken.sources.split_tables import is_folder, read_tables, without_valid_groups
from harken.tables import as_text, find_column, free_name, keep_where, kept_note

ROLES = ("group", "fold", "split")
"""Columns that are taken by their own name where no other is named."""


class Table(Source):
    """A table of clips; all its columns stay, under their own names.

    A column whose name harken needs for something else (`id`, `path`, `start`, `duration`, `row`,
    `group`, `fold`, `split`, `weight`) gets the prefix `table_`, and a note says so.
    """

    kind: Literal["table"] = "table"
    path: str
    """The table: `.csv`, `.tsv`, `.jsonl`, `.json` or `.parquet`, a path or a URL; or a folder with
    `train.csv`, `test.csv` and perhaps `valid.csv`, which become the column `split` (clips of
    `train.csv` whose group is in `valid.csv` are left out)."""
    root: str | None = None
    """Folder that relative paths of recordings start from; null is the table's own."""
    audio: str = "path"
    """Column with the path or URL of the recording."""
    id: str | None = None
    """Column that names the clips, each once. Null takes `id` where that is unique, else the
    recording's name without its suffix, or its whole path where names repeat; parts of recordings
    add their times: `visit3:1.5-4`."""
    start: str | None = None
    """Column with the clip's beginning in seconds; null takes `start` where there is one."""
    end: str | None = None
    """Column with the clip's end in seconds; null takes `end` where there is one and a start."""
    duration: str | None = None
    """Column with the clip's seconds, for tables without an end; null takes `duration` where there
    is a start and no end."""
    group: str | None = None
    """Column with what must not be split, such as the speaker; null takes `group`."""
    fold: str | None = None
    """Column with published folds; null takes `fold`."""
    split: str | None = None
    """Column with train, valid and test; null takes `split`."""
    weight: str | None = None
    """Column with the clip's weight in the loss; null weighs all clips alike."""
    encoding: str | None = None
    """Encoding of a text table; null tries UTF-8 and CP949."""
    separator: str | None = Field(None, min_length=1, max_length=1)
    """What parts the cells; null finds comma, semicolon or tab."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Keep only rows whose column equals a value, or one of a list: `{task: [vowel, word]}`."""

    default_target: ClassVar[str | None] = None

    def load(self) -> Manifest:
        """Read the table; recordings are not opened yet.

        Raises:
            DataError: the table, a column or a row cannot be used; says which and where.
        """
        every, origin = read_tables(self.path, self.encoding, self.separator)
        table = keep_where(every, self.where, origin)
        filtered = kept_note(self.where, table.height, every.height)
        roles = self._roles(table, origin)
        if is_folder(self.path):
            table, moved = without_valid_groups(table, roles.get("group", self.audio), origin)
            filtered += moved
        text = as_text(find_column(table, self.audio, origin))
        columns = {"row": table["row"], "path": resolve(text, self._root())}
        columns |= _times(table, roles, origin)
        columns |= {name: table[roles[name]] for name in (*ROLES, "weight") if name in roles}
        name = self._id_column(table, origin)
        own = default_ids(text, columns.get("start"), columns.get("duration"))
        columns["id"] = own if name is None else table[name]
        roles |= {"path": self.audio, "row": "row", "id": name or ""}
        rest, notes = _others(table, set(columns) | {"start", "duration", "weight"}, roles)
        return Manifest(pl.DataFrame(columns | rest), origin, (*filtered, *notes))

    def _root(self) -> str:
        own = self.path if is_folder(self.path) else self.path.rpartition("/")[0]
        return absolute(self.root if self.root is not None else own or ".")

    def _roles(self, table: pl.DataFrame, origin: str) -> dict[str, str]:
        """Return which column plays which part."""
        named = {
            name: column
            for name in ("start", "end", "duration", "weight", *ROLES)
            if (column := getattr(self, name)) is not None
        }
        for column in named.values():
            find_column(table, column, origin)
        implied = [name for name in ("start", *ROLES) if name in table.columns]
        if "start" in {*named, *implied} and not {"end", "duration"} & set(named):
            implied += [name for name in ("end", "duration") if name in table.columns][:1]
        if {"end", "duration"} <= set(named):
            raise DataError("give the end or the duration of clips, not both", where=origin)
        return {name: name for name in implied} | named

    def _id_column(self, table: pl.DataFrame, origin: str) -> str | None:
        if self.id is not None:
            return find_column(table, self.id, origin).name
        ids = table["id"] if "id" in table.columns else None
        return "id" if ids is not None and ids.drop_nulls().n_unique() == table.height else None


def absolute(folder: str) -> str:
    """Return a local folder as an absolute path; a URL stays as it is."""
    is_local = storage.is_local(folder)
    return os.path.abspath(storage.local_path(folder)) if is_local else folder


def resolve(paths: pl.Series, root: str) -> pl.Series:
    """Return absolute paths or URLs; one recording has one spelling."""
    fresh = pl.col("p").str.starts_with("/") | pl.col("p").str.contains("://", literal=True)
    joined = (
        pl.when(fresh).then(pl.col("p")).otherwise(pl.lit(root.rstrip("/") + "/") + pl.col("p"))
    )
    full = paths.alias("p").to_frame().select(joined).to_series().str.strip_prefix("file://")
    odd = full.str.contains(r"[^:]//|/\.\.?/").fill_null(False)
    while odd.any():
        # Each round takes away one step up of every path, so that few rounds are needed.
        simple = full.str.replace_all(r"([^:])/(?:\.?/)+", "$1/")
        simple = simple.str.replace(r"/(?:[^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)/\.\./", "/")
        if (simple == full).all():
            break
        full = simple
    return full.alias("path")


def default_ids(
    paths: pl.Series, start: pl.Series | None = None, duration: pl.Series | None = None
) -> pl.Series:
    """Return file names without suffix where these are unique, else the paths; times are added.

    Args:
        paths: Paths as the table has them.
        start: Seconds, or None where clips are whole recordings.
        duration: Seconds, or None.
    """
    stems = paths.str.extract(r"([^/]+?)(?:\.[^./]*)?$", 1)
    names = stems if stems.n_unique() == paths.n_unique() else paths
    if start is None and duration is None:
        return names.alias("id")
    times = pl.DataFrame({"name": names, "start": start, "duration": duration})
    begin = pl.col("start").fill_null(0.0)
    end = pl.col("duration") + begin
    spelled = [_seconds(begin), _seconds(end).fill_null("")]
    part = pl.format("{}:{}-{}", "name", *spelled)
    whole = pl.col("start").is_null() & pl.col("duration").is_null()
    return times.select(id=pl.when(whole).then(pl.col("name")).otherwise(part)).to_series()


def _seconds(seconds: pl.Expr) -> pl.Expr:
    return seconds.round(6).cast(pl.String).str.strip_suffix(".0")


def _times(table: pl.DataFrame, roles: dict[str, str], origin: str) -> dict[str, pl.Series]:
    """Return `start` and `duration` in seconds, as far as the table knows them."""
    times = {
        name: _numbers(table, roles[name], origin)
        for name in ("start", "end", "duration")
        if name in roles
    }
    if "end" in times:
        end = times.pop("end")
        begin = times["start"].fill_null(0.0) if "start" in times else 0.0
        times["duration"] = end - begin
    return {name: column.alias(name) for name, column in times.items()}


def _numbers(table: pl.DataFrame, column: str, origin: str) -> pl.Series:
    cells = table[column]
    numbers = cells.cast(pl.Float64, strict=False).fill_nan(None)
    bad = cells.is_not_null() & numbers.is_null()
    if bad.any() and not cells.dtype.is_float():
        first = bad.arg_max() or 0
        raise DataError(
            f"column {column!r} must hold seconds, and this is {cells[first]!r}",
            where=f"{origin}:{table['row'][first]}",
        )
    return numbers


def _others(
    table: pl.DataFrame, taken: set[str], roles: dict[str, str]
) -> tuple[dict[str, pl.Series], list[str]]:
    """Return the columns that play no part, renamed where harken needs their names."""
    rest, notes = {}, []
    for name in table.columns:
        if name not in taken:
            rest[name] = table[name]
        elif roles.get(name) != name:
            free = free_name(name, [name], table.columns)
            rest[free] = table[name]
            notes.append(f"the table's own column {name!r} is called {free!r} here")
    return rest, notes
