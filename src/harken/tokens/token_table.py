"""Tables of tokens: id → tokens, written in parts by any number of processes.

A part is a fixed stretch of the clips, and shard i of n makes every n-th part. Whoever finds all
parts there joins them. The folder of the parts is named after what decides the tokens, so that
parts of other settings cannot get between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken import storage
from harken.errors import ConfigError, DataError
from harken.parts import local_parts, part_names, parts_folder, remove_parts
from harken.storage import Place

ROWS = 256
"""Clips of a part; what a kill can cost."""


@dataclass(frozen=True)
class Shard:
    """One of several processes that share the clips.

    Attributes:
        number: From 1.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read `2/8`.

        Raises:
            ConfigError: it is none of the shards from 1 to the last.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise ConfigError(f"cannot read the shard {text!r}", where="--shard", fix="--shard 1/4")


class TokenParts:
    """The parts of a table that is being made.

    Args:
        out: The table: a path or a URL.
        num_clips: Clips of all shards.
        fingerprint: Hash of what decides the tokens.
        rows: Clips of a part.
    """

    def __init__(self, out: str, num_clips: int, fingerprint: str, rows: int = ROWS) -> None:
        self.out, self.num_clips, self.rows = out, num_clips, rows
        self.fingerprint = fingerprint
        self.folder = parts_folder(out, fingerprint[:12])

    def __len__(self) -> int:
        return -(-self.num_clips // self.rows)

    @property
    def is_done(self) -> bool:
        """Whether the table is there already, made by these very settings."""
        if not storage.exists(self.out):
            return False
        return bool(read_settings(self.out).get("fingerprint") == self.fingerprint)

    @property
    def num_missing(self) -> int:
        """Parts of any shard that are not there yet."""
        every = {self._path(number).name for number in range(len(self))}
        return len(every - part_names(self.folder))

    def todo(self, shard: Shard) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield the number and the clips of each part of a shard that is not there yet."""
        there = part_names(self.folder)
        for number in range(shard.number - 1, len(self), shard.count):
            if self._path(number).name not in there:
                stop = min((number + 1) * self.rows, self.num_clips)
                yield number, np.arange(number * self.rows, stop, dtype=np.int64)

    def save(
        self,
        number: int,
        clips: pl.DataFrame,
        tokens: Sequence[npt.NDArray[np.int32] | None],
        reasons: Sequence[str | None],
    ) -> None:
        """Write a part: `id` and `path` of clips, their tokens, or why there are none."""
        lists = pl.Series("tokens", [None if t is None else t.tolist() for t in tokens])
        told = pl.Series("reason", reasons, dtype=pl.String)
        part = clips.select("id", "path").hstack([lists.cast(pl.List(pl.Int32)), told])
        with storage.atomic_path(self._path(number)) as temporary:
            part.write_parquet(temporary)

    def join(self, settings: dict[str, Any]) -> list[dict[str, str]] | None:
        """Write the table and remove the parts.

        Returns:
            The clips that have no tokens; None where another shard came to the end at the same
            time, and has joined the parts.
        """
        note = {"harken": json.dumps({**settings, "fingerprint": self.fingerprint})}
        try:
            with local_parts([self._path(number) for number in range(len(self))]) as parts:
                table = pl.scan_parquet(parts)
                bad = table.filter(pl.col("reason").is_not_null()).drop("tokens").collect()
                good = table.filter(pl.col("reason").is_null()).drop("reason")
                with storage.atomic_path(self.out) as temporary:
                    good.sink_parquet(temporary, metadata=note)
        except (FileNotFoundError, DataError, pl.exceptions.PolarsError):
            if not self.is_done:
                raise
            return None
        remove_parts(self.folder)
        return bad.to_dicts()

    def _path(self, number: int) -> Place:
        return self.folder / f"part-{number:06d}.parquet"


def read_settings(url: str) -> dict[str, Any]:
    """Return what made a table of tokens; empty where it does not say.

    Raises:
        DataError: there is no such table.
    """
    path = storage.local_copy(url)
    if not path.is_file():
        raise DataError("there is no such table of tokens", where=url, fix="harken tokens encode")
    try:
        told = json.loads(pl.read_parquet_metadata(path).get("harken", "{}"))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(f"this is no table of tokens: {error}", where=url) from None
    return told if isinstance(told, dict) else {}


def scan_tokens(url: str) -> pl.LazyFrame:
    """Return a table of tokens, `id` and `tokens` (a list of integers), without reading it yet.

    Raises:
        DataError: there is none, or it has no such columns.
    """
    read_settings(url)
    table = pl.scan_parquet(storage.local_copy(url))
    types = table.collect_schema()
    kind = types.get("tokens")
    whole = isinstance(kind, pl.List) and kind.inner.is_integer()
    if not whole or "id" not in types:
        raise DataError("a table of tokens has columns `id` and `tokens`, a list", where=url)
    return table
