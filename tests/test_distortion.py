"""Distortion: shares of clipped samples, saturation, bits, aliases."""

import numpy as np
import pytest

from harken.augment import Alias, BitCrush, Clipping, TanhDistortion
from harken.augment.level import rms
from harken.seeds import generator


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def peak_hz(waveform, rate):
    return float(np.argmax(np.abs(np.fft.rfft(waveform)))) * rate / len(waveform)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_of_samples_asked_for_is_clipped(share):
    clipped = Clipping(min_share=share, max_share=share).apply(make(), 16000, generator(0))
    cut = clipped != make()
    assert cut.mean() == pytest.approx(share, abs=0.001)
    threshold = np.abs(clipped).max()
    assert (np.abs(clipped[cut]) == threshold).all()
    assert (np.abs(make()[~cut]) <= threshold).all()


def test_one_sample_is_clipped_at_least():
    clipped = Clipping(min_share=0, max_share=1e-9).apply(make(), 16000, generator(0))
    assert (clipped != make()).sum() == 1


def test_saturation_keeps_loudness_and_grows_with_the_drive():
    tone = np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32)
    thirds = []
    for drive in (0, 12, 24):
        config = TanhDistortion(min_drive_db=drive, max_drive_db=drive)
        bent = config.apply(0.01 * tone, 16000, generator(0))
        assert rms(bent) == pytest.approx(rms(0.01 * tone), rel=1e-4)
        spectrum = np.abs(np.fft.rfft(bent))
        thirds.append(spectrum[1500] / spectrum[500])
        assert spectrum[1000] < 1e-3 * spectrum[500]  # an odd function has no even partials
    assert thirds[0] < thirds[1] < thirds[2]
    shape = np.tanh(10 ** (12 / 20) * tone)
    config = TanhDistortion(min_drive_db=12, max_drive_db=12)
    expected = shape * rms(tone) / rms(shape)
    np.testing.assert_allclose(config.apply(tone, 16000, generator(0)), expected, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("level", [1e-3, 1.0, 8.0])
def test_samples_have_the_bits_asked_for_at_any_level(bits, level):
    waveform = np.float32(level) * make()
    crushed = BitCrush(min_bits=bits, max_bits=bits).apply(waveform, 16000, generator(0))
    assert len(np.unique(crushed)) <= 2**bits - 1
    step = np.abs(waveform).max() / (2 ** (bits - 1) - 1)
    assert np.abs(crushed - waveform).max() <= 0.501 * step
    assert np.abs(crushed).max() == pytest.approx(np.abs(waveform).max(), rel=1e-5)


def test_all_numbers_of_bits_are_drawn():
    waveform = np.linspace(-1, 1, 20001).astype(np.float32)
    found = {
        len(np.unique(BitCrush(min_bits=3, max_bits=5).apply(waveform, 16000, generator(seed))))
        for seed in range(40)
    }
    assert found == {7, 15, 31}


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_high_tones_come_back_lower(rate):
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 0.3 * rate * time).astype(np.float32)
    changed = Alias(min_factor=2, max_factor=2).apply(tone, rate, generator(0))
    assert peak_hz(changed, rate) == pytest.approx(0.2 * rate, rel=0.01)
    low = np.sin(2 * np.pi * 0.01 * rate * time).astype(np.float32)
    kept = Alias(min_factor=2, max_factor=2).apply(low, rate, generator(0))
    np.testing.assert_allclose(kept[:-2], low[:-2], atol=0.01)


def test_fractional_factors_stay_in_place():
    ramp = np.arange(1000, dtype=np.float32)
    changed = Alias(min_factor=3.7, max_factor=3.7).apply(ramp, 16000, generator(0))
    assert np.abs(changed - ramp)[:990].max() <= 1
