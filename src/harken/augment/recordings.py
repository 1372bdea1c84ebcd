"""Recordings that augmentation draws on: found once, read in parts, kept within a bound.

A recording is read in parts of half a minute, so that an hour of street noise costs no more than
what is used of it, and the parts last used stay in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harken import storage
from harken.audio import Audio, BadAudio, load, probe
from harken.augment.augment import Wave
from harken.errors import ConfigError, DataError
from harken.sources.folder import SUFFIXES

_PART_SECONDS = 30
_SHELF_BYTES = 256 * 10**6


@dataclass(frozen=True)
class Part:
    """A part of a recording, in seconds; None reads to the end."""

    path: str
    start: float | None = None
    duration: float | None = None
    id: str = "augmentation"


class Shelf:
    """The parts last used, oldest out first; safe between threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._parts: OrderedDict[tuple[Part, int], Wave] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, part: Part, sample_rate: int) -> Wave:
        """Return a part, mono at a sample rate, read-only; decode it where it is not there.

        Raises:
            BadAudio: the recording cannot be used.
        """
        key = (part, sample_rate)
        with self._lock:
            if key in self._parts:
                self._parts.move_to_end(key)
                return self._parts[key]
        wave = load(part, Audio(sample_rate=sample_rate, silent="keep"))
        wave.setflags(write=False)
        with self._lock:
            if key not in self._parts:
                self._parts[key] = wave
                self.num_bytes += wave.nbytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._parts.popitem(last=False)[1].nbytes
        return wave


shelf = Shelf(_SHELF_BYTES)
"""What this process keeps of all recordings."""


@lru_cache(maxsize=64)
def find_recordings(path: str, option: str) -> tuple[str, ...]:
    """Return a recording, or all of a folder and of its sub-folders.

    Args:
        path: File or folder; a path or a URL.
        option: What named it, for errors.

    Raises:
        ConfigError: there is no such file or folder, or nothing in it is a recording.
    """
    if path.lower().endswith(SUFFIXES):
        if storage.exists(path):
            return (path,)
        raise ConfigError(f"there is no recording {path!r}", where=option, fix="change the path")
    try:
        files = storage.list_files(path, SUFFIXES)
    except DataError:
        text = f"{path!r} is neither a recording nor a folder of recordings"
        raise ConfigError(text, where=option, fix="change the path") from None
    if not files:
        text = f"there is no recording in the folder {path!r}"
        raise ConfigError(text, where=option, fix="put wav, flac, ogg or mp3 files there")
    return tuple(files)


def read_beginning(path: str, sample_rate: int, seconds: float) -> Wave:
    """Return a recording's first seconds, or all of it where it is shorter.

    Raises:
        BadAudio: the recording cannot be used.
    """
    whole = _duration(path) <= seconds
    return _read(Part(path) if whole else Part(path, 0.0, seconds), sample_rate)


def read_somewhere(path: str, sample_rate: int, samples: int, rng: np.random.Generator) -> Wave:
    """Return a random part of a recording, which holds so many samples where there are as many.

    Raises:
        BadAudio: the recording cannot be used.
    """
    size = _PART_SECONDS * max(1, -(-samples // (_PART_SECONDS * sample_rate)))
    # The last part reaches to the end, lest a snippet remain.
    num_parts = max(1, int(_duration(path) // size))
    number = int(rng.integers(num_parts))
    start = float(number * size) if number else None
    duration = None if number == num_parts - 1 else float(size)
    return _read(Part(path, start, duration), sample_rate)


def _read(part: Part, sample_rate: int) -> Wave:
    try:
        return shelf.read(part, sample_rate)
    except BadAudio as error:
        # The lengths of some files are estimates, which may promise too much.
        if error.reason != "outside":
            raise
        return shelf.read(Part(part.path), sample_rate)


@lru_cache(maxsize=65536)
def _duration(path: str) -> float:
    return probe(path).seconds
