"""Smoothing by age and by word: 003's tables, rows that sum to 1, one-hot elsewhere."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from harken.errors import ConfigError
from harken.losses import CrossEntropy, Focal, Smoothed
from loss_values import CHILDREN, normal, one_hot, table_of, value

SURE = {2: 0.5, 3: 0.757, 4: 0.864, 5: 0.9215, 6: 0.95, 7: 0.98, 8: 0.98, 9: 0.98, 10: 0.98}
BY_AGE = {age: [[p, 1 - p], [0.02, 0.98]] for age, p in SURE.items()}
"""The table of the Korean study: how sure "typical" is at an age."""

BY_WORD = {
    -1.0: [[0.7, 0.3], [0, 1]],
    -0.873: [[0.7, 0.3], [0.1, 0.9]],
    -0.646: [[1, 0], [0.3, 0.7]],
    -0.797: [[0.95, 0.05], [0.3, 0.7]],
    -0.899: [[0.7, 0.3], [0, 1]],
    -0.924: [[0.7, 0.3], [0, 1]],
}
"""And its table by word key, the misprint .5 of -.797 mended."""

CLASSES = [0, 1] * 5
TARGET = one_hot(CLASSES, 2)
LOGITS = normal(10, 2, seed=1)
AGES = [2, 2, 3, 4, 5, 6, 7, 10, 11, 11]
KEYS = [-1.0, -0.873, -0.646, -0.797, -0.899, -0.924, 0.5, 0.5, -0.646, -1.0]


@pytest.mark.parametrize(
    ("column", "cells", "table"), [("age", AGES, BY_AGE), ("key", KEYS, BY_WORD)]
)
@pytest.mark.parametrize("inside", [CrossEntropy(), CrossEntropy(class_weights=[1, 3]), Focal()])
def test_the_loop_over_clips(
    column: str, cells: list[float], table: dict[float, list[list[float]]], inside: object
) -> None:
    loss = Smoothed(by=column, table=table, of=inside)
    ours = value(loss, CHILDREN, LOGITS, TARGET, **{column: cells})
    for i, cell in enumerate(cells):
        soft = table[cell][CLASSES[i]] if cell in table else TARGET[i].tolist()
        alone = value(inside, CHILDREN, LOGITS[i : i + 1], torch.tensor([soft]))
        assert float(ours[i]) == pytest.approx(float(alone), rel=1e-5)


def test_unlisted_and_unseen_groups_keep_their_labels() -> None:
    loss = Smoothed(by="age", table={2: [[0.5, 0.5], [0.02, 0.98]], 11: [[0.5, 0.5], [0.5, 0.5]]})
    ours = value(loss, CHILDREN, LOGITS, TARGET, train=8, age=AGES)
    plain = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(ours[2:], plain[2:])
    assert not torch.isclose(ours[:2], plain[:2]).any()


def test_rows_may_be_named_and_the_others_stay() -> None:
    named = Smoothed(by="age", table={2: {"td": [0.5, 0.5]}})
    listed = Smoothed(by="age", table={"2": [[0.5, 0.5], [0, 1]]})
    one, two = (value(loss, CHILDREN, LOGITS, TARGET, age=AGES) for loss in (named, listed))
    torch.testing.assert_close(one, two)


def test_hard_rows_are_cross_entropy() -> None:
    loss = Smoothed(by="age", table={2: [[1, 0], [0, 1]]})
    plain = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(value(loss, CHILDREN, LOGITS, TARGET, age=AGES), plain)


def test_rows_without_a_target_give_nothing() -> None:
    target = torch.tensor(TARGET)
    target[1] = torch.nan
    ours = value(Smoothed(by="age", table=BY_AGE), CHILDREN, LOGITS, target, age=AGES)
    assert ours[1] == 0
    assert torch.isfinite(ours).all()


def test_rows_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"\[0.95, 0.5\] of '-0.797' sums to 1.45, not to 1"):
        Smoothed(by="key", table={-0.797: [[0.95, 0.5], [0.3, 0.7]]})
    with pytest.raises(ValidationError, match=r"sums to 0\.9"):
        Smoothed(by="age", table={2: {"td": [0.5, 0.4]}})
    with pytest.raises(ValidationError):
        Smoothed(by="age", table={2: [[1.5, -0.5], [0, 1]]})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({2: [[1.0, 0]]}, "1 rows for 2 labels"),
        ({2: [[1.0], [1.0]]}, "1 shares for 2 labels"),
        ({2: {"dt": [1.0, 0]}}, "no label is called 'dt', did you mean 'td'"),
    ],
)
def test_tables_that_do_not_fit_the_labels_are_refused(table: object, message: str) -> None:
    loss = Smoothed(by="age", table=table)
    with pytest.raises(ConfigError, match=message) as error:
        loss.build(CHILDREN, table_of(loss, TARGET, age=AGES)[0])
    assert error.value.where == "loss.table.2"


def test_contrast_goes_around_it_only() -> None:
    inner = {"kind": "balancing", "by": "word", "of": {"kind": "hybrid"}}
    with pytest.raises(ValidationError, match="put smoothed inside, not around"):
        Smoothed(by="age", table=BY_AGE, of=inner)
