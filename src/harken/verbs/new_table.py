"""A table that a finished run has not seen: read as the run reads its own, labels or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.choice import nearest
from harken.errors import DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.recipe import Recipe
from harken.sources import Source, Table
from harken.sources.table import ROLES, absolute, default_ids, resolve
from harken.sources.uid_folder import UidFolder
from harken.tables import read_table
from harken.verbs.prepare import load_clips


def source_on(source: Source, on: str) -> Source:
    """Return the source that reads another table as a run's own source reads its table.

    Roles that a new table need not have (group, fold, split, weight) are taken only where it has
    the columns; so are the conditions of `where`.
    """
    if isinstance(source, UidFolder):
        return source.on(on)
    if not isinstance(source, Table):
        return Table(path=on)
    columns = set(read_table(on, source.encoding, source.separator).columns)
    absent = {n: None for n in (*ROLES, "weight") if getattr(source, n) not in columns}
    return source.model_copy(update={"path": on, **absent, **_where(source, columns)})


def _where(source: Table, columns: set[str]) -> dict[str, Any]:
    return {"where": {name: value for name, value in source.where.items() if name in columns}}


def load_table(recipe: Recipe, on: str) -> Manifest:
    """Read a new table with a run's recipe; its recordings are not opened yet.

    Columns are derived as in the run, but for those of which the table has no origin at all.

    Raises:
        DataError: it cannot be read, has no column with the recordings, or has some of the columns
            that a derived one is made of and lacks others.
    """
    return load_clips(recipe, source_on(recipe.data.source, on))


def manifest_of_files(files: Sequence[str]) -> Manifest:
    """Return audio files as clips.

    Raises:
        DataError: a file is named twice.
    """
    paths = pl.Series("path", list(files), dtype=pl.String)
    full = resolve(paths, absolute("."))
    return Manifest(pl.DataFrame({"id": default_ids(full), "path": full}), "the command line")


def labels_in(labels: Labels, manifest: Manifest) -> Labels | None:
    """Return a run's labels for a new table, where empty cells are left out; None without any.

    Raises:
        DataError: the table has some of the label columns and lacks others; says which.
    """
    missing = [name for name in labels.columns if name not in manifest]
    if len(missing) == len(labels.columns):
        return None
    if missing:
        known = [name for name in manifest.columns if name not in labels.columns]
        named = ", ".join(f"{name!r}{nearest(name, known)}" for name in missing)
        raise DataError(
            f"{len(missing)} of the run's {len(labels.columns)} label columns are missing: {named}",
            where=manifest.origin,
            fix="add them (empty cells are left out), or leave out all label columns to predict "
            "without metrics",
        )
    return replace(labels, missing="mask")


def encode(labels: Labels, manifest: Manifest) -> npt.NDArray[np.float32]:
    """Return the targets of a new table `(clips, classes)`, NaN where a label is missing.

    Raises:
        DataError: a label is none of the run's; says which row.
    """
    try:
        return labels.encode(manifest)
    except DataError as error:
        raise DataError(
            error.message,
            where=error.where,
            fix="a run judges only the labels that it learned: rename the cell, or empty it",
        ) from None
