"""Decoded clips on disk, memory-mapped: every recording is decoded once per set of settings.

Samples are int16 with one scale per clip; `pcm_fill.py` tells how they come here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from harken.audio import Audio, BadAudio, Wave, dequantize
from harken.errors import ConfigError, DataError, RunError
from harken.manifest import Clip
from harken.pcm_fill import Fill, Progress, Table
from harken.pcm_index import map_shard
from harken.storage import Facts, cache_folder, is_local, local_path


class Quarantined(NamedTuple):
    """A clip that was left out.

    Attributes:
        id: Its name.
        path: Its file.
        reason: One word, see `BadAudio`.
        message: A sentence.
    """

    id: str
    path: str
    reason: str
    message: str


def default_folder() -> Path:
    """Return `pcm` in the user's cache folder (which `HARKEN_CACHE` moves)."""
    return cache_folder() / "pcm"


class PcmCache:
    """Decoded audio of a list of clips, kept on disk between runs.

    Args:
        folder: Where it lies; None is `default_folder()`.
        audio: How recordings become waveforms; only what changes samples tells clips apart.
        max_gigabytes: Size of the folder (10⁹ bytes) beyond which shards that this fill does not
            need are removed, the least recently used first. It may be passed by one shard.
        threads: Decoding threads; None is one per available core.

    Attributes:
        num_decoded: Clips that the last fill had to decode.

    Raises:
        ConfigError: the folder is a URL.
        RunError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str | None,
        audio: Audio,
        max_gigabytes: float = 50.0,
        *,
        threads: int | None = None,
    ) -> None:
        if folder is not None and not is_local(folder):
            text = "the cache of decoded audio must be a folder on this machine, not in a bucket"
            raise ConfigError(text, where=f"data.cache={folder}", fix="data.cache=/some/folder")
        self.folder = default_folder() if folder is None else local_path(folder).absolute()
        self.audio, self.max_bytes = audio, int(max_gigabytes * 1e9)
        self.threads = threads or _num_cores()
        self.num_decoded = 0
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._table = Table.empty(0)

    @classmethod
    def temporary(cls, audio: Audio, max_gigabytes: float = 50.0) -> PcmCache:
        """Return a cache that vanishes together with the object."""
        folder = tempfile.TemporaryDirectory(prefix="harken-pcm-")
        cache = cls(folder.name, audio, max_gigabytes)
        cache._temporary = folder
        return cache

    def fill(
        self,
        clips: Sequence[Clip],
        *,
        on_bad: Literal["stop", "skip"] = "stop",
        progress: Progress | None = None,
        stores: Mapping[str, Facts] | None = None,
    ) -> list[Quarantined]:
        """Decode the clips that the folder does not hold yet; then `read(i)` reads `clips[i]`.

        Args:
            clips: What to hold.
            on_bad: `stop` raises after all clips have been looked at, `skip` leaves bad ones out.
            progress: Is told how many clips of how many are there.
            stores: What stores say of the files in buckets; None asks them.

        Returns:
            The clips that were left out, in order.

        Raises:
            BadAudio: with `stop`, the first clip that cannot be used, and how many more cannot.
            RunError: the disk is full, or the clips need more than `max_gigabytes`; what was
                decoded so far is kept.
        """
        fill = Fill(
            self.folder,
            self.audio,
            clips,
            max_bytes=self.max_bytes,
            threads=self.threads,
            progress=progress,
            stores=stores,
        )
        self.num_decoded = 0
        try:
            fill.run()
        finally:
            self.num_decoded = fill.num_decoded
        bad = sorted(fill.table.bad.items())
        if bad and on_bad == "stop":
            raise _stopping(bad[0][1], len(bad) - 1)
        self._table = fill.table
        return [
            Quarantined(clips[i].id, clips[i].path, error.reason, error.message) for i, error in bad
        ]

    def __len__(self) -> int:
        return len(self._table.slot)

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Mask `(clips,)`: which clips can be read."""
        return self._table.slot >= 0

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 `(clips,)`: samples of each clip; 0 for clips that were left out."""
        return self._table.lengths

    def length(self, i: int) -> int:
        """Samples of a clip; 0 where it was left out."""
        return int(self._table.lengths[i])

    def digest(self, i: int) -> str:
        """Hash of a clip's decoded samples, equal for identical audio; empty if left out."""
        return self._table.digest[i].tobytes().hex() if self._table.slot[i] >= 0 else ""

    def read(self, i: int, start: int = 0, stop: int | None = None) -> Wave:
        """Return samples `start` to `stop` of a clip, float32; only these are read from disk.

        Raises:
            DataError: the clip was left out by `fill`.
        """
        table = self._table
        slot = table.slot[i]
        if slot < 0:
            raise DataError(f"clip {i} was left out: {table.bad[i].message}")
        first, length = int(table.start[i]), int(table.lengths[i])
        pcm = table.maps[slot][first : first + length][start:stop]
        return dequantize(pcm, table.scale[i])

    def __getstate__(self) -> dict[str, Any]:
        table = Table(**{**self._table.__dict__, "maps": []})
        return {**self.__dict__, "_temporary": None, "_table": table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in self._table.names:
            pcm = map_shard(self.folder / name)
            if pcm is None:
                text = f"{name} was removed from the cache of decoded audio by another process"
                raise RunError(text, where=str(self.folder), fix="raise data.cache_gigabytes")
            self._table.maps.append(pcm)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stopping(error: BadAudio, others: int) -> BadAudio:
    more = f" (and {others} more clips cannot be used)" if others else ""
    fix = error.fix or "mend the file, or leave such clips out: data.on_bad_audio=skip"
    return BadAudio(error.reason, error.message + more, where=error.where, fix=fix)
