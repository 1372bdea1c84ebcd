"""Filling under two processes, under SIGKILL, at the bound, on a full disk, and quickly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import harken.pcm_fill
from harken.audio import Audio, load
from harken.errors import RunError
from harken.manifest import Clip
from harken.pcm_cache import PcmCache

FILL = """
import sys
from pathlib import Path
from harken.audio import Audio
from harken.manifest import Clip
from harken.pcm_cache import PcmCache
import harken.pcm_fill
harken.pcm_fill._SHARD_BYTES = 100_000
{before}
clips = [Clip(p.stem, str(p)) for p in sorted(Path(sys.argv[2]).glob("*.wav"))]
cache = PcmCache(sys.argv[1], Audio(), threads=2)
cache.fill(clips, progress=lambda done, total: print(done, flush=True))
"""


@pytest.fixture
def sounds(tmp_path: Path, noise: Callable) -> list[Clip]:
    """60 clips of half a second: 16 kB each when decoded."""
    folder = tmp_path / "sound"
    folder.mkdir()
    for i in range(60):
        soundfile.write(folder / f"{i:02}.wav", noise(0.5, 44100, seed=i), 44100)
    return [Clip(path.stem, str(path)) for path in sorted(folder.glob("*.wav"))]


def start_fill(tmp_path: Path, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FILL.format(before=before), tmp_path / "cache", tmp_path / "sound"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_whole(cache: PcmCache, clips: list[Clip]) -> None:
    assert cache.good.all()
    for i in range(0, len(clips), 7):
        assert np.array_equal(cache.read(i), load(clips[i], Audio()))


def test_two_processes_fill_one_folder(tmp_path: Path, sounds: list[Clip]) -> None:
    fills = [start_fill(tmp_path) for _ in range(2)]
    for process in fills:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill(sounds)
    assert cache.num_decoded == 0
    assert_whole(cache, sounds)
    assert not list((tmp_path / "cache").glob("*.part"))


def test_killed_in_the_middle(tmp_path: Path, sounds: list[Clip]) -> None:
    slow = "decode = harken.pcm_fill.load_int16\nimport time\n"
    slow += "harken.pcm_fill.load_int16 = lambda *a: (time.sleep(0.02), decode(*a))[1]"
    process = start_fill(tmp_path, slow)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 30:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.communicate()
    folder = tmp_path / "cache"
    orphans = list(folder.glob("*.part"))
    assert len(orphans) == 1
    cache = PcmCache(folder, Audio())
    cache.fill(sounds)
    assert 0 < cache.num_decoded < 60  # complete shards were kept
    assert_whole(cache, sounds)
    assert orphans[0].exists()  # its writer might be alive
    day_ago = time.time() - 86400
    os.utime(orphans[0], (day_ago, day_ago))
    cache.fill(sounds)
    assert not orphans[0].exists()
    assert cache.num_decoded == 0
    assert_whole(cache, sounds)


def test_interrupted_by_an_exception_keeps_what_is_decoded(
    tmp_path: Path, sounds: list[Clip]
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    cache = PcmCache(tmp_path / "cache", Audio())
    with pytest.raises(KeyboardInterrupt):
        cache.fill(sounds, progress=interrupt)
    cache.fill(sounds)
    assert cache.num_decoded == 40
    assert_whole(cache, sounds)


def test_the_least_recently_used_make_room(tmp_path: Path, sounds: list[Clip]) -> None:
    folder = tmp_path / "cache"
    bound = 45 * 16_000 / 1e9  # 45 of the 60 clips
    first, second, third = sounds[:20], sounds[20:40], sounds[40:]
    caches = {}
    for name, clips in (("first", first), ("second", second), ("first", first), ("third", third)):
        caches[name] = PcmCache(folder, Audio(), bound)
        caches[name].fill(clips)
    assert sum(path.stat().st_size for path in folder.glob("*.pcm")) <= 1e9 * bound
    assert_whole(caches["second"], second)  # removed, but mapped before
    caches["first"].fill(first)
    assert caches["first"].num_decoded == 0
    caches["second"].fill(second)
    assert caches["second"].num_decoded > 0
    assert_whole(caches["second"], second)


def test_more_than_the_bound_is_refused_with_the_size(tmp_path: Path, sounds: list[Clip]) -> None:
    cache = PcmCache(tmp_path / "cache", Audio(), max_gigabytes=300_000 / 1e9)
    with pytest.raises(RunError, match=r"0\.0009\d* GB.*data\.cache_gigabytes=1"):
        cache.fill(sounds)
    larger = PcmCache(tmp_path / "cache", Audio())
    larger.fill(sounds)
    assert larger.num_decoded < 60  # nothing was in vain
    assert_whole(larger, sounds)


def test_full_disk(tmp_path: Path, sounds: list[Clip]) -> None:
    # The kernel refuses to let a file grow, as it does on a full disk.
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))"
    process = start_fill(tmp_path, limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RunError" in errors.splitlines()[-1]
    assert "free some space" in errors.splitlines()[-1]
    assert str(tmp_path / "cache") in errors.splitlines()[-1]
    assert not list((tmp_path / "cache").glob("*.part"))
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill(sounds)
    assert_whole(cache, sounds)


def test_many_shards_and_chunks(
    tmp_path: Path, sounds: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harken.pcm_fill, "_SHARD_BYTES", 40_000)
    monkeypatch.setattr(harken.pcm_fill, "_CHUNK", 7)
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill([*sounds, *sounds[::-1]])  # twins in other chunks are not decoded again
    assert cache.num_decoded == 60
    assert_whole(cache, [*sounds, *sounds[::-1]])
    assert len(list((tmp_path / "cache").glob("*.pcm"))) == 20


def test_lost_and_damaged_shards_are_decoded_again(
    tmp_path: Path, sounds: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harken.pcm_fill, "_SHARD_BYTES", 300_000)
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill(sounds)
    shards = sorted((tmp_path / "cache").glob("*.pcm"))
    shards[0].unlink()
    os.truncate(shards[1], 1000)
    again = PcmCache(tmp_path / "cache", Audio())
    again.fill(sounds)
    assert 0 < again.num_decoded < 60
    assert_whole(again, sounds)


def test_threads_give_the_same_samples(tmp_path: Path, sounds: list[Clip]) -> None:
    one = PcmCache(tmp_path / "one", Audio(), threads=1)
    four = PcmCache(tmp_path / "four", Audio(), threads=4)
    for cache in (one, four):
        cache.fill(sounds)
    assert all(np.array_equal(one.read(i), four.read(i)) for i in range(60))
    assert [one.digest(i) for i in range(60)] == [four.digest(i) for i in range(60)]


def test_many_segments_are_looked_up_quickly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", rng.uniform(-0.5, 0.5, 16000 * 5), 16000)
    path = str(tmp_path / "long.wav")
    pool = [Clip(str(i), path, 0.01 * i, 0.02) for i in range(400)]
    clips = [pool[i % 400] for i in range(30_000)]
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill(clips)
    assert cache.num_decoded == 400
    began = time.perf_counter()
    cache.fill(clips)
    assert time.perf_counter() - began < 5  # 0.2 s on an idle machine
    assert cache.num_decoded == 0
