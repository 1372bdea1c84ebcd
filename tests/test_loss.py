"""The slot of losses: what suits which task, and what its modules are told."""

from __future__ import annotations

import numpy as np
import pytest

from harken.choice import Config
from harken.covariates import TrainingTable
from harken.errors import ConfigError
from harken.labels import Labels
from harken.losses import Bce, CrossEntropy, Huber, Loss, Mse, default_loss
from loss_values import MULTI, VALUES
from loss_values import THREE as SINGLE


@pytest.mark.parametrize(
    ("loss", "labels"),
    [(CrossEntropy(), MULTI), (Bce(), SINGLE), (Mse(), SINGLE), (Huber(), MULTI), (Bce(), VALUES)],
)
def test_a_loss_of_another_task_is_refused(loss: Loss, labels: Labels) -> None:
    with pytest.raises(ConfigError, match=r"^loss: .* tasks, and the target is a .* → use "):
        loss.build(labels, TrainingTable(np.zeros((2, labels.num_classes), np.float32)))


def test_the_slot_and_its_defaults() -> None:
    class Holder(Config):
        loss: Loss

    assert set(Loss.kinds()) >= {"cross_entropy", "bce", "mse", "huber"}
    assert Holder.model_validate({"loss": "bce"}).loss == Bce() == default_loss("multi")
    assert default_loss("single") == CrossEntropy()
    assert default_loss("regression") == Mse()
