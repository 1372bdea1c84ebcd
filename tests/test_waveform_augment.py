"""Waveform augmentation: identity, repeatability, ranges, and what each kind is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.augment import Augment, Gain, Noise, Roll, TimeShift, apply_waveform_augments
from harken.augment import waveform as module
from harken.seeds import generator

KINDS = ["time_shift", "roll", "gain", "noise"]


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def change(tree, waveform, seed=0, rate=16000):
    augment = Augment.member(tree["kind"]).model_validate(tree)
    return apply_waveform_augments([augment], waveform, rate, generator(seed, "augment"))


@pytest.mark.parametrize("kind", KINDS)
def test_probability_one_changes_and_zero_does_not(kind):
    for seed in range(20):
        waveform = make(seed=seed)
        before = waveform.copy()
        changed = change({"kind": kind}, waveform, seed)
        assert changed.dtype == np.float32
        assert changed.shape == waveform.shape
        assert not np.array_equal(changed, before)
        assert np.array_equal(waveform, before)
        assert np.array_equal(change({"kind": kind, "p": 0}, waveform, seed), before)


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_same_change_other_generator_other_change(kind):
    waveform = make()
    assert np.array_equal(change({"kind": kind}, waveform, 1), change({"kind": kind}, waveform, 1))
    assert not np.array_equal(
        change({"kind": kind}, waveform, 1), change({"kind": kind}, waveform, 2)
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(p=st.floats(0, 1))
def test_p_is_the_share_of_changed_clips(kind, p):
    waveform = make(200)
    changed = [
        not np.array_equal(change({"kind": kind, "p": p}, waveform, seed), waveform)
        for seed in range(60)
    ]
    assert abs(np.mean(changed) - p) < 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_tiny_clips_pass(kind, samples):
    changed = change({"kind": kind}, make(samples))
    assert changed.shape == (samples,)
    assert np.isfinite(changed).all()


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    samples=st.integers(2, 4000),
    max_shift=st.floats(0.001, 1.0),
    fill_noise=st.sampled_from([0.0, 0.001, 0.1]),
)
def test_time_shift_stays_in_range_and_fills_the_gap(seed, samples, max_shift, fill_noise):
    waveform = 10 + make(samples)
    config = TimeShift(max_shift=max_shift, fill_noise=fill_noise)
    shifted = config.apply(waveform, 1000, generator(seed))
    gap = np.abs(shifted) <= fill_noise
    size = int(gap.sum())
    assert size <= min(round(1000 * max_shift), samples // 2)
    assert size >= 1 or round(1000 * max_shift) == 0
    if gap[0]:
        assert np.array_equal(shifted[size:], waveform[: samples - size])
    else:
        assert np.array_equal(shifted[: samples - size], waveform[size:])
    if fill_noise and size > 10:
        assert len(np.unique(shifted[gap])) > size // 2


def test_time_shift_of_the_clinical_system():
    config = TimeShift(max_shift=5.0, fill_noise=0.001)
    sizes, waveform = [], 1 + np.zeros(160000, np.float32)
    for seed in range(200):
        gap = np.abs(config.apply(waveform, 16000, generator(seed))) < 0.5
        sizes.append(int(gap.sum()) * (1 if gap[0] else -1))
    assert max(map(abs, sizes)) <= 80000
    assert min(sizes) < -60000
    assert max(sizes) > 60000
    assert abs(np.mean(sizes)) < 10000


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), max_shift=st.one_of(st.none(), st.floats(0.01, 0.5)))
def test_roll_keeps_every_sample(seed, max_shift):
    waveform = np.arange(1000, dtype=np.float32)
    rolled = Roll(max_shift=max_shift).apply(waveform, 1000, generator(seed))
    shift = int(np.flatnonzero(rolled == 0)[0])
    assert np.array_equal(rolled, np.roll(waveform, shift))
    assert 1 <= min(shift, 1000 - shift) <= round(1000 * (max_shift or 0.5))


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
@given(
    seed=st.integers(0, 2**32),
    low=st.floats(-20, 40),
    high=st.floats(-20, 40),
    level=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_noise_has_the_ratio_asked_for(seed, low, high, level):
    low, high = sorted([low, high])
    waveform = (level * make(4000)).astype(np.float32)
    noisy = Noise(min_snr_db=low, max_snr_db=high).apply(waveform, 16000, generator(seed))
    added = noisy.astype(np.float64) - waveform
    ratio = 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(added**2))
    assert low - 0.05 <= ratio <= high + 0.05


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


def test_silence_stays_silent_under_noise():
    assert not Noise().apply(np.zeros(100, np.float32), 16000, generator(0)).any()


def test_changes_are_applied_in_order():
    augments = [Gain(min_gain_db=20, max_gain_db=20), TimeShift(max_shift=0.1, fill_noise=0.5)]
    waveform = np.ones(8000, np.float32)
    changed = apply_waveform_augments(augments, waveform, 16000, generator(3))
    assert set(np.round(changed[np.abs(changed) > 0.6], 3)) == {10.0}
    assert (np.abs(changed) <= 0.5).any()


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"kind": "gain", "min_gain_db": 3, "max_gain_db": 1}, "min_gain_db is more"),
        ({"kind": "noise", "min_snr_db": 30, "max_snr_db": 1}, "min_snr_db is more"),
        ({"kind": "time_shift", "max_shift": -1}, "greater than 0"),
        ({"kind": "roll", "p": 1.5}, "less than or equal to 1"),
        ({"kind": "gain", "gain_db": 3}, "unknown key"),
    ],
)
def test_ranges_that_cannot_be(tree, says):
    with pytest.raises(ValidationError, match=says):
        Augment.member(tree["kind"]).model_validate(tree)
