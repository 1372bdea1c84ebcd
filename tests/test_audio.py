"""Clips → waveforms, and waveforms of one length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from harken.audio import (
    Audio,
    BadAudio,
    crop_start,
    decode,
    fit_length,
    load,
    load_int16,
    pcm_round,
    quantize,
    trim_silence,
)
from harken.manifest import Clip
from harken.pcm_fill import _settings

waves = hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-8, 8, width=32))


def stereo_file(path: Path, left: np.ndarray, right: np.ndarray, rate: int = 16000) -> Clip:
    soundfile.write(path, np.stack([left, right], axis=1), rate, subtype="FLOAT")
    return Clip("two", str(path))


def reason_of(clip: Clip, audio: Audio) -> str:
    with pytest.raises(BadAudio) as caught:
        load(clip, audio)
    assert f"{clip.path} (clip {clip.id})" in str(caught.value)
    return caught.value.reason


# ---- load ---------------------------------------------------------------------------------------


def test_channels(tmp_path: Path, tone: Callable, noise: Callable) -> None:
    left, right = tone(), 3 * noise()
    clip = stereo_file(tmp_path / "two.wav", left, right)
    expected = {"mean": (left + right) / 2, "sum": left + right, 0: left, 1: right}
    for channel, wave in expected.items():
        np.testing.assert_allclose(load(clip, Audio(channel=channel)), wave, atol=5e-5)
    assert reason_of(clip, Audio(channel=2)) == "no_channel"


def test_mono_files_have_the_channel_0_only(tmp_path: Path, tone: Callable) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    clip = Clip("a", str(tmp_path / "a.wav"))
    assert np.array_equal(load(clip, Audio(channel=0)), load(clip, Audio()))
    assert reason_of(clip, Audio(channel=1)) == "no_channel"


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_tones_and_removes_what_would_alias(
    tmp_path: Path, tone: Callable, rate: int
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate, 1000.0), rate, subtype="FLOAT")
    clip = Clip("a", str(tmp_path / "a.wav"))
    wave = load(clip, Audio())
    assert abs(len(wave) - 32000) <= 1
    expected = tone(2.0, 16000, 1000.0)[: len(wave)]
    np.testing.assert_allclose(wave[2000:-2000], expected[2000:-2000], atol=1e-4)
    if rate > 40000:
        soundfile.write(tmp_path / "high.wav", tone(2.0, rate, 9500.0), rate, subtype="FLOAT")
        high = load(Clip("b", str(tmp_path / "high.wav")), Audio())
        assert np.abs(high[2000:-2000]).max() < 1e-5  # −100 dB


def test_segments(tmp_path: Path, noise: Callable) -> None:
    wave = noise(2.0)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    part = load(Clip("a", str(tmp_path / "a.wav"), 0.5, 0.25), Audio())
    assert np.array_equal(part, pcm_round(wave[8000:12000]))
    assert reason_of(Clip("a", str(tmp_path / "a.wav"), 1.9, 1.0), Audio()) == "outside"


def test_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    soundfile.write(tmp_path / "b.wav", np.full(800, 1e-7), 16000, subtype="FLOAT")
    for name in ("a.wav", "b.wav"):
        clip = Clip("quiet", str(tmp_path / name))
        assert reason_of(clip, Audio()) == "silent"
        assert load(clip, Audio(silent="keep")).shape == (800,)
    assert not load(Clip("quiet", str(tmp_path / "a.wav")), Audio(silent="keep")).any()
    opposed = stereo_file(tmp_path / "c.wav", np.ones(800), -np.ones(800))
    assert reason_of(opposed, Audio()) == "silent"
    assert load(opposed, Audio(channel=0)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(tmp_path: Path, tone: Callable, value: float) -> None:
    wave = tone()
    wave[4000] = value
    clip = stereo_file(tmp_path / "a.wav", wave, tone())
    assert reason_of(clip, Audio()) == "not_finite"
    assert load(clip, Audio(channel=1)).any()  # the broken channel is not asked for


def test_samples_beyond_all_sound(tmp_path: Path, tone: Callable) -> None:
    loud = Clip("loud", str(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "a.wav", tone() * 1e30, 16000, subtype="FLOAT")
    assert reason_of(loud, Audio()) == "not_sound"
    with pytest.raises(BadAudio, match=r"a.wav .*as large as \de\+29.*between -1 and 1"):
        load(loud, Audio())
    raw = tone() * 2**31  # integers that somebody stored as floats
    soundfile.write(tmp_path / "a.wav", raw, 16000, subtype="FLOAT")
    assert load(loud, Audio()).max() == pytest.approx(raw.max(), rel=1e-4)


def test_short_clips(tmp_path: Path, tone: Callable) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16000)
    clip = Clip("a", str(tmp_path / "a.wav"))
    assert reason_of(clip, Audio(min_seconds=0.51)) == "too_short"
    assert len(load(clip, Audio(min_seconds=0.5))) == 8000
    soundfile.write(tmp_path / "b.wav", np.ones(1), 48000)
    assert reason_of(Clip("b", str(tmp_path / "b.wav")), Audio(sample_rate=1000)) == "zero_length"


def test_errors_of_decoding_name_the_clip(tmp_path: Path) -> None:
    assert reason_of(Clip("gone", str(tmp_path / "gone.wav")), Audio()) == "missing"


@pytest.mark.realdata
def test_real_clip_equals_decoding_and_resampling_by_hand(esc10: Path) -> None:
    path = sorted((esc10 / "audio").glob("*.ogg"))[0]
    wave, rate = soundfile.read(path, dtype="float32")
    by_hand = soxr.resample(wave, rate, 16000, quality="HQ")
    ours = load(Clip("a", str(path)), Audio())
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, by_hand, atol=np.abs(by_hand).max() / 60000)
    assert np.array_equal(decode(path)[0][0], wave)


def test_settings_are_checked() -> None:
    for bad in ({"sample_rate": 0}, {"channel": "left"}, {"channel": -1}, {"pad": "x"}):
        with pytest.raises(ValidationError):
            Audio(**bad)
    assert Audio(clip_seconds=2.5).clip_samples == 40000
    assert Audio().clip_samples is None


# ---- silent ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("floor", [0.0, 1e-4])
def test_silent_ends_are_cut_off(tmp_path: Path, tone: Callable, rate: int, floor: float) -> None:
    ends = floor * np.random.default_rng(0).standard_normal(2 * rate)
    wave = np.concatenate([ends[: rate // 2], tone(1.0, rate), ends[: rate // 3]])
    wave[rate] = 0  # a gap inside stays
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    clip = Clip("a", str(tmp_path / "a.wav"))
    assert len(load(clip, Audio())) == pytest.approx(16000 * (1 + 1 / 2 + 1 / 3), abs=2)
    trimmed = load(clip, Audio(trim_db=40))
    assert len(trimmed) / 16000 == pytest.approx(1.0, abs=0.021)
    begins = np.argmax(np.abs(trimmed) > 0.05) / 16000
    assert begins <= 0.012


def test_how_much_softer_an_end_may_be(tmp_path: Path, tone: Callable) -> None:
    wave = np.concatenate([0.01 * tone(0.5), tone(0.5), 0.1 * tone(0.5)])
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    clip = Clip("a", str(tmp_path / "a.wav"))
    seconds = [len(load(clip, Audio(trim_db=db))) / 16000 for db in (10, 30, 60)]
    assert seconds == pytest.approx([0.5, 1.0, 1.5], abs=0.011)


def test_each_segment_is_trimmed_by_itself(tmp_path: Path, tone: Callable) -> None:
    gap = np.zeros(8000, np.float32)
    wave = np.concatenate([gap, 0.001 * tone(0.5), gap, tone(0.5), gap])
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    path, audio = str(tmp_path / "a.wav"), Audio(trim_db=40)
    for start in (0.25, 1.25):
        assert len(load(Clip("s", path, start, 1.0), audio)) == pytest.approx(8000, abs=160)
    assert len(load(Clip("s", path), audio)) == pytest.approx(8000, abs=160)


def test_trimming_keeps_what_has_no_sound_and_what_has_no_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16000)
    clip = Clip("quiet", str(tmp_path / "a.wav"))
    assert load(clip, Audio(trim_db=60, silent="keep")).shape == (800,)
    assert reason_of(clip, Audio(trim_db=60)) == "silent"
    for wave in (np.zeros(0, np.float32), np.ones(1, np.float32), np.ones(999, np.float32)):
        assert np.array_equal(trim_silence(wave, 16000, 60), wave)


def test_min_seconds_holds_for_what_is_left(tmp_path: Path, tone: Callable) -> None:
    wave = np.concatenate([np.zeros(16000, np.float32), tone(0.25)])
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    clip = Clip("a", str(tmp_path / "a.wav"))
    assert len(load(clip, Audio(min_seconds=0.5))) == 20000
    assert reason_of(clip, Audio(min_seconds=0.5, trim_db=60)) == "too_short"


@given(waves, st.floats(0.1, 120), st.integers(100, 48000))
def test_what_is_trimmed_is_a_part_of_the_wave(wave: np.ndarray, db: float, rate: int) -> None:
    trimmed = trim_silence(wave, rate, db)
    frame = max(round(0.01 * rate), 1)
    starts = range(0, len(wave) - len(trimmed) + 1, frame)
    assert len(trimmed) >= 1
    assert any(np.array_equal(wave[s : s + len(trimmed)], trimmed) for s in starts)
    assert np.array_equal(trim_silence(trimmed, rate, db), trimmed)


AFTER_THE_CACHE = {"clip_seconds", "crop", "pad"}
OTHERS = {
    "sample_rate": 8000, "channel": "sum", "min_seconds": 0.1, "silent": "keep", "trim_db": 60.0,
}  # fmt: skip


def test_every_setting_of_the_decoder_has_a_part_in_the_cache_s_key() -> None:
    assert set(Audio.model_fields) == AFTER_THE_CACHE | set(OTHERS)
    keys = {_settings(Audio(**{name: value})) for name, value in OTHERS.items()}
    assert len(keys | {_settings(Audio())}) == len(OTHERS) + 1
    assert _settings(Audio(clip_seconds=1, crop="random", pad="mean")) == _settings(Audio())
    assert _settings(Audio(trim_db=30)) != _settings(Audio(trim_db=60))


# ---- 16-bit rounding ----------------------------------------------------------------------------


@given(waves)
def test_rounding_error_is_half_a_step_of_the_peak(wave: np.ndarray) -> None:
    peak = np.abs(wave).max()
    rounded = pcm_round(wave)
    assert rounded.dtype == np.float32
    # Half a step, and what float32 itself rounds off.
    assert np.abs(rounded - wave).max() <= 0.5 * peak / 32767 + 2 * np.spacing(peak) + 1e-30
    pcm, scale = quantize(wave)
    assert scale == 0 or np.abs(pcm).max() == 32767
    assert scale == pytest.approx(peak / 32767, rel=1e-6, abs=1e-30)


def test_rounding_of_nothing_and_of_next_to_nothing() -> None:
    assert len(pcm_round(np.zeros(0, np.float32))) == 0
    assert not pcm_round(np.full(3, 1e-38, np.float32)).any()


def test_load_equals_the_16_bit_form(tmp_path: Path, noise: Callable) -> None:
    soundfile.write(tmp_path / "a.flac", noise(), 44100)
    clip = Clip("a", str(tmp_path / "a.flac"))
    pcm, scale = load_int16(clip, Audio())
    assert pcm.dtype == np.int16
    assert np.array_equal(load(clip, Audio()), pcm.astype(np.float32) * scale)


# ---- length -------------------------------------------------------------------------------------


def test_crop() -> None:
    wave = np.arange(10, dtype=np.float32)
    assert fit_length(wave, 4, "start", "zero")[0].tolist() == [0, 1, 2, 3]
    assert fit_length(wave, 4, "centre", "zero")[0].tolist() == [3, 4, 5, 6]
    # Without a generator, which is evaluation, random is the centre.
    assert fit_length(wave, 4, "random", "zero")[0].tolist() == [3, 4, 5, 6]
    rng = np.random.default_rng(0)
    starts = {int(fit_length(wave, 4, "random", "zero", rng)[0][0]) for _ in range(200)}
    assert starts == set(range(7))
    assert fit_length(wave, 4, "start", "zero")[1] == 4


def test_pad() -> None:
    wave = np.array([1, 2, 6], dtype=np.float32)
    padded = {pad: fit_length(wave, 7, "start", pad) for pad in ("zero", "mean", "repeat")}
    assert padded["zero"][0].tolist() == [1, 2, 6, 0, 0, 0, 0]
    assert padded["mean"][0].tolist() == [1, 2, 6, 3, 3, 3, 3]
    assert padded["repeat"][0].tolist() == [1, 2, 6, 1, 2, 6, 1]
    assert {pad: length for pad, (_, length) in padded.items()} == {
        "zero": 3, "mean": 3, "repeat": 7,
    }  # fmt: skip
    for pad in ("zero", "mean", "repeat"):
        empty, length = fit_length(wave[:0], 2, "start", pad)
        assert (empty.tolist(), length) == ([0, 0], 0)


@given(
    waves,
    st.integers(1, 400),
    st.sampled_from(["start", "centre", "random"]),
    st.sampled_from(["zero", "mean", "repeat"]),
    st.integers(0, 5),
)
def test_fitted_waves_have_the_length_and_hold_the_clip(
    wave: np.ndarray, samples: int, crop: str, pad: str, seed: int
) -> None:
    fitted, length = fit_length(wave, samples, crop, pad, np.random.default_rng(seed))
    assert fitted.shape == (samples,)
    assert fitted.dtype == np.float32
    assert length == (samples if pad == "repeat" else min(len(wave), samples))
    start = crop_start(len(wave), samples, crop, np.random.default_rng(seed))
    kept = min(samples, len(wave))
    assert np.array_equal(fitted[:kept], wave[start : start + kept])
