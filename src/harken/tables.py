"""Tables as people keep them: CSV of any encoding, TSV, JSONL, Parquet; and cells that compare."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from harken import storage
from harken.choice import nearest
from harken.errors import DataError


def read_table(url: str, encoding: str | None = None, separator: str | None = None) -> pl.DataFrame:
    """Read a CSV, TSV, JSONL, JSON or Parquet file and add the column `row`, the line in the file.

    Cells of text files become integers or floats where a whole column reads as such; numbers with
    leading zeros (`007`) stay text. Empty cells are null, empty lines are left out. A column of the
    table that is called `row` itself comes as `table_row`.

    Args:
        url: Path or URL; the suffix tells the format, and unknown suffixes are read as CSV.
        encoding: Of text files; None tries UTF-8 (with or without a byte order mark), UTF-16 with
            its mark, and CP949.
        separator: Between cells; None takes the tab for `.tsv` and else the most frequent of comma,
            semicolon and tab in the header.

    Raises:
        DataError: the file is missing, is not such a table, or has columns of the same name.
    """
    suffix = url.rpartition(".")[2].lower()
    origin = url.rpartition("/")[2]
    raw = storage.read_bytes(url)
    try:
        if suffix in ("parquet", "pq"):
            frame = pl.read_parquet(io.BytesIO(raw))
        elif suffix in ("jsonl", "ndjson"):
            frame = _json_lines(raw, origin)
        elif suffix == "json":
            frame = pl.read_json(io.BytesIO(raw), infer_schema_length=None)
        else:
            text = _decode(raw, encoding, origin)
            comma = separator or ("\t" if suffix == "tsv" else _sniff(text))
            return _delimited(text, comma, origin)
    except (pl.exceptions.PolarsError, csv.Error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot read this table: {reason}", where=origin) from error
    return _number_rows(frame, pl.int_range(1, frame.height + 1, dtype=pl.Int64))


def _number_rows(frame: pl.DataFrame, numbers: pl.Expr | pl.Series) -> pl.DataFrame:
    if "row" in frame.columns:
        frame = frame.rename({"row": "table_row"})
    return frame.with_columns(numbers.alias("row"))


def _json_lines(raw: bytes, origin: str) -> pl.DataFrame:
    try:
        return pl.read_ndjson(io.BytesIO(raw), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for number, line in enumerate(raw.splitlines(), start=1):
            try:
                json.loads(line or "{}")
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{origin}:{number}") from error
        raise


def _decode(raw: bytes, encoding: str | None, origin: str) -> bytes:
    """Return the text as UTF-8 without a byte order mark."""
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(
            "this is a spreadsheet or an archive, not a text table",
            where=origin,
            fix="save it as CSV",
        )
    marked = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    names = [encoding] if encoding else ["utf-16"] if marked else ["utf-8-sig", "cp949"]
    for name in names:
        try:
            text = raw.decode(name).encode().removeprefix(b"\xef\xbb\xbf")
            # Spreadsheets save "CSV (Macintosh)" with carriage returns alone.
            return text if b"\n" in text else text.replace(b"\r", b"\n")
        except UnicodeDecodeError:
            continue
        except LookupError as error:
            raise DataError(f"unknown encoding {name!r}", where=origin) from error
    raise DataError(
        f"this text is not {' or '.join(names)}", where=origin, fix="set data.source.encoding"
    )


def _sniff(text: bytes) -> str:
    header = text.partition(b"\n")[0].decode()
    return max(",;\t", key=header.count)


def _delimited(text: bytes, comma: str, origin: str) -> pl.DataFrame:
    start = io.StringIO(text[:100_000].decode(errors="ignore"))
    header = next(csv.reader(start, delimiter=comma), [])
    twins = sorted({name for name in header if header.count(name) > 1})
    if twins:
        raise DataError(f"several columns are called {twins[0]!r}", where=f"{origin}:1")
    try:
        frame = pl.read_csv(io.BytesIO(text), infer_schema=False, separator=comma)
    except pl.exceptions.PolarsError:
        _refuse_ragged(text, comma, len(header), origin)
        raise
    frame = _number_rows(frame, _line_numbers(frame, text))
    frame = frame.filter(pl.any_horizontal(pl.exclude("row").is_not_null()))
    return frame.with_columns(_inferred(column) for column in frame if column.dtype == pl.String)


def _refuse_ragged(text: bytes, comma: str, width: int, origin: str) -> None:
    reader = csv.reader(io.StringIO(text.decode()), delimiter=comma)
    for cells in reader:
        if len(cells) > width:
            raise DataError(
                f"{len(cells)} cells in a table of {width} columns",
                where=f"{origin}:{reader.line_num}",
                fix="put quotes around cells that hold the separator",
            )


def _line_numbers(frame: pl.DataFrame, text: bytes) -> pl.Series:
    """Return each row's line in the file; cells that hold line breaks push later rows down."""
    number = pl.Series("row", np.arange(2, frame.height + 2))
    if text.rstrip().count(b"\n") == frame.height:
        return number
    breaks = pl.sum_horizontal(pl.all().fill_null("").str.count_matches("\n", literal=True))
    pushed = frame.select(breaks.cum_sum().shift(1, fill_value=0)).to_series()
    return number + pushed


