"""Speed, stretch and pitch: what they do to time and to frequency, at every rate."""

import sys

import numpy as np
import pytest

from harken.augment import Pitch, Speed, Stretch
from harken.augment.stretch import fit
from harken.errors import MissingExtraError
from harken.seeds import generator

RATES = [8000, 16000, 22050, 44100]


def tone(rate, seconds=1.0, frequency=440.0):
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def peak_hz(waveform, rate):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 8 * len(waveform)))
    return float(np.argmax(spectrum)) * rate / (8 * len(waveform))


def beeps(rate, times=(0.5, 1.0, 1.5)):
    """Two seconds with short beeps."""
    waveform = np.zeros(2 * rate, np.float32)
    for time in times:
        waveform[round(time * rate) :][: rate // 50] = tone(rate, 0.02, 1000.0)
    return waveform


def onsets(waveform, rate):
    """Return the middle of each beep, in seconds."""
    loud = np.convolve(waveform.astype(np.float64) ** 2, np.ones(rate // 50), "same")
    found = []
    while len(found) < 5 and loud.max() > 0.2 * 0.02 * rate * 0.045 / 4:
        place = int(np.argmax(loud))
        found.append(place / rate)
        loud[max(place - rate // 8, 0) : place + rate // 8] = 0
    return sorted(found)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("semitones", [12, 7, -5, -12])
def test_pitch_moves_a_tone_by_semitones_at_every_rate(rate, semitones):
    config = Pitch(min_semitones=semitones, max_semitones=semitones)
    changed = config.apply(tone(rate), rate, generator(0))
    expected = 440 * 2 ** (semitones / 12)
    assert len(changed) == rate
    assert peak_hz(changed[rate // 8 : -rate // 8], rate) == pytest.approx(expected, rel=0.01)


def test_pitch_keeps_time():
    rate = 16000
    config = Pitch(min_semitones=3, max_semitones=3)
    changed = config.apply(beeps(rate), rate, generator(0))
    np.testing.assert_allclose(onsets(changed, rate), onsets(beeps(rate), rate), atol=0.01)


def test_frequencies_over_the_tonality_limit_move_less():
    rate = 16000
    waveform = tone(rate, frequency=3000.0)
    free, held = (
        peak_hz(
            Pitch(min_semitones=4, max_semitones=4, tonality_limit_hz=limit).apply(
                waveform, rate, generator(0)
            ),
            rate,
        )
        for limit in (None, 1500.0)
    )
    assert free == pytest.approx(3000 * 2 ** (4 / 12), rel=0.01)
    assert 3050 < held < free - 200


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_stretch_moves_events_and_keeps_pitch(rate, factor):
    config = Stretch(min_rate=factor, max_rate=factor, keep_length=False)
    changed = config.apply(beeps(rate), rate, generator(0))
    assert len(changed) == pytest.approx(2 * rate / factor, abs=1)
    expected = np.array(onsets(beeps(rate), rate)) / factor
    np.testing.assert_allclose(onsets(changed, rate), expected, atol=0.015)
    pitch = peak_hz(config.apply(tone(rate), rate, generator(0)), rate)
    assert pitch == pytest.approx(440, rel=0.01)


def test_stretch_keeps_the_beginning_and_fills_the_end():
    rate = 16000
    faster = Stretch(min_rate=2, max_rate=2).apply(tone(rate), rate, generator(0))
    assert len(faster) == rate
    assert faster[: rate // 2].any()
    assert not faster[rate // 2 :].any()
    slower = Stretch(min_rate=0.5, max_rate=0.5).apply(beeps(rate), rate, generator(0))
    np.testing.assert_allclose(onsets(slower, rate), [1.02], atol=0.02)


def test_extreme_stretches_are_repeatable():
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    config = Stretch(min_rate=0.2, max_rate=0.2)
    one, again, other = (config.apply(noise, 16000, generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("resampler", ["soxr", "linear"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_speed_changes_pitch_and_tempo_together(rate, factor, resampler):
    config = Speed(min_rate=factor, max_rate=factor, keep_length=False, resampler=resampler)
    changed = config.apply(tone(rate), rate, generator(0))
    assert len(changed) == pytest.approx(rate / factor, abs=1)
    assert peak_hz(changed, rate) == pytest.approx(440 * factor, rel=0.01)
    moved = np.array(onsets(config.apply(beeps(rate), rate, generator(0)), rate))
    np.testing.assert_allclose(moved, np.array(onsets(beeps(rate), rate)) / factor, atol=0.01)


def test_speed_of_the_clinical_system_keeps_the_middle():
    rate = 16000
    config = Speed(min_rate=0.6, max_rate=1.3, fill_noise=0.001)
    middle = 1.01
    for seed in range(20):
        changed = config.apply(beeps(rate, [1.0]), rate, generator(seed))
        assert len(changed) == 2 * rate
        assert onsets(changed, rate) == pytest.approx([middle], abs=0.02)
    gap = Speed(min_rate=2, max_rate=2, fill_noise=0.001).apply(tone(rate), rate, generator(0))
    assert 0 < np.abs(gap[: rate // 4 - 5]).max() <= 0.001
    assert 0 < np.abs(gap[-rate // 4 + 5 :]).max() <= 0.001


def test_only_soxr_filters_what_would_alias():
    rate = 16000
    waveform = tone(rate, frequency=6000.0)
    config = {"min_rate": 1.6, "max_rate": 1.6}
    clean, folded = (
        Speed(resampler=resampler, **config).apply(waveform, rate, generator(0))
        for resampler in ("soxr", "linear")
    )
    middle = slice(rate // 3, -rate // 3)
    assert np.abs(clean[middle]).max() < 0.02 * np.abs(folded[middle]).max()


def test_rates_are_drawn_evenly_per_clip():
    config = Speed(min_rate=0.6, max_rate=1.3, keep_length=False)
    waveform = np.ones(1000, np.float32)
    rates = [1000 / len(config.apply(waveform, 16000, generator(seed))) for seed in range(300)]
    assert min(rates) == pytest.approx(0.6, abs=0.03)
    assert max(rates) == pytest.approx(1.3, abs=0.03)
    assert np.mean(rates) == pytest.approx(0.95, abs=0.03)


def test_fit():
    wave, rng = np.array([1, 2, 3], np.float32), generator(0)
    assert fit(wave, 5, "start", 0.0, rng).tolist() == [1, 2, 3, 0, 0]
    assert fit(wave, 5, "centre", 0.0, rng).tolist() == [0, 1, 2, 3, 0]
    assert fit(wave, 1, "start", 0.0, rng).tolist() == [1]
    assert fit(wave, 1, "centre", 0.0, rng).tolist() == [2]


@pytest.mark.parametrize("kind", [Pitch, Stretch])
def test_without_python_stretch_one_line_says_what_to_install(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    for use in (
        lambda: kind().check(16000),
        lambda: kind().apply(tone(16000), 16000, generator(0)),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'harken\[augment\]'"):
            use()
