"""The slot `loss`: what training minimises, one value per clip.

A loss returns float32 `(batch,)`. The trainer multiplies by the clips' own weights and averages, so
every loss here weighs classes and labels only, never clips. Missing targets (NaN) add nothing: they
take no part in a clip's value and give no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, NonNegativeFloat
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from harken.batch import Batch, Output
from harken.choice import Choice, nearest
from harken.errors import ConfigError, DataError
from harken.labels import Labels, Task

Targets = npt.NDArray[np.float32]


def _readable_weights(value: Any) -> Any:
    """Answer a misspelt word once, and let YAML's numeric label names be names."""
    if isinstance(value, str) and value not in ("none", "balanced"):
        hint = nearest(value, ("none", "balanced"))
        text = f"none, balanced, a list by class order or a mapping by label name{hint}"
        raise PydanticCustomError("weights", "must be {text}", {"text": text})
    if isinstance(value, Mapping):
        return {str(name): weight for name, weight in value.items()}
    return value


Weights = Annotated[
    Literal["none", "balanced"] | list[NonNegativeFloat] | dict[str, NonNegativeFloat],
    BeforeValidator(_readable_weights),
]
"""`none`, `balanced`, one number per class in column order, or numbers by label name."""


class LossModule(nn.Module):
    """Base of what a `Loss` builds."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return float32 `(batch,)`: the loss of each clip, 0 where nothing of it is known.

        Args:
            output: Logits float32 `(batch, classes)` and the embedding.
            batch: The clips, with their targets float32 `(batch, classes)`.
        """
        raise NotImplementedError


class Loss(Choice):
    """What is minimised."""

    def build(self, labels: Labels, target: Targets) -> LossModule:
        """Build the loss.

        Args:
            labels: The columns of logits and targets.
            target: float32 `(training rows, classes)`, from which balanced weights are counted.

        Raises:
            ConfigError: this loss does not suit the task, or weights do not match the labels.
            DataError: balanced weights are asked for and a class has no training row.
        """
        raise NotImplementedError

    def _refuse_unless(self, task: Task, labels: Labels) -> None:
        if labels.task != task:
            kind = getattr(self, "kind", type(self).__name__)
            fitting = {"single": "cross_entropy", "multi": "bce", "regression": "mse or huber"}
            raise ConfigError(
                f"{kind} is a loss of {task} tasks, and the target is a {labels.task} task",
                where="loss",
                fix=f"use {fitting[labels.task]}",
            )


class CrossEntropy(Loss):
    """Cross-entropy of the softmax, `-Σ_c w_c t_c log p_c`, for tasks with one label per clip.

    Targets may be soft, as mixup makes them. The value equals `torch.nn.functional.cross_entropy`
    with `reduction="none"`, and so with smoothing.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Weights = "none"
    """`balanced` is N / (classes · N_c) over the training rows, whose mean over those rows is 1; a
    mapping by label name leaves labels that it does not name at 1."""
    smoothing: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the target that is spread evenly over the classes (Szegedy et al. 2016)."""

    def build(self, labels: Labels, target: Targets) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self._refuse_unless("single", labels)
        weights = None
        if self.class_weights == "balanced":
            weights = balanced_class_weights(labels, target)
        elif not isinstance(self.class_weights, str):
            weights = given_weights(labels, self.class_weights, where="loss.class_weights")
        return _CrossEntropy(weights, self.smoothing)


class Bce(Loss):
    """Binary cross-entropy of the sigmoid, for tasks with any number of labels per clip.

    A clip's value is the mean over its observed labels.
    """

    kind: Literal["bce"] = "bce"
    pos_weight: Weights = "none"
    """Factor of the positive part per label; `balanced` is negatives / positives of the training
    rows, so that both sides weigh alike; a mapping leaves labels that it does not name at 1."""
    smoothing: float = Field(0.0, ge=0.0, le=1.0)
    """Targets move this share of the way to 1/2."""

    def build(self, labels: Labels, target: Targets) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self._refuse_unless("multi", labels)
        weights = None
        if self.pos_weight == "balanced":
            weights = balanced_pos_weights(labels, target)
        elif not isinstance(self.pos_weight, str):
            weights = given_weights(labels, self.pos_weight, where="loss.pos_weight")
        return _Bce(weights, self.smoothing)


class Mse(Loss):
    """Squared error, mean over a clip's observed columns, for regression."""

    kind: Literal["mse"] = "mse"

    def build(self, labels: Labels, target: Targets) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self._refuse_unless("regression", labels)
        return _Mse()


