"""`smoothed`: how sure a label is depends on the group, such as the age or the word."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from harken.batch import Batch, Output
from harken.choice import nearest
from harken.covariates import Covariate, TrainingTable
from harken.errors import ConfigError
from harken.labels import Labels
from harken.losses.groups import Groups, TextKeys, codes_of, grouping
from harken.losses.inner import Around, AroundModule
from harken.losses.loss import LossModule

Row = list[NonNegativeFloat]
SUM_TOLERANCE = 1e-6


class Smoothed(Around):
    """The loss inside on smoothed targets: each group says what a label is turned into.

    A typical two-year-old may sound like an older child with a disorder, so
    `{by: age, table: {2: {typical: [0.5, 0.5]}, 6: {typical: [0.95, 0.05]}}}` learns from the
    older children's labels more firmly. Groups and labels that the table does not list keep their
    labels as they are.
    """

    kind: Literal["smoothed"] = "smoothed"
    by: str = Field(min_length=1)
    """The table's column of the groups."""
    table: Annotated[dict[str, list[Row] | dict[str, Row]], TextKeys]
    """For each group a row per label: the shares of all labels, in their order, that a clip of this
    label gets; each row sums to 1. The rows are a list in the order of the labels, or a mapping by
    label name."""

    @model_validator(mode="after")
    def _rows_sum_to_one(self) -> Self:
        for group, rows in self.table.items():
            for row in rows.values() if isinstance(rows, dict) else rows:
                if abs(sum(row) - 1) > SUM_TOLERANCE:
                    raise ValueError(f"the row {row} of {group!r} sums to {sum(row):g}, not to 1")
        return self

    @model_validator(mode="after")
    def _inside_takes_soft_labels(self) -> Self:
        inside = self.of
        while isinstance(inside, Around):
            if getattr(inside, "kind", "") in ("hybrid", "supcon"):
                raise ValueError(
                    "contrastive losses compare whole labels: put smoothed inside, not around"
                )
            inside = inside.of
        return self

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the column of the groups."""
        return (grouping(self.by),)

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        groups = Groups.read(table, self.by)
        inner = self.inner(labels, table)
        spread = {name: self._matrix(labels, name) for name in self.table}
        hard = np.eye(labels.num_classes)
        shares = np.stack([*(spread.get(name, hard) for name in groups.names), hard])
        return _Smoothed(inner, shares, groups.place)

    def _matrix(self, labels: Labels, group: str) -> npt.NDArray[np.float64]:
        """Return the shares `(label, labels)` of a group."""
        rows, where = self.table[group], f"loss.table.{group}"
        if isinstance(rows, list):
            if len(rows) != labels.num_classes:
                raise ConfigError(f"{len(rows)} rows for {labels.num_classes} labels", where=where)
            rows = dict(zip(labels.names, rows, strict=True))
        matrix = np.eye(labels.num_classes)
        for name, row in rows.items():
            if name not in labels.names:
                hint = nearest(name, labels.names)
                raise ConfigError(f"no label is called {name!r}{hint}", where=where)
            if len(row) != labels.num_classes:
                raise ConfigError(f"{len(row)} shares for {labels.num_classes} labels", where=where)
            matrix[labels.names.index(name)] = row
        return matrix


class _Smoothed(AroundModule):
    shares: Tensor

    def __init__(self, inner: LossModule, shares: npt.NDArray[np.float64], place: int) -> None:
        super().__init__(inner)
        values = torch.as_tensor(shares, dtype=torch.float32)
        self.register_buffer("shares", values, persistent=False)
        self.place = place

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return each clip's loss; see `LossModule.forward`."""
        shares = self.shares[codes_of(batch, self.place)]
        target = torch.einsum("bl,blc->bc", batch.target, shares)
        value: Tensor = self.inner(output, replace(batch, target=target))
        return value
