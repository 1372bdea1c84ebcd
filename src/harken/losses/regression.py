"""`mse` and `huber`: the losses of values."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import TrainingTable
from harken.labels import Labels
from harken.losses.loss import Loss, LossModule, known_targets, observed_mean


class Mse(Loss):
    """Squared error, mean over a clip's observed columns, for regression."""

    kind: Literal["mse"] = "mse"

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("regression", labels)
        return _Mse()


class Huber(Loss):
    """Huber's error: half the square within `delta`, linear beyond, mean over observed columns.

    Source: Huber (1964); equals `torch.nn.functional.huber_loss`.
    """

    kind: Literal["huber"] = "huber"
    delta: float = Field(1.0, gt=0)
    """Error, in units of the target, at which the square turns into a line."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("regression", labels)
        return _Huber(self.delta)


class _Mse(LossModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = known_targets(batch.target)
        return observed_mean((output.logits - target).square(), observed)


class _Huber(LossModule):
    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = known_targets(batch.target)
        value = F.huber_loss(output.logits, target, reduction="none", delta=self.delta)
        return observed_mean(value, observed)
