"""Cross-entropy and BCE: torch's values on known targets, nothing from missing ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harken.labels import Labels
from harken.losses import Bce, CrossEntropy
from loss_values import normal, value

NAMES = ("cat", "dog", "owl")
SINGLE = Labels("single", NAMES, ("label",))
MULTI = Labels("multi", NAMES, NAMES)
HARD = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[HARD]


@pytest.fixture
def logits() -> Tensor:
    return normal(10, 3, seed=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", ["none", [0.5, 2.0, 1.0]])
def test_cross_entropy_is_torchs(logits: Tensor, smoothing: float, weights: object) -> None:
    loss = CrossEntropy(class_weights=weights, smoothing=smoothing)
    ours = value(loss, SINGLE, logits, torch.tensor(ONE_HOT))
    given_weights = None if weights == "none" else torch.tensor(weights)
    theirs = F.cross_entropy(
        logits,
        torch.tensor(HARD),
        weight=given_weights,
        reduction="none",
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (10,)


@given(share=st.floats(0, 1), smoothing=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_soft_target_is_the_blend_of_two_hard_ones(share: float, smoothing: float) -> None:
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(2))
    one, two = torch.eye(3)[:1], torch.eye(3)[1:2]
    loss = CrossEntropy(class_weights=[1.0, 3.0, 0.2], smoothing=smoothing)
    blend = value(loss, SINGLE, logits, share * one + (1 - share) * two)
    parts = [value(loss, SINGLE, logits, target) for target in (one, two)]
    torch.testing.assert_close(blend, share * parts[0] + (1 - share) * parts[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_row_without_a_target_gives_nothing(logits: Tensor, smoothing: float) -> None:
    target = torch.tensor(ONE_HOT)
    target[3] = torch.nan
    logits = logits.requires_grad_()
    ours = value(CrossEntropy(smoothing=smoothing), SINGLE, logits, target)
    assert ours[3] == 0
    assert (ours[:3] > 0).all()
    ours.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[3] == 0).all()
    assert torch.isfinite(logits.grad).all()


def test_bce_is_torchs_mean_over_observed_labels(logits: Tensor) -> None:
    target = torch.tensor(ONE_HOT)
    target[0, 1] = torch.nan
    target[1] = torch.nan
    ours = value(Bce(), MULTI, logits, target)
    cells = F.binary_cross_entropy_with_logits(logits, torch.tensor(ONE_HOT), reduction="none")
    assert ours[0] == pytest.approx(float((cells[0, 0] + cells[0, 2]) / 2))
    assert ours[1] == 0
    torch.testing.assert_close(ours[2:], cells[2:].mean(1))


def test_missing_labels_get_no_gradient(logits: Tensor) -> None:
    target = torch.tensor(ONE_HOT)
    missing = torch.rand(10, 3, generator=torch.Generator().manual_seed(3)) < 0.4
    missing[5] = True
    target[missing] = torch.nan
    logits = logits.requires_grad_()
    value(Bce(pos_weight=[1.0, 2.0, 3.0], smoothing=0.1), MULTI, logits, target).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[missing] == 0).all()
    assert (logits.grad[~missing] != 0).all()


def test_bce_smoothing_moves_targets_towards_one_half(logits: Tensor) -> None:
    ours = value(Bce(smoothing=0.2), MULTI, logits, torch.tensor(ONE_HOT))
    moved = torch.tensor(ONE_HOT) * 0.8 + 0.1
    theirs = F.binary_cross_entropy_with_logits(logits, moved, reduction="none").mean(1)
    torch.testing.assert_close(ours, theirs)


def test_bce_takes_soft_targets(logits: Tensor) -> None:
    soft = torch.rand(10, 3, generator=torch.Generator().manual_seed(4))
    theirs = F.binary_cross_entropy_with_logits(logits, soft, reduction="none").mean(1)
    torch.testing.assert_close(value(Bce(), MULTI, logits, soft), theirs)
