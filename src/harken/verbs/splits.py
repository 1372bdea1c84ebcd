"""`harken prepare splits`: speaker-disjoint train, valid and test tables, of sizes in speakers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from harken import storage
from harken.choice import nearest
from harken.deal import Deck, Flags, Strata, number_units
from harken.errors import ConfigError, DataError
from harken.manifest import Manifest
from harken.sources import UidFolder
from harken.sources.split_tables import is_folder
from harken.tables import as_text, find_column, matches, near_value, read_table

PARTS = ("train", "valid", "test")
GROUPS = ("subject", "speaker", "group")
"""Columns that are taken for the speaker where none is named."""
LIST_COLUMNS = ("speakerID", *GROUPS)
"""What the column of a list of speakers may be called."""

Size = int | float


@dataclass(frozen=True)
class SplitTables:
    """What `make_splits` wrote.

    Attributes:
        files: The table of each part.
        num_rows: Clips of each part.
        speakers: Speakers of each part, sorted.
        notes: What a person should know.
    """

    files: dict[str, str]
    num_rows: dict[str, int]
    speakers: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)


def make_splits(
    source: str,
    out: str,
    *,
    train: Size | None = None,
    valid: Size = 0.15,
    test: Size = 0.15,
    group: str | None = None,
    seed: int = 0,
    task_column: str = "task",
    train_task: Sequence[str] = (),
    test_task: Sequence[str] = (),
    test_speakers: str | None = None,
    stratify: Sequence[str] = (),
    study: str | None = None,
    overwrite: bool = False,
) -> SplitTables:
    """Part a table by speakers, and write `train.csv`, `valid.csv`, `test.csv` and `splits.json`.

    Test speakers are drawn first, then validation speakers, then those that train; no speaker is in
    two parts. The same table and seed give the same files.

    Args:
        source: A table of any kind, or the root of a UID tree.
        out: The folder to write to.
        train: Speakers that train, without those that validate; None takes all that are left. A
            whole number counts speakers; a share between 0 and 1 is one of all speakers.
        valid: Speakers that validate; 0 for none.
        test: Speakers that are tested; 0 for none.
        group: The speakers' column; None takes `subject`, `speaker` or `group`.
        seed: Of the draws.
        task_column: The column that `train_task` and `test_task` look at.
        train_task: Keep only these tasks in train and valid; empty keeps all.
        test_task: Keep only these tasks in test.
        test_speakers: A file of speakers, from whom alone test speakers are drawn.
        stratify: Columns whose values should be in all parts in the same proportions.
        study: The study's folder in a UID tree.
        overwrite: Replace tables that are there already.

    Raises:
        ConfigError: a size makes no sense.
        DataError: a column or a task is missing, or there are too few speakers.
    """
    sizes = {"train": train, "valid": valid, "test": test}
    files = {part: storage.join(out, f"{part}.csv") for part in PARTS}
    _check_sizes(sizes)
    _refuse_to_replace(files, sizes, overwrite)
    frame, origin = _read(source, study)
    speaker = speaker_of(frame, group, origin)
    tasks = {
        "train": _has_task(frame, task_column, train_task, origin),
        "test": _has_task(frame, task_column, test_task, origin),
    }
    allowed, notes = _allowed(speaker, test_speakers)
    deck = _deck(speaker, _strata(frame, stratify, origin), seed, origin)
    parts = _draw_all(deck, tasks, allowed, _counts(sizes, speaker, tasks))
    notes += _left_over(parts)
    done = _write(frame, speaker, parts, files)
    settings = {
        **{"source": source, "seed": seed, "group": speaker.name, "sizes": sizes, "study": study},
        **{"task_column": task_column, "train_task": [*train_task], "test_task": [*test_task]},
        **{"test_speakers": test_speakers, "stratify": [*stratify]},
    }
    made = {
        part: {"num_rows": done.num_rows[part], "speakers": done.speakers[part]}
        for part in done.files
    }
    text = json.dumps({**settings, "parts": made, "notes": notes}, indent=1, ensure_ascii=False)
    storage.write_atomic(storage.join(out, "splits.json"), text + "\n")
    return SplitTables(done.files, done.num_rows, done.speakers, notes)


def read_size(text: str, where: str) -> Size:
    """Read `50` as a number of speakers, and `0.2` as a share.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise ConfigError(
            f"expected a number of speakers such as 50, or a share such as 0.2, not {text!r}",
            where=where,
        ) from error


