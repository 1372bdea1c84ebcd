"""`severity`: speakers who are harder to understand weigh more while training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from harken.batch import Batch, Output
from harken.covariates import Covariate, TrainingTable
from harken.errors import DataError
from harken.labels import Labels
from harken.losses.groups import Groups, TextKeys, codes_of, grouping
from harken.losses.inner import Around, WeightedClips
from harken.losses.loss import LossModule
from harken.score_files import read_scores


class Severity(Around):
    """The loss inside times `1 + a · score` of the clip's speaker, in training only.

    A score may be the character error rate of a speech recogniser, or a clinician's. Validation and
    test report the loss inside alone, so their speakers need no score.
    """

    kind: Literal["severity"] = "severity"
    scores: Annotated[str | dict[str, float], TextKeys]
    """Score by speaker: a mapping, or a file of them (a JSON object, or a table with the column
    `by` and `column`). Runs keep what it says, not the file."""
    by: str = Field("speaker", min_length=1)
    """The table's column of the speakers."""
    column: str = Field("score", min_length=1)
    """The file's column of scores."""
    factor: float = Field(2.0, ge=0)
    """a: what a score of 1 adds to the weight."""
    default: float | None = None
    """Score of speakers who have none; null: an error."""

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the column of the speakers."""
        return (grouping(self.by),)

    def resolved(self) -> Self:
        """Return the loss with its file read in; see `Loss.resolved`."""
        return super().resolved().model_copy(update={"scores": self._by_speaker()})

    def _by_speaker(self) -> dict[str, float]:
        if isinstance(self.scores, str):
            return read_scores(self.scores, self.by, self.column)
        return self.scores

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`.

        Raises:
            DataError: a training speaker has no score, or one that makes the weight negative.
        """
        groups = Groups.read(table, self.by)
        known = self._by_speaker()
        names = [groups.names[code] for code in np.unique(groups.codes)]
        missing = [name for name in names if name not in known]
        if missing and self.default is None:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"no score for the {self.by} {missing[0]!r}{more}",
                where="loss.scores",
                fix="add it, or give loss.default",
            )
        scores = [known.get(name, self.default or 0.0) for name in groups.names]
        weights = 1 + self.factor * torch.tensor(scores)
        if (weights < 0).any():
            worst = groups.names[int(weights.argmin())]
            text = f"the score of the {self.by} {worst!r} makes its weight {weights.min():g}"
            raise DataError(text, where="loss.scores", fix="scores must not be negative")
        return _Severity(self.inner(labels, table), weights, groups.place)


class _Severity(WeightedClips):
    weights: Tensor

    def __init__(self, inner: LossModule, weights: Tensor, place: int) -> None:
        super().__init__(inner)
        self.register_buffer("weights", weights, persistent=False)
        self.place = place

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Return each clip's loss; see `LossModule.forward`."""
        if self.training:
            return super().forward(output, batch)
        plain: Tensor = self.inner(output, batch)
        return plain

    def weigh(self, batch: Batch) -> Tensor:
        """Return 1 + a · score of each clip's speaker."""
        return self.weights[codes_of(batch, self.place)]
