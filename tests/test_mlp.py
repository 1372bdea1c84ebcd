from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from harken.backbones import MlpBackbone
from harken.backbones.mlp import summarise
from harken.frontends.frontend import FeatureSpec

FIXED = FeatureSpec("spectrogram", 8, 100.0, 20)
FREE = FeatureSpec("spectrogram", 8, 100.0, None)


def test_flatten_is_the_published_baseline() -> None:
    module = MlpBackbone().build(FIXED)
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(160, 512), (512, 256)]
    features = torch.randn(2, 8, 20)
    expected = torch.relu(linear[1](torch.relu(linear[0](features.flatten(1)))))
    hidden = module(features, torch.tensor([20, 20]))
    torch.testing.assert_close(hidden.states[:, 0], expected)


def test_statistics_give_one_state_for_any_length() -> None:
    module = MlpBackbone(summary="statistics", hidden=[6]).build(FREE)
    hidden = module(torch.randn(3, 8, 33), torch.tensor([33, 5, 1]))
    assert hidden.states.shape == (3, 1, 6)
    assert hidden.mask.all()


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 30), extra=st.integers(0, 5), seed=st.integers(0, 99))
def test_summary_equals_numpys(length: int, extra: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(4, length)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, extra)))
    change = np.abs(np.diff(x)).mean(1) if length > 1 else np.zeros(4)
    expected = np.concatenate([x.mean(1), np.maximum(x.std(1), 1e-4), x.max(1), change])
    got = summarise(torch.from_numpy(padded)[None], torch.tensor([length]))[0]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_constant_bins_give_finite_gradients() -> None:
    features = torch.ones(1, 8, 10, requires_grad=True)
    summarise(features, torch.tensor([10])).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_dropout_acts_in_training_only() -> None:
    module = MlpBackbone(dropout=0.5, hidden=[64]).build(FIXED)
    features, lengths = torch.randn(1, 8, 20), torch.tensor([20])
    module.eval()
    assert torch.equal(module(features, lengths).states, module(features, lengths).states)
    module.train()
    assert not torch.equal(module(features, lengths).states, module(features, lengths).states)


@pytest.mark.parametrize("hidden", [[], [0], [-3]])
def test_impossible_widths_are_refused(hidden: list[int]) -> None:
    with pytest.raises(ValidationError):
        MlpBackbone(hidden=hidden)
