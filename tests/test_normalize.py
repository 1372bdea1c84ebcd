"""Normalisations: values, true frames only, one pass in float64, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken.errors import ConfigError, DataError, RunError
from harken.frontends import (
    ClipNormalize,
    DatasetNormalize,
    LogMel,
    MinMaxNormalize,
    NoNormalize,
    Normalize,
    NotFiniteError,
)

LENGTHS = torch.tensor([30, 12, 1])


def features(seed=0, offset=-7.0, bins=5):
    """Three clips whose padding holds something that must not count."""
    rng = np.random.default_rng(seed)
    values = offset + rng.standard_normal((3, bins, 30)) * rng.uniform(0.5, 3, (3, bins, 1))
    return torch.from_numpy(values.astype(np.float32))


def clips(batch, lengths=LENGTHS):
    return [clip[:, :n].double().numpy() for clip, n in zip(batch, lengths.tolist(), strict=True)]


def test_all_kinds_are_registered():
    assert sorted(Normalize.kinds()) == ["clip", "dataset", "minmax", "none"]


@pytest.mark.parametrize("per_bin", [False, True])
def test_clip_standardises_each_clip_over_its_true_frames(per_bin):
    out = ClipNormalize(per_bin=per_bin).build(5)(features(), LENGTHS)
    axis = 1 if per_bin else None
    for ours, clip in zip(clips(out)[:2], clips(features())[:2], strict=True):
        mean, std = clip.mean(axis, keepdims=True), clip.std(axis, keepdims=True)
        np.testing.assert_allclose(ours, (clip - mean) / std, atol=1e-4)
    assert out[1, :, 12:].abs().max() == 0


def test_minmax_stretches_each_clip():
    out = MinMaxNormalize().build(5)(features(), LENGTHS)
    for ours, clip in zip(clips(out), clips(features()), strict=True):
        np.testing.assert_allclose(ours, (clip - clip.min()) / (clip.max() - clip.min()), atol=1e-5)
    assert out[1, :, 12:].abs().max() == 0


@pytest.mark.parametrize(
    "config", [ClipNormalize(), ClipNormalize(per_bin=True), MinMaxNormalize()]
)
@pytest.mark.parametrize("value", [0.0, -16.118095, 1e4])
def test_constant_clips_become_zeros(config, value):
    out = config.build(5)(torch.full((2, 5, 30), value), torch.tensor([30, 7]))
    assert not out.any()


def test_none_changes_nothing():
    module = NoNormalize().build(5)
    assert module(features(), LENGTHS) is not None
    assert torch.equal(module(features(), LENGTHS), features())
    assert not module.needs_statistics()


@pytest.mark.parametrize("per_bin", [False, True])
@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4), offset=st.floats(-1000, 1000))
def test_dataset_learns_the_same_from_any_batches(per_bin, cuts, offset):
    pool = [(features(seed, offset), LENGTHS) for seed in range(sum(cuts))]
    batches, rest = [], list(pool)
    for cut in cuts:
        part, rest = rest[:cut], rest[cut:]
        batches.append((torch.cat([f for f, _ in part]), torch.cat([n for _, n in part])))
    module = DatasetNormalize(per_bin=per_bin).build(5)
    assert module.needs_statistics()
    module.learn(iter(batches))
    assert not module.needs_statistics()
    whole = np.concatenate([clip for f, n in pool for clip in clips(f, n)], axis=1)
    axis = 1 if per_bin else None
    np.testing.assert_allclose(
        module.mean[:, 0], np.atleast_1d(whole.mean(axis)), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(module.std[:, 0], np.atleast_1d(whole.std(axis)), rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_dataset_uses_given_constants(scale):
    module = DatasetNormalize(mean=-4.2677393, std=4.5689974, scale=scale).build(5)
    out = module(features(), LENGTHS)
    expected = (features() + 4.2677393) / (scale * 4.5689974)
    torch.testing.assert_close(out[0], expected[0])
    assert out[1, :, 12:].abs().max() == 0
    module.learn([(features(), LENGTHS)])
    assert float(module.mean) == pytest.approx(-4.2677393)


def test_dataset_takes_a_constant_per_bin():
    module = DatasetNormalize(mean=[1, 2, 3, 4, 5], std=2.0).build(5)
    torch.testing.assert_close(module(features(), LENGTHS)[0, 4], (features()[0, 4] - 5) / 2)
    with pytest.raises(ConfigError, match="5 values for 8 bins"):
        DatasetNormalize(mean=[1, 2, 3, 4, 5], std=2.0).build(8)


def test_statistics_travel_in_the_state_dict():
    trained, fresh = DatasetNormalize().build(5), DatasetNormalize().build(5)
    trained.learn([(features(), LENGTHS)])
    assert sorted(trained.state_dict()) == ["mean", "std"]
    with pytest.raises(RunError, match="not known yet"):
        fresh(features(), LENGTHS)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    assert not fresh.needs_statistics()
    assert torch.equal(fresh(features(), LENGTHS), trained(features(), LENGTHS))


def test_learning_again_replaces_what_was_learned():
    module = DatasetNormalize().build(5)
    for offset in (-7.0, 100.0):
        module.learn([(features(offset=offset), LENGTHS)])
    assert float(module.mean) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "no training clips"),
        ([(torch.full((3, 5, 30), -16.0), LENGTHS)], "deviation is zero"),
        ([(torch.full((3, 5, 30), torch.nan), LENGTHS)], "3 clips of a batch are not finite"),
        ([(torch.full((3, 5, 30), torch.inf), LENGTHS)], "3 clips of a batch are not finite"),
    ],
)
def test_useless_statistics_are_refused(batches, says):
    with pytest.raises(DataError, match=says):
        DatasetNormalize().build(5).learn(batches)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("per_bin", [False, True])
def test_clips_whose_features_are_not_finite_are_told(value, per_bin):
    bad = features()
    bad[1, 2, 0] = value
    bad[2, :, int(LENGTHS[2]) :] = value  # beyond the clip's end, where nothing counts
    module = DatasetNormalize(per_bin=per_bin).build(5)
    with pytest.raises(NotFiniteError) as caught:
        module.learn([(features(), LENGTHS), (bad, LENGTHS)])
    assert caught.value.positions == [1]


def test_a_bin_that_never_changes_is_refused_by_name():
    batch = features()
    batch[:, 3] = -16.0
    DatasetNormalize().build(5).learn([(batch, LENGTHS)])
    with pytest.raises(DataError, match=r"bins \[3\]"):
        DatasetNormalize(per_bin=True).build(5).learn([(batch, LENGTHS)])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mean": 1.0}, "both mean and std"),
        ({"mean": 0.0, "std": 0.0}, "greater than 0"),
        ({"mean": 0.0, "std": float("nan")}, "finite"),
        ({"mean": 0.0, "std": [1.0, -1.0]}, "greater than 0"),
        ({"mean": 0.0, "std": 1.0, "per_bin": True}, "per bin"),
        ({"scale": 0}, "greater than 0"),
    ],
)
def test_constants_that_cannot_be(wrong, says):
    with pytest.raises(ValidationError, match=says):
        DatasetNormalize.model_validate(wrong)


def test_a_front_end_learns_from_waveforms(noise):
    module = LogMel(normalize="dataset").build(16000, None)
    assert module.needs_statistics()
    batches = [
        (
            torch.from_numpy(np.stack([noise(0.5, seed=s), noise(0.5, seed=s + 9)])),
            torch.tensor([8000, 3000]),
        )
        for s in range(3)
    ]
    for waveform, _ in batches:
        waveform[1, 3000:] = 0
    module.fit(batches)
    parts = [module(w, n) for w, n in batches]
    values = np.concatenate([clip for f, n in parts for clip in clips(f, n)], axis=1)
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-4)
    assert sorted(module.state_dict()) == ["normalize.mean", "normalize.std"]
