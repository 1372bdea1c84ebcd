"""Spectrogram augmentation: identity, repeatability, ranges, true lengths only."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.augment import Augment, SpecMask, SpecRoll, apply_spectrogram_augments
from harken.seeds import generator

KINDS = ["spec_mask", "spec_roll"]
LENGTHS = torch.tensor([100, 60, 9, 2])


def make(bins=40, lengths=LENGTHS):
    features = 5 + torch.rand(len(lengths), bins, 100, generator=torch.Generator().manual_seed(0))
    for clip, length in zip(features, lengths.tolist(), strict=True):
        clip[:, length:] = 0
    return features


def rngs(seed=0, clips=4):
    return [generator(seed, "augment", clip) for clip in range(clips)]


def change(tree, seed=0):
    augment = Augment.member(tree["kind"]).model_validate(tree)
    return apply_spectrogram_augments([augment], make(), LENGTHS, rngs(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_probability_one_changes_every_clip_and_zero_none(kind):
    for seed in range(20):
        changed = change({"kind": kind}, seed)
        assert changed.shape == make().shape
        assert (changed != make()).flatten(1).any(dim=1).all()
        assert torch.equal(change({"kind": kind, "p": 0}, seed), make())


@pytest.mark.parametrize("kind", KINDS)
def test_repeatable_by_generator_and_different_between_clips(kind):
    assert torch.equal(change({"kind": kind}, 1), change({"kind": kind}, 1))
    assert not torch.equal(change({"kind": kind}, 1), change({"kind": kind}, 2))
    features = make(lengths=torch.tensor([100]))[[0, 0, 0, 0]]
    full = torch.full((4,), 100)
    augment = Augment.member(kind)()
    changed = augment.apply(features, full, rngs())
    assert not any(torch.equal(changed[0], changed[clip]) for clip in (1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_changed_alike_in_any_batch(kind):
    augment = Augment.member(kind)(p=0.7)
    whole = augment.apply(make(), LENGTHS, rngs())
    for clip in range(4):
        alone = augment.apply(
            make()[clip : clip + 1], LENGTHS[clip : clip + 1], [generator(0, "augment", clip)]
        )
        torch.testing.assert_close(alone[0], whole[clip])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_input_are_left_alone(kind):
    features = make()
    changed = Augment.member(kind)().apply(features, LENGTHS, rngs())
    assert torch.equal(features, make())
    for clip, length in zip(changed, LENGTHS.tolist(), strict=True):
        assert not clip[:, length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_p_is_the_share_of_changed_clips(kind):
    augment = Augment.member(kind)(p=0.3)
    full = torch.full((400,), 50)
    features = torch.rand(400, 8, 50)
    changed = augment.apply(features, full, [generator(7, clip) for clip in range(400)])
    share = (changed != features).flatten(1).any(dim=1).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.08)


@settings(deadline=None, max_examples=50)
@given(
    num_time=st.integers(0, 3),
    num_freq=st.integers(0, 3),
    time_width=st.integers(1, 200),
    freq_width=st.integers(1, 100),
    seed=st.integers(0, 2**32),
)
def test_masks_are_stretches_no_wider_than_asked(num_time, num_freq, time_width, freq_width, seed):
    if num_time + num_freq == 0:
        num_time = 1
    augment = SpecMask(
        num_time=num_time,
        num_freq=num_freq,
        time_width=time_width,
        freq_width=freq_width,
        fill="zero",
    )
    hidden = augment.apply(make(), LENGTHS, rngs(seed)) == 0
    for clip, length in zip(hidden, LENGTHS.tolist(), strict=True):
        inside = clip[:, :length]
        frames, bins = inside.all(dim=0), inside.all(dim=1)
        # Every hidden value belongs to a whole hidden frame or a whole hidden bin.
        assert torch.equal(inside, frames[None] | bins[:, None])
        if not bins.all():
            assert 0 <= int(frames.sum()) <= num_time * max(1, min(time_width, length // 2))
            assert bool(frames.any()) == (num_time > 0)
        if not frames.all():
            assert 0 <= int(bins.sum()) <= num_freq * min(freq_width, 40)
            assert bool(bins.any()) == (num_freq > 0)


def test_widths_and_places_reach_both_ends():
    augment = SpecMask(num_time=1, num_freq=1, time_width=10, freq_width=4, fill="zero")
    full = torch.full((500,), 100)
    features = torch.ones(500, 40, 100)
    hidden = augment.apply(features, full, [generator(1, clip) for clip in range(500)]) == 0
    frames, bins = hidden.all(dim=1), hidden.all(dim=2)
    assert set(frames.sum(dim=1).tolist()) == set(range(1, 11))
    assert set(bins.sum(dim=1).tolist()) == {1, 2, 3, 4}
    assert frames.any(dim=0).all()
    assert bins.any(dim=0).all()


@pytest.mark.parametrize("fill", ["mean", "zero", "min"])
def test_fill_is_a_value_of_the_true_frames(fill):
    features = make()
    changed = SpecMask(fill=fill, time_width=4, freq_width=4).apply(features, LENGTHS, rngs())
    for before, after, length in zip(features, changed, LENGTHS.tolist(), strict=True):
        before, after = before[:, :length], after[:, :length]
        expected = {"mean": before.mean(), "zero": torch.tensor(0.0), "min": before.min()}[fill]
        filled = after[after != before]
        torch.testing.assert_close(filled, expected.expand_as(filled))


@settings(deadline=None, max_examples=50)
@given(max_shift=st.one_of(st.none(), st.integers(1, 60)), seed=st.integers(0, 2**32))
def test_roll_keeps_every_frame_of_the_clip(max_shift, seed):
    features = torch.zeros(4, 1, 100)
    for clip, length in zip(features, LENGTHS.tolist(), strict=True):
        clip[0, :length] = torch.arange(1, length + 1)
    rolled = SpecRoll(max_shift=max_shift).apply(features, LENGTHS, rngs(seed))
    for before, after, length in zip(features, rolled, LENGTHS.tolist(), strict=True):
        shift = int((after[0] == 1).nonzero())
        assert torch.equal(after[0, :length], before[0, :length].roll(shift))
        assert 1 <= min(shift, length - shift) <= min(max_shift or 100, length // 2)


def test_a_single_frame_passes():
    one = torch.tensor([1])
    for kind in KINDS:
        features = Augment.member(kind)().apply(torch.ones(1, 3, 1), one, rngs(clips=1))
        assert torch.isfinite(features).all()


def test_gradients_flow_around_masks():
    features = make().requires_grad_()
    SpecMask(fill="zero").apply(features, LENGTHS, rngs()).sum().backward()
    assert set(features.grad.unique().tolist()) == {0.0, 1.0}


def test_masks_that_hide_nothing_are_refused():
    with pytest.raises(ValidationError, match="nothing would be hidden"):
        SpecMask(num_time=0, num_freq=0)
