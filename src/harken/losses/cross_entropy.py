"""`cross_entropy` and `bce`: the losses of the softmax and of the sigmoid."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import TrainingTable
from harken.labels import Labels
from harken.losses.class_weights import (
    Weighted,
    Weights,
    balanced_class_weights,
    balanced_pos_weights,
    given_weights,
)
from harken.losses.loss import Loss, LossModule, known_targets, observed_mean


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

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        weights = None
        if self.class_weights == "balanced":
            weights = balanced_class_weights(labels, table.target)
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

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("multi", labels)
        weights = None
        if self.pos_weight == "balanced":
            weights = balanced_pos_weights(labels, table.targets)
        elif not isinstance(self.pos_weight, str):
            weights = given_weights(labels, self.pos_weight, where="loss.pos_weight")
        return _Bce(weights, self.smoothing)


class _CrossEntropy(Weighted):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = known_targets(batch.target)
        value = F.cross_entropy(
            output.logits,
            target,
            weight=self.weights,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        # Smoothing would give a row without a target a uniform one, so such rows are cut out here.
        return value * observed.amin(1)


class _Bce(Weighted):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = known_targets(batch.target)
        target = target * (1 - self.smoothing) + self.smoothing / 2
        value = F.binary_cross_entropy_with_logits(
            output.logits, target, pos_weight=self.weights, reduction="none"
        )
        return observed_mean(value, observed)
