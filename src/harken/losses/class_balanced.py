"""`class_balanced`: weights of classes by the effective number of their clips (Cui et al. 2019)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harken.covariates import TrainingTable
from harken.labels import Labels
from harken.losses.class_weights import class_counts
from harken.losses.groups import ClassWeighted
from harken.losses.inner import Around
from harken.losses.loss import LossModule


class ClassBalanced(Around):
    """Weights by the effective number of a class's training clips, `(1 - β) / (1 - β^N_c)`.

    They are scaled to sum to the number of classes: `beta: 0` weighs nothing, `beta` near 1 by
    1 / N_c. `of: focal` and `of: {kind: focal, form: sigmoid}` are the paper's other forms.
    """

    kind: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(0.999, ge=0, lt=1)
    """How much a further clip of a class adds: each adds `beta` of the one before."""

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        counts = class_counts(labels, table.target, "loss.beta")
        weights = effective_weights(counts, self.beta)
        return ClassWeighted(self.inner(labels, table), weights[None])


def effective_weights(counts: npt.NDArray[np.float64], beta: float) -> npt.NDArray[np.float64]:
    """Return weights by class that sum to the number of classes."""
    inverse = np.ones_like(counts)
    if beta > 0:
        inverse = (1 - beta) / -np.expm1(counts * np.log(beta))
    return np.asarray(inverse * len(counts) / inverse.sum())