def _inferred(column: pl.Series) -> pl.Series:
    sample = column.drop_nulls().head(100)
    if not len(sample) or sample.cast(pl.Float64, strict=False).null_count():
        return column
    # Codes such as 007, +49 or a 20-digit number would change if they were read as numbers.
    if column.str.contains(r"^\+|^-?0\d|^-?\d{16}").any():
        return column
    for dtype in (pl.Int64, pl.Float64):
        numbers = column.cast(dtype, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    return column


def find_column(frame: pl.DataFrame, name: str, origin: str) -> pl.Series:
    """Return a column of a table.

    Raises:
        DataError: there is none of that name; names the nearest one and all.
    """
    if name in frame.columns:
        return frame[name]
    names = [column for column in frame.columns if column != "row"]
    raise DataError(
        f"there is no column {name!r}{nearest(name, names)}", where=origin, fix=f"one of {names}"
    )


def free_name(name: str, taken: Sequence[str], others: Sequence[str] = ()) -> str:
    """Return a column's own name, or where that is taken, with `table_` before it.

    A name that has become free is none of the `others` that the table has beside it.
    """
    free = name
    while free in taken or (free != name and free in others):
        free = f"table_{free}"
    return free


def as_text(column: pl.Series) -> pl.Series:
    """Return cells as text, whole numbers without a point: 1.0 becomes `1`; NaN becomes null."""
    if column.dtype == pl.String:
        return column
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == column).all() and whole.null_count() == column.null_count():
            column = whole
    return column.cast(pl.String)


def matches(column: pl.Series, values: Sequence[object]) -> pl.Series:
    """Return where cells equal one of some values; 3, 3.0 and `3` are equal, null matches None."""
    text = as_text(column)
    wanted = [as_text(pl.Series([value])).cast(pl.String)[0] for value in values]
    found = text.is_in([word for word in wanted if word is not None]).fill_null(False)
    if any(isinstance(value, bool) for value in values):
        found = found | text.str.to_lowercase().is_in(wanted).fill_null(False)
    return found | text.is_null() if None in wanted else found


def keep_where(frame: pl.DataFrame, where: Mapping[str, object], origin: str) -> pl.DataFrame:
    """Return the rows whose cells equal the value, or one of the values, given for each column.

    Raises:
        DataError: an unknown column, or a value that no cell has.
    """
    keep = pl.repeat(True, frame.height, eager=True)
    for name, wanted in where.items():
        column = find_column(frame, name, origin)
        values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        for value in values:
            if not matches(column, [value]).any():
                raise DataError(
                    f"no cell of column {name!r} is {value!r}{near_value(column, value)}",
                    where=origin,
                    fix="change data.source.where",
                )
        keep &= matches(column, values)
    return frame.filter(keep)


def kept_note(where: Mapping[str, object], kept: int, total: int) -> list[str]:
    """Return the note that says how many rows a filter kept; none where there is no filter."""
    words = ", ".join(f"{name}: {value}" for name, value in where.items())
    return [f"where {{{words}}} keeps {kept} of {total} rows"] if where else []


def near_value(column: pl.Series, value: object) -> str:
    """Return a hint at what a column's cells are, nearest first."""
    known = as_text(column).unique().drop_nulls().sort().head(1000).to_list()
    return nearest(str(value), known) or f"; there are {', '.join(known[:10])}"
