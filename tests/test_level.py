"""Changes of level: ranges, ramps, peaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.augment import Gain, GainTransition, PeakNormalize, PolarityInversion
from harken.augment.level import amplitude, match_rms, peak, rms
from harken.seeds import generator


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    low=st.floats(-40, 40),
    high=st.floats(-40, 40),
)
def test_gain_stays_in_range(seed, low, high):
    low, high = sorted([low, high])
    waveform = make(100)
    louder = Gain(min_gain_db=low, max_gain_db=high).apply(waveform, 16000, generator(seed))
    gains = 20 * np.log10(louder / waveform)
    assert np.ptp(gains) < 1e-3
    assert low - 1e-3 <= gains.mean() <= high + 1e-3


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), seconds=st.floats(0.0, 2.0))
def test_gain_fades_evenly_in_decibels(seed, seconds):
    config = GainTransition(
        min_gain_db=-20, max_gain_db=5, min_seconds=seconds, max_seconds=seconds
    )
    faded = config.apply(np.ones(1000, np.float32), 1000, generator(seed))
    gain_db = 20 * np.log10(faded.astype(np.float64))
    steps = np.diff(gain_db)
    assert gain_db.min() >= -20.001
    assert gain_db.max() <= 5.001
    assert (steps <= 1e-4).all() or (steps >= -1e-4).all()
    moving = np.abs(steps) > 1e-4
    assert moving.sum() <= max(round(1000 * seconds), 1)
    inner = steps[1:-1][moving[1:-1] & moving[:-2] & moving[2:]]
    assert len(inner) == 0 or np.ptp(inner) < 1e-2


def test_gain_of_a_fade_is_constant_before_and_after():
    config = GainTransition(min_seconds=0.1, max_seconds=0.1)
    both = 0
    for seed in range(50):
        faded = config.apply(np.ones(1000, np.float32), 1000, generator(seed))
        steps = np.flatnonzero(np.diff(faded))
        assert len(steps) <= 100
        both += steps[0] > 0 and steps[-1] < 998
    assert both > 30


@pytest.mark.parametrize("size", [0.1, 1.0, 2.0])
def test_peak_is_as_asked(size):
    changed = PeakNormalize(peak=size).apply(make(), 16000, generator(0))
    assert np.abs(changed).max() == pytest.approx(size)
    np.testing.assert_allclose(changed / np.abs(changed).max(), make() / np.abs(make()).max(), 1e-5)
    assert not PeakNormalize().apply(np.zeros(9, np.float32), 16000, generator(0)).any()


def test_polarity_is_inverted():
    assert np.array_equal(PolarityInversion().apply(make(), 16000, generator(0)), -make())


def test_measures():
    wave = np.array([3, -4], np.float32)
    assert rms(wave) == pytest.approx(12.5**0.5)
    assert peak(wave) == 4
    assert rms(wave[:0]) == peak(wave[:0]) == 0
    assert amplitude(20) == pytest.approx(10)
    assert rms(match_rms(wave, make())) == pytest.approx(rms(make()), rel=1e-5)
    assert not match_rms(np.zeros(4, np.float32), make()).any()
