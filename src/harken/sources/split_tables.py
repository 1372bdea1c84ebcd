"""Tables of clips that come as one file, or as a folder of train, valid and test files."""

from __future__ import annotations

import polars as pl

from harken import storage
from harken.errors import DataError
from harken.split import WORDS
from harken.tables import as_text, read_table

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def is_folder(url: str) -> bool:
    """Whether a table's name is that of a folder: there is one, and it has no table's suffix."""
    has_suffix = url.lower().endswith((*SUFFIXES, ".json", ".pq", ".txt"))
    return not has_suffix and storage.is_folder(url)


def read_tables(
    url: str, encoding: str | None = None, separator: str | None = None
) -> tuple[pl.DataFrame, str]:
    """Read a table, or the `train.csv`, `valid.csv` (or `val`, …) and `test.csv` of a folder.

    A folder's tables become one, whose column `split` says train, valid or test. Columns that some
    of them lack are empty there.

    Returns:
        The table, and its name for messages: `clips.csv`, or `splits/*.csv`.

    Raises:
        DataError: a table cannot be read, or a folder has none of these, or two for one split.
    """
    if not is_folder(url):
        return read_table(url, encoding, separator), url.rpartition("/")[2]
    files = split_files(url)
    parts = [_one(file, name, encoding, separator) for name, file in files.items()]
    folder = url.rstrip("/").rpartition("/")[2]
    suffix = next(iter(files.values())).rpartition(".")[2]
    return pl.concat(_alike(parts), how="diagonal_relaxed"), f"{folder}/*.{suffix}"


def has_split_files(folder: str) -> bool:
    """Whether a folder holds a train, valid or test table."""
    return bool(_split_files(folder))


def split_files(folder: str) -> dict[str, str]:
    """Return the files of a folder's splits: `{"train": "a/train.csv", …}`.

    Raises:
        DataError: there is none, or two for one split.
    """
    files = _split_files(folder)
    if not files:
        raise DataError(
            "this folder has no train.csv, valid.csv or test.csv",
            where=folder,
            fix="harken prepare splits makes them; or name one table",
        )
    twice = next((part for part, its in files.items() if len(its) > 1), None)
    if twice is not None:
        raise DataError(f"two tables for {twice}: {' and '.join(files[twice])}", where=folder)
    return {part: its[0] for part, its in files.items()}


def _split_files(folder: str) -> dict[str, list[str]]:
    base = str(storage.local_path(folder)) if storage.is_local(folder) else folder
    base = base.rstrip("/") or "/"
    names = {file: file[len(base) :].lstrip("/") for file in storage.list_files(base, SUFFIXES)}
    stems = {file: name.rpartition(".")[0].lower() for file, name in names.items()}
    files = {part: [f for f, stem in stems.items() if stem in WORDS[part]] for part in WORDS}
    return {part: its for part, its in files.items() if its}


def _one(file: str, part: str, encoding: str | None, separator: str | None) -> pl.DataFrame:
    frame = read_table(file, encoding, separator)
    if "split" in frame.columns:
        frame = frame.rename({"split": "table_split"})
    return frame.with_columns(split=pl.lit(part))


def _alike(parts: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Turn columns that are text in one part and numbers in another into text everywhere."""
    kinds: dict[str, set[bool]] = {}
    for part in parts:
        for name in part.columns:
            if part[name].null_count() < part.height:
                kinds.setdefault(name, set()).add(part[name].dtype == pl.String)
    mixed = [name for name, kind in kinds.items() if len(kind) > 1]
    return [
        part.with_columns(as_text(part[name]).alias(name) for name in mixed if name in part.columns)
        for part in parts
    ]


def without_valid_groups(
    frame: pl.DataFrame, column: str, origin: str
) -> tuple[pl.DataFrame, list[str]]:
    """Take clips out of train whose group (or id) validates too, as split tables often hold both.

    Args:
        frame: A table, perhaps with a column `split` of train, valid and test.
        column: What must not be on both sides, such as the speaker.
        origin: Name of the table.

    Returns:
        The table, and a note where clips were taken out.

    Raises:
        DataError: no training clip would be left.
    """
    if "split" not in frame.columns:
        return frame, []
    validates = frame.filter(pl.col("split") == "valid")[column].drop_nulls().unique()
    is_train = pl.col("split") == "train"
    torn_cells = is_train & pl.col(column).is_in(validates.to_list())
    is_torn = frame.select(torn_cells.fill_null(False)).to_series()
    if not is_torn.any():
        return frame, []
    kept = frame.filter(~is_torn)
    if not (kept["split"] == "train").any():
        raise DataError(
            f"the {column} of every training clip is in the validation table too",
            where=origin,
            fix="make the tables anew: harken prepare splits",
        )
    torn = frame.filter(is_torn)[column].n_unique()
    return kept, [
        f"{is_torn.sum()} clips of the training table are left out: their {column} "
        f"({torn} in all) is in the validation table"
    ]
