"""`focal`: clips that are already right count less (Lin et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, NonNegativeFloat
from pydantic_core import PydanticCustomError
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import TrainingTable
from harken.errors import ConfigError
from harken.labels import Labels
from harken.losses.class_weights import given_weights
from harken.losses.loss import Loss, LossModule, known_targets, observed_mean

TINY = 1e-12
"""Below this, the slope of a power below 1 is not worth its infinity."""


def _readable_alpha(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): weight for name, weight in value.items()}
    if isinstance(value, str):
        text = "must be a number, a list by class order or a mapping by label name"
        raise PydanticCustomError("alpha", "{text}", {"text": text})
    return value


Alpha = Annotated[
    NonNegativeFloat | list[NonNegativeFloat] | dict[str, NonNegativeFloat],
    BeforeValidator(_readable_alpha),
]


class Focal(Loss):
    """Focal loss: `α_c (1 - p)^γ` times the cross-entropy of the softmax, or of the sigmoids.

    With `gamma: 0` and `alpha: 1` it equals `cross_entropy`, or `bce` in tasks with any number of
    labels.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0)
    """How fast clips that are right lose their say; 0: not at all."""
    alpha: Alpha = 1.0
    """Factor of every class, or one per class: a list in column order, or a mapping by label name
    that leaves the others at 1."""
    form: Literal["softmax", "sigmoid"] | None = None
    """`softmax`, for one label per clip, or `sigmoid`: every class by itself, mean over observed
    labels; with one label per clip the sum over the classes, as Cui et al. 2019 have it. Null takes
    the task's own."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        if labels.task == "regression" or (labels.task == "multi" and self.form == "softmax"):
            self.refuse_unless("single", labels)
        if isinstance(self.alpha, float):
            alpha = [self.alpha] * labels.num_classes
            if not self.alpha:
                raise ConfigError("alpha is 0: nothing would be learned", where="loss.alpha")
        else:
            alpha = given_weights(labels, self.alpha, where="loss.alpha")
        if labels.task == "single" and self.form != "sigmoid":
            return _SoftmaxFocal(self.gamma, alpha)
        return _SigmoidFocal(self.gamma, alpha, whole=labels.task == "single")


class _Focal(LossModule):
    alpha: Tensor

    def __init__(self, gamma: float, alpha: list[float]) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.gamma = gamma


class _SoftmaxFocal(_Focal):
    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, _ = known_targets(batch.target)
        log_p = output.logits.log_softmax(1)
        missed = (-torch.expm1(log_p)).clamp(min=TINY)
        return -(self.alpha * target * missed**self.gamma * log_p).sum(1)


class _SigmoidFocal(_Focal):
    def __init__(self, gamma: float, alpha: list[float], whole: bool) -> None:
        super().__init__(gamma, alpha)
        self.whole = whole

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, observed = known_targets(batch.target)
        z = output.logits
        cells = F.binary_cross_entropy_with_logits(z, target, reduction="none")
        # (1 - p)^γ where the target is 1 and p^γ where it is 0, without a logarithm of 0.
        missed = torch.exp(-self.gamma * (target * z + F.softplus(-z)))
        cells = self.alpha * missed * cells
        return (cells * observed).sum(1) if self.whole else observed_mean(cells, observed)
