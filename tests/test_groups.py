"""Groups of clips: codes that may be unknown, counts of training rows, weights by group."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from harken.conditioning import Add
from harken.covariates import UNKNOWN, Covariate, Covariates
from harken.errors import ConfigError, DataError
from harken.losses import CrossEntropy, Loss
from harken.losses.groups import ClassWeighted, Groups, codes_of, factors_by_class, grouping
from harken.losses.inner import Around
from harken.manifest import Manifest
from loss_values import CHILDREN, batch_of, normal, one_hot, output_of, table_of

WORDS = ["b", "a", "b", "a", "z", None]
TARGET = one_hot([0, 1, 1, 1, 0, 0], 2)


class ByWord(Around):
    kind: str = "by-word-of-this-test"

    def own_covariates(self) -> tuple[Covariate, ...]:
        return (grouping("word"),)


# The slot is as it was for other tests.
Loss._kinds.pop("by-word-of-this-test")


def test_groups_of_training_rows_and_codes_of_any() -> None:
    table, covariates = table_of(ByWord(), TARGET, train=4, word=WORDS)
    groups = Groups.read(table, "word")
    assert groups.names == ("a", "b")
    assert groups.codes.tolist() == [1, 0, 1, 0]
    batch = batch_of(TARGET, covariates)
    assert codes_of(batch, groups.place).tolist() == [1, 0, 1, 0, -1, -1]


def test_counts_are_by_group_and_class_and_skip_missing_targets() -> None:
    target = TARGET.copy()
    target[3] = np.nan
    target[2] = 0.25, 0.75
    table, _ = table_of(ByWord(), target, train=4, word=WORDS)
    assert Groups.read(table, "word").count(table.target).tolist() == [[0, 1], [1.25, 0.75]]


def test_a_training_row_without_a_group_is_refused() -> None:
    table, _ = table_of(ByWord(), TARGET, word=WORDS)
    with pytest.raises(DataError, match="1 training rows have no word"):
        Groups.read(table, "word")


def test_factors_by_name() -> None:
    assert factors_by_class(CHILDREN, {"ssd": 2}, "loss.factors") == [1, 2]
    with pytest.raises(ConfigError, match="no label is called 'sdd', did you mean 'ssd'") as error:
        factors_by_class(CHILDREN, {"sdd": 2}, "loss.factors")
    assert error.value.where == "loss.factors"


def test_weights_by_group_blend_where_targets_are_soft() -> None:
    table, covariates = table_of(ByWord(), TARGET, train=4, word=WORDS)
    inner = CrossEntropy().build(CHILDREN, table)
    rows = np.array([[2.0, 3], [4, 8], [1, 1]])
    module = ClassWeighted(inner, rows, Groups.read(table, "word").place)
    target = torch.tensor(TARGET)
    target[2] = torch.tensor([0.5, 0.5])
    target[1] = torch.nan
    batch = batch_of(target, covariates)
    assert module.weigh(batch).tolist() == [4, 0, 6, 3, 1, 1]
    logits = normal(6, 2)
    plain = inner(output_of(logits), batch)
    torch.testing.assert_close(module(output_of(logits), batch), module.weigh(batch) * plain)


# --- side information that may stay unknown ---


def clips(**columns: list[object]) -> Manifest:
    ids = ["x", "y", "z"]
    return Manifest(pl.DataFrame({"id": ids, "path": ids, **columns}, strict=False), "clips.csv")


def test_new_clips_need_not_have_the_column() -> None:
    known = Covariates.learn([grouping("word")], clips(word=["a", "b", "a"]))
    assert known.encode(clips()).tolist() == [[UNKNOWN]] * 3
    assert not known.columns[0].needed
    again = Covariates.from_json(known.to_json())
    assert again.encode(clips(word=["b", "?", None])).tolist() == [[1], [-1], [-1]]


@pytest.mark.parametrize("first", [True, False])
def test_whoever_needs_the_column_decides(first: bool) -> None:
    table = clips(word=["a", "b", "a"])
    strict, lenient = Covariate(name="word"), grouping("word")
    default = Covariate(name="word", on_missing="default", default="b")
    for wish, code in ((strict, None), (default, 1.0)):
        known = Covariates.learn([wish, lenient] if first else [lenient, wish], table)
        assert [column.default for column in known.columns] == [code]
        assert known.columns[0].needed


def test_only_categories_may_stay_unknown() -> None:
    with pytest.raises(ValidationError, match="unknown is for encoding: category"):
        Covariate(name="age", on_missing="unknown")


def test_networks_need_a_value() -> None:
    with pytest.raises(ValidationError, match="a network needs a value"):
        Add(covariate=grouping("word"))
