"""Losses of values: torch's, over observed columns."""

from __future__ import annotations

import torch

from harken.labels import Labels
from harken.losses import Huber, Mse
from loss_values import value


def test_regression_losses_are_torchs_over_observed_columns() -> None:
    labels = Labels("regression", ("age", "score"), ("age", "score"))
    logits = torch.tensor([[1.0, 5.0], [0.0, -2.0], [3.0, 3.0]], requires_grad=True)
    target = torch.tensor([[1.5, 1.0], [torch.nan, 0.0], [torch.nan, torch.nan]])
    assert value(Mse(), labels, logits, target).tolist() == [(0.25 + 16) / 2, 4.0, 0.0]
    assert value(Huber(), labels, logits, target).tolist() == [(0.125 + 3.5) / 2, 1.5, 0.0]
    assert value(Huber(delta=3.0), labels, logits, target).tolist()[1] == 2.0
    value(Mse(), labels, logits, target).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 4.0], [0.0, -4.0], [0.0, 0.0]]
