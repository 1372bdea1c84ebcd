"""`hybrid`: cross-entropy, and a pull towards clips of the same group and label."""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import Covariate, TrainingTable
from harken.labels import Labels
from harken.losses.groups import Groups, codes_of, grouping
from harken.losses.inner import Around, AroundModule
from harken.losses.loss import LossModule
from harken.losses.partners import Partners

Distance = Literal["ln_euclid", "cosine"]

FARTHEST: dict[Distance, float] = {"ln_euclid": math.log(3), "cosine": 2.0}
"""The distance of opposite vectors: no margin beyond it can ever be met."""


class Hybrid(Around):
    """`(1 - w)` times the loss inside plus `w` times a contrastive loss of the embeddings.

    A clip's contrastive loss is `d(e, like)² + max(0, margin - d(e, unlike))²`, where `like` is of
    the same group and label and `unlike` of the same group and another label: the same word, said
    by others. Clips that lack either partner add nothing to it, and `metrics.jsonl` counts them as
    `without_partner`. Partners give no gradient. Validation and test report the loss inside alone.
    """

    kind: Literal["hybrid"] = "hybrid"
    by: str | None = Field(None, min_length=1)
    """The table's column of the groups, such as the word; null: all clips are one group."""
    weight: float = Field(0.2, ge=0, le=1)
    """w: the share of the contrastive loss."""
    margin: float = Field(1.0, gt=0)
    """How far other labels are pushed away, in the distance's own unit."""
    distance: Distance = "ln_euclid"
    """`ln_euclid` is ln(1 + ‖a - b‖) of vectors of length 1, from 0 to ln 3; `cosine` is 1 - cos,
    from 0 to 2."""
    partners: Literal["random", "centroids"] = "random"
    """`random` training clips of the cell, as they were last seen (their embeddings are kept: clips
    × width × 4 bytes, also in saved states), or the cell's `centroids`, the mean embeddings of the
    epoch before; with several other labels their mean loss counts."""

    @model_validator(mode="after")
    def _margin_can_be_met(self) -> Self:
        limit = FARTHEST[self.distance]
        if self.margin > limit:
            raise ValueError(
                f"a margin of {self.margin:g} can never be met: {self.distance} distances end at "
                f"{limit:.4g}"
            )
        return self

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the column of the groups."""
        return () if self.by is None else (grouping(self.by),)

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        groups = None if self.by is None else Groups.read(table, self.by)
        inner = self.inner(labels, table)
        if self.partners == "centroids":
            return CentroidHybrid(self, inner, table, groups)
        return RandomHybrid(self, inner, table, groups)


def distances(kind: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Return the distances of vectors along the last axis, once both have length 1."""
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    if kind == "cosine":
        return 1 - (a * b).sum(-1)
    # The root's slope at 0 is infinite, and two equal vectors are at 0.
    return torch.log1p((a - b).square().sum(-1).clamp(min=1e-12).sqrt())


def hard_classes(target: Tensor) -> Tensor:
    """Return int64 `(batch,)`: each clip's class, -1 for soft and for missing targets."""
    share, label = target.max(1)
    return torch.where(share == 1, label, -1)


