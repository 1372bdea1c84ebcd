"""Decoded once, found again, read in parts; bad clips stop or are left out."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harken.audio import Audio, BadAudio, load
from harken.errors import ConfigError, DataError, RunError
from harken.manifest import Clip
from harken.pcm_cache import PcmCache, default_folder

Make = Callable[..., list[Clip]]


@pytest.fixture
def make_clips(tmp_path: Path, noise: Callable) -> Make:
    def make(count: int = 6, seconds: float = 0.25, rate: int = 22050) -> list[Clip]:
        clips = []
        for i in range(count):
            path = tmp_path / "sound" / f"{i}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, noise(seconds + 0.01 * i, rate, seed=i), rate)
            clips.append(Clip(f"c{i}", str(path)))
        return clips

    return make


def filled(folder: Path, clips: list[Clip], audio: Audio | None = None, **options) -> PcmCache:
    cache = PcmCache(folder, audio or Audio(), **options)
    cache.fill(clips, on_bad="skip")
    return cache


def test_clips_read_as_they_load(tmp_path: Path, make_clips: Make) -> None:
    clips = make_clips()
    cache = filled(tmp_path / "cache", clips)
    assert (len(cache), cache.num_decoded) == (6, 6)
    assert cache.good.all()
    for i, clip in enumerate(clips):
        wave = load(clip, Audio())
        assert np.array_equal(cache.read(i), wave)
        assert cache.read(i).dtype == np.float32
        assert cache.length(i) == len(wave) == cache.lengths[i]
        assert np.array_equal(cache.read(i, 100, 900), wave[100:900])
        assert np.array_equal(cache.read(i, 4000), wave[4000:])
        assert len(cache.read(i, 0, 10**9)) == len(wave)  # never into the next clip


def test_second_fill_decodes_nothing(tmp_path: Path, make_clips: Make) -> None:
    clips = make_clips()
    first = filled(tmp_path / "cache", clips)
    for again in (filled(tmp_path / "cache", clips[::-1]), first):
        again.fill(clips)
        assert again.num_decoded == 0
        assert np.array_equal(again.read(3), load(clips[3], Audio()))
    # What does not change the samples does not decode anew either.
    same = Audio(clip_seconds=3, crop="random", pad="repeat")
    assert filled(tmp_path / "cache", clips, same).num_decoded == 0


@pytest.mark.parametrize(
    "changed",
    [{"sample_rate": 8000}, {"channel": "sum"}, {"channel": 0}, {"min_seconds": 0.1},
     {"silent": "keep"}],
)  # fmt: skip
def test_changed_settings_decode(tmp_path: Path, make_clips: Make, changed: dict) -> None:
    clips = make_clips(2)
    filled(tmp_path / "cache", clips)
    cache = filled(tmp_path / "cache", clips, Audio(**changed))
    assert cache.num_decoded == 2
    assert np.array_equal(cache.read(0), load(clips[0], Audio(**changed)))


def test_changed_content_decodes_and_renamed_files_do_not(
    tmp_path: Path, make_clips: Make, noise: Callable
) -> None:
    clips = make_clips(3)
    old = filled(tmp_path / "cache", clips).read(1)
    size = Path(clips[1].path).stat().st_size
    soundfile.write(clips[1].path, noise(0.26, 22050, seed=99), 22050)
    assert Path(clips[1].path).stat().st_size == size  # changed at once, to the same size
    cache = filled(tmp_path / "cache", clips)
    assert cache.num_decoded == 1
    assert not np.array_equal(cache.read(1), old)
    assert np.array_equal(cache.read(1), load(clips[1], Audio()))
    moved = [Clip("moved", shutil.copy(clip.path, tmp_path / f"{clip.id}.wav")) for clip in clips]
    assert filled(tmp_path / "cache", moved).num_decoded == 0


def test_unchanged_files_are_not_even_read(
    tmp_path: Path, make_clips: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = make_clips(3)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**10)  # the files have settled
    filled(tmp_path / "cache", clips)
    monkeypatch.setattr("harken.pcm_fill._hash_file", lambda path: pytest.fail(path))
    assert filled(tmp_path / "cache", clips).num_decoded == 0
    os.utime(clips[0].path, ns=(now, now + 5))
    with pytest.raises(pytest.fail.Exception):
        filled(tmp_path / "cache", clips)


def test_segments_of_one_file(tmp_path: Path, make_clips: Make) -> None:
    path = make_clips(1, seconds=2.0)[0].path
    clips = [Clip(f"s{i}", path, 0.25 * i, 0.25) for i in range(8)] + [Clip("all", path)]
    cache = filled(tmp_path / "cache", clips)
    assert cache.num_decoded == 9
    for i, clip in enumerate(clips):
        assert np.array_equal(cache.read(i), load(clip, Audio()))
    assert filled(tmp_path / "cache", clips).num_decoded == 0


def test_identical_audio_has_one_digest_and_is_decoded_once(
    tmp_path: Path, make_clips: Make
) -> None:
    clips = make_clips(2)
    wave, rate = soundfile.read(clips[0].path, dtype="int16")
    soundfile.write(tmp_path / "same.flac", wave, rate)
    twin = Clip("twin", shutil.copy(clips[0].path, tmp_path / "twin.wav"))
    clips += [Clip("flac", str(tmp_path / "same.flac")), twin]
    cache = filled(tmp_path / "cache", clips)
    assert cache.num_decoded == 3  # the copy has the same bytes, the FLAC file has not
    assert cache.digest(0) == cache.digest(2) == cache.digest(3) != cache.digest(1)
    assert np.array_equal(cache.read(0), cache.read(3))
    assert filled(tmp_path / "cache", clips[3:]).num_decoded == 0


def test_bad_clips_are_left_out(tmp_path: Path, make_clips: Make) -> None:
    clips = make_clips(4)
    Path(clips[1].path).write_text("no sound")
    Path(clips[2].path).unlink()
    twin = Clip("twin", shutil.copy(clips[1].path, tmp_path / "twin.wav"))
    cache = PcmCache(tmp_path / "cache", Audio())
    for decoded in (3, 0):  # that a file is bad is remembered like any other result
        rows = cache.fill([*clips, twin], on_bad="skip")
        assert [(row.id, row.reason) for row in rows] == [
            ("c1", "not_audio"), ("c2", "missing"), ("twin", "not_audio"),
        ]  # fmt: skip
        assert [row.path for row in rows] == [clips[1].path, clips[2].path, twin.path]
        assert all(row.message for row in rows)
        assert cache.num_decoded == decoded
        assert cache.good.tolist() == [True, False, False, True, False]
        assert (cache.length(1), cache.digest(1)) == (0, "")
        with pytest.raises(DataError, match="left out"):
            cache.read(1)
        assert np.array_equal(cache.read(3), load(clips[3], Audio()))


def test_mended_files_are_taken(tmp_path: Path, make_clips: Make) -> None:
    clips = make_clips(2)
    sound = Path(clips[1].path).read_bytes()
    for broken in (b"", b"not sound", sound[:-100]):
        Path(clips[1].path).write_bytes(broken)
        assert not filled(tmp_path / "cache", clips).good[1]
    Path(clips[1].path).write_bytes(sound)
    assert filled(tmp_path / "cache", clips).good.all()


def test_stop_names_the_first_bad_clip_and_counts_the_others(
    tmp_path: Path, make_clips: Make
) -> None:
    clips = make_clips(4)
    Path(clips[1].path).write_bytes(b"")
    cache = PcmCache(tmp_path / "cache", Audio())
    with pytest.raises(BadAudio, match=r"1\.wav \(clip c1\).*on_bad_audio=skip") as caught:
        cache.fill(clips)
    assert "more" not in str(caught.value)
    soundfile.write(clips[3].path, np.zeros(100), 16000)
    for _ in range(2):
        with pytest.raises(BadAudio, match="and 1 more") as caught:
            cache.fill(clips, on_bad="stop")
        assert caught.value.reason == "empty"
    assert cache.num_decoded == 0  # the good ones were kept


def test_progress(tmp_path: Path, make_clips: Make) -> None:
    clips, told = make_clips(5), []
    cache = PcmCache(tmp_path / "cache", Audio())
    cache.fill(clips[:2])
    cache.fill(clips, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_folder_follows_the_environment(
    tmp_path: Path, make_clips: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "elsewhere"))
    assert default_folder() == tmp_path / "elsewhere" / "pcm"
    PcmCache(None, Audio()).fill(make_clips(1))
    assert len(list(default_folder().glob("*.pcm"))) == 1


def test_temporary_caches_vanish(make_clips: Make) -> None:
    cache = PcmCache.temporary(Audio())
    cache.fill(make_clips(2))
    folder = cache.folder
    assert len(cache.read(1)) == cache.length(1) > 0
    del cache
    assert not folder.exists()


def test_caches_travel_to_spawned_workers(tmp_path: Path, make_clips: Make) -> None:
    cache = filled(tmp_path / "cache", make_clips(3))
    sent = pickle.dumps(cache)
    assert len(sent) < 4000  # where the audio lies, not the audio
    assert np.array_equal(pickle.loads(sent).read(2), cache.read(2))
    shutil.rmtree(tmp_path / "cache")
    assert len(cache.read(2)) == cache.length(2)  # what is mapped stays
    with pytest.raises(RunError, match="removed"):
        pickle.loads(sent)


def test_no_clips(tmp_path: Path) -> None:
    cache = filled(tmp_path / "cache", [])
    assert len(cache) == len(cache.good) == cache.num_decoded == 0


@given(data=st.data())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_part_of_any_clip(tmp_path: Path, make_clips: Make, data: st.DataObject) -> None:
    clips = make_clips(3, seconds=0.05)
    cache = filled(tmp_path / "cache", clips)
    i = data.draw(st.integers(0, 2))
    start = data.draw(st.integers(0, cache.length(i)))
    stop = data.draw(st.integers(start, cache.length(i) + 5))
    assert np.array_equal(cache.read(i, start, stop), load(clips[i], Audio())[start:stop])


@pytest.mark.realdata
def test_real_recordings(tmp_path: Path, esc10: Path) -> None:
    paths = sorted((esc10 / "audio").glob("*.ogg"))[::10]
    clips = [Clip(path.stem, str(path)) for path in paths]
    assert filled(tmp_path / "cache", clips).num_decoded == 40
    began = time.perf_counter()
    cache = filled(tmp_path / "cache", clips)
    waves = [cache.read(i) for i in range(len(cache))]
    assert time.perf_counter() - began < 2  # 0.02 s on an idle machine
    assert cache.num_decoded == 0
    assert np.array_equal(waves[7], load(clips[7], Audio()))


def test_the_folder_is_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not in a bucket") as caught:
        PcmCache("gs://bucket/cache", Audio())
    assert caught.value.where == "data.cache=gs://bucket/cache"
    assert PcmCache(f"file://{tmp_path}", Audio()).folder == tmp_path
