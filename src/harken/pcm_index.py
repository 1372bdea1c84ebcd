"""The books of the cache of decoded audio: which clip lies where in which shard file.

A shard is a file of raw int16 samples. It is written under a name of its own, ended by `.part`,
renamed to `.pcm` when it is complete, and only then entered here, with all its clips, in one
transaction. Several processes may therefore write at once, and one that is killed leaves nothing
worse than a file that no book mentions, which a later process removes.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from harken.errors import RunError

Pcm = npt.NDArray[np.int16]
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, content BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS remote_files (
  url TEXT PRIMARY KEY, tag TEXT, content BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, bytes INTEGER, used REAL);
CREATE TABLE IF NOT EXISTS clips (
  key BLOB PRIMARY KEY, shard INTEGER, start INTEGER, length INTEGER, scale REAL, digest BLOB,
  reason TEXT, message TEXT, fix TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS clips_of_shard ON clips (shard);
"""
_OLD_SECONDS = 6 * 3600.0  # a file that was not written to for so long has no writer any more
_JUST_NOW_NS = 2_000_000_000  # a file may change twice within one tick of its time stamp


class Entry(NamedTuple):
    """A decoded clip, or why it is none (`shard` is None and `reason` says)."""

    shard: int | None
    start: int = 0
    length: int = 0
    scale: float = 0.0
    digest: bytes = b""
    reason: str | None = None
    message: str = ""
    fix: str | None = None


