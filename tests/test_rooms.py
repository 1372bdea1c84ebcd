"""Rooms: impulse responses from files and made-up ones; the clip keeps place and loudness."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.augment import ImpulseResponse, Room
from harken.augment.level import rms
from harken.augment.rooms import draw_response
from harken.errors import ConfigError
from harken.seeds import generator


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def click(samples=8000, place=3000):
    waveform = np.zeros(samples, np.float32)
    waveform[place] = 1
    return waveform


@pytest.fixture
def hall(tmp_path):
    """A response that begins late, is upside down and has one echo."""
    response = np.zeros(4000)
    response[700], response[1900] = -0.5, -0.25
    soundfile.write(tmp_path / "hall.wav", response, 16000, subtype="FLOAT")
    return str(tmp_path / "hall.wav")


def test_a_response_moves_nothing_and_brings_its_echo(hall):
    wet = ImpulseResponse(path=hall, min_wet=1, max_wet=1).apply(click(), 16000, generator(0))
    assert sorted(np.flatnonzero(np.abs(wet) > 1e-3)) == [3000, 4200]
    assert wet[4200] / wet[3000] == pytest.approx(0.5, rel=1e-3)
    assert wet[3000] > 0
    assert rms(wet) == pytest.approx(rms(click()), rel=1e-4)


def test_a_response_at_another_rate_is_resampled(hall):
    wet = ImpulseResponse(path=hall, min_wet=1, max_wet=1).apply(click(), 8000, generator(0))
    assert int(np.argmax(wet)) == 3000
    assert int(np.argmax(wet[3100:])) + 3100 == 3600


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_dry_clip_remains_beside_the_wet_one(hall, share):
    full, part = (
        ImpulseResponse(path=hall, min_wet=w, max_wet=w).apply(make(), 16000, generator(0))
        for w in (1.0, share)
    )
    np.testing.assert_allclose(part, (1 - share) * make() + share * full, atol=1e-5)


def test_all_responses_of_a_folder_are_drawn(tmp_path):
    for echo in (100, 200, 300):
        response = np.zeros(1000)
        response[0], response[echo] = 0.9, 0.5
        soundfile.write(tmp_path / f"{echo}.wav", response, 16000)
    config = ImpulseResponse(path=str(tmp_path), min_wet=1, max_wet=1)
    echoes = {
        int(np.argmax(config.apply(click(), 16000, generator(seed))[3001:])) + 1
        for seed in range(30)
    }
    assert echoes == {100, 200, 300}


def test_a_missing_response_says_so(tmp_path):
    config = ImpulseResponse(path=str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"impulse_response\.path"):
        config.check(16000)


def test_a_silent_response_passes(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(100), 16000)
    config = ImpulseResponse(path=str(tmp_path / "none.wav"))
    assert np.isfinite(config.apply(make(), 16000, generator(0))).all()


@settings(deadline=None, max_examples=30)
@given(
    rt60=st.floats(0.1, 2),
    direct_db=st.floats(-10, 20),
    rate=st.sampled_from([8000, 16000, 44100]),
    seed=st.integers(0, 2**32),
)
def test_echoes_die_away_in_time_and_have_the_ratio_asked_for(rt60, direct_db, rate, seed):
    response = draw_response(rt60, direct_db, rate, generator(seed)).astype(np.float64)
    assert response[0] == 1
    echo = response[1:]
    assert len(echo) == round(rt60 * rate)
    assert -10 * np.log10(np.sum(echo**2)) == pytest.approx(direct_db, abs=0.01)
    # Schroeder's backward integration: from −5 to −25 dB the decay takes a third of rt60.
    left = 10 * np.log10(np.cumsum(echo[::-1] ** 2)[::-1] / np.sum(echo**2))
    took = (np.argmax(left < -25) - np.argmax(left < -5)) / rate
    assert 3 * took == pytest.approx(rt60, rel=0.2)


def test_rooms_keep_place_loudness_and_draw_anew():
    wet = Room().apply(click(), 16000, generator(0))
    assert int(np.argmax(np.abs(wet))) == 3000
    assert not wet[:2999].any() or np.abs(wet[:2999]).max() < 1e-6
    assert np.abs(wet[3001:6000]).max() > 1e-3
    assert rms(Room().apply(make(), 16000, generator(0))) == pytest.approx(rms(make()), rel=1e-4)
