"""Local copies of remote files, in a cache of bounded size.

A copy lies under a hash of its URL and of what the store says of the content, so a remote file that
changes is fetched anew. It gets its name only when it is complete; several processes may fetch the
same file at once, and one that is killed leaves a `.part` that nobody takes for the file.

Whoever reads a copy holds a shared lock on it, or has used it within the last minutes: such copies
are never removed. Of the others, the least recently used make room.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harken.errors import ConfigError, DataError
from harken.storage.downloads import download
from harken.storage.eviction import age, make_room, shared_lock
from harken.storage.retries import Changed
from harken.storage.store_facts import Facts, fact, facts, in_parallel, recent_fact
from harken.storage.stores import check_bucket
from harken.storage.url import Location, is_local, local_path

_TRIES = 5  # so often may a file change, or its copy vanish, while it is fetched
_LONG_NAME = 200  # bytes; names in buckets may be longer than those of files


def cache_folder() -> Path:
    """Return the user's cache: `HARKEN_CACHE`, else `harken` in `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        ConfigError: `HARKEN_CACHE` is a URL.
    """
    if own := os.environ.get("HARKEN_CACHE"):
        if not is_local(own):
            text = "the cache must be a folder on this machine, not in a bucket"
            raise ConfigError(text, where=f"HARKEN_CACHE={own}", fix="HARKEN_CACHE=/some/folder")
        return local_path(own).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "harken"


def files_folder() -> Path:
    """Return where the copies lie."""
    return cache_folder() / "files"


@dataclass
class Loan:
    """A copy that is not removed until it is given back; a context manager.

    Attributes:
        path: The copy.
        facts: What it was fetched by.
    """

    path: Path
    facts: Facts
    _lock: int
    _used: int

    def give_back(self, used_up: bool = False) -> None:
        """Let the copy be removed some minutes from now, or at once if it is `used_up`."""
        if self._lock >= 0:
            if used_up:
                age(self._lock, self._used)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.give_back()


def local_copy(url: Location) -> Path:
    """Return a local file of the same content; a remote one is downloaded once.

    The copy stays for some minutes at least after it was last asked for.

    Raises:
        DataError: there is no such file.
        StoreError: the store does not answer or does not permit it.
    """
    if is_local(url):
        return local_path(url)
    with borrow(str(url)) as loan:
        return loan.path


def recent_copy(url: Location) -> Path:
    """Return a local copy as it was known within the last hour, without asking the store again.

    This is for recordings, which are read time and again while a run goes on.

    Raises:
        DataError: there is no such file.
        StoreError: the store does not answer or does not permit it.
    """
    if is_local(url):
        return local_path(url)
    try:
        known = recent_fact(str(url))
    except FileNotFoundError:
        known = None  # `borrow` will say it
    with borrow(str(url), known) as loan:
        return loan.path


def local_copies(urls: Iterable[Location]) -> list[Path]:
    """Return local files of the same contents, in order; many are downloaded at once.

    Raises:
        DataError: there is no such file.
        StoreError: a store does not answer or does not permit it.
    """
    wanted = list(urls)
    known = facts(str(url) for url in wanted if not is_local(url))

    def fetch(url: Location) -> Path:
        if is_local(url):
            return local_path(url)
        with borrow(str(url), known.get(str(url))) as loan:
            return loan.path

    return in_parallel(fetch, wanted)


def borrow(url: str, known: Facts | None = None) -> Loan:
    """Fetch a remote file unless it is here, and keep the copy until it is given back.

    Args:
        url: A remote file.
        known: What the store says of it; None asks.

    Raises:
        DataError: there is no such file.
        StoreError: the store does not answer or does not permit it.
    """
    try:
        for _ in range(_TRIES):
            known = known or fact(url)
            path = _path_of(url, known)
            if loan := _lend(path, known):
                return loan
            try:
                _fetch(url, known, path)
            except Changed:
                known = None
    except FileNotFoundError as error:
        check_bucket(url)
        raise DataError("there is no such file", where=url) from error
    raise DataError("this file changes faster than it can be read", where=url)


def _path_of(url: str, known: Facts) -> Path:
    digest = hashlib.blake2b(f"{url} {known.tag}".encode(), digest_size=16).hexdigest()
    name = url.rpartition("/")[2]
    if len(name.encode()) > _LONG_NAME:
        name = f"file{Path(name).suffix[:20]}"
    return files_folder() / digest[:2] / digest / name


def _lend(path: Path, known: Facts) -> Loan | None:
    lock = shared_lock(path)
    if lock is None:
        return None
    # After a crash of the machine, a file may have its name but not its content.
    if known.size is not None and os.fstat(lock).st_size != known.size:
        os.close(lock)
        path.unlink(missing_ok=True)
        return None
    os.utime(path)
    return Loan(path, known, lock, os.fstat(lock).st_mtime_ns)


def _fetch(url: str, known: Facts, path: Path) -> None:
    parts = files_folder() / "partial"
    part = parts / f"{secrets.token_hex(8)}.part"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        size = download(url, known, part)
        while True:  # an evicting process may remove the folder, empty as it is
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                os.replace(part, path)
                break
            if not part.exists():
                return
    finally:
        part.unlink(missing_ok=True)
    make_room(files_folder(), size)
