"""Room in the cache of copies: who uses what, and what goes first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from harken.errors import ConfigError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows keeps open files from being removed by itself
    fcntl = None

GRACE_SECONDS = 600.0
"""So long after it was last asked for, a copy stays in any case."""

_PART_SECONDS = 6 * 3600.0  # what was not written to for so long has no writer any more
_LOW = 0.9  # room is made for some files at once: looking through the cache takes a moment


class _Seen(NamedTuple):
    used: float
    size: int
    path: Path


class _Tally:
    """What a folder holds, as far as this process knows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.held, self.added, self.spared = folder, 0, 0, 0
        for part in (folder / "partial").glob("*.part"):
            _remove_if_idle(part, time.time() - _PART_SECONDS)
        self.held = sum(seen.size for seen in _look(folder))

    def add(self, size: int, bound: float) -> None:
        """Note a new copy, and look whether others have to go."""
        self.held += size
        self.added += size
        self.spared -= 1
        if self.spared > 0:
            return
        if self.held > bound or self.added > bound / 10:  # other processes add copies, too
            self.added = 0
            self.held, count = _evict(self.folder, bound)
            # Where all are in use, a look for each new one would soon take longer than to fetch it.
            self.spared = count // 10 if self.held > bound else 0


_tallies: dict[Path, _Tally] = {}
_lock = threading.Lock()


def bound_bytes() -> float:
    """Return how many bytes of copies may be kept: `HARKEN_CACHE_GIGABYTES`, else 50 GB.

    Raises:
        ConfigError: that is not a number of gigabytes.
    """
    text = os.environ.get("HARKEN_CACHE_GIGABYTES") or "50"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(
            "expected a number of gigabytes",
            where=f"HARKEN_CACHE_GIGABYTES={text}",
            fix="HARKEN_CACHE_GIGABYTES=50",
        )
    return value * 1e9


def make_room(folder: Path, size: int) -> None:
    """Note that a copy of `size` bytes has come, and remove others if that is too much."""
    bound = bound_bytes()
    with _lock:
        if folder not in _tallies:
            _tallies[folder] = _Tally(folder)
            size = 0  # it has been counted just now
        _tallies[folder].add(size, bound)


def shared_lock(path: Path) -> int | None:
    """Return an open descriptor that keeps a copy from being removed; None if there is no copy."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if fcntl is not None:
        with suppress(OSError):  # some network folders know no locks; the minutes of grace remain
            fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        if os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
    except OSError:  # it was removed before the lock was had
        pass
    os.close(lock)
    return None


def age(lock: int, used: int) -> None:
    """Let a copy that was not used since `used` (ns) be as old as one that may be removed."""
    with suppress(OSError):
        if os.fstat(lock).st_mtime_ns == used:
            then = time.time() - GRACE_SECONDS - 1
            os.utime(lock if os.utime in os.supports_fd else "", (then, then))


def _evict(folder: Path, bound: float) -> tuple[int, int]:
    """Remove copies that nobody uses, if need be; return the bytes that stay, and files seen."""
    found = sorted(_look(folder))
    held, limit = sum(seen.size for seen in found), time.time() - GRACE_SECONDS
    if held <= bound:
        return held, len(found)
    for seen in found:
        if held <= _LOW * bound or seen.used > limit:
            break
        if _remove_if_idle(seen.path, limit):
            held -= seen.size
    return held, len(found)


def _remove_if_idle(path: Path, limit: float) -> bool:
    """Remove a file that nobody holds and that was not used after `limit`."""
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:  # another process was faster
        return False
    try:
        if _is_held(lock) or os.fstat(lock).st_mtime > limit:
            return False
        path.unlink()
        if path.suffix != ".part":
            path.parent.rmdir()
    except OSError:  # another process was faster
        pass
    finally:
        os.close(lock)
    return not path.exists()


def _is_held(lock: int) -> bool:
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there are no locks in this folder
            return False
    return False


def _look(folder: Path) -> Iterator[_Seen]:
    for path in folder.glob("[0-9a-f][0-9a-f]/*/*"):
        try:
            stat = path.stat()
        except OSError:
            continue
        yield _Seen(stat.st_mtime, stat.st_size, path)