class _Hybrid(AroundModule):
    """The loss inside and the contrastive loss, side by side."""

    lonely: Tensor

    def __init__(
        self, config: Hybrid, inner: LossModule, table: TrainingTable, groups: Groups | None
    ) -> None:
        super().__init__(inner)
        self.config, self.place = config, None if groups is None else groups.place
        self.num_groups, self.num_classes = (
            1 if groups is None else len(groups.names),
            table.target.shape[1],
        )
        self.register_buffer("lonely", torch.zeros((), dtype=torch.int64))
        self._lonely_now = torch.zeros((), dtype=torch.int64)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return each clip's loss; see `LossModule.forward`."""
        plain: Tensor = self.inner(output, batch)
        if not self.training:
            return plain
        share = self.config.weight
        value, paired = self.contrast(output.embedding, batch)
        self._lonely_now = (~paired).sum().detach()
        return (1 - share) * plain + share * torch.where(paired, value, 0.0)

    def groups_of(self, batch: Batch) -> Tensor:
        """Return int64 `(batch,)`: the clips' groups, -1 for unknown ones."""
        if self.place is None:
            return torch.zeros_like(batch.rows)
        return codes_of(batch, self.place)

    def pulled(self, like: Tensor) -> Tensor:
        """Return what distances to partners of the same label cost."""
        return like.square()

    def pushed(self, unlike: Tensor) -> Tensor:
        """Return what distances to partners of other labels cost."""
        return (self.config.margin - unlike).clamp(min=0).square()

    def contrast(self, embedding: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each clip's contrastive loss `(batch,)`, and whether it has both partners."""
        raise NotImplementedError

    def observe(self, output: Output, batch: Batch) -> None:
        """Take note of a step; see `LossModule.observe`."""
        super().observe(output, batch)
        self.lonely += self._lonely_now
        self.remember(output.embedding.detach().float(), batch)

    def remember(self, embedding: Tensor, batch: Batch) -> None:
        """Note what later steps compare with."""
        raise NotImplementedError

    def end_epoch(self) -> dict[str, float]:
        """Count the clips without partners; see `LossModule.end_epoch`."""
        said = {**super().end_epoch(), "without_partner": int(self.lonely)}
        self.lonely.zero_()
        return said


class RandomHybrid(_Hybrid):
    """Compares with random training clips, whose embeddings are kept as they were last seen."""

    bank: Tensor
    seen: Tensor

    def __init__(
        self, config: Hybrid, inner: LossModule, table: TrainingTable, groups: Groups | None
    ) -> None:
        super().__init__(config, inner, table, groups)
        codes = np.zeros(len(table.target), dtype=np.int64) if groups is None else groups.codes
        classes = hard_classes(torch.from_numpy(table.target)).numpy()
        self.partners = Partners(table.ids, codes, classes, self.num_groups, self.num_classes)
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def attach(self, width: int) -> None:
        """Learn the embedding's width; see `LossModule.attach`."""
        super().attach(width)
        self.register_buffer("bank", torch.zeros(self.partners.num_clips, width))
        self.register_buffer("seen", torch.zeros(self.partners.num_clips, dtype=torch.bool))

    def contrast(self, embedding: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each clip's contrastive loss `(batch,)`, and whether it has both partners."""
        groups, classes = self.groups_of(batch), hard_classes(batch.target)
        like, unlike = self.partners.draw(batch.rows, groups, classes)
        paired = like.exists & unlike.exists & self.seen[like.slot] & self.seen[unlike.slot]
        kind = self.config.distance
        pull = self.pulled(distances(kind, embedding, self.bank[like.slot]))
        push = self.pushed(distances(kind, embedding, self.bank[unlike.slot]))
        return pull + push, paired

    def remember(self, embedding: Tensor, batch: Batch) -> None:
        """Keep the embeddings of training clips until the step is done."""
        slots = self.partners.slot_of(batch.rows)
        kept = (slots >= 0) & (hard_classes(batch.target) >= 0)
        self._waiting.append((slots[kept], embedding[kept]))

    def end_step(self) -> None:
        """Take up what the step's clips gave; see `LossModule.end_step`."""
        super().end_step()
        for slots, embedding in self._waiting:
            self.bank[slots] = embedding
            self.seen[slots] = True
        self._waiting.clear()


class CentroidHybrid(_Hybrid):
    """Compares with the mean embeddings of the epoch before, by group and label."""

    sums: Tensor
    counts: Tensor
    centroids: Tensor
    known: Tensor

    def attach(self, width: int) -> None:
        """Learn the embedding's width; see `LossModule.attach`."""
        super().attach(width)
        shape = self.num_groups, self.num_classes
        self.register_buffer("sums", torch.zeros(*shape, width))
        self.register_buffer("counts", torch.zeros(shape))
        self.register_buffer("centroids", torch.zeros(*shape, width))
        self.register_buffer("known", torch.zeros(shape, dtype=torch.bool))

    def contrast(self, embedding: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each clip's contrastive loss `(batch,)`, and whether it has both partners."""
        groups, classes = self.groups_of(batch), hard_classes(batch.target)
        usable = (groups >= 0) & (classes >= 0)
        group, label = groups.clamp(min=0), classes.clamp(min=0)
        far = distances(self.config.distance, embedding[:, None], self.centroids[group])
        own = F.one_hot(label, self.num_classes).bool()
        here = self.known[group]
        pull = self.pulled(far[own])
        others = here & ~own
        push = (self.pushed(far) * others).sum(1) / others.sum(1).clamp(min=1)
        return pull + push, usable & here[own] & others.any(1)

    def remember(self, embedding: Tensor, batch: Batch) -> None:
        """Add the embeddings to their cells' sums."""
        groups, classes = self.groups_of(batch), hard_classes(batch.target)
        kept = (groups >= 0) & (classes >= 0)
        cell = groups[kept], classes[kept]
        self.sums.index_put_(cell, embedding[kept], accumulate=True)
        self.counts.index_put_(cell, torch.ones_like(embedding[kept][:, 0]), accumulate=True)

    def end_epoch(self) -> dict[str, float]:
        """Take the epoch's mean embeddings; cells that it did not see keep theirs."""
        seen = self.counts > 0
        means = self.sums / self.counts.clamp(min=1)[..., None]
        self.centroids.copy_(torch.where(seen[..., None], means, self.centroids))
        self.known |= seen
        self.sums.zero_()
        self.counts.zero_()
        return super().end_epoch()
