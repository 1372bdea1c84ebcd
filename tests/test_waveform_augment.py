"""Changes along time: ranges, places, what fills a gap; and the order of several changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.augment import (
    Augment,
    Cutout,
    Gain,
    RepeatPart,
    Reverse,
    Roll,
    TimeShift,
    apply_waveform_augments,
)
from harken.seeds import generator


def make(samples=8000, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


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
    samples=st.integers(2, 4000),
    seconds=st.floats(0.001, 3),
    num_repeats=st.integers(1, 4),
)
def test_repeats_follow_the_part_that_they_repeat(seed, samples, seconds, num_repeats):
    waveform = np.arange(samples, dtype=np.float32)
    config = {"min_seconds": seconds, "max_seconds": seconds, "num_repeats": num_repeats}
    replaced, inserted = (
        RepeatPart(mode=mode, **config).apply(waveform, 1000, generator(seed))
        for mode in ("replace", "insert")
    )
    size = min(max(round(1000 * seconds), 1), samples // 2)
    first = int(np.flatnonzero(replaced != waveform)[0]) if (replaced != waveform).any() else None
    assert first is not None
    assert np.array_equal(replaced[first : first + size], waveform[first - size : first])
    end = min(first + num_repeats * size, samples)
    assert np.array_equal(replaced[end:], waveform[end:])
    assert np.array_equal(inserted[:end], replaced[:end])
    assert np.array_equal(inserted[end:], waveform[first : first + samples - end])


def test_reverse_twice_is_the_clip():
    once = Reverse().apply(make(), 16000, generator(0))
    assert np.array_equal(once[::-1], make())


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    num=st.integers(1, 4),
    shares=st.tuples(st.floats(0, 1), st.floats(0.01, 1)).map(sorted),
    max_seconds=st.one_of(st.none(), st.floats(0.001, 1)),
)
def test_cutout_stays_in_range(seed, num, shares, max_seconds):
    config = Cutout(num=num, min_share=shares[0], max_share=shares[1], max_seconds=max_seconds)
    cut = config.apply(np.ones(1000, np.float32), 1000, generator(seed)) == 0
    starts = np.flatnonzero(np.diff(cut.astype(int), prepend=0) == 1)
    assert 1 <= len(starts) <= num
    most = min(1000 * shares[1] + 1, max(1, 1000 * (max_seconds or 1) + 1))
    assert cut.sum() <= num * most
    if max_seconds is None and num == 1:
        assert cut.sum() >= max(1, 1000 * shares[0] - 1)


def test_cutout_reaches_every_place_and_holds_noise_where_asked():
    config = Cutout(min_share=0.1, max_share=0.1, fill_noise=0.01)
    changed = np.stack(
        [config.apply(np.ones(100, np.float32), 1000, generator(s)) for s in range(300)]
    )
    cut = np.abs(changed) <= 0.01
    assert cut.any(axis=0).all()
    assert (cut.sum(axis=1) == 10).all()
    assert len(np.unique(changed[cut])) > 1000


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
