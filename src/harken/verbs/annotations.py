"""`harken prepare labels`: from one row per rating to one row per recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import polars as pl

from harken.choice import nearest
from harken.derive import count_values
from harken.errors import ConfigError, DataError
from harken.sources.split_tables import is_folder
from harken.sources.table import absolute
from harken.sources.uid_tree import UidEntry, map_files, scan
from harken.storage import join
from harken.tables import as_text, find_column, keep_where, read_table
from harken.verbs.splits import write_table

OverRaters = Literal["max", "mean", "median"]

ABOUT = ("task", "subject")
"""Columns beside the labels that the label table keeps."""
LISTS = ("features", "diag")
"""Entries of a metadata file that hold ratings: `[{"name": …, "score": …}, …]`."""


@dataclass(frozen=True)
class LabelTable:
    """What `make_labels` wrote.

    Attributes:
        file: The table.
        frame: It: `uid`, `task` and `subject` where known, and a column for each feature.
        features: Names of the features, in the order of their first rating.
        notes: What a person should know.
    """

    file: str
    frame: pl.DataFrame
    features: list[str]
    notes: list[str] = field(default_factory=list)


def make_labels(
    annotations: str,
    out: str,
    *,
    ignore: Sequence[float] = (),
    over_raters: OverRaters = "max",
    binary_above: float | None = None,
    table: str | None = None,
    task: Sequence[str] = (),
    task_column: str = "task",
    uid: str = "uid",
    feature: str = "feature",
    score: str = "score",
    study: str | None = None,
) -> LabelTable:
    """Turn ratings into a table of labels, and write it.

    Args:
        annotations: A table with a row per rating, or the root of a UID tree, whose metadata files
            hold lists `features` and `diag` of names and scores.
        out: The table to write, `.csv` or `.parquet`.
        ignore: Scores that mean `not rated`.
        over_raters: What several ratings of one feature of one recording become.
        binary_above: If given, the result is 1 above this value and 0 up to it.
        table: A table of recordings, whose task and subject join; with a column of the same uids.
        task: Keep only recordings of these tasks.
        task_column: The column that `task` looks at.
        uid: The column of recordings.
        feature: The column of what was rated.
        score: The column of ratings.
        study: The study's folder in a UID tree.

    Raises:
        ConfigError: `over_raters` is unknown, or `out` is a table that is read.
        DataError: a file or column is missing, a score is no number, or nothing is left.
    """
    if over_raters not in get_args(OverRaters):
        known = ", ".join(get_args(OverRaters))
        raise ConfigError(f"one of {known}, not {over_raters!r}", where="--over-raters")
    if absolute(out) in [absolute(read) for read in (annotations, table) if read is not None]:
        raise ConfigError(
            f"{out} is a table that is read, and would be lost", where="--out", fix="another name"
        )
    about_columns = tuple(dict.fromkeys((*ABOUT, task_column)))
    if is_folder(annotations):
        long, about, origin = _read_tree(join(annotations, *([study] if study else [])))
    else:
        if study is not None:
            raise ConfigError("only UID trees have studies; this is a table", where="--study")
        long, origin = _read_long(annotations, uid, feature, score)
        about = _about(read_table(annotations), uid, about_columns, origin)
    notes: list[str] = []
    if table is not None:
        about = _about(read_table(table), uid, about_columns, table.rpartition("/")[2])
        notes += _not_in(long, about, table)
    about = about.select("uid", *(name for name in about_columns if name in about.columns))
    kept = long.filter(~pl.col("score").is_in([float(code) for code in ignore]).fill_null(False))
    notes += [f"{long.height - kept.height} ratings are ignored"] if ignore else []
    wide = _widen(long, kept, over_raters, binary_above)
    joined = about.join(wide, on="uid", how="right", maintain_order="right", coalesce=True)
    joined = joined.select(*about.columns, *(n for n in wide.columns if n != "uid"))
    if task:
        numbered = joined.with_row_index("row", offset=1)
        joined = keep_where(numbered, {task_column: list(task)}, origin).drop("row")
    features = [name for name in wide.columns if name != "uid"]
    notes += [f"{name}: {count_values(joined[name])}" for name in features]
    write_table(joined, out)
    return LabelTable(out, joined, features, notes)


def _read_long(annotations: str, uid: str, feature: str, score: str) -> tuple[pl.DataFrame, str]:
    """Return the ratings as columns `uid`, `feature` and `score`."""
    origin = annotations.rpartition("/")[2]
    table = read_table(annotations)
    columns = {name: find_column(table, column, origin) for name, column in
               {"uid": uid, "feature": feature, "score": score}.items()}  # fmt: skip
    long = pl.DataFrame({
        "row": table["row"],
        "uid": as_text(columns["uid"]).str.strip_chars(),
        "feature": as_text(columns["feature"]).str.strip_chars(),
        "score": columns["score"].cast(pl.Float64, strict=False).fill_nan(None),
    })  # fmt: skip
    text = as_text(columns["score"]).str.strip_chars()
    words = (
        long["score"].is_null() & text.is_not_null() & ~text.str.to_lowercase().is_in(["", "nan"])
    )
    _refuse(long, words, f"column {score!r} must hold numbers", text, origin)
    for name, column in (("uid", uid), ("feature", feature)):
        empty = long[name].is_null() | (long[name] == "").fill_null(False)
        _refuse(long, empty, f"column {column!r} is empty here", None, origin)
    return long.drop("row"), origin


def _refuse(
    long: pl.DataFrame, bad: pl.Series, message: str, cells: pl.Series | None, origin: str
) -> None:
    if bad.any():
        first = bad.arg_max() or 0
        found = "" if cells is None else f", and this is {cells[first]!r}"
        more = f" (and so in {bad.sum() - 1} more rows)" if bad.sum() > 1 else ""
        raise DataError(message + found + more, where=f"{origin}:{long['row'][first]}")


def _read_tree(root: str) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """Return the ratings in a tree's metadata files, and task and subject of each recording."""
    entries = list(scan(root).values())
    metadata = map_files(UidEntry.metadata, entries)
    rows = [
        (entry.uid, name, value)
        for entry, about in zip(entries, metadata, strict=True)
        for name, value in _ratings(about, join(entry.folder, "metadata.json"))
    ]
    if not rows:
        raise DataError("no metadata.json holds a list 'features' or 'diag'", where=root)
    schema = {"uid": pl.String, "feature": pl.String, "score": pl.Float64}
    long = pl.DataFrame(rows, schema=schema, orient="row")
    about = {name: [_text(m.get(name)) for m in metadata] for name in ABOUT}
    known = {name: cells for name, cells in about.items() if any(c is not None for c in cells)}
    uids = pl.DataFrame({"uid": [entry.uid for entry in entries], **known})
    return long, uids, root.rstrip("/").rpartition("/")[2]


