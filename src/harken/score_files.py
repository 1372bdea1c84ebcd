"""Files that give names a number, such as a score to every speaker."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from harken import storage
from harken.errors import DataError
from harken.tables import as_text, find_column, read_table


def read_scores(url: str, key: str, value: str) -> dict[str, float]:
    """Read a number for each name.

    Args:
        url: A JSON object of numbers by name, or a table (CSV, TSV, JSONL, Parquet…).
        key: The table's column of names.
        value: The table's column of numbers.

    Raises:
        DataError: the file cannot be read, a number is no number, or a name has two of them.
    """
    origin = url.rpartition("/")[2]
    if url.lower().endswith(".json"):
        try:
            content = json.loads(storage.read_bytes(url))
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=origin) from None
        if isinstance(content, dict):
            return _gathered(content.items(), origin)
    table = read_table(url)
    names, numbers = as_text(find_column(table, key, origin)), find_column(table, value, origin)
    return _gathered(zip(names, numbers, strict=True), origin)


def _gathered(pairs: Iterable[tuple[object, object]], origin: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, number in pairs:
        key = str(name).strip()
        try:
            score = float(number)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"the number of {key!r} is {number!r}", where=origin)
        if found.setdefault(key, score) != score:
            raise DataError(f"{key!r} has two numbers: {found[key]:g} and {score:g}", where=origin)
    if not found:
        raise DataError("this file is empty", where=origin)
    return found