class Huber(Loss):
    """Huber's error: half the square within `delta`, linear beyond, mean over observed columns.

    Source: Huber (1964); equals `torch.nn.functional.huber_loss`.
    """

    kind: Literal["huber"] = "huber"
    delta: float = Field(1.0, gt=0)
    """Error, in units of the target, at which the square turns into a line."""

    def build(self, labels: Labels, target: Targets) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self._refuse_unless("regression", labels)
        return _Huber(self.delta)


def default_loss(task: Task) -> Loss:
    """Return the loss that a task takes when the recipe names none."""
    losses: dict[Task, Loss] = {"single": CrossEntropy(), "multi": Bce(), "regression": Mse()}
    return losses[task]


def balanced_class_weights(labels: Labels, target: Targets) -> list[float]:
    """Return N / (classes · N_c) by class; soft targets count by their share.

    Raises:
        DataError: a class has no training row.
    """
    observed = target[~np.isnan(target).any(axis=1)].astype(np.float64)
    counts = observed.sum(axis=0)
    _refuse_empty(labels, counts, "training row", "loss.class_weights")
    return list(len(observed) / (labels.num_classes * counts))


def balanced_pos_weights(labels: Labels, target: Targets) -> list[float]:
    """Return negatives / positives by label, counted over observed targets.

    Raises:
        DataError: a label is nowhere positive, or nowhere negative, in the training rows.
    """
    positives = np.nansum(target.astype(np.float64), axis=0)
    negatives = np.nansum(1 - target.astype(np.float64), axis=0)
    _refuse_empty(labels, positives, "positive training row", "loss.pos_weight")
    _refuse_empty(labels, negatives, "negative training row", "loss.pos_weight")
    return list(negatives / positives)


def given_weights(
    labels: Labels, weights: list[float] | dict[str, float], where: str
) -> list[float]:
    """Return weights by class from a list in column order or a mapping by label name.

    Raises:
        ConfigError: the list has another length, a name is unknown, or all weights are 0.
    """
    if isinstance(weights, dict):
        for name in weights:
            if name not in labels.names:
                hint = nearest(name, labels.names)
                raise ConfigError(f"no label is called {name!r}{hint}", where=where)
        weights = [weights.get(name, 1.0) for name in labels.names]
    if len(weights) != labels.num_classes:
        raise ConfigError(
            f"{len(weights)} weights for {labels.num_classes} labels",
            where=where,
            fix=f"give one per label: {', '.join(labels.names)}",
        )
    if not np.isfinite(weights).all() or not any(weights):
        raise ConfigError("weights must be finite and not all 0", where=where)
    return weights


def _refuse_empty(labels: Labels, counts: npt.NDArray[np.float64], what: str, where: str) -> None:
    empty = [name for name, count in zip(labels.names, counts, strict=True) if count == 0]
    if empty:
        names = ", ".join(map(repr, empty))
        raise DataError(
            f"balanced weights: no {what} of {names}",
            where=where,
            fix="drop the label, split otherwise, or give the weights yourself",
        )


def _parted(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets with 0 for missing, and the observed mask as float."""
    observed = ~torch.isnan(target)
    return torch.where(observed, target, 0.0), observed.to(target.dtype)


def _observed_mean(values: Tensor, observed: Tensor) -> Tensor:
    """Return each row's mean over its observed cells, 0 where there are none."""
    return (values * observed).sum(1) / observed.sum(1).clamp(min=1)


class _Weighted(LossModule):
    """A loss with one weight per column, kept out of the model's saved state."""

    weights: Tensor | None

    def __init__(self, weights: list[float] | None, smoothing: float) -> None:
        super().__init__()
        values = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)
        self.smoothing = smoothing


class _CrossEntropy(_Weighted):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = _parted(batch.target)
        value = F.cross_entropy(
            output.logits,
            target,
            weight=self.weights,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        # Smoothing would give a row without a target a uniform one, so such rows are cut out here.
        return value * observed.amin(1)


class _Bce(_Weighted):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = _parted(batch.target)
        target = target * (1 - self.smoothing) + self.smoothing / 2
        value = F.binary_cross_entropy_with_logits(
            output.logits, target, pos_weight=self.weights, reduction="none"
        )
        return _observed_mean(value, observed)


class _Mse(LossModule):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = _parted(batch.target)
        return _observed_mean((output.logits - target).square(), observed)


class _Huber(LossModule):
    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = _parted(batch.target)
        value = F.huber_loss(output.logits, target, reduction="none", delta=self.delta)
        return _observed_mean(value, observed)
