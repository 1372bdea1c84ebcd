"""The books survive races, damage and dead writers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from harken.errors import RunError
from harken.pcm_index import Entry, PcmIndex, ShardWriter, Stat

PCM = np.arange(100, dtype=np.int16)


def add_shard(index: PcmIndex, key: bytes, size: int = 100) -> int:
    writer = ShardWriter(index.folder)
    start = writer.append(np.resize(PCM, size))
    writer.finish()
    shard = index.remember([(key, Entry(None, start, size, 0.5, b"d"))], [], writer)
    assert shard is not None
    return shard


def test_entries_come_back(tmp_path: Path) -> None:
    with PcmIndex(tmp_path) as index:
        shard = add_shard(index, b"a")
        assert index.find([b"a", b"other"]) == {
            b"a": Entry(shard, 0, 100, 0.5, b"d", None, "", None)
        }
        assert np.array_equal(index.open_shard(shard)[1], PCM)
        index.remember(
            [(b"bad", Entry(None, reason="silent", message="no sound", fix="x"))], [], None
        )
    with PcmIndex(tmp_path) as index:
        bad = Entry(None, 0, 0, 0.0, b"", "silent", "no sound", "x")
        assert index.find([b"bad"]) == {b"bad": bad}


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    with PcmIndex(tmp_path) as one, PcmIndex(tmp_path) as two:
        first, second = add_shard(one, b"a"), add_shard(two, b"a")
        assert first != second
        assert one.find([b"a"])[b"a"].shard == two.find([b"a"])[b"a"].shard == first
        assert np.array_equal(two.open_shard(second)[1], PCM)


def test_stat_tells_changed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    stat = Stat.of(path)
    assert not stat.is_settled()  # it could change again within one tick of the clock
    assert stat._replace(mtime=1, ctime=1).is_settled()
    with PcmIndex(tmp_path / "cache") as index:
        index.remember([], [(str(path), stat, b"hash")], None)
        assert index.contents({str(path): stat, "other": stat}) == {str(path): b"hash"}
        os.utime(path, (1, 1))
        assert index.contents({str(path): Stat.of(path)}) == {}


def test_remote_files_are_remembered_with_their_tags(tmp_path: Path) -> None:
    with PcmIndex(tmp_path) as index:
        index.remember([], [], None, [("gs://b/a.wav", "one", b"hash")])
        index.remember([], [], None, [("gs://b/b.wav", "one", b"old")])
        index.remember([], [], None, [("gs://b/b.wav", "two", b"new")])
    urls = ["gs://b/a.wav", "gs://b/b.wav", "gs://b/c.wav"]
    with PcmIndex(tmp_path) as index:
        known = index.remote_files(urls)
        assert known == {urls[0]: ("one", b"hash"), urls[1]: ("two", b"new")}


def test_eviction_spares_the_needed_and_the_recent(tmp_path: Path) -> None:
    with PcmIndex(tmp_path) as index:
        shards = [add_shard(index, bytes([i])) for i in range(4)]
        index.touch([shards[0]])
        index.evict(400, needed=[shards[1]])
        assert set(index.find(bytes([i]) for i in range(4))) == {b"\0", b"\1"}
        assert len(list(tmp_path.glob("*.pcm"))) == 2


def test_sweep_removes_old_orphans_only(tmp_path: Path) -> None:
    with PcmIndex(tmp_path) as index:
        shard = add_shard(index, b"a")
        for name in ("young.pcm.part", "old.pcm.part", "old.pcm"):
            (tmp_path / name).write_bytes(b"xx")
        known = tmp_path / index.open_shard(shard)[0]
        for path in (tmp_path / "old.pcm.part", tmp_path / "old.pcm", known):
            os.utime(path, (1, 1))
        index.sweep()
        names = {path.name for path in tmp_path.glob("*.pcm*")}
        assert names == {"young.pcm.part", known.name}


def test_sweep_removes_shards_that_lost_a_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PcmIndex(tmp_path) as index:
        first, second = add_shard(index, b"a"), add_shard(index, b"a")
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 86400)
        index.sweep()
        assert index.open_shard(first) is not None
        assert index.open_shard(second) is None


def test_damage_is_explained(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"this is no database, whatever its name says" * 50)
    with pytest.raises(RunError, match="delete this folder"):
        PcmIndex(tmp_path)


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="another folder"):
        PcmIndex(tmp_path / "file" / "cache")


def test_an_aborted_shard_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.append(PCM)
    writer.abort()
    assert list(tmp_path.iterdir()) == []
