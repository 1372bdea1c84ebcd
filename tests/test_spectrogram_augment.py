"""Spectrogram augmentation: identity, repeatability, ranges, true lengths only."""

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.augment import (
    Augment,
    CoarseDropout,
    SpecMask,
    SpecNoise,
    SpecRoll,
    SpectrogramAugment,
    apply_spectrogram_augments,
)
from harken.seeds import generator

KINDS = sorted(
    kind
    for kind, member in Augment.kinds().items()
    if issubclass(member, SpectrogramAugment) and member.__module__.startswith("harken.")
)
FILLS = ("mean", "zero")

# Two values of every option of every kind, beside which other options that it needs.
OPTIONS = {
    "coarse_dropout": {
        "min_holes": (1, 4),
        "max_holes": (8, 12),
        "min_height": (1, 4),
        "max_height": (8, 16),
        "min_width": (1, 4),
        "max_width": (8, 16),
        "fill": FILLS,
    },
    "spec_mask": {
        "num_time": (1, 2),
        "num_freq": (1, 2),
        "time_width": (10, 40),
        "freq_width": (4, 12),
        "fill": FILLS,
    },
    "spec_noise": {"min_amplitude": (0, 0.05), "max_amplitude": (0.1, 0.2)},
    "spec_roll": {"max_shift": (None, 3)},
    "spec_shift": {"max_time": (0, 20), "max_freq": (0, 4), "fill": FILLS},
    "spec_stretch": {
        "min_time": (0.5, 0.9),
        "max_time": (1.1, 1.5),
        "min_freq": (0.8, 0.95),
        "max_freq": (1.05, 1.2),
        "fill": FILLS,
    },
}
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_changes_something(kind):
    options = set(Augment.member(kind).model_fields) - {"kind", "p"}
    assert set(OPTIONS[kind]) == options, f"give OPTIONS two values of each option of {kind}"
    for name, (one, two) in OPTIONS[kind].items():
        found = [change({"kind": kind, name: value}) for value in (one, two)]
        assert not torch.equal(*found), f"{kind}.{name} changes nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_are_ordered_and_configs_survive_yaml(kind):
    member = Augment.member(kind)
    for low in [name for name in member.model_fields if name.startswith("min_")]:
        high = member.model_fields["max_" + low.removeprefix("min_")].default
        with pytest.raises(ValidationError, match=f"{low} is more than"):
            member.model_validate({"kind": kind, low: high + 1})
    config = member(p=0.5)
    tree = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert Augment.member(kind).model_validate(tree) == config


@pytest.mark.parametrize("kind", KINDS)
def test_several_changes_keep_gradients_and_devices(kind):
    features = make().requires_grad_()
    changed = apply_spectrogram_augments([Augment.member(kind)()] * 2, features, LENGTHS, rngs())
    changed.sum().backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad.any()


def holes_of(seeds, **options):
    """Return where 500 clips of ones have holes."""
    features, full = torch.ones(500, 40, 100), torch.full((500,), 100)
    augment = CoarseDropout(fill="zero", **options)
    return augment.apply(features, full, [generator(seeds, clip) for clip in range(500)]) == 0


def test_a_hole_has_the_size_asked_for_and_holes_reach_everywhere():
    hidden = holes_of(
        0, min_holes=1, max_holes=1, min_height=3, max_height=5, min_width=7, max_width=9
    )
    rows, columns = hidden.any(dim=2), hidden.any(dim=1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None])
    assert set(rows.sum(dim=1).tolist()) == {3, 4, 5}
    assert set(columns.sum(dim=1).tolist()) == {7, 8, 9}
    assert rows.any(dim=0).all()
    assert columns.any(dim=0).all()


def test_holes_are_as_many_as_asked_for():
    size = {"min_height": 1, "max_height": 1, "min_width": 1, "max_width": 1}
    area = holes_of(1, min_holes=3, max_holes=6, **size).flatten(1).sum(dim=1)
    assert set(area.tolist()) <= {1, 2, 3, 4, 5, 6}
    assert {3, 4, 5, 6} <= set(area.tolist())
    assert float(area.float().mean()) == pytest.approx(4.5, abs=0.2)


def test_noise_is_even_between_0_and_its_amplitude():
    features, full = torch.zeros(300, 20, 50), torch.full((300,), 50)
    clips = [generator(2, clip) for clip in range(300)]
    added = SpecNoise(min_amplitude=0.02, max_amplitude=0.1).apply(features, full, clips)
    highest = added.flatten(1).amax(dim=1)
    assert float(added.min()) >= 0
    assert 0.019 < float(highest.min()) < 0.03
    assert 0.09 < float(highest.max()) <= 0.1
    share = added / highest[:, None, None]
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_masks_that_hide_nothing_are_refused():
    with pytest.raises(ValidationError, match="nothing would be hidden"):
        SpecMask(num_time=0, num_freq=0)
