"""Anchor loss: its formula, cross-entropy at delta 0, finite slopes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import ConfigError
from harken.losses import Anchor, CrossEntropy
from loss_values import MULTI, THREE, normal, one_hot, value

CLASSES = [0, 0, 1, 2, 2, 1, 0, 2]
TARGET = one_hot(CLASSES, 3)
LOGITS = normal(8, 3, seed=1) * 3


@given(gamma=st.floats(0.1, 3), delta=st.floats(0.01, 1))
@settings(max_examples=30, deadline=None)
def test_it_follows_the_formula(gamma: float, delta: float) -> None:
    ours = value(Anchor(gamma=gamma, delta=delta), THREE, LOGITS, TARGET)
    for i, label in enumerate(CLASSES):
        p = math.exp(LOGITS[i, label]) / sum(math.exp(z) for z in LOGITS[i])
        anchor = min(max(p - delta, 0), 1)
        expected = -math.log(p) * (1 + abs(p - anchor) ** gamma)
        assert float(ours[i]) == pytest.approx(expected, rel=1e-4)


def test_delta_0_is_cross_entropy_and_above_it_is_not() -> None:
    plain = value(CrossEntropy(), THREE, LOGITS, TARGET)
    assert torch.allclose(value(Anchor(delta=0), THREE, LOGITS, TARGET), plain)
    assert (value(Anchor(delta=0.01), THREE, LOGITS, TARGET) > plain).all()


def test_slopes_are_finite_and_missing_rows_give_none() -> None:
    logits = torch.tensor([[300.0, 0, 0], [0, 300.0, 0], [1, 2, 3]], requires_grad=True)
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [torch.nan] * 3])
    for delta in (0.0, 0.3):
        logits.grad = None
        ours = value(Anchor(delta=delta), THREE, logits, target)
        assert ours[2] == 0
        ours.sum().backward()
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[2] == 0).all()


def test_every_option_changes_the_loss() -> None:
    base = value(Anchor(), THREE, LOGITS, TARGET)
    assert not torch.allclose(base, value(Anchor(gamma=2.0), THREE, LOGITS, TARGET))
    assert not torch.allclose(base, value(Anchor(delta=0.4), THREE, LOGITS, TARGET))


def test_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="anchor is a loss of single tasks"):
        value(Anchor(), MULTI, LOGITS, TARGET)
