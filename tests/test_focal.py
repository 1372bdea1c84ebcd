"""Focal loss: the formulas of both forms, cross-entropy and BCE at the end, finite slopes."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from harken.errors import ConfigError
from harken.losses import Bce, CrossEntropy, Focal
from loss_values import MULTI, THREE, VALUES, normal, one_hot, value

CLASSES = [0, 0, 1, 2, 2, 1, 0, 2]
TARGET = one_hot(CLASSES, 3)
LOGITS = normal(8, 3, seed=1) * 3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [1.0, 0.25, [0.5, 2.0, 1.0], {"b": 3.0}])
def test_softmax_follows_the_formula(gamma: float, alpha: object) -> None:
    ours = value(Focal(gamma=gamma, alpha=alpha), THREE, LOGITS, TARGET)
    factors = {"a": 1.0, "b": 3.0, "c": 1.0} if isinstance(alpha, dict) else alpha
    for i, label in enumerate(CLASSES):
        p = math.exp(LOGITS[i, label]) / sum(math.exp(z) for z in LOGITS[i])
        factor = factors if isinstance(factors, float) else list(_values(factors))[label]
        assert float(ours[i]) == pytest.approx(-factor * (1 - p) ** gamma * math.log(p), rel=1e-4)


def _values(factors: object) -> list[float]:
    return list(factors.values()) if isinstance(factors, dict) else list(factors)  # type: ignore[call-overload]


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_sigmoid_follows_the_seed_s_formula(gamma: float) -> None:
    """As written there: alpha · Σ exp(-γ y z - γ ln(1 + e^-z)) · BCE / Σ y, with one-hot y."""
    loss = Focal(gamma=gamma, alpha=0.25, form="sigmoid")
    ours = value(loss, THREE, LOGITS, TARGET)
    total = 0.0
    for i in range(8):
        for c in range(3):
            y, z = float(TARGET[i, c]), float(LOGITS[i, c])
            bce = -(y * math.log(_sigmoid(z)) + (1 - y) * math.log(_sigmoid(-z)))
            total += math.exp(-gamma * y * z - gamma * math.log(1 + math.exp(-z))) * bce
    assert float(ours.mean()) == pytest.approx(0.25 * total / TARGET.sum(), rel=1e-5)


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_without_gamma_and_alpha_it_is_cross_entropy_and_bce() -> None:
    plain = Focal(gamma=0, alpha=1)
    torch.testing.assert_close(
        value(plain, THREE, LOGITS, TARGET), value(CrossEntropy(), THREE, LOGITS, TARGET)
    )
    target = torch.tensor(TARGET)
    target[0, 1] = torch.nan
    target[4] = torch.nan
    torch.testing.assert_close(
        value(plain, MULTI, LOGITS, target), value(Bce(), MULTI, LOGITS, target)
    )
    soft = torch.rand(8, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(value(plain, MULTI, LOGITS, soft), value(Bce(), MULTI, LOGITS, soft))


def test_alpha_per_class_is_class_weights() -> None:
    weighted = value(CrossEntropy(class_weights=[0.5, 2, 1]), THREE, LOGITS, TARGET)
    ours = value(Focal(gamma=0, alpha=[0.5, 2, 1]), THREE, LOGITS, TARGET)
    torch.testing.assert_close(ours, weighted)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_rows_without_a_target_and_sure_rows_have_finite_slopes(form: str) -> None:
    logits = torch.tensor([[200.0, 0, 0], [0, 300.0, 0], [1, 2, 3]], requires_grad=True)
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [torch.nan] * 3])
    ours = value(Focal(gamma=0.5, form=form), THREE, logits, target)
    assert form == "sigmoid" or float(ours[0].detach()) == pytest.approx(0, abs=1e-6)
    assert ours[2] == 0
    ours.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[2] == 0).all()
    assert logits.grad[1].abs().sum() > 0.5


def test_every_option_changes_the_loss() -> None:
    base = value(Focal(), THREE, LOGITS, TARGET)
    for option in ({"gamma": 1.0}, {"alpha": 0.25}, {"alpha": {"c": 2}}, {"form": "sigmoid"}):
        assert not torch.allclose(base, value(Focal(**option), THREE, LOGITS, TARGET)), option


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"focal is a loss of single tasks.*use mse"):
        value(Focal(), VALUES, LOGITS[:, :1], TARGET[:, :1])
    with pytest.raises(ConfigError, match="and the target is a multi task"):
        value(Focal(form="softmax"), MULTI, LOGITS, TARGET)
    with pytest.raises(ConfigError, match="2 weights for 3 labels"):
        value(Focal(alpha=[1, 2]), THREE, LOGITS, TARGET)
    with pytest.raises(ConfigError, match="no label is called 'd'"):
        value(Focal(alpha={"d": 1}), THREE, LOGITS, TARGET)
    with pytest.raises(ConfigError, match="alpha is 0"):
        value(Focal(alpha=0), THREE, LOGITS, TARGET)
    with pytest.raises(ValidationError, match="must be a number, a list") as error:
        Focal(alpha="balanced")
    assert error.value.error_count() == 1
