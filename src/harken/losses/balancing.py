"""`balancing`: in every group, such as a word, the classes weigh alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harken.covariates import Covariate, TrainingTable
from harken.errors import DataError
from harken.labels import Labels
from harken.losses.groups import ClassWeighted, Groups, grouping
from harken.losses.inner import Around
from harken.losses.loss import LossModule


class Balancing(Around):
    """The loss inside times `N_g / N_g,c`: a group's training clips over those of the clip's class.

    So a word that only children with a disorder get wrong does not become a mark of the disorder.
    The reciprocals of a group's weights sum to 1, and the weights' mean over the training clips is
    the number of classes: with two classes that are equally frequent in every group the loss is
    twice cross-entropy. `normalize` takes this factor away. Groups that training has not seen weigh
    1.
    """

    kind: Literal["balancing"] = "balancing"
    by: str = Field(min_length=1)
    """The table's column of the groups."""
    normalize: bool = False
    """Divide by the number of classes, so that the mean weight of the training clips is 1."""
    on_rare: Literal["error", "plain"] = "error"
    """A group without training clips of every class: an `error`, or weight 1."""

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the column of the groups."""
        return (grouping(self.by),)

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`.

        Raises:
            DataError: a group lacks a class.
        """
        self.refuse_unless("single", labels)
        groups = Groups.read(table, self.by)
        counts = groups.count(table.target)
        if self.on_rare == "error":
            self._refuse_rare(labels, groups, counts)
        weights = balancing_weights(counts)
        if self.normalize:
            complete = (counts > 0).all(axis=1)
            weights[complete] /= labels.num_classes
        unknown = np.ones((1, labels.num_classes))
        inner = self.inner(labels, table)
        return ClassWeighted(inner, np.concatenate([weights, unknown]), groups.place)

    def _refuse_rare(self, labels: Labels, groups: Groups, counts: npt.NDArray[np.float64]) -> None:
        rare = np.flatnonzero((counts == 0).any(axis=1))
        if len(rare):
            name = groups.names[rare[0]]
            lacking = [n for n, c in zip(labels.names, counts[rare[0]], strict=True) if c == 0]
            more = f" (and {len(rare) - 1} more such groups)" if len(rare) > 1 else ""
            raise DataError(
                f"the {self.by} {name!r} has no training clip of {', '.join(lacking)}{more}",
                where="loss.by",
                fix="leave it out with data.source.where, or loss.on_rare=plain to weigh it by 1",
            )


def balancing_weights(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `N_g / N_g,c` from counts `(groups, classes)`, 1 in groups that lack a class."""
    complete = (counts > 0).all(axis=1, keepdims=True)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(complete, totals / np.where(counts > 0, counts, 1.0), 1.0)