def speaker_of(frame: pl.DataFrame, group: str | None, origin: str) -> pl.Series:
    """Return the column of speakers, as text.

    Raises:
        DataError: there is none, or a cell is empty.
    """
    usual = [name for name in GROUPS if name in frame.columns]
    if group is None and not usual:
        raise DataError(
            "there is no column 'subject', 'speaker' or 'group'",
            where=origin,
            fix=f"--group with one of {', '.join(frame.columns)}",
        )
    column = find_column(frame, group or usual[0], origin)
    text = as_text(column).str.strip_chars()
    lacks = (text.is_null() | (text == "")).fill_null(True)
    if lacks.any():
        row = frame["row"][lacks.arg_max() or 0]
        raise DataError(f"no speaker in column {column.name!r}", where=f"{origin}:{row}")
    return text


def _check_sizes(sizes: Mapping[str, Size | None]) -> None:
    for part, size in sizes.items():
        if size is not None and (size < 0 or (isinstance(size, float) and size >= 1)):
            raise ConfigError(
                f"{size} is neither a number of speakers nor a share below 1", where=f"--{part}"
            )
    if sizes["train"] == 0:
        raise ConfigError("somebody must train", where="--train")


def _refuse_to_replace(
    files: Mapping[str, str], sizes: Mapping[str, Size | None], overwrite: bool
) -> None:
    for part, file in files.items():
        if not storage.exists(file):
            continue
        if not overwrite:
            raise DataError("this table is there already", where=file, fix="--overwrite")
        if sizes[part] == 0:
            raise DataError(f"these splits have no {part}, and this old table would join them",
                            where=file, fix="delete it, or choose another --out")  # fmt: skip


def _read(source: str, study: str | None) -> tuple[pl.DataFrame, str]:
    if not is_folder(source):
        if study is not None:
            raise ConfigError("only UID trees have studies; this is a table", where="--study")
        return read_table(source), source.rpartition("/")[2]
    clips = UidFolder(path=source, study=study, check_rates=False).load()
    made = [name for name in ("id", "path", "start", "duration", "group") if name in clips]
    return clips.frame.drop(made), clips.origin


def _has_task(frame: pl.DataFrame, column: str, tasks: Sequence[str], origin: str) -> Flags:
    if not tasks:
        return np.ones(frame.height, dtype=bool)
    cells = find_column(frame, column, origin)
    for task in tasks:
        if not matches(cells, [task]).any():
            raise DataError(
                f"no cell of column {column!r} is {task!r}{near_value(cells, task)}", where=origin
            )
    return matches(cells, list(tasks)).to_numpy()


def _allowed(speaker: pl.Series, file: str | None) -> tuple[Flags, list[str]]:
    """Return which clips' speakers may be tested, and a note."""
    if file is None:
        return np.ones(len(speaker), dtype=bool), []
    listed = _listed(file, speaker)
    known = [name for name in listed if name in set(speaker)]
    if not known:
        hint = nearest(listed[0], set(speaker)) if listed else ""
        raise DataError(f"no speaker of the table is in this list{hint}", where=file)
    lacking = f"; {len(listed) - len(known)} of them are not in the table"
    note = f"test speakers are drawn from the {len(listed)} of {file}"
    return speaker.is_in(known).to_numpy(), [note + (lacking if len(known) < len(listed) else "")]


