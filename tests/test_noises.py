"""Added noise: ratios, colours, recordings of other places."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.augment import Background, ColourNoise, GaussianNoise, Noise
from harken.augment import noises as module
from harken.augment.noises import draw_colour
from harken.errors import ConfigError, HarkenError
from harken.seeds import generator


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def ratio_db(waveform, noisy):
    added = noisy.astype(np.float64) - waveform
    return 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(added**2))


@pytest.fixture
def street(tmp_path):
    """Two recordings at different rates, each a tone of its own."""
    for name, rate, frequency in (("low.wav", 8000, 300.0), ("deep/high.flac", 44100, 2000.0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        time = np.arange(2 * rate) / rate
        soundfile.write(tmp_path / name, 0.2 * np.sin(2 * np.pi * frequency * time), rate)
    (tmp_path / "notes.txt").write_text("not a recording")
    return tmp_path


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    low=st.floats(-20, 40),
    high=st.floats(-20, 40),
    level=st.sampled_from([1e-3, 0.1, 1.0]),
    kind=st.sampled_from([Noise, ColourNoise]),
)
def test_noise_has_the_ratio_asked_for(seed, low, high, level, kind):
    low, high = sorted([low, high])
    waveform = (level * make(4000)).astype(np.float32)
    noisy = kind(min_snr_db=low, max_snr_db=high).apply(waveform, 16000, generator(seed))
    assert low - 0.05 <= ratio_db(waveform, noisy) <= high + 0.05


def test_noise_is_white_and_gaussian():
    waveform = np.ones(16000, np.float32)
    added = Noise(min_snr_db=0, max_snr_db=0).apply(waveform, 16000, generator(0)) - waveform
    assert abs(added.mean()) < 0.03
    assert abs(np.mean(added**4) - 3) < 0.3
    assert abs(np.mean(added[1:] * added[:-1])) < 0.03


def test_noise_of_two_clips_is_not_alike():
    waveform = np.ones(16000, np.float32)
    one, two = (Noise().apply(waveform, 16000, generator(0, clip)) - waveform for clip in (1, 2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_noise_lasts_longer_than_its_pool(monkeypatch):
    monkeypatch.setattr(module, "_POOL_SAMPLES", 1000)
    module._noise_pool.cache_clear()
    noisy = Noise(min_snr_db=0, max_snr_db=0).apply(np.ones(5500, np.float32), 16000, generator(0))
    module._noise_pool.cache_clear()
    assert noisy.shape == (5500,)
    assert np.std(noisy[5000:] - 1) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("kind", [Noise, ColourNoise])
def test_silence_stays_silent_under_a_ratio(kind):
    assert not kind().apply(np.zeros(100, np.float32), 16000, generator(0)).any()


@pytest.mark.parametrize("level", [0.0, 0.01, 1.0])
def test_gaussian_noise_has_its_amplitude_at_any_level(level):
    waveform = level * make(40000)
    config = GaussianNoise(min_amplitude=0.005, max_amplitude=0.005)  # of the clinical system
    added = config.apply(waveform, 16000, generator(0)) - waveform
    assert np.std(added) == pytest.approx(0.005, rel=0.02)
    assert abs(added.mean()) < 1e-4


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2])
def test_power_falls_with_frequency_by_the_exponent(rate, exponent):
    noise = draw_colour(10 * rate, rate, exponent, generator(0))
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    pitch = np.fft.rfftfreq(len(noise), 1 / rate)
    edges = 2.0 ** np.arange(6, np.log2(rate / 2))
    mean = [power[(pitch >= low) & (pitch < high)].mean() for low, high in pairwise(edges)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(mean), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)
    assert power[pitch < 19].sum() < 1e-3 * power.sum()


def test_recordings_are_mixed_at_the_ratio_asked_for(street):
    for seed in range(10):
        for path in (street, street / "low.wav"):
            config = Background(path=str(path), min_snr_db=5, max_snr_db=5)
            waveform = make(16000)
            noisy = config.apply(waveform, 16000, generator(seed))
            assert ratio_db(waveform, noisy) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_recordings_keep_their_pitch_and_all_are_drawn(street, rate):
    found = set()
    for seed in range(12):
        waveform = make(rate)
        config = Background(path=str(street), min_snr_db=0, max_snr_db=0)
        added = config.apply(waveform, rate, generator(seed)) - waveform
        found.add(round(float(np.argmax(np.abs(np.fft.rfft(added)))), -1))
    assert found == {300, 2000}


def test_places_differ_and_short_recordings_are_repeated(street):
    config = Background(path=str(street / "low.wav"), min_snr_db=0, max_snr_db=0)
    ones = np.ones(8000, np.float32)
    parts = [config.apply(ones, 16000, generator(seed)) - ones for seed in (1, 2)]
    assert not np.allclose(*parts, atol=1e-3)
    long = np.ones(100_000, np.float32)
    added = config.apply(long, 16000, generator(0)) - long
    np.testing.assert_allclose(added[:30_000], added[32_000:62_000], atol=1e-3)


def test_pauses_are_not_made_as_loud_as_sounds(tmp_path):
    wave = np.concatenate([0.3 * make(160_000), np.full(160_000, 1e-4)])
    soundfile.write(tmp_path / "talk.wav", wave, 16000, subtype="FLOAT")
    config = Background(path=str(tmp_path / "talk.wav"), min_snr_db=0, max_snr_db=0)
    ratios = [
        ratio_db(make(8000), config.apply(make(8000), 16000, generator(seed))) for seed in range(20)
    ]
    assert min(ratios) == pytest.approx(0, abs=0.2)
    assert max(ratios) > 20


def test_a_path_without_recordings_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.wav").write_text("this is no sound")
    for path, says in (
        ("gone", "neither a recording nor a folder"),
        ("gone.wav", "there is no recording"),
        ("empty", "there is no recording in the folder"),
    ):
        config = Background(path=str(tmp_path / path))
        with pytest.raises(ConfigError, match=says):
            config.check(16000)
        with pytest.raises(ConfigError, match=says):
            config.apply(make(), 16000, generator(0))
    with pytest.raises(HarkenError, match=r"text\.wav"):
        Background(path=str(tmp_path / "text.wav")).apply(make(), 16000, generator(0))
