"""Spectral envelopes: what a voice keeps while its pitch moves."""

import numpy as np
import pytest

from harken.augment import Pitch
from harken.augment.formants import keep_envelope
from harken.seeds import generator


def vowel(rate, pitch=120.0, formants=(600.0, 1700.0)):
    """Partials of a pitch under two formants of 100 Hz width."""
    time = np.arange(rate) / rate
    wave = np.zeros(rate)
    for partial in np.arange(pitch, min(rate / 2, 3500), pitch):
        level = sum(1 / (1 + ((partial - f) / 100) ** 2) for f in formants) + 1e-3
        wave += level * np.sin(2 * np.pi * partial * time + partial)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def bands(waveform, rate):
    """Return how the power is shared among bands of 400 Hz, wider than partials lie apart."""
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    pitch = np.fft.rfftfreq(len(waveform), 1 / rate)
    share = np.array([power[(pitch >= f) & (pitch < f + 400)].sum() for f in range(0, 4000, 400)])
    return share / share.sum()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_formants_stay_while_the_pitch_moves(rate):
    wave = vowel(rate)
    shifted, kept = (
        Pitch(min_semitones=6, max_semitones=6, keep_formants=keep).apply(wave, rate, generator(0))
        for keep in (False, True)
    )
    far, near = (np.abs(bands(w, rate) - bands(wave, rate)).sum() for w in (shifted, kept))
    assert far > 1
    assert near < 0.35 * far
    assert np.std(kept) == pytest.approx(np.std(shifted), rel=1e-3)
    # Both have the new pitch: its partials lie 170 Hz apart.
    for changed in (shifted, kept):
        spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
        likeness = np.fft.irfft(spectrum**2)
        lag = rate // 300 + int(np.argmax(likeness[rate // 300 : rate // 100]))
        assert rate / lag == pytest.approx(120 * 2**0.5, rel=0.03)


def test_the_same_envelope_changes_nothing():
    noise = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    np.testing.assert_allclose(keep_envelope(noise, noise, 16000), noise, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 2, 100])
def test_short_and_silent_waveforms_pass(samples):
    ones = np.ones(samples, np.float32)
    for changed, original in ((ones, ones), (ones, 0 * ones), (0 * ones, ones)):
        found = keep_envelope(changed, original, 16000)
        assert found.shape == (samples,)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
