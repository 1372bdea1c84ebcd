"""`difficulty`: classes weigh by how hard the word is to say."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from harken.batch import Batch
from harken.covariates import Covariate, TrainingTable
from harken.difficulty import Difficulty, DifficultyModule
from harken.labels import Labels
from harken.losses.groups import ClassWeighted, Groups, TextKeys, factors_by_class, grouping
from harken.losses.inner import Around
from harken.losses.loss import LossModule

Factors = Annotated[dict[str, NonNegativeFloat], TextKeys]


class DifficultyWeighted(Around):
    """The loss inside times a factor of the word and the clip's class.

    A slip in an easy word tells more than one in a hard word. Factors come from a `table` by word;
    or from a `rule` that scores words, with `easy` and `hard` factors below and from `threshold`
    on; or, with neither, they are the same for all words: `factors: {typical: 1.4}`. What none of
    them names, and words that training has not seen, have the factor 1.
    """

    kind: Literal["difficulty"] = "difficulty"
    by: str = Field("word", min_length=1)
    """The table's column of the words."""
    factors: Factors = Field(default_factory=dict)
    """Factors by label name, for words that the table does not list."""
    table: Annotated[dict[str, dict[str, NonNegativeFloat]], TextKeys] = Field(default_factory=dict)
    """Factors by word and label name."""
    rule: Difficulty | None = None
    """How hard words are: `hangul`, a `table` or a `column`."""
    threshold: float | None = None
    """The score from which on a word is hard; goes with a rule."""
    easy: Factors = Field(default_factory=dict)
    """Factors by label name in easy words; goes with a rule."""
    hard: Factors = Field(default_factory=dict)
    """Factors by label name in hard words; goes with a rule."""

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.rule is None and (self.easy or self.hard or self.threshold is not None):
            raise ValueError("easy, hard and threshold go with a rule, such as rule: hangul")
        if self.rule is not None and (self.table or self.factors):
            raise ValueError("a rule takes its factors from easy and hard, not from a table")
        if self.rule is not None and (self.threshold is None or not (self.easy or self.hard)):
            raise ValueError("a rule needs a threshold, and easy or hard factors")
        if not (self.rule or self.table or self.factors):
            raise ValueError("say the factors: a table, a rule with easy and hard, or factors")
        return self

    def own_covariates(self) -> tuple[Covariate, ...]:
        """Return the words, or what the rule reads."""
        if self.rule is not None:
            return (self.rule.covariate(self.by),)
        return (grouping(self.by),) if self.table else ()

    def resolved(self) -> Self:
        """Return the loss with its files read in; see `Loss.resolved`."""
        rule = self.rule and self.rule.resolved()
        return super().resolved().model_copy(update={"rule": rule})

    def build(self, labels: Labels, table: TrainingTable) -> LossModule:
        """Build the loss; see `Loss.build`."""
        self.refuse_unless("single", labels)
        inner = self.inner(labels, table)
        if self.rule is not None:
            return self._by_rule(labels, table, inner, self.rule)
        plain = factors_by_class(labels, self.factors, "loss.factors")
        if not self.table:
            return ClassWeighted(inner, np.array([plain]))
        listed = {
            word: factors_by_class(labels, {**self.factors, **row}, f"loss.table.{word}")
            for word, row in self.table.items()
        }
        groups = Groups.read(table, self.by)
        rows = [listed.get(name, plain) for name in groups.names]
        return ClassWeighted(inner, np.array([*rows, plain]), groups.place)

    def _by_rule(
        self, labels: Labels, table: TrainingTable, inner: LossModule, rule: Difficulty
    ) -> LossModule:
        easy = factors_by_class(labels, self.easy, "loss.easy")
        hard = factors_by_class(labels, self.hard, "loss.hard")
        assert self.threshold is not None
        scorer = rule.build(table.covariates, self.by)
        return _ByRule(inner, [easy, hard, [1.0] * len(easy)], scorer, self.threshold)


class _ByRule(ClassWeighted):
    def __init__(
        self,
        inner: LossModule,
        rows: list[list[float]],
        scorer: DifficultyModule,
        threshold: float,
    ) -> None:
        super().__init__(inner, np.array(rows))
        self.scorer, self.threshold = scorer, threshold

    def lines(self, batch: Batch) -> Tensor:
        """Return 0 for easy, 1 for hard and -1 for unknown words."""
        score = self.scorer(batch.covariates)
        return torch.where(score.isnan(), -1, (score >= self.threshold).long())
