"""Tables of embeddings: written in parts, joined at the end, read back.

A part is written as soon as it is computed, into a hidden folder beside the table, so that what was
killed goes on where it stood. Parts remember the settings that made them; parts of other settings
are thrown away.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from harken import storage
from harken.errors import ConfigError, DataError, RunError
from harken.parts import local_parts, part_names, parts_folder, remove_parts
from harken.storage import Place
from harken.tables import as_text

Vectors = npt.NDArray[np.float32]
Format = Literal["parquet", "npz"]
Columns = Literal["vector", "list"]
LIST = "embedding"
OTHERS = (
    "csv", "tsv", "txt", "json", "jsonl", "xlsx", "feather", "arrow", "npy", "pt", "pkl", "h5",
)  # fmt: skip
"""Suffixes of formats that embeddings are not written in."""
_VECTOR = re.compile(r"e(0|[1-9]\d*)")


@dataclass(frozen=True)
class Embeddings:
    """A table of embeddings.

    Attributes:
        frame: `id`, and for Parquet what else is known of the clips.
        vectors: float32 `(clips, dim)`, in the same order.
        settings: What made them; empty for files that others made.
    """

    frame: pl.DataFrame
    vectors: Vectors
    settings: dict[str, Any]


def format_of(out: str, wanted: str | None) -> Format:
    """Return the format that a file name or an option says; without a suffix it is Parquet.

    Raises:
        ConfigError: they contradict each other, or there is no such format.
    """
    suffix = out.rpartition("/")[2].rpartition(".")[2].lower()
    told = {"parquet": "parquet", "pq": "parquet", "pqt": "parquet", "npz": "npz"}.get(suffix)
    if wanted not in (None, "parquet", "npz"):
        raise ConfigError(f"there is no format {wanted!r}", where="--format", fix="parquet or npz")
    if told is not None and wanted not in (None, told):
        raise ConfigError(
            f"--format {wanted} does not go with {out}", where="--out", fix=f"--format {told}"
        )
    if suffix in OTHERS:
        raise ConfigError(
            f"embeddings are not written as .{suffix}",
            where="--out",
            fix="NAME.parquet or NAME.npz",
        )
    return "npz" if (wanted or told) == "npz" else "parquet"


def clip_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return what a table of embeddings keeps of a manifest: all but its line numbers.

    Columns that would hide an embedding get the prefix `table_`.
    """
    empty = [name for name in ("start", "duration") if frame[name].null_count() == frame.height]
    kept = frame.drop("row", *(empty if len(empty) == 2 else []), strict=False)
    return kept.rename({n: f"table_{n}" for n in kept.columns if _VECTOR.fullmatch(n) or n == LIST})


