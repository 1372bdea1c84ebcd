"""Spectrograms that are moved or stretched, within each clip's true length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.augment import SpecShift, SpecStretch
from harken.seeds import generator

LENGTHS = torch.tensor([100, 60, 9, 2])


def make(bins=40):
    """Values from 1 up, so that each says where it comes from; 0 beyond the lengths."""
    features = 1 + torch.arange(4 * bins * 100, dtype=torch.float32).reshape(4, bins, 100)
    return features * (torch.arange(100) < LENGTHS[:, None, None])


def rngs(seed=0):
    return [generator(seed, "augment", clip) for clip in range(4)]


@settings(deadline=None, max_examples=50)
@given(max_time=st.integers(0, 60), max_freq=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_shifts_are_within_range_and_not_circular(max_time, max_freq, seed):
    if max_time + max_freq == 0:
        max_time = 1
    augment = SpecShift(max_time=max_time, max_freq=max_freq, fill="zero")
    features = make()
    moved = augment.apply(features, LENGTHS, rngs(seed))
    for before, after, length in zip(features, moved, LENGTHS.tolist(), strict=True):
        assert not after[:, length:].any()
        kept = after[:, :length].nonzero()
        row, column = kept[0].tolist()
        value = after[row, column]
        bin_, frame = ((before == value) & (value > 0)).nonzero()[0].tolist()
        down, later = row - bin_, column - frame
        assert abs(later) <= min(max_time, length // 2)
        assert abs(down) <= min(max_freq, 20)
        assert (later != 0) == (max_time > 0 and length > 1)
        assert (down != 0) == (max_freq > 0)
        expected = torch.zeros_like(before)
        for new_bin in range(max(down, 0), 40 + min(down, 0)):
            low, high = max(later, 0), length + min(later, 0)
            expected[new_bin, low:high] = before[new_bin - down, low - later : high - later]
        assert torch.equal(after, expected)


@pytest.mark.parametrize("fill", ["mean", "zero", "min"])
def test_gaps_hold_a_value_of_the_true_frames(fill):
    features = make()
    moved = SpecShift(max_time=1, max_freq=0, fill=fill).apply(features, LENGTHS, rngs())
    stretched = SpecStretch(min_time=2, max_time=2, fill=fill).apply(features, LENGTHS, rngs())
    for before, after, faster, length in zip(
        features, moved, stretched, LENGTHS.tolist(), strict=True
    ):
        inside = before[:, :length]
        expected = {"mean": inside.mean(), "zero": torch.tensor(0.0), "min": inside.min()}[fill]
        gap = after[:, 0] if torch.equal(after[:, 1], before[:, 0]) else after[:, length - 1]
        torch.testing.assert_close(gap, expected.expand_as(gap))
        torch.testing.assert_close(faster[0, length - 1], expected)


def test_shifts_reach_their_limits_both_ways():
    full, features = torch.full((400,), 50), torch.zeros(400, 20, 50)
    features[:, 10, 25] = 1
    augment = SpecShift(max_time=3, max_freq=2, fill="zero")
    moved = augment.apply(features, full, [generator(3, clip) for clip in range(400)])
    places = moved.nonzero()
    assert set((places[:, 1] - 10).tolist()) == {-2, -1, 1, 2}
    assert set((places[:, 2] - 25).tolist()) == {-3, -2, -1, 1, 2, 3}


@pytest.mark.parametrize(("time", "freq"), [(0.5, 1.0), (2.0, 1.0), (1.0, 0.5), (1.0, 2.0)])
def test_stretches_are_those_of_interpolation_by_hand(time, freq):
    augment = SpecStretch(min_time=time, max_time=time, min_freq=freq, max_freq=freq, fill="zero")
    features = make()
    found = augment.apply(features, LENGTHS, rngs())
    for before, after, length in zip(features, found, LENGTHS.tolist(), strict=True):
        for bin_, frame in ((0, 0), (3, 1), (7, 5), (20, 8), (39, 40), (12, 99)):
            if frame >= length:
                assert after[bin_, frame] == 0
                continue
            row, column = bin_ / freq, frame * time
            if row > 39 or column > length - 1:
                assert after[bin_, frame] == 0
                continue
            # The values are linear in bins and frames, so their interpolation is exact.
            expected = before[0, 0] + 100 * row + column
            torch.testing.assert_close(after[bin_, frame], expected)


def test_a_rate_of_one_changes_nothing():
    augment = SpecStretch(min_time=1, max_time=1, min_freq=1, max_freq=1)
    assert torch.equal(augment.apply(make(), LENGTHS, rngs()), make())


def test_events_come_sooner_or_later_by_the_rate():
    features, full = torch.zeros(200, 8, 100), torch.full((200,), 100)
    features[:, :, 40] = 1
    warped = SpecStretch(min_time=0.8, max_time=1.25, fill="zero").apply(
        features, full, [generator(4, clip) for clip in range(200)]
    )
    places = warped.sum(dim=1).argmax(dim=1)
    assert 31 <= int(places.min()) <= 34
    assert 47 <= int(places.max()) <= 50


def test_a_shift_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="nothing would move"):
        SpecShift(max_time=0, max_freq=0)
