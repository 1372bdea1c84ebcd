"""The source `uid_folder`: recordings in folders of their own, with a JSON file beside each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, PrivateAttr

from harken import storage
from harken.audio import BadAudio, probe
from harken.choice import nearest
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources.source import Source
from harken.sources.split_tables import (
    has_split_files,
    is_folder,
    read_tables,
    without_valid_groups,
)
from harken.sources.table import absolute
from harken.sources.uid_tree import UidEntry, map_files, scalars, scan
from harken.tables import as_text, find_column, keep_where, kept_note

RATE_KEYS = ("sample_rate_hz", "sample_rate")
"""Where a metadata file may say the rate of its recording."""
_RESERVED = ("id", "path", "start", "duration", "weight")
"""Columns of a table that mean something else to harken, unless the recipe names them."""


class UidFolder(Source):
    """A tree of `<uid>/waveform.<ext>` with `<uid>/metadata.json`, as clinical labs keep them.

    All that the metadata files say in single values (task, subject, …) becomes columns, and so do
    the columns of the table, which win. The recording's own sample rate counts, whatever the
    metadata say. Names that harken needs for something else (such as `duration`) get the prefix
    `table_` or `metadata_`.
    """

    kind: Literal["uid_folder"] = "uid_folder"
    path: str
    """The tree's root; a path or a URL."""
    study: str | None = None
    """Name of a folder between the root and the uids."""
    table: str | None = None
    """Which recordings, and their labels: a table with a column of uids, or a folder with
    `train.csv`, `test.csv` and perhaps `valid.csv`, which become the column `split` (clips of
    `train.csv` whose speaker is in `valid.csv` are left out). Null takes every uid there is."""
    id: str = "uid"
    """The table's column of uids."""
    group: str | None = None
    """Column with what must not be split; null takes `group`, else `subject`."""
    weight: str | None = None
    """Column with the clip's weight in the loss; null weighs all clips alike."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Keep only rows whose column equals a value, or one of a list: `{task: [vowel, word]}`."""
    on_missing: Literal["stop", "skip"] = "stop"
    """`stop` at a uid without folder, recording or readable metadata, or `skip` and count it."""
    check_rates: bool = True
    """Read every recording's header, and report where the metadata give another sample rate."""

    default_target: ClassVar[str | None] = None

    # Clips that a finished run has not seen need neither its group nor the columns of `where`.
    _is_new: bool = PrivateAttr(False)

    def load(self) -> Manifest:
        """Find the recordings, read their metadata, and join the table.

        Raises:
            DataError: a table, a column, a metadata file or a recording cannot be used.
        """
        root = absolute(storage.join(self.path, *([self.study] if self.study else [])))
        entries = scan(root)
        table, origin, renamed = self._table(entries, root)
        total = table.height
        early = {name: value for name, value in self.where.items() if name in table.columns}
        table = keep_where(table, early, origin)
        table, files, metadata, notes = self._found(table, entries, root, origin)
        if self.check_rates:
            notes += _check_rates(files, metadata)
        table = _joined(table.with_columns(path=pl.Series("path", files)), metadata)
        where = {n: v for n, v in self.where.items() if n in table.columns or not self._is_new}
        table = keep_where(table, where, origin)
        notes += kept_note(where, table.height, total)
        table, moved = self._grouped(table, origin)
        return Manifest(table, origin, (*notes, *moved, *renamed))

    def on(self, new: str) -> UidFolder:
        """Return the source that reads other recordings like these.

        They need not have the columns of `group`, `where` and `weight`; what they have counts.

        Args:
            new: A table of uids of this tree (or a folder of train, valid and test tables), or the
                root of another tree.
        """
        if is_folder(new) and not has_split_files(new):
            source = self.model_copy(update={"path": new, "study": None, "table": None})
        else:
            columns = read_tables(new)[0].columns
            weight = self.weight if self.weight in columns else None
            source = self.model_copy(update={"table": new, "weight": weight})
        source._is_new = True
        return source

    def _table(
        self, entries: dict[str, UidEntry], root: str
    ) -> tuple[pl.DataFrame, str, list[str]]:
        """Return the table with the columns `id` and `row`, its name, and notes."""
        if self.table is None:
            uids = pl.Series("id", list(entries))
            rows = np.arange(1, len(uids) + 1)
            frame = pl.DataFrame({"id": uids, "uid": uids, "row": rows})
            return frame, root.rpartition("/")[2], []
        table, origin = read_tables(self.table)
        uids = as_text(find_column(table, self.id, origin)).str.strip_chars()
        weight = None if self.weight is None else find_column(table, self.weight, origin)
        own = [name for name in _RESERVED if name in table.columns and name != self.id]
        table = table.rename({name: f"table_{name}" for name in own}).with_columns(id=uids)
        if weight is not None:
            table = table.with_columns(weight.alias("weight"))
        lost = [name for name in own if name != self.weight]
        notes = [f"the table's own column {name!r} is called 'table_{name}' here" for name in lost]
        return table, origin, notes

    def _found(
        self, table: pl.DataFrame, entries: dict[str, UidEntry], root: str, origin: str
    ) -> tuple[pl.DataFrame, list[str], list[dict[str, Any]], list[str]]:
        """Return the rows that have a recording, with its file and its metadata, and notes."""

        def look_up(cell: tuple[str | None, int]) -> tuple[str, dict[str, Any]] | DataError:
            try:
                return _entry(entries, cell, root, origin)
            except DataError as error:
                return error

        found = map_files(look_up, zip(table["id"], table["row"], strict=True))
        errors = [each for each in found if isinstance(each, DataError)]
        good = [each for each in found if not isinstance(each, DataError)]
        if errors:
            # Looking for the nearest of many names takes a second, so it is done for one only.
            uid = table["id"][next(i for i, each in enumerate(found) if each is errors[0])]
            hint = nearest(uid, entries) if uid and uid not in entries else ""
            errors[0] = DataError(errors[0].message + hint, where=errors[0].where)
        if errors and (self.on_missing == "stop" or not good):
            raise _all_of(errors, self.on_missing)
        notes = [f"{len(errors)} uids are left out, such as {error}" for error in errors[:1]]
        keep = pl.Series([not isinstance(each, DataError) for each in found], dtype=pl.Boolean)
        return table.filter(keep), [f for f, _ in good], [scalars(m) for _, m in good], notes

    def _grouped(self, table: pl.DataFrame, origin: str) -> tuple[pl.DataFrame, list[str]]:
        usual = [name for name in ("group", "subject") if name in table.columns]
        column: str | None = usual[0] if usual else None
        if self.group is not None and (self.group in table.columns or not self._is_new):
            column = self.group
        if column is not None:
            cells = find_column(table, column, origin)
            if "group" in table.columns and column != "group":
                table = table.rename({"group": "table_group"})
            table = table.with_columns(cells.alias("group"))
        if self.table is None:
            return table, []
        return without_valid_groups(table, column or "id", origin)