class Parts:
    """The parts of a table of embeddings that is being made.

    Args:
        out: The table: a path or a URL.
        frame: What is known of the clips; a row each, from `clip_columns`.
        settings: What decides the embeddings.
        about: What else readers of the table should know of them.
        file_format: `parquet` or `npz`.
        columns: `vector` makes columns `e0`, `e1`, …; `list` makes one, `embedding`.
        rows: Clips per part.
    """

    def __init__(
        self,
        out: str,
        frame: pl.DataFrame,
        settings: dict[str, Any],
        *,
        about: dict[str, Any] | None = None,
        file_format: Format = "parquet",
        columns: Columns = "vector",
        rows: int = 256,
    ) -> None:
        self.out, self.frame, self.rows = out, frame, rows
        self.file_format, self.columns = file_format, columns
        layout = {"format": file_format, "columns": columns, "rows": rows}
        known = json.dumps([settings, layout, frame.columns], sort_keys=True)
        content = hashlib.blake2b(known.encode(), digest_size=16)
        content.update(frame.write_ndjson().encode())
        self.settings = settings | {"fingerprint": content.hexdigest()} | (about or {})
        self.folder = parts_folder(out)

    def __len__(self) -> int:
        return -(-self.frame.height // self.rows)

    @property
    def is_done(self) -> bool:
        """Whether the table is there already, made by these very settings."""
        if not storage.exists(self.out):
            return False
        return bool(read_settings(self.out).get("fingerprint") == self.settings["fingerprint"])

    def open(self) -> bool:
        """Make the folder of the parts; return whether parts of other settings were in it."""
        note = self.folder / "settings.json"
        told = storage.read_bytes(note).decode() if storage.is_file(note) else None
        mine = json.dumps({"fingerprint": self.settings["fingerprint"]})
        stale = storage.exists(self.folder) and told != mine
        if stale:
            storage.remove_folder(self.folder)
        if told != mine:
            storage.write_atomic(note, mine)
        return stale

    def todo(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield the number and the rows of each part that is not there yet."""
        there = part_names(self.folder)
        for number in range(len(self)):
            if self._path(number).name not in there:
                stop = min((number + 1) * self.rows, self.frame.height)
                yield number, np.arange(number * self.rows, stop, dtype=np.int64)

    def save(self, number: int, vectors: Vectors) -> None:
        """Write a part."""
        start = number * self.rows
        part = self.frame.slice(start, self.rows)
        assert len(part) == len(vectors)
        part = part.hstack(_as_columns(vectors, self.columns))
        with storage.atomic_path(self._path(number)) as temporary:
            part.write_parquet(temporary)

    def join(self) -> int:
        """Write the table, remove the parts and return the embeddings' width."""
        with (
            local_parts([self._path(number) for number in range(len(self))]) as paths,
            storage.atomic_path(self.out) as temporary,
        ):
            width = _width(pl.scan_parquet(paths[0]).head(1).collect())
            if self.file_format == "npz":
                self._write_npz(temporary, paths, width)
            else:
                note = {"harken": json.dumps(self.settings)}
                pl.scan_parquet(paths).sink_parquet(temporary, metadata=note)
        self.close()
        return width

    def close(self) -> None:
        """Remove the parts."""
        remove_parts(self.folder)

    def _write_npz(self, temporary: Path, paths: list[Path], width: int) -> None:
        vectors = np.empty((self.frame.height, width), dtype=np.float32)
        for number, path in enumerate(paths):
            part = _vectors(pl.read_parquet(path), str(path))
            vectors[number * self.rows :][: len(part)] = part
        ids = np.array(self.frame["id"].to_list(), dtype=np.str_)
        with temporary.open("wb") as file:
            np.savez(file, ids=ids, embeddings=vectors, settings=json.dumps(self.settings))

    def _path(self, number: int) -> Place:
        return self.folder / f"part-{number:06d}.parquet"


def read_embeddings(url: str) -> Embeddings:
    """Read a table of embeddings: what `harken embed` writes, or any Parquet file of that form.

    Raises:
        DataError: there is none, it holds no embeddings, or an id stands in it twice.
    """
    path = storage.local_copy(url)
    if not path.is_file():
        raise DataError("there is no such table of embeddings", where=url, fix="harken embed")
    settings = read_settings(url)
    frame, vectors = _read_npz(path, url) if _is_npz(path) else _read_parquet(path, url)
    twice = frame["id"].is_duplicated()
    if twice.any():
        name = frame["id"][twice.arg_max() or 0]
        raise DataError(f"the id {name!r} stands in these embeddings twice", where=url)
    return Embeddings(frame, vectors, settings)


def _read_npz(path: Path, url: str) -> tuple[pl.DataFrame, Vectors]:
    with np.load(path, allow_pickle=False) as arrays:
        if not {"ids", "embeddings"} <= set(arrays):
            raise DataError("an npz of embeddings holds `ids` and `embeddings`", where=url)
        try:
            ids, vectors = arrays["ids"].astype(np.str_), arrays["embeddings"].astype(np.float32)
        except ValueError as error:
            raise DataError(
                f"cannot read these arrays: {error}",
                where=url,
                fix="save texts and numbers: np.savez(NAME, ids=np.array(ids, str), embeddings=…)",
            ) from None
    if vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise DataError(
            f"`embeddings` must have a row for each of `ids`: they are {vectors.shape} and "
            f"{ids.shape}",
            where=url,
        )
    return pl.DataFrame({"id": ids}), vectors


def _read_parquet(path: Path, url: str) -> tuple[pl.DataFrame, Vectors]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot read these embeddings: {reason}", where=url) from error
    if "id" not in frame.columns:
        raise DataError("there is no column 'id'", where=url, fix=f"one of {frame.columns[:20]}")
    vectors = _vectors(frame, url)
    left = [name for name in frame.columns if name != LIST and not _VECTOR.fullmatch(name)]
    return frame.select(left).with_columns(as_text(frame["id"]).alias("id")), vectors


def read_settings(url: str) -> dict[str, Any]:
    """Return what made a table of embeddings; empty where it does not say."""
    path = storage.local_copy(url)
    try:
        if _is_npz(path):
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays["settings"]) if "settings" in arrays else "{}"
        else:
            text = pl.read_parquet_metadata(path).get("harken", "{}")
        told = json.loads(text)
    except (pl.exceptions.PolarsError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(f"this is no table of embeddings: {error}", where=url) from None
    return told if isinstance(told, dict) else {}


def _is_npz(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _as_columns(vectors: Vectors, columns: Columns) -> pl.DataFrame:
    if columns == "list":
        values = pl.Series(LIST, vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
        return values.arr.to_list().to_frame()
    return pl.from_numpy(vectors, schema=[f"e{i}" for i in range(vectors.shape[1])])


def _vectors(frame: pl.DataFrame, where: str) -> Vectors:
    if LIST in frame.columns:
        lists = frame[LIST].arr.to_list() if frame[LIST].dtype == pl.Array else frame[LIST]
        known = isinstance(lists.dtype, pl.List) and lists.dtype.inner.is_numeric()
        widths = lists.list.len() if known else pl.Series([None])
        if widths.n_unique() > 1 or not widths[0]:
            text = "column 'embedding' must hold lists of numbers, all of one length"
            raise DataError(text, where=where)
        return lists.explode().cast(pl.Float32).to_numpy().reshape(frame.height, -1)
    names = sorted((n for n in frame.columns if _VECTOR.fullmatch(n)), key=lambda n: int(n[1:]))
    if not names:
        raise DataError(
            "there are neither columns e0, e1, … nor a column 'embedding'",
            where=where,
            fix="harken embed",
        )
    odd = next((name for name in names if not frame[name].dtype.is_numeric()), None)
    if odd is not None:
        raise DataError(f"column {odd!r} must hold numbers", where=where)
    return frame.select(names).to_numpy().astype(np.float32)


def _width(frame: pl.DataFrame) -> int:
    return int(_vectors(frame, "part").shape[1])