class Stat(NamedTuple):
    """What tells, without reading it, that a file has not changed."""

    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Look at a file; OSError where there is none."""
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_settled(self) -> bool:
        """Whether a later change is sure to show in the time stamps."""
        return max(self.mtime, self.ctime) < time.time_ns() - _JUST_NOW_NS


class ShardWriter:
    """A shard being written; `name` is what it will be called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"{secrets.token_hex(8)}.pcm"
        self.samples = 0
        with explain_disk(folder):
            self._part = folder / f"{self.name}.part"
            self._file = self._part.open("wb")

    @property
    def bytes(self) -> int:
        """Size so far."""
        return 2 * self.samples

    def append(self, pcm: Pcm) -> int:
        """Write samples and return the position of the first one."""
        start = self.samples
        with explain_disk(self.folder):
            self._file.write(pcm.data)
        self.samples += len(pcm)
        return start

    def finish(self) -> Pcm:
        """Make the shard durable, give it its name, and return its samples, mapped."""
        with explain_disk(self.folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            pcm = np.asarray(np.memmap(self._part, dtype=np.int16, mode="r"))
            self._part.rename(self.folder / self.name)
        return pcm

    def abort(self) -> None:
        """Remove what was written."""
        with suppress(OSError):  # what cannot be written on closing is not wanted any more
            self._file.close()
        self._part.unlink(missing_ok=True)
        (self.folder / self.name).unlink(missing_ok=True)


class PcmIndex:
    """The books of one folder; a context manager, for one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with explain_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / "index.sqlite", timeout=60, isolation_level=None)
            _retry(lambda: self._db.execute("PRAGMA journal_mode=WAL"))
            self._db.execute("PRAGMA synchronous=NORMAL")
            _retry(lambda: self._db.executescript(_SCHEMA))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def contents(self, stats: Mapping[str, Stat]) -> dict[str, bytes]:
        """Return the hashes of those files' bytes that were read before and have not changed."""
        rows = self._select("path, size, mtime, ctime, content", "files", "path", stats)
        return {path: content for path, *stat, content in rows if stats[path] == tuple(stat)}

    def remote_files(self, urls: Iterable[str]) -> dict[str, tuple[str, bytes]]:
        """Return the tags that remote files had when they were read, and their bytes' hashes."""
        rows = self._select("url, tag, content", "remote_files", "url", urls)
        return {url: (tag, content) for url, tag, content in rows}

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """Return what is known of some clips."""
        rows = self._select(f"key, {', '.join(Entry._fields)}", "clips", "key", keys)
        return {key: Entry(*columns) for key, *columns in rows}

    def _select(
        self, columns: str, table: str, column: str, values: Iterable[bytes | str]
    ) -> Iterator[list[Any]]:
        for some in batched(values, 1000):  # a statement of its own for each value is 10× slower
            marks = ", ".join("?" * len(some))
            query = f"SELECT {columns} FROM {table} WHERE {column} IN ({marks})"
            with explain_disk(self.folder):
                yield from self._db.execute(query, some).fetchall()

    def open_shard(self, shard: int) -> tuple[str, Pcm] | None:
        """Return a shard's file name and its samples, mapped into memory.

        A shard whose file is gone or damaged is forgotten: None.
        """
        query = "SELECT name, bytes FROM shards WHERE id=?"
        with explain_disk(self.folder):
            row = self._db.execute(query, (shard,)).fetchone()
        pcm = map_shard(self.folder / row[0]) if row else None
        if row and pcm is not None and pcm.nbytes == row[1]:
            return row[0], pcm
        self._forget([shard])
        return None

    def touch(self, shards: Iterable[int]) -> None:
        """Note that shards are used now."""
        rows = [(time.time(), shard) for shard in shards]
        with self._transaction():
            self._db.executemany("UPDATE shards SET used=? WHERE id=?", rows)

    def remember(
        self,
        clips: Sequence[tuple[bytes, Entry]],
        files: Sequence[tuple[str, Stat, bytes]],
        writer: ShardWriter | None,
        remote_files: Sequence[tuple[str, str, bytes]] = (),
    ) -> int | None:
        """Enter a complete shard, its clips (whose `shard` it becomes) and hashes of files.

        Args:
            clips: Keys and entries.
            files: Local paths, their stat, and the hashes of their bytes.
            writer: What wrote the shard, if there is one.
            remote_files: URLs, their tags, and the hashes of their bytes.

        Returns:
            The shard's number.
        """
        shard = None
        with self._transaction():
            if writer is not None:
                row = (writer.name, writer.bytes, time.time())
                insert = "INSERT INTO shards (name, bytes, used) VALUES (?, ?, ?)"
                shard = self._db.execute(insert, row).lastrowid
            self._db.executemany(
                # Another process may have been first: its row is as good as ours.
                "INSERT OR IGNORE INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((key, entry.shard if entry.reason else shard, *entry[1:]) for key, entry in clips),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                ((path, *stat, content) for path, stat, content in files),
            )
            insert = "INSERT OR REPLACE INTO remote_files VALUES (?, ?, ?)"
            self._db.executemany(insert, remote_files)
        return shard

    def evict(self, bound: int, needed: Iterable[int]) -> None:
        """Remove the least recently used shards, but none needed, down to `bound` bytes."""
        kept = set(needed)
        with explain_disk(self.folder):
            rows = self._db.execute("SELECT id, bytes FROM shards ORDER BY used, id").fetchall()
        excess, gone = sum(row[1] for row in rows) - bound, []
        for shard, size in rows:
            if excess > 0 and shard not in kept:
                gone.append(shard)
                excess -= size
        if gone:
            self._forget(gone)

    def sweep(self) -> None:
        """Remove what dead writers and lost races left: old files and shards of no clip."""
        limit = time.time() - _OLD_SECONDS
        with explain_disk(self.folder):
            idle = self._db.execute(
                "SELECT id FROM shards WHERE used < ? AND NOT EXISTS "
                "(SELECT 1 FROM clips WHERE clips.shard = shards.id)",
                (limit,),
            ).fetchall()
            self._forget([row[0] for row in idle])
            known = {row[0] for row in self._db.execute("SELECT name FROM shards")}
            for path in self.folder.glob("*.pcm*"):
                if path.name not in known and _age_limit_passed(path, limit):
                    path.unlink(missing_ok=True)

    def _forget(self, shards: Sequence[int]) -> None:
        names = []
        with self._transaction():
            for shard in shards:
                select = "SELECT name FROM shards WHERE id=?"
                names += [row[0] for row in self._db.execute(select, (shard,))]
                self._db.execute("DELETE FROM clips WHERE shard=?", (shard,))
                self._db.execute("DELETE FROM shards WHERE id=?", (shard,))
        for name in names:
            # Processes that have mapped the file keep reading it until they unmap it.
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explain_disk(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def map_shard(path: Path) -> Pcm | None:
    """Map a file of samples into memory; None where there is no such file."""
    try:
        return np.asarray(np.memmap(path, dtype=np.int16, mode="r"))
    except (FileNotFoundError, ValueError):  # ValueError: an empty file
        return None


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of at most `size` items."""
    iterator = iter(items)
    while some := tuple(islice(iterator, size)):
        yield some


@contextmanager
def explain_disk(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and of the index into a `RunError` that names the folder."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        text = f"the cache of decoded audio cannot be written or read: {error}"
        damaged = isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error)
        fix = (
            "delete this folder; it will be filled again"
            if damaged or "malformed" in str(error)
            else "free some space there, or choose another folder (data.cache=…, or HARKEN_CACHE)"
        )
        raise RunError(text, where=str(folder), fix=fix) from error


def _age_limit_passed(path: Path, limit: float) -> bool:
    try:
        return path.stat().st_mtime < limit
    except FileNotFoundError:  # another process was faster
        return False


def _retry(statement: Callable[[], object], seconds: float = 30.0) -> None:
    """Repeat a statement that SQLite refuses at once, without waiting, while others write."""
    end = time.monotonic() + seconds
    while True:
        try:
            statement()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
