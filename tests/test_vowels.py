from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks, freqz, lfilter

from harken.seeds import generator
from harken.sources.voice import BANDWIDTHS, Voice
from harken.sources.vowels import FORMANTS, draw_speakers, impair, phonate, record, vowels

RATE = 16000
Signal = npt.NDArray[np.float64]


def measured_f0(wave: Signal, rate: int = RATE) -> float:
    """First high peak of the autocorrelation between 60 and 500 Hz, refined by a parabola.

    Two periods correlate as well as one, so the highest peak may lie an octave too low.
    """
    middle = wave[len(wave) // 4 : 3 * len(wave) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2 * len(middle))) ** 2
    window = np.abs(np.fft.rfft(np.hanning(len(middle)), 2 * len(middle))) ** 2
    curve = np.fft.irfft(spectrum) / np.fft.irfft(window)
    low, high = rate // 500, rate // 60
    first = low + int(np.argmax(curve[low:high] > 0.9 * curve[low:high].max()))
    lag = first + int(np.argmax(curve[first : first + low // 2]))
    before, here, after = curve[lag - 1 : lag + 2]
    return rate / (lag + 0.5 * (before - after) / (before - 2 * here + after))


def measured_jitter(wave: Signal, f0: float, rate: int = RATE) -> float:
    """Local jitter from the rising zero crossings of the wave's fundamental."""
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / rate)
    spectrum[(frequency < 0.4 * f0) | (frequency > 1.6 * f0)] = 0
    tone = np.fft.irfft(spectrum)[rate // 10 : -rate // 10]
    rise = np.flatnonzero((tone[:-1] < 0) & (tone[1:] >= 0))
    periods = np.diff(rise - tone[rise] / (tone[rise + 1] - tone[rise]))
    return float(np.abs(np.diff(periods)).mean() / periods.mean())


def peaks_of_envelope(wave: Signal, rate: int = RATE) -> Signal:
    """Formants in Hz: peaks of a linear-prediction envelope (order 2 + one per 1000 Hz)."""
    emphasised = lfilter([1, -0.97], [1], wave[rate // 4 : 3 * rate // 4])
    order = 2 + rate // 1000
    power = np.abs(np.fft.rfft(emphasised * np.hamming(len(emphasised)), 2 * len(emphasised))) ** 2
    r = np.fft.irfft(power)[: order + 1]
    lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
    coefficients = np.linalg.solve(r[lags] + 1e-9 * r[0] * np.eye(order), r[1:])
    frequency, response = freqz([1], np.concatenate([[1], -coefficients]), 4096, fs=rate)
    found, _ = find_peaks(np.log(np.abs(response)))
    return frequency[found]


@settings(max_examples=15, deadline=None)
@given(f0=st.floats(80, 320), vowel=st.sampled_from("aiu"), tract=st.floats(0.95, 1.2))
def test_f0_is_the_asked_one_within_two_percent(f0: float, vowel: str, tract: float) -> None:
    voice = Voice(f0=f0, tract=tract, jitter=0.005, shimmer=0.03, breath=0.03)
    wave = phonate(voice, vowel, 1.0, RATE, np.random.default_rng(0))
    assert measured_f0(wave) == pytest.approx(f0, rel=0.02)


@pytest.mark.parametrize("vowel", "aiu")
def test_formants_are_heard_in_the_finished_vowel(vowel: str) -> None:
    wave = phonate(Voice(f0=90.0, breath=0.05), vowel, 1.0, RATE, np.random.default_rng(1))
    peaks = peaks_of_envelope(wave)
    for formant in FORMANTS[vowel][1:3]:
        assert np.abs(peaks - formant).min() < 0.08 * formant
    assert peaks[0] == pytest.approx(FORMANTS[vowel][0], rel=0.25)


def test_resonators_above_the_band_are_left_out_and_stay_stable() -> None:
    wave = phonate(Voice(f0=150.0, tract=1.2), "a", 0.5, 8000, np.random.default_rng(0))
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() == pytest.approx(1.0)
    assert len(BANDWIDTHS) >= max(map(len, FORMANTS.values()))


def test_doubling_puts_energy_at_half_f0() -> None:
    def share_at_half(doubling: float) -> float:
        wave = phonate(Voice(200.0, doubling=doubling), "a", 1.0, RATE, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        return float(power[92:108].sum() / power[190:210].sum())

    assert share_at_half(0.0) < 1e-3
    assert share_at_half(0.5) > 20 * share_at_half(0.0)


def test_breath_fills_the_gaps_between_harmonics_at_high_frequency() -> None:
    def noise_share(breath: float) -> float:
        wave = phonate(Voice(200.0, breath=breath), "a", 1.0, RATE, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
        return float(power[3000:6000].sum() / power.sum())

    assert noise_share(0.0) < noise_share(0.1) < noise_share(0.5)


def test_measured_jitter_and_noise_rise_with_severity() -> None:
    healthy = Voice(f0=130.0, jitter=0.004, shimmer=0.02, breath=0.02)

    def jitter_at(severity: float) -> float:
        voice = impair(healthy, severity, 1.0)
        waves = [phonate(voice, "a", 1.5, RATE, np.random.default_rng(i)) for i in range(4)]
        return float(np.mean([measured_jitter(wave, 130.0) for wave in waves]))

    values = [jitter_at(severity) for severity in (0.0, 0.4, 0.8)]
    assert values == sorted(values)
    assert values[2] > 2 * values[0]


@given(severity=st.floats(0, 1), share=st.floats(0, 1))
def test_a_defect_never_mends_a_voice(severity: float, share: float) -> None:
    healthy = Voice(f0=130.0, jitter=0.004, shimmer=0.02, breath=0.02)
    ill = impair(healthy, severity, share)
    assert ill.jitter >= healthy.jitter
    assert ill.breath >= healthy.breath
    assert ill.tilt <= healthy.tilt
    assert impair(healthy, 0.0, share) == healthy


@given(count=st.integers(4, 60), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_sexes_and_labels_are_balanced_and_belong_to_the_speaker(count: int, seed: int) -> None:
    people = draw_speakers(count, seed)
    assert len({person.name for person in people}) == count
    women = [person for person in people if person.sex == "female"]
    ill = [person for person in people if person.label == "rough"]
    assert abs(2 * len(women) - count) <= 1
    assert abs(2 * len(ill) - count) <= 2
    assert all(0 <= person.severity <= 1 and 20 <= person.age < 76 for person in people)


def test_classes_differ_but_their_severities_overlap() -> None:
    people = draw_speakers(200, 0)
    clear = np.array([person.severity for person in people if person.label == "clear"])
    rough = np.array([person.severity for person in people if person.label == "rough"])
    assert rough.mean() > clear.mean() + 0.3
    assert clear.max() > rough.min()
    women = [person.voice for person in people if person.sex == "female"]
    men = [person.voice for person in people if person.sex == "male"]
    assert np.mean([v.f0 for v in women]) > 1.5 * np.mean([v.f0 for v in men])
    assert np.mean([v.tract for v in women]) > 1.1 * np.mean([v.tract for v in men])


def test_takes_of_one_speaker_sound_alike_but_are_not_equal() -> None:
    person = draw_speakers(8, 0)[0]
    first = record(person, "a", 1.0, RATE, generator(0, "x"))
    second = record(person, "a", 1.0, RATE, generator(1, "x"))
    assert not np.allclose(first, second)
    assert measured_f0(first) == pytest.approx(measured_f0(second), rel=0.2)
    assert 0.29 < np.abs(first).max() < 0.91


def test_every_clip_is_drawn_alone_so_more_clips_leave_the_first_as_they_were() -> None:
    few = {row["id"]: wave for row, wave in vowels(4, 2, 0.4, RATE, 5)}
    more = {row["id"]: wave for row, wave in vowels(4, 4, 0.4, RATE, 5)}
    assert all(np.array_equal(wave, more[name]) for name, wave in few.items())


def test_lengths_and_vowels_are_varied() -> None:
    rows = list(vowels(4, 6, 0.5, RATE, 0))
    lengths = {len(wave) for _, wave in rows}
    assert min(lengths) >= 0.4 * RATE - 1
    assert max(lengths) <= 0.6 * RATE + 1
    assert len(lengths) > 5
    assert {row["vowel"] for row, _ in rows} == {"a", "i", "u"}
    assert {row["take"] for row, _ in rows} == {1, 2}
