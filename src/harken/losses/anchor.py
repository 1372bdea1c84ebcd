"""`anchor`: clips whose class is not yet far ahead weigh more (after Ryou et al. 2019)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import TrainingTable
from harken.labels import Labels
from harken.losses.focal import TINY
from harken.losses.loss import Loss, LossModule, known_targets


class Anchor(Loss):
    """Cross-entropy times `1 + |p - q|^γ`, with `q = clamp(p - δ, 0, 1)`, p of the clip's class.

    `delta: 0` is cross-entropy.
    """

    kind: Literal["anchor"] = "anchor"
    gamma: float = Field(0.8, gt=0)
    """Power of the gap."""
    delta: float = Field(0.05, ge=0, le=1)
    """The gap that is looked for, a probability."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        return _Anchor(self.gamma, self.delta)


class _Anchor(LossModule):
    def __init__(self, gamma: float, delta: float) -> None:
        super().__init__()
        self.gamma, self.delta = gamma, delta

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target, _ = known_targets(batch.target)
        log_p = output.logits.log_softmax(1)
        # p - clamp(p - δ, 0, 1) is p where p is below δ, and else δ.
        gap = log_p.exp().clamp(max=self.delta)
        bend = gap.clamp(min=TINY) ** self.gamma * (gap > 0)
        return -(target * (1 + bend) * log_p).sum(1)
