"""Groups of clips, such as all that say one word, and weights by group and class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator
from torch import Tensor

from harken.batch import Batch
from harken.choice import nearest
from harken.covariates import Covariate, TrainingTable
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.losses.inner import WeightedClips
from harken.losses.loss import LossModule, known_targets


def _text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return value


TextKeys = BeforeValidator(_text_keys)
"""Lets YAML's numeric names of labels, ages and speakers be names."""


def grouping(by: str) -> Covariate:
    """Return how a loss reads its groups: those that training has not seen stay open."""
    return Covariate(name=by, encoding="category", on_missing="unknown")


@dataclass(frozen=True)
class Groups:
    """The groups of a table column, as training rows taught them.

    Attributes:
        place: Where their codes lie in `Batch.covariates`.
        names: The groups, in the order of the codes.
        codes: int64 `(training rows,)`.
    """

    place: int
    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    @classmethod
    def read(cls, table: TrainingTable, by: str) -> Self:
        """Read the groups of the training rows.

        Raises:
            DataError: a training row has no group.
        """
        codes = table.codes(by)
        if (codes < 0).any():
            raise DataError(
                f"{int((codes < 0).sum())} training rows have no {by}",
                where="loss.by",
                fix="fill the column in, or leave these rows out with data.source.where",
            )
        place = table.covariates.place(by, "category")
        return cls(place, table.covariates.columns[place].names, codes)

    def count(self, target: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return the training rows by group and class; soft targets count by their share."""
        known = ~np.isnan(target).any(axis=1)
        counts = np.zeros((len(self.names), target.shape[1]))
        np.add.at(counts, self.codes[known], target[known].astype(np.float64))
        return counts


def codes_of(batch: Batch, place: int) -> Tensor:
    """Return int64 `(batch,)`: the clips' groups, -1 where training has not seen them."""
    return batch.covariates[:, place].long()


def factors_by_class(labels: Labels, factors: Mapping[str, float], where: str) -> list[float]:
    """Return a factor per class from a mapping by label name, 1 where it names none.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in factors:
        if name not in labels.names:
            hint = nearest(name, labels.names)
            raise ConfigError(f"no label is called {name!r}{hint}", where=where)
    return [float(factors.get(name, 1.0)) for name in labels.names]


class ClassWeighted(WeightedClips):
    """The loss inside, weighted by class and, where there are any, by group.

    Args:
        inner: The loss inside.
        weights: A row of weights by class for each group, then one for unknown groups.
        place: Where the groups' codes lie in `Batch.covariates`; None: all clips are one group.
    """

    weights: Tensor

    def __init__(
        self, inner: LossModule, weights: npt.NDArray[np.float64], place: int | None = None
    ) -> None:
        super().__init__(inner)
        values = torch.as_tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)
        self.place = place

    def lines(self, batch: Batch) -> Tensor:
        """Return int64 `(batch,)`: each clip's row of weights; -1 is the last."""
        if self.place is None:
            return torch.zeros_like(batch.rows)
        return codes_of(batch, self.place)

    def weigh(self, batch: Batch) -> Tensor:
        """Return float `(batch,)`: the weight of each clip, blended where its target is soft."""
        target, _ = known_targets(batch.target)
        return (self.weights[self.lines(batch)] * target).sum(1)