def _listed(file: str, speaker: pl.Series) -> list[str]:
    """Read speakers: a line each, or a table's column."""
    if not file.lower().endswith((".csv", ".tsv", ".jsonl", ".parquet")):
        lines = storage.read_bytes(file).decode("utf-8-sig", "replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
    table = read_table(file).drop("row")
    names = (speaker.name, *LIST_COLUMNS)
    known = [name for name in names if name in table.columns]
    if not known and table.width > 1:
        raise DataError(
            f"which column holds the speakers? None is called {names[0]!r} or {names[1]!r}",
            where=file,
        )
    if not known and (speaker == table.columns[0]).any():
        raise DataError(
            f"the first line is the name of the column, and {table.columns[0]!r} is a speaker",
            where=f"{file}:1",
            fix=f"put a line {names[0]} before it",
        )
    return as_text(table[known[0] if known else table.columns[0]]).drop_nulls().unique().to_list()


def _strata(frame: pl.DataFrame, columns: Sequence[str], origin: str) -> Strata | None:
    """Return 0/1 `(rows, values of all columns)`."""
    flags = []
    for name in columns:
        text = as_text(find_column(frame, name, origin))
        flags += [(text == value).fill_null(False).to_numpy() for value in text.unique().sort()
                  if value is not None]  # fmt: skip
    return np.stack(flags, axis=1).astype(np.float32) if flags else None


def _deck(speaker: pl.Series, strata: Strata | None, seed: int, origin: str) -> Deck:
    rows = pl.int_range(len(speaker), eager=True).cast(pl.String)
    clips = Manifest(pl.DataFrame({"id": rows, "path": rows, "group": speaker}), origin)
    return Deck(clips, number_units(clips, True), strata, seed, "speaker")


def _counts(
    sizes: Mapping[str, Size | None], speaker: pl.Series, tasks: Mapping[str, Flags]
) -> dict[str, int | None]:
    """Return the speakers of each part; shares are of all speakers that any part could take."""
    usable = speaker.filter(pl.Series(tasks["train"] | tasks["test"])).n_unique()
    return {
        part: max(1, round(size * usable)) if isinstance(size, float) and size else
        None if size is None else int(size)
        for part, size in sizes.items()
    }  # fmt: skip


def _draw_all(
    deck: Deck, tasks: Mapping[str, Flags], allowed: Flags, counts: Mapping[str, int | None]
) -> dict[str, Flags]:
    """Draw test, valid and train, in this order."""
    test = _draw(deck, tasks["test"] & allowed, counts["test"], "test")
    is_tested = np.isin(deck.units, deck.units[test])
    pool = tasks["train"] & ~is_tested
    least = {"valid": counts["valid"] or 0, "train": counts["train"] or 1}
    left = len(np.unique(deck.units[pool]))
    if left < sum(least.values()):
        wanted = " and ".join(f"{part} {number}" for part, number in least.items() if number)
        raise DataError(
            f"too few speakers: {left} are left when {counts['test']} are tested, and {wanted} "
            "are needed",
            where=deck.manifest.origin,
            fix="smaller sizes, or more tasks",
        )
    valid = _draw(deck, pool, counts["valid"], "valid")
    rest = pool & ~valid
    train = rest if counts["train"] is None else _draw(deck, rest, counts["train"], "train")
    return {"train": train, "valid": valid, "test": test}


def _draw(deck: Deck, pool: Flags, number: int | None, part: str) -> Flags:
    """Draw the clips of some speakers out of a pool, whole speakers each."""
    if not number:
        return np.zeros(len(pool), dtype=bool)
    there = len(np.unique(deck.units[pool]))
    if there < number:
        raise DataError(
            f"too few speakers: {part} needs {number}, and {there} can be drawn",
            where=deck.manifest.origin,
            fix=f"--{part} {there} at most",
        )
    return pool if there == number else deck.carve(pool, number, part)


def _left_over(parts: Mapping[str, Flags]) -> list[str]:
    unused = int((~np.any(list(parts.values()), axis=0)).sum())
    return [f"{unused} clips are in no part: other tasks or speakers"] if unused else []


def _write(
    frame: pl.DataFrame, speaker: pl.Series, parts: Mapping[str, Flags], files: Mapping[str, str]
) -> SplitTables:
    speakers = {p: sorted(speaker.filter(pl.Series(rows)).unique()) for p, rows in parts.items()}
    everyone = [name for names in speakers.values() for name in names]
    assert len(everyone) == len(set(everyone)), "a speaker is in two parts"
    own = frame.drop("row")
    own = own.rename({"table_row": "row"}) if "table_row" in own.columns else own
    written = {part: files[part] for part, rows in parts.items() if rows.any()}
    for part, file in written.items():
        write_table(own.filter(pl.Series(parts[part])), file)
    numbers = {part: int(rows.sum()) for part, rows in parts.items()}
    return SplitTables(written, numbers, speakers)


def write_table(table: pl.DataFrame, file: str) -> None:
    """Write a table as its suffix says, CSV or Parquet, atomically."""
    writes = table.write_parquet if file.lower().endswith(".parquet") else table.write_csv
    storage.write_atomic(file, lambda path: writes(path))


def describe(done: SplitTables) -> list[str]:
    """Return a line for each table and note."""
    lines = [
        f"{file}: {done.num_rows[part]} clips of {len(done.speakers[part])} speakers"
        for part, file in done.files.items()
    ]
    return [*lines, *(f"note: {note}" for note in done.notes)]
