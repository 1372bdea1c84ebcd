"""One filling of the cache of decoded audio: look up, hash, decode in threads, write shards.

A clip is found again by the hash of its file's bytes, its segment and the settings that change its
samples, so renamed files hit and changed files miss. Of files that were read before, the hash is
known by their stat, of those in a bucket by what the store lists of them, without a download.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from harken.audio import DECODER, Audio, BadAudio, load_int16
from harken.errors import DataError, RunError
from harken.manifest import Clip
from harken.pcm_index import Entry, Pcm, PcmIndex, ShardWriter, Stat, batched
from harken.storage import Facts, ReadAhead, asking, is_local, local_path

Progress = Callable[[int, int], None]
T = TypeVar("T")
R = TypeVar("R")

_SHARD_BYTES = 256 * 10**6
_CHUNK = 2048  # clips hashed before they are decoded: their bytes are still in memory then
_REMOTE_CHUNK = 32  # … of remote files: while they are decoded, the next ones arrive
_DIGEST = 16
_FLEETING = {"missing", "unsupported"}  # findings that a later attempt may not repeat


@dataclass
class Table:
    """Where the clips of a fill lie: arrays of one row a clip, no object per clip."""

    slot: npt.NDArray[np.int32]  # number in `maps`; −1 for clips that cannot be used
    start: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32]
    digest: npt.NDArray[np.uint8]
    maps: list[Pcm] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: dict[int, BadAudio] = field(default_factory=dict)

    @classmethod
    def empty(cls, size: int) -> Table:
        """Return a table of clips that are not there yet."""
        return cls(
            np.full(size, -1, np.int32),
            np.zeros(size, np.int64),
            np.zeros(size, np.int64),
            np.zeros(size, np.float32),
            np.zeros((size, _DIGEST), np.uint8),
        )

    def put(self, row: int, slot: int, entry: Entry) -> None:
        """Say where a clip lies."""
        self.slot[row], self.start[row], self.lengths[row] = slot, entry.start, entry.length
        self.scale[row] = entry.scale
        self.digest[row] = np.frombuffer(entry.digest, np.uint8)

    def copy_row(self, source: int, row: int) -> None:
        """Let two clips share their samples."""
        for column in (self.slot, self.start, self.lengths, self.scale, self.digest):
            column[row] = column[source]


class _Decoded(NamedTuple):
    pcm: Pcm
    scale: float
    digest: bytes


class Fill:
    """Fills `table` for some clips, decoding those that the folder does not hold.

    Args:
        folder: Where the shards and their index lie.
        audio: How recordings become waveforms.
        clips: What to hold.
        max_bytes: Bound of the folder.
        threads: Decoding threads.
        progress: Is told how many clips of how many are there.
        stores: What stores say of the files in buckets; None asks them.
    """

    def __init__(
        self,
        folder: Path,
        audio: Audio,
        clips: Sequence[Clip],
        *,
        max_bytes: int,
        threads: int,
        progress: Progress | None,
        stores: Mapping[str, Facts] | None = None,
    ) -> None:
        self.folder, self.audio, self.clips = folder, audio, clips
        self.bound, self.threads, self.progress = max_bytes, threads, progress
        self.stores = stores
        self.table = Table.empty(len(clips))
        self.num_decoded = self.num_done = self.num_written = self.num_held = 0
        self.slots: dict[int, int] = {}  # shard number → position in the table's maps
        self.leaders: dict[bytes, int] = {}  # key → the row that decodes it
        self.followers: list[tuple[int, int]] = []
        self.writer: ShardWriter | None = None
        self.pending: list[tuple[int | None, bytes, Entry]] = []
        self.files: list[tuple[str, Stat, bytes]] = []
        self.remote_files: list[tuple[str, str, bytes]] = []
        self.base = hashlib.blake2b(_settings(audio).encode(), digest_size=_DIGEST)

    def run(self) -> None:
        """Fill the table."""
        told = self.stores
        remote = (c.path for c in self.clips if told is None and not is_local(c.path))
        with PcmIndex(self.folder) as self.index, asking(remote) as asked:
            self.known: Callable[[], Mapping[str, Facts]] = asked if told is None else lambda: told
            self.index.sweep()
            missing = self._look_up_unchanged_files()
            self.index.touch(self.slots)  # at once, for the eyes of other processes
            here = [item for item in missing if is_local(self.clips[item[0]].path)]
            there = [item for item in missing if not is_local(self.clips[item[0]].path)]
            with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as self.pool:
                try:
                    for some in batched(here, _CHUNK):
                        self._decode_local(some)
                    self._decode_remote(there)
                finally:
                    # What was decoded is kept even if the fill was interrupted.
                    self._commit()
            self.index.touch(self.slots)
            self.index.evict(self.bound, self.slots)
        for row, leader in self.followers:
            self.table.copy_row(leader, row)
            if leader in self.table.bad:
                self.table.bad[row] = self._bad(row, self.table.bad[leader])

    def _look_up_unchanged_files(self) -> list[tuple[int, bytes | None]]:
        """Settle all clips whose files are known by their stat or tag; return the others' rows."""
        missing: list[tuple[int, bytes | None]] = []
        for rows in batched(range(len(self.clips)), _CHUNK):
            paths = {self.clips[row].path for row in rows}
            contents = self._unchanged(filter(is_local, paths))
            remote = self.index.remote_files(path for path in paths if not is_local(path))
            contents |= {url: content for url, (_, content) in remote.items()}
            keys = self._keys((row, contents.get(self.clips[row].path)) for row in rows)
            entries = self.index.find(set(keys.values()))
            # By now the stores have answered, or almost.
            stores = self.known() if remote else {}
            changed = {
                u for u, (tag, _) in remote.items() if u not in stores or stores[u].tag != tag
            }
            for row in rows:
                path = self.clips[row].path
                content = None if path in changed else contents.get(path)
                if content is None or not self._take_entry(row, entries.get(keys[row])):
                    missing.append((row, content))
        self._tell()
        return missing

    def _unchanged(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of local files that have not changed since they were hashed."""
        names, stats = {}, {}
        for path in paths:
            with suppress(OSError, ValueError):  # decoding will say what is wrong with the file
                names[path] = str(local_path(path))
                stats[names[path]] = Stat.of(names[path])
        contents = self.index.contents(stats)
        return {path: contents[name] for path, name in names.items() if name in contents}

    def _keys(self, known: Iterable[tuple[int, bytes | None]]) -> dict[int, bytes]:
        return {row: self._key(self.clips[row], content) for row, content in known if content}

    def _key(self, clip: Clip, content: bytes) -> bytes:
        hasher = self.base.copy()
        hasher.update(content + repr((clip.start or 0.0, clip.duration)).encode())
        return hasher.digest()

    def _settle(self, known: Iterable[tuple[int, bytes | None]]) -> list[tuple[int, bytes | None]]:
        """Take clips (row, content) from the folder; return those that it does not hold."""
        pairs = list(known)
        keys = self._keys(pairs)
        entries = self.index.find(set(keys.values()))
        return [
            (row, content)
            for row, content in pairs
            if content is None or not self._take_entry(row, entries.get(keys[row]))
        ]

    def _take_entry(self, row: int, entry: Entry | None) -> bool:
        if entry is None:
            return False
        if entry.reason is not None:
            found = BadAudio(entry.reason, entry.message, fix=entry.fix)  # type: ignore[arg-type]
            self.table.bad[row] = self._bad(row, found)
        else:
            slot = self._slot(entry.shard)
            if slot is None:
                return False
            self.table.put(row, slot, entry)
        self.num_done += 1
        return True

    def _bad(self, row: int, error: BadAudio) -> BadAudio:
        where = f"{self.clips[row].path} (clip {self.clips[row].id})"
        return BadAudio(error.reason, error.message, where=where, fix=error.fix)

    def _slot(self, shard: int | None) -> int | None:
        """Map a shard at once: from then on it can be read even if another process removes it."""
        if shard is None:
            return None
        if shard not in self.slots:
            opened = self.index.open_shard(shard)
            if opened is None:
                return None
            self._adopt(shard, *opened)
        return self.slots[shard]

    def _adopt(self, shard: int, name: str, pcm: Pcm) -> None:
        self.slots[shard] = len(self.table.maps)
        self.num_held += pcm.nbytes
        self.table.maps.append(pcm)
        self.table.names.append(name)

    def _decode_local(self, missing: Sequence[tuple[int, bytes | None]]) -> None:
        paths = dict.fromkeys(self.clips[row].path for row, content in missing if not content)
        hashed = dict(zip(paths, self._in_order(_hash_file, paths), strict=True))
        self.files += [found for found in hashed.values() if found and found[1].is_settled()]
        contents = {path: found[2] for path, found in hashed.items() if found}
        self._decode_missing(missing, contents)

    def _decode_remote(self, missing: Sequence[tuple[int, bytes | None]]) -> None:
        order = dict.fromkeys(self.clips[row].path for row, _ in missing)
        stores = self.known()
        with ReadAhead(filter(stores.__contains__, order), stores, _hash) as ahead:
            for some in batched(missing, _REMOTE_CHUNK):
                copies, contents = {}, {}
                for path in dict.fromkeys(self.clips[row].path for row, _ in some):
                    with suppress(DataError):  # it is gone
                        if path in stores:
                            loan, contents[path] = ahead.get(path)
                            copies[path] = loan.path
                            self.remote_files.append((path, loan.facts.tag, contents[path]))
                self._decode_missing(some, contents, copies)
                for path in copies:
                    ahead.release(path)

    def _decode_missing(
        self,
        missing: Iterable[tuple[int, bytes | None]],
        contents: Mapping[str, bytes],
        copies: Mapping[str, Path] | None = None,
    ) -> None:
        """Decode clips (row, content if known) whose other contents, and local copies, are here."""
        found = ((row, contents.get(self.clips[row].path, known)) for row, known in missing)
        work = []
        for row, content in self._settle(found):
            key = None if content is None else self._key(self.clips[row], content)
            leader = row if key is None else self.leaders.setdefault(key, row)
            if leader == row:
                work.append((row, key))
            else:
                self.followers.append((row, leader))
                self.num_done += 1
        decode = self._in_order(lambda item: self._decode(item[0], copies), work)
        for (row, key), result in zip(work, decode, strict=True):
            self._take(row, key, result)

    def _decode(self, row: int, copies: Mapping[str, Path] | None) -> _Decoded | BadAudio:
        clip = self.clips[row]
        try:
            if copies is not None:
                if clip.path not in copies:
                    raise BadAudio("missing", "there is no such file")
                clip = clip._replace(path=str(copies[clip.path]))
            pcm, scale = load_int16(clip, self.audio)
        except BadAudio as error:
            return self._bad(row, error)
        return _Decoded(pcm, float(scale), hashlib.blake2b(pcm.data, digest_size=_DIGEST).digest())

    def _take(self, row: int, key: bytes | None, result: _Decoded | BadAudio) -> None:
        self.num_done += 1
        self.num_decoded += key is not None
        if isinstance(result, BadAudio):
            self.table.bad[row] = result
            if key is not None and result.reason not in _FLEETING:
                bad = Entry(None, 0, 0, 0.0, b"", result.reason, result.message, result.fix)
                self.pending.append((None, key, bad))
        elif key is None:  # the file appeared, or could be read, only after it was to be hashed
            text = "the file changed while it was read"
            self.table.bad[row] = self._bad(row, BadAudio("missing", text))
        else:
            self._write(row, key, result)
        self._tell()

    def _write(self, row: int, key: bytes, clip: _Decoded) -> None:
        self._check_bound(clip.pcm.nbytes)
        if self.writer is None:
            self.writer = ShardWriter(self.folder)
        try:
            start = self.writer.append(clip.pcm)
        except RunError:
            self.writer.abort()
            self.writer, self.pending = None, []
            raise
        entry = Entry(None, start, len(clip.pcm), clip.scale, clip.digest)
        self.pending.append((row, key, entry))
        # Shards grow with the fill, so that a huge one does not need thousands of open files.
        self.num_written += clip.pcm.nbytes
        limit = max(min(_SHARD_BYTES, self.bound // 8), self.num_written // 64)
        if self.writer.bytes >= limit:
            self._commit()

    def _check_bound(self, size: int) -> None:
        held = self.num_held + (self.writer.bytes if self.writer else 0) + size
        if held > self.bound:
            need = held * len(self.clips) / max(1, self.num_done) / 1e9
            raise RunError(
                f"the decoded audio of these clips needs about {need:.3g} GB, but the cache "
                f"may hold {self.bound / 1e9:g} GB",
                where=str(self.folder),
                fix=f"data.cache_gigabytes={max(1, math.ceil(1.2 * need))}",
            )

    def _commit(self) -> None:
        """Finish the shard that is being written and enter it into the books."""
        writer, pending = self.writer, self.pending
        self.writer, self.pending = None, []
        files, self.files = self.files, []
        remote_files, self.remote_files = self.remote_files, []
        if not pending and not files and not remote_files:
            return
        entries = [(key, entry) for _, key, entry in pending]
        try:
            if writer is None:
                self.index.remember(entries, files, None, remote_files)
                return
            self.index.evict(self.bound - writer.bytes, self.slots)
            pcm = writer.finish()
            shard = self.index.remember(entries, files, writer, remote_files)
        except RunError:
            if writer is not None:
                writer.abort()
            raise
        assert shard is not None
        self._adopt(shard, writer.name, pcm)
        for row, _, entry in pending:
            if row is not None:
                self.table.put(row, self.slots[shard], entry)

    def _in_order(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Apply a function in the pool; results in order, with few of them in memory."""
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self.pool.submit(function, item))
                if len(waiting) > 4 * self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.num_done, len(self.clips))


def _settings(audio: Audio) -> str:
    """Everything but the file and the segment that decides about the samples."""
    versions = (DECODER, soundfile.__libsndfile_version__, soxr.__version__)
    settings = (versions, audio.sample_rate, audio.channel, audio.min_seconds, audio.silent)
    # Without trimming the key is what it was before there was any, so that caches stay valid.
    return repr(settings if audio.trim_db is None else (*settings, audio.trim_db))


def _hash_file(path: str) -> tuple[str, Stat, bytes] | None:
    """Return the file, its stat and the hash of its bytes; None if it cannot be read."""
    try:
        file = local_path(path)
        return str(file), Stat.of(file), _hash(file)
    except (OSError, ValueError):
        return None


def _hash(file: Path) -> bytes:
    with file.open("rb") as stream:
        blake2b = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_DIGEST))
    return blake2b.digest()