def _ratings(metadata: Mapping[str, Any], file: str) -> Iterator[tuple[str, float | None]]:
    for name in LISTS:
        items = metadata.get(name) or []
        if not isinstance(items, list):
            raise DataError(f"{name!r} must be a list of names and scores", where=file)
        for item in items:
            if not isinstance(item, dict) or "name" not in item or "score" not in item:
                example = '{"name": "slow rate", "score": 2}'
                raise DataError(f"{name!r} must hold entries such as {example}", where=file)
            yield str(item["name"]).strip(), _score(item["score"], file)


def _score(value: object, file: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(str(value))
    except ValueError as error:
        raise DataError(f"the score {value!r} is no number", where=file) from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _about(table: pl.DataFrame, uid: str, columns: Sequence[str], origin: str) -> pl.DataFrame:
    """Return one row a recording: `uid`, and those of some columns that the table has.

    Raises:
        DataError: the table says two things about one recording.
    """
    cells = {"uid": as_text(find_column(table, uid, origin)).str.strip_chars()}
    cells |= {name: table[name] for name in columns if name in table.columns}
    about = pl.DataFrame(cells).unique(maintain_order=True)
    twins = about["uid"].is_duplicated()
    if twins.any():
        raise DataError(
            f"the recording {about['uid'][twins.arg_max() or 0]!r} has different values in "
            f"{' or '.join(about.columns[1:])}",
            where=origin,
        )
    return about


def _not_in(long: pl.DataFrame, about: pl.DataFrame, table: str) -> list[str]:
    lacking = long["uid"].unique(maintain_order=True)
    lacking = lacking.filter(~lacking.is_in(about["uid"].to_list()))
    if len(lacking) == long["uid"].n_unique():
        hint = nearest(lacking[0], about["uid"].drop_nulls().to_list())
        raise DataError(
            f"no recording is in this table, not even {lacking[0]!r}{hint}", where=table
        )
    return (
        [f"{len(lacking)} recordings are not in {table}: {lacking[0]!r} …"] if len(lacking) else []
    )


def _widen(
    long: pl.DataFrame, kept: pl.DataFrame, over_raters: OverRaters, binary_above: float | None
) -> pl.DataFrame:
    """Return a row per recording and a column per feature, also of those that nobody rated."""
    combine = {
        "max": pl.col("score").max(),
        "mean": pl.col("score").mean(),
        "median": pl.col("score").median(),
    }
    rated = kept.group_by("uid", "feature", maintain_order=True).agg(combine[over_raters])
    names = long["feature"].unique(maintain_order=True).to_list()
    if clash := sorted({"uid", *ABOUT} & set(names)):
        raise DataError(f"a feature is called {clash[0]!r}, as a column of the label table is")
    wide = long.select("uid").unique(maintain_order=True)
    for name in names:
        its = rated.filter(pl.col("feature") == name).select("uid", pl.col("score").alias(name))
        wide = wide.join(its, on="uid", how="left", maintain_order="left")
    if binary_above is not None:
        wide = wide.with_columns((pl.col(names) > binary_above).cast(pl.Int64))
    return wide.with_columns(_whole(wide[name]) for name in names)


def _whole(scores: pl.Series) -> pl.Series:
    whole = scores.cast(pl.Int64)
    return whole if (whole == scores).all() else scores


def describe(done: LabelTable) -> list[str]:
    """Return what a person should see."""
    first = f"{done.file}: {done.frame.height} recordings, {len(done.features)} features"
    return [first, *(f"note: {note}" for note in done.notes)]
