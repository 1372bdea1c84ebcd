"""`supcon`: clips of one label are drawn together within a batch (Khosla et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import Covariate, TrainingTable
from harken.labels import Labels
from harken.losses.groups import Groups, codes_of, grouping
from harken.losses.hybrid import hard_classes
from harken.losses.inner import Around, AroundModule
from harken.losses.loss import LossModule


class SupCon(Around):
    """`(1 - w)` times the loss inside plus `w` times the supervised contrastive loss of the batch.

    For a clip i with the others P of its label it is `-1/|P| Σ_p log(exp(s_ip) / Σ_a≠i exp(s_ia))`,
    s the cosine over the temperature. Clips without another of their label in the batch add nothing
    to it. Validation and test report the loss inside alone.
    """

    kind: Literal["supcon"] = "supcon"
    weight: float = Field(0.5, ge=0, le=1)
    """w: the share of the contrastive loss."""
    temperature: float = Field(0.1, gt=0)
    """Divisor of the cosines: the smaller, the more the nearest clips count."""
    by: str | None = Field(None, min_length=1)
    """Compare clips of the same group only, such as the word; null compares all of the batch."""

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the column of the groups."""
        return () if self.by is None else (grouping(self.by),)

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        place = None if self.by is None else Groups.read(table, self.by).place
        return _SupCon(self.inner(labels, table), self.weight, self.temperature, place)


class _SupCon(AroundModule):
    def __init__(
        self, inner: LossModule, weight: float, temperature: float, place: int | None
    ) -> None:
        super().__init__(inner)
        self.weight, self.temperature, self.place = weight, temperature, place

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return each clip's loss; see `LossModule.forward`."""
        plain: Tensor = self.inner(output, batch)
        if not self.training:
            return plain
        classes = hard_classes(batch.target)
        groups = torch.zeros_like(batch.rows)
        if self.place is not None:
            groups = codes_of(batch, self.place)
        value = supervised_contrast(output.embedding, classes, groups, self.temperature)
        return (1 - self.weight) * plain + self.weight * value


def supervised_contrast(
    embedding: Tensor, classes: Tensor, groups: Tensor, temperature: float
) -> Tensor:
    """Return each clip's supervised contrastive loss, 0 where it has no partner.

    Args:
        embedding: float `(batch, dim)`.
        classes: int64 `(batch,)`; -1 leaves a clip out.
        groups: int64 `(batch,)`; clips of the same group are compared, -1 with none.
        temperature: Divisor of the cosines.
    """
    unit = F.normalize(embedding.float(), dim=1)
    usable = (classes >= 0) & (groups >= 0)
    compared = (groups[:, None] == groups) & usable[:, None] & usable
    compared.fill_diagonal_(False)
    scores = (unit @ unit.T / temperature).masked_fill(~compared, -torch.inf)
    # A clip that is compared with none would take the logarithm of 0.
    total = torch.where(compared.any(1, keepdim=True), scores, 0.0).logsumexp(1, keepdim=True)
    like = compared & (classes[:, None] == classes)
    log_p = torch.where(like, scores - total, 0.0)
    return -log_p.sum(1) / like.sum(1).clamp(min=1)
