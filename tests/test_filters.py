"""Filters: what passes, what does not, at every rate."""

import numpy as np
import pytest
from scipy import signal

from harken.augment import BandPass, BandStop, HighPass, LowPass
from harken.augment.filters import power_below, power_in_band
from harken.errors import ConfigError
from harken.seeds import generator

RATES = [8000, 16000, 44100]
BAND = {"min_centre_hz": 1000, "max_centre_hz": 1000, "min_octaves": 1, "max_octaves": 1}
CUTOFF = {"min_cutoff_hz": 1000, "max_cutoff_hz": 1000}


def gain_db(augment, rate, frequency):
    """Return what a filter makes of a tone, in decibels, away from its ends."""
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * frequency * time).astype(np.float32)
    changed = augment.apply(tone, rate, generator(0))
    middle = slice(rate // 4, -rate // 4)
    return 10 * np.log10(np.mean(changed[middle] ** 2) / np.mean(tone[middle] ** 2) + 1e-12)


@pytest.mark.parametrize("rate", RATES)
def test_what_passes_at_every_rate(rate):
    edge = 1000 * 2**0.5
    stop, keep = BandStop(**BAND), BandPass(**BAND)
    low, high = LowPass(**CUTOFF), HighPass(**CUTOFF)
    for augment, frequency, expected in (
        (keep, 1000, 0), (keep, edge, -3), (keep, 250, -48), (keep, 3900, -47),
        (stop, 1000, -60), (stop, edge, -3), (stop, 250, 0), (stop, 3900, 0),
        (low, 1000, -3), (low, 250, 0), (low, 2000, -24),
        (high, 1000, -3), (high, 3900, 0), (high, 500, -24),
    ):  # fmt: skip
        found = gain_db(augment, rate, frequency)
        if expected == -60:
            assert found < -60
        elif expected < -40:
            assert found < expected
        else:
            assert found == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_magnitudes_are_those_of_scipy_s_butterworth(order):
    pitch = np.linspace(1, 7999, 500).astype(np.float32)
    _, low = signal.freqs_zpk(
        *signal.butter(order, 1000, "low", analog=True, output="zpk"), worN=pitch
    )
    np.testing.assert_allclose(power_below(pitch, 1000, order), np.abs(low) ** 2, atol=1e-5)
    edges = 1000 * 2.0 ** np.array([-0.5, 0.5])
    _, band = signal.freqs_zpk(
        *signal.butter(order, edges, "band", analog=True, output="zpk"), worN=pitch
    )
    np.testing.assert_allclose(power_in_band(pitch, 1000, 1, order), np.abs(band) ** 2, atol=1e-4)


def test_nothing_moves_in_time():
    click = np.zeros(8000, np.float32)
    click[4000] = 1
    for augment in (BandPass(**BAND), LowPass(**CUTOFF)):
        changed = augment.apply(click, 16000, generator(0))
        assert int(np.argmax(changed)) == 4000
        np.testing.assert_allclose(changed[3000:4000], changed[5000:4000:-1], atol=1e-5)


def test_bands_are_drawn_from_the_whole_range_evenly_by_ratio():
    config = BandStop(min_centre_hz=100, max_centre_hz=6400, min_octaves=0.2, max_octaves=0.2)
    click = np.zeros(16000, np.float32)
    click[8000] = 1
    centres = [
        np.argmin(np.abs(np.fft.rfft(config.apply(click, 16000, generator(seed))))[80:7000]) + 80
        for seed in range(200)
    ]
    assert min(centres) < 130
    assert max(centres) > 5000
    assert np.median(centres) == pytest.approx(800, rel=0.4)


@pytest.mark.parametrize(
    "augment", [BandPass(max_centre_hz=4500), BandStop(max_centre_hz=4500),
                LowPass(max_cutoff_hz=4500), HighPass(max_cutoff_hz=4500)],
)  # fmt: skip
def test_frequencies_beyond_half_of_the_rate_are_refused(augment):
    augment.check(16000)
    for use in (
        lambda: augment.check(8000),
        lambda: augment.apply(np.ones(100, np.float32), 8000, generator(0)),
    ):
        with pytest.raises(ConfigError, match="4500 Hz is beyond half of the sample rate, 4000 Hz"):
            use()
