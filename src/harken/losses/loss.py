"""The slot `loss`: what training minimises, one value per clip.

A loss returns float32 `(batch,)`. The trainer multiplies by the clips' own weights and averages, so
every loss here weighs classes, labels and groups only, never clips. Missing targets (NaN) add
nothing: they take no part in a clip's value and give no gradient.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from harken.batch import Batch, Output
from harken.choice import Choice
from harken.covariates import Covariate, TrainingTable
from harken.errors import ConfigError
from harken.labels import Labels
from harken.target import Task


class LossModule(nn.Module):
    """Base of what a `Loss` builds; what it keeps between steps is a buffer, so that runs resume.

    In training mode it is what is minimised; in evaluation mode what is reported of validation and
    test clips, without what concerns training only.
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return float32 `(batch,)`: the loss of each clip, 0 where nothing of it is known.

        Args:
            output: Logits float32 `(batch, classes)` and the embedding.
            batch: The clips, with their targets float32 `(batch, classes)`.
        """
        raise NotImplementedError

    def attach(self, width: int) -> None:
        """Learn the embedding's width `dim`, once, before training."""

    def observe(self, output: Output, batch: Batch) -> None:
        """Take note of what a batch of training gave, right after its loss.

        Called once for each batch of an epoch, also where an optimiser passes over it twice. What
        is noted must not change losses before `end_step`, so that both passes see the same.
        """

    def end_step(self) -> None:
        """Take note that the optimiser's step is done."""

    def end_epoch(self) -> dict[str, float]:
        """Take note that an epoch of training is over.

        Returns:
            What the epoch's line in `metrics.jsonl` should say besides.
        """
        return {}


class Loss(Choice):
    """What is minimised."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss.

        Args:
            labels: The columns of logits and targets.
            table: Targets and side information of the training rows, for weights that are counted.

        Raises:
            ConfigError: this loss does not suit the task, or weights do not match the labels.
            DataError: balanced weights are asked for and a class has no training row.
        """
        raise NotImplementedError

    def covariates(self) -> tuple[Covariate, ...]:
        """Return the side information that this loss reads."""
        return ()

    def resolved(self) -> Self:
        """Return the loss with the files that it refers to read in, so that it stands by itself.

        Raises:
            ConfigError: a file is not there.
            DataError: a file cannot be used.
        """
        return self

    def refuse_unless(self, task: Task, labels: Labels) -> None:
        """Refuse labels of another task.

        Raises:
            ConfigError: they are.
        """
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
