"""Mixup: shares, partners, lengths, soft and missing targets."""

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.augment import Mix, Mixup, NoMix
from harken.errors import ConfigError
from harken.seeds import generator

LENGTHS = torch.tensor([50, 30, 10, 40])


def make(clips=4):
    """Each clip holds its own power of ten, so that a blend shows who is in it."""
    x = torch.zeros(clips, 50)
    for row in range(clips):
        x[row, : int(LENGTHS[row])] = 1.0 if row == 0 else 10.0**row
    return x, LENGTHS[:clips], torch.eye(clips)


@settings(deadline=None, max_examples=50)
@given(alpha=st.floats(0.05, 20), seed=st.integers(0, 2**32))
def test_input_and_target_are_blended_by_the_same_share(alpha, seed):
    x, lengths, target = make()
    mixed, longer, soft = Mixup(alpha=alpha).apply(x, lengths, target, generator(seed))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(4))
    for row in range(4):
        share = float(soft[row, row])
        others = [other for other in range(4) if other != row and soft[row, other] > 0]
        assert len(others) <= 1
        if others:
            other = others[0]
            torch.testing.assert_close(mixed[row], share * x[row] + (1 - share) * x[other])
            assert int(longer[row]) == max(int(LENGTHS[row]), int(LENGTHS[other]))
        assert not mixed[row, int(longer[row]) :].any()


def test_mixup_of_the_clinical_systems():
    mix = Mix.member("mixup").model_validate(
        {"kind": "mixup", "alpha": 10, "p": 0.5, "domain": "waveform"}
    )
    batch, rng = 400, np.random.default_rng(0)
    lengths = torch.from_numpy(rng.integers(20, 50, batch))
    x = torch.from_numpy(rng.standard_normal((batch, 50)).astype(np.float32))
    x *= torch.arange(50) < lengths[:, None]
    mixed, longer, soft = mix.apply(x, lengths, torch.eye(batch), generator(0))
    # The targets hold every weight, so that they give the blend of the waveforms exactly.
    torch.testing.assert_close(mixed, soft @ x)
    partner = (soft - soft.diag().diag()).argmax(dim=1)
    blended = soft.diagonal() < 1
    expected = torch.where(blended, torch.maximum(lengths, lengths[partner]), lengths)
    assert torch.equal(longer, expected)
    assert float(blended.float().mean()) == pytest.approx(0.5, abs=0.08)
    shares = soft.diagonal()[blended].numpy()
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.std() == pytest.approx((1 / 84) ** 0.5, rel=0.15)  # of Beta(10, 10)


def test_inputs_are_left_as_they_were():
    x, lengths, target = make()
    Mixup().apply(x, lengths, target, generator(0))
    assert all(torch.equal(a, b) for a, b in zip((x, lengths, target), make(), strict=True))


def test_probability_zero_is_identity_bit_for_bit():
    x, lengths, target = make()
    x[0, 0], x[1, 1], target[2, 1] = -0.0, torch.inf, torch.nan
    mixed, same, soft = Mixup(p=0).apply(x, lengths, target, generator(0))
    for before, after in ((x, mixed), (lengths, same), (target, soft)):
        assert before.numpy().tobytes() == after.numpy().tobytes()


def test_probability_one_changes_every_clip():
    for seed in range(50):
        mixed, _, _ = Mixup(alpha=1).apply(*make(), generator(seed))
        assert (mixed != make()[0]).any(dim=1).all()


def test_p_is_the_share_of_blended_clips():
    target = torch.eye(500)
    x = torch.ones(500, 3)
    _, _, soft = Mixup(p=0.25, alpha=5).apply(x, torch.full((500,), 3), target, generator(1))
    assert float((soft.diagonal() < 1).float().mean()) == pytest.approx(0.25, abs=0.06)


def test_repeatable_and_different_between_clips_and_batches():
    first, again, other = (Mixup().apply(*make(), generator(seed))[2] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(set(first.diagonal().tolist())) == 4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_shares_follow_the_beta_distribution(alpha):
    _, _, soft = Mixup(alpha=alpha).apply(
        torch.ones(2000, 1), torch.ones(2000, dtype=torch.int64), torch.eye(2000), generator(0)
    )
    shares = soft.diagonal().numpy()
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_a_target_is_missing_where_either_is():
    target = torch.tensor([[1.0, torch.nan], [0.0, 1.0]])
    _, _, soft = Mixup(alpha=5).apply(torch.ones(2, 3), torch.tensor([3, 3]), target, generator(0))
    assert soft[:, 1].isnan().all()
    assert (soft[:, 0] > 0).all()
    assert (soft[:, 0] < 1).all()


def test_features_are_blended_too():
    features = torch.rand(3, 5, 7)
    mixed, _, soft = Mixup(domain="features").apply(
        features, torch.tensor([7, 7, 7]), torch.eye(3), generator(0)
    )
    expected = torch.einsum("ij,jbt->ibt", soft, features)
    torch.testing.assert_close(mixed, expected)


def test_one_clip_stays_as_it_is():
    assert torch.equal(Mixup().apply(*make(1), generator(0))[0], make(1)[0])


def test_tokens_cannot_be_blended():
    with pytest.raises(ConfigError, match="tokens"):
        Mixup().apply(torch.ones(2, 3, dtype=torch.int64), LENGTHS[:2], torch.eye(2), generator(0))


def test_none_does_nothing():
    x, lengths, target = make()
    assert Mix.member("none") is NoMix
    assert NoMix().apply(x, lengths, target, generator(0)) == (x, lengths, target)


def test_configs_survive_yaml():
    config = Mixup(alpha=10, p=0.5, domain="features")
    tree = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert Mix.member(tree["kind"]).model_validate(tree) == config


def test_partners_form_one_circle():
    from harken.augment.mix import _draw_partners

    for batch in range(2, 20):
        partner = _draw_partners(batch, np.random.default_rng(batch))
        seen, clip = [], 0
        while clip not in seen:
            seen.append(clip)
            clip = int(partner[clip])
        assert sorted(seen) == list(range(batch))
