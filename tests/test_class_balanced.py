"""Class-balanced loss: effective numbers of the training rows, around any loss of one label."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from harken.errors import ConfigError, DataError
from harken.losses import ClassBalanced, CrossEntropy, Focal, Loss
from loss_values import MULTI, THREE, module_and_value, normal, one_hot, value

CLASSES = [0, 0, 0, 0, 0, 1, 1, 2]
TARGET = one_hot(CLASSES, 3)
LOGITS = normal(8, 3, seed=1)
INSIDE = [CrossEntropy(), Focal(gamma=1), Focal(gamma=1, form="sigmoid"), CrossEntropy(smoothing=1)]


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999])
def test_weights_follow_the_formula(inside: Loss, beta: float) -> None:
    ours = value(ClassBalanced(beta=beta, of=inside), THREE, LOGITS, TARGET)
    plain = value(inside, THREE, LOGITS, TARGET)
    numbers = [(1 - beta**n) / (1 - beta) for n in (5, 2, 1)]
    scale = 3 / sum(1 / n for n in numbers)
    for i, label in enumerate(CLASSES):
        assert float(ours[i]) == pytest.approx(scale / numbers[label] * float(plain[i]), rel=1e-5)


def test_beta_towards_0_is_unweighted_and_towards_1_is_by_counts() -> None:
    plain = value(CrossEntropy(), THREE, LOGITS, TARGET)
    for beta in (0.0, 1e-9):
        torch.testing.assert_close(value(ClassBalanced(beta=beta), THREE, LOGITS, TARGET), plain)
    ours = value(ClassBalanced(beta=1 - 1e-9), THREE, LOGITS, TARGET)
    inverse = torch.tensor([1 / 5, 1 / 2, 1.0])
    weights = (3 * inverse / inverse.sum())[CLASSES]
    torch.testing.assert_close(ours, weights * plain)


def test_counts_are_of_training_rows_only() -> None:
    """The last row is a validation clip here: counts are 5, 2 and 1 without it too."""
    target = one_hot([*CLASSES, 2, 2, 2, 2], 3)
    logits = torch.cat([LOGITS, LOGITS[:4]])
    module, ours = module_and_value(ClassBalanced(), THREE, logits, target, train=8)
    torch.testing.assert_close(ours[:8], value(ClassBalanced(), THREE, LOGITS, TARGET))
    assert not module.state_dict()


def test_bad_input_is_one_line() -> None:
    with pytest.raises(DataError, match="no training row of 'c'"):
        value(ClassBalanced(), THREE, LOGITS, TARGET, train=7)
    with pytest.raises(ConfigError, match="class_balanced is a loss of single tasks"):
        value(ClassBalanced(), MULTI, LOGITS, TARGET)
    for beta in (1.0, -0.1):
        with pytest.raises(ValidationError):
            ClassBalanced(beta=beta)
