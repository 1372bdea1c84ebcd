"""Lossy compression: a real codec, in place, at the bit rate asked for."""

import io

import numpy as np
import pytest
import soundfile

from harken.augment import Codec
from harken.augment import codec as module
from harken.errors import ConfigError
from harken.seeds import generator


def speechlike(rate, seconds=1.0, seed=0):
    """A hum whose level moves, and hiss."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    hum = sum(np.sin(2 * np.pi * 130 * k * time) / k for k in range(1, 12))
    return ((0.1 + 0.1 * np.sin(20 * time)) * hum + 0.01 * rng.standard_normal(len(time))).astype(
        np.float32
    )


CASES = [("mp3", rate) for rate in module._MP3_RATES] + [("opus", rate) for rate in (8000, 16000)]


@pytest.mark.parametrize(("name", "rate"), CASES)
def test_the_clip_keeps_its_place_length_and_level(name, rate):
    waveform = speechlike(rate)
    config = Codec(format=name, min_kbps=32, max_kbps=32)
    changed = config.apply(waveform, rate, generator(0))
    assert len(changed) == len(waveform)
    size = 4 * len(waveform)
    likeness = np.fft.irfft(np.fft.rfft(changed, size) * np.conj(np.fft.rfft(waveform, size)), size)
    assert min(int(np.argmax(likeness)), size - int(np.argmax(likeness))) <= 1
    correlation = np.corrcoef(changed, waveform)[0, 1]
    assert 0.8 < correlation < 1
    assert np.std(changed) == pytest.approx(np.std(waveform), rel=0.2)


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_lower_bit_rates_lose_more(name):
    waveform = speechlike(16000)
    lost = [
        float(np.mean((Codec(format=name, min_kbps=k, max_kbps=k).apply(
            waveform, 16000, generator(0)) - waveform) ** 2))
        for k in (8, 24, 96)
    ]  # fmt: skip
    assert lost[0] > lost[1] > lost[2]


@pytest.mark.parametrize(
    ("rate", "kbps"), [(8000, 16), (8000, 56), (16000, 32), (22050, 64), (44100, 64), (48000, 256)]
)
def test_mp3_has_the_bit_rate_asked_for(rate, kbps):
    file = io.BytesIO()
    soundfile.write(
        file, speechlike(rate, 4.0), rate, format="MP3", subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT", compression_level=module.mp3_level(rate, kbps),
    )  # fmt: skip
    assert 8 * file.tell() / 4000 == pytest.approx(kbps, rel=0.15)


@pytest.mark.parametrize("kbps", [8, 32, 128])
def test_opus_has_the_bit_rate_asked_for(kbps):
    file = io.BytesIO()
    soundfile.write(
        file, speechlike(16000, 4.0), 16000, format="OGG", subtype="OPUS",
        compression_level=module.opus_level(kbps),
    )  # fmt: skip
    assert 8 * file.tell() / 4000 == pytest.approx(kbps, rel=0.25)


@pytest.mark.parametrize("level", [1e-6, 40.0])
def test_levels_beyond_full_scale_or_far_below_are_kept(level):
    waveform = np.float32(level) * speechlike(16000) / np.abs(speechlike(16000)).max()
    changed = Codec(min_kbps=64, max_kbps=64).apply(waveform, 16000, generator(0))
    assert np.corrcoef(changed, waveform)[0, 1] > 0.9
    assert np.abs(changed).max() == pytest.approx(level, rel=0.2)


@pytest.mark.parametrize(("name", "rate"), [("mp3", 10000), ("opus", 44100)])
def test_rates_that_a_codec_does_not_know_are_refused(name, rate):
    for use in (
        lambda: Codec(format=name).check(rate),
        lambda: Codec(format=name).apply(speechlike(rate), rate, generator(0)),
    ):
        with pytest.raises(ConfigError, match=f"{name} does not know the rate {rate} Hz"):
            use()
