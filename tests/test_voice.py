from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import find_peaks

from harken.sources.voice import Voice, cycles, excite, glottal_flow, vocal_tract
from harken.sources.vowels import FORMANTS

RATE = 16000


@pytest.mark.parametrize("vowel", "aiu")
@pytest.mark.parametrize("tract", [1.0, 1.16])
def test_formant_peaks_lie_where_asked(vowel: str, tract: float) -> None:
    impulse = np.zeros(RATE)
    impulse[0] = 1.0
    response = np.abs(np.fft.rfft(vocal_tract(impulse, np.asarray(FORMANTS[vowel]) * tract, RATE)))
    peaks, _ = find_peaks(response)
    for formant in FORMANTS[vowel][:3]:
        assert np.abs(peaks - formant * tract).min() < 0.05 * formant


@pytest.mark.parametrize("jitter", [0.005, 0.02, 0.05])
def test_cycles_have_the_asked_jitter_and_shimmer(jitter: float) -> None:
    voice = Voice(f0=200.0, jitter=jitter, shimmer=2 * jitter)
    starts, strength = cycles(voice, 60.0, np.random.default_rng(3))
    periods = np.diff(starts)
    assert np.abs(np.diff(periods)).mean() / periods.mean() == pytest.approx(jitter, rel=0.06)
    assert np.abs(np.diff(strength)).mean() / strength.mean() == pytest.approx(2 * jitter, rel=0.06)


def test_flow_is_closed_after_the_open_share_and_peaks_at_two_thirds_of_it() -> None:
    time = np.linspace(0, 0.00999, 1000)
    flow = glottal_flow(time, np.array([0.0, 0.01]), np.array([2.0]), 0.6)
    assert flow[time > 0.006].max() == 0.0
    assert flow.max() == pytest.approx(2.0, rel=1e-3)
    assert time[np.argmax(flow)] == pytest.approx(0.004, abs=1e-4)


def power_of(voice: Voice) -> np.ndarray:
    """Power in Hz of one second."""
    source = excite(voice, 1.0, RATE, np.random.default_rng(0))
    assert source.shape == (RATE,)
    return np.abs(np.fft.rfft(source * np.hanning(RATE))) ** 2


def test_the_source_is_harmonic_and_doubling_adds_half_of_f0() -> None:
    plain, doubled = power_of(Voice(200.0)), power_of(Voice(200.0, doubling=0.5))
    assert plain[190:210].sum() > 100 * plain[245:255].sum()
    shares = [power[92:108].sum() / power[190:210].sum() for power in (plain, doubled)]
    assert shares[1] > 20 * shares[0]


def test_breath_and_tilt_shape_the_upper_band() -> None:
    def upper(**options: float) -> float:
        power = power_of(Voice(200.0, **options))
        return float(power[3000:6000].sum() / power.sum())

    assert upper() < upper(breath=0.1) < upper(breath=0.5)
    assert upper(tilt=1000.0) < upper(tilt=6000.0)
