"""The slot `loss`: what training minimises, one value per clip.

A loss returns float32 `(batch,)`. The trainer multiplies by the clips' own weights and averages, so
every loss here weighs classes, labels and groups only, never clips. Missing targets (NaN) add
nothing: they take no part in a clip's value and give no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harken.batch import Batch, Output
from harken.choice import Choice
from harken.covariates import Covariate, TrainingTable
from harken.errors import ConfigError
from harken.labels import Labels
from harken.target import Task


class LossModule(nn.Module):
    """Base of what a `Loss` builds; what it keeps between steps is a buffer, so that runs resume."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return float32 `(batch,)`: the loss of each clip, 0 where nothing of it is known.

        Args:
            output: Logits float32 `(batch, classes)` and the embedding.
            batch: The clips, with their targets float32 `(batch, classes)`.
        """
        raise NotImplementedError

    def end_epoch(self) -> None:
        """Take note that an epoch of training is over."""


class Loss(Choice):
    """What is minimised."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss.

        Args:
            labels: The columns of logits and targets.
            table: Targets and side information of the training rows, from which weights are counted.

        Raises:
            ConfigError: this loss does not suit the task, or weights do not match the labels.
            DataError: balanced weights are asked for and a class has no training row.
        """
        raise NotImplementedError

    def covariates(self) -> tuple[Covariate, ...]:
        """Return the side information that this loss reads."""
        return ()

    def refuse_unless(self, task: Task, labels: Labels) -> None:
        if labels.task != task:
            kind = getattr(self, "kind", type(self).__name__)
            fitting = {"single": "cross_entropy", "multi": "bce", "regression": "mse or huber"}
            raise ConfigError(
                f"{kind} is a loss of {task} tasks, and the target is a {labels.task} task",
                where="loss",
                fix=f"use {fitting[labels.task]}",
            )


def known_targets(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets with 0 for missing, and the observed mask as float."""
    observed = ~torch.isnan(target)
    return torch.where(observed, target, 0.0), observed.to(target.dtype)


def observed_mean(values: Tensor, observed: Tensor) -> Tensor:
    """Return each row's mean over its observed cells, 0 where there are none."""
    return (values * observed).sum(1) / observed.sum(1).clamp(min=1)
