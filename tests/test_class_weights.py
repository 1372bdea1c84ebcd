"""Weights of classes: counted from training rows or given, honestly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from harken.covariates import TrainingTable
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.losses import Bce, CrossEntropy
from loss_values import batch_of, normal, output_of

NAMES = ("cat", "dog", "owl")
SINGLE = Labels("single", NAMES, ("label",))
MULTI = Labels("multi", NAMES, NAMES)
HARD = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[HARD]


@pytest.fixture
def logits() -> Tensor:
    return normal(10, 3, seed=1)


def test_balanced_weights_follow_the_training_rows_and_average_to_one(logits: Tensor) -> None:
    module = CrossEntropy(class_weights="balanced").build(SINGLE, TrainingTable(ONE_HOT))
    weights = dict(module.named_buffers())["weights"]
    torch.testing.assert_close(weights, torch.tensor([10 / 9, 10 / 6, 10 / 15]))
    assert weights[HARD].mean() == pytest.approx(1.0)
    assert not module.state_dict()
    weighted = module(output_of(logits), batch_of(torch.tensor(ONE_HOT)))
    torch.testing.assert_close(
        weighted, weights[HARD] * F.cross_entropy(logits, torch.tensor(HARD), reduction="none")
    )


def test_balanced_weights_ignore_rows_without_a_target() -> None:
    rows = np.vstack([ONE_HOT, np.full((4, 3), np.nan, np.float32)])
    module = CrossEntropy(class_weights="balanced").build(SINGLE, TrainingTable(rows))
    torch.testing.assert_close(
        dict(module.named_buffers())["weights"], torch.tensor([10 / 9, 10 / 6, 10 / 15])
    )


def test_weights_by_name_leave_the_others_at_one() -> None:
    module = CrossEntropy(class_weights={"dog": 4}).build(SINGLE, TrainingTable(ONE_HOT))
    assert dict(module.named_buffers())["weights"].tolist() == [1.0, 4.0, 1.0]
    numeric = Labels("single", ("0", "1"), ("digit",))
    module = CrossEntropy(class_weights={0: 2.0}).build(
        numeric, TrainingTable(np.eye(2, dtype=np.float32))
    )
    assert dict(module.named_buffers())["weights"].tolist() == [2.0, 1.0]


def test_pos_weight_is_negatives_over_positives_of_observed_rows(logits: Tensor) -> None:
    rows = ONE_HOT.copy()
    rows[0, 2] = np.nan
    module = Bce(pos_weight="balanced").build(MULTI, TrainingTable(rows))
    expected = torch.tensor([7 / 3, 8 / 2, 4 / 5])
    torch.testing.assert_close(dict(module.named_buffers())["weights"], expected)
    theirs = F.binary_cross_entropy_with_logits(
        logits, torch.tensor(ONE_HOT), pos_weight=expected, reduction="none"
    )
    ours = module(output_of(logits), batch_of(torch.tensor(ONE_HOT)))
    torch.testing.assert_close(ours, theirs.mean(1))


def test_balanced_weights_of_an_absent_class_are_refused() -> None:
    with pytest.raises(DataError, match="no training row of 'owl'"):
        CrossEntropy(class_weights="balanced").build(SINGLE, TrainingTable(ONE_HOT[:5]))
    with pytest.raises(DataError, match="no positive training row of 'owl'"):
        Bce(pos_weight="balanced").build(MULTI, TrainingTable(ONE_HOT[:5]))
    with pytest.raises(DataError, match="no negative training row of 'cat'"):
        Bce(pos_weight="balanced").build(
            MULTI, TrainingTable(np.vstack([ONE_HOT[:1], 1 - ONE_HOT[3:]]))
        )


def test_weights_that_do_not_match_the_labels_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 weights for 3 labels"):
        CrossEntropy(class_weights=[1.0, 2.0]).build(SINGLE, TrainingTable(ONE_HOT))
    with pytest.raises(ConfigError, match="no label is called 'dgo', did you mean 'dog'"):
        Bce(pos_weight={"dgo": 2.0}).build(MULTI, TrainingTable(ONE_HOT))
    with pytest.raises(ConfigError, match="not all 0"):
        CrossEntropy(class_weights=[0.0, 0.0, 0.0]).build(SINGLE, TrainingTable(ONE_HOT))
    with pytest.raises(ValidationError, match="did you mean 'balanced'") as error:
        CrossEntropy(class_weights="balance")
    assert error.value.error_count() == 1
    with pytest.raises(ValidationError):
        CrossEntropy(class_weights=[-1.0, 1.0, 1.0])