def _entry(
    entries: dict[str, UidEntry], cell: tuple[str | None, int], root: str, origin: str
) -> tuple[str, dict[str, Any]]:
    uid, row = cell
    if not uid:
        raise DataError("no uid", where=f"{origin}:{row}")
    if uid not in entries:
        raise DataError(f"there is no folder {uid!r} in {root}", where=f"{origin}:{row}")
    metadata = entries[uid].metadata()
    return entries[uid].waveform(metadata.get("encoding")), metadata


def _all_of(errors: Sequence[DataError], on_missing: str) -> DataError:
    first = errors[0]
    more = f" (and so for {len(errors) - 1} more uids)" if len(errors) > 1 else ""
    fix = first.fix or (None if on_missing == "skip" else "data.source.on_missing=skip counts them")
    return DataError(first.message + more, where=first.where, fix=fix)


def _check_rates(files: list[str], metadata: list[dict[str, Any]]) -> list[str]:
    """Put the recordings' own rates into the metadata, and say where these differ."""
    odd = []
    for file, about, rate in zip(files, metadata, map_files(_rate, files), strict=True):
        key = next((key for key in RATE_KEYS if about.get(key) is not None), None)
        if key is None or rate is None:
            continue
        if _number(about[key]) != rate:
            odd.append(f"{file} has {rate} Hz, not {about[key]}")
        about[key] = rate
    return [
        f"{len(odd)} recordings have another sample rate than their metadata say, and the "
        f"recording's own counts: {first}"
        for first in odd[:1]
    ]


def _rate(file: str) -> int | None:
    try:
        return probe(file).sample_rate
    except BadAudio:
        # Decoding meets the same file again, and there the recipe says what becomes of it.
        return None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _joined(table: pl.DataFrame, metadata: list[dict[str, Any]]) -> pl.DataFrame:
    """Add the columns of the metadata that the table does not have."""
    names = dict.fromkeys(name for about in metadata for name in about)
    reserved = (*_RESERVED, "row", "group", "fold", "split")
    columns = []
    for name in names:
        called = f"metadata_{name}" if name in reserved else name
        if called not in (*table.columns, "uid"):
            columns.append(_column(called, [about.get(name) for about in metadata]))
    return table.with_columns(columns)


def _column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        values = [None if value is None else str(value) for value in values]
    return pl.Series(name, values, strict=False)
