"""Supervised contrastive loss: the paper's sums as loops, and what has no partner."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harken.errors import ConfigError
from harken.losses import CrossEntropy, Focal, Loss, SupCon
from harken.losses.supcon import supervised_contrast
from loss_values import (
    CHILDREN,
    MULTI,
    batch_of,
    normal,
    one_hot,
    output_of,
    table_of,
    value,
)

CLASSES = [0, 1, 1, 0, 1, 0, 1]
WORDS = ["a", "a", "a", "b", "b", "b", "c"]
TARGET = one_hot(CLASSES, 2)
LOGITS, EMBEDDING = normal(7, 2, seed=1), normal(7, 5, seed=2)


def loop(embedding: Tensor, classes: list[int], groups: list[object], tau: float) -> list[float]:
    unit = [row / row.norm() for row in embedding]
    values = []
    for i in range(len(classes)):
        others = [a for a in range(len(classes)) if a != i and groups[a] == groups[i]]
        positives = [p for p in others if classes[p] == classes[i]]
        total = sum(math.exp(float(unit[i] @ unit[a]) / tau) for a in others)
        terms = [math.log(math.exp(float(unit[i] @ unit[p]) / tau) / total) for p in positives]
        values.append(-sum(terms) / len(positives) if positives else 0.0)
    return values


def trained(loss: Loss, target: object = TARGET, **columns: list[object]) -> Tensor:
    table, covariates = table_of(loss, torch.as_tensor(target), **columns)
    module = loss.build(CHILDREN, table)
    return module(output_of(LOGITS, EMBEDDING), batch_of(target, covariates))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_it_is_the_paper_s_sum(temperature: float) -> None:
    for groups in ([0] * 7, [0, 0, 0, 1, 1, 1, 2]):
        ours = supervised_contrast(
            EMBEDDING, torch.tensor(CLASSES), torch.tensor(groups), temperature
        )
        assert ours.tolist() == pytest.approx(loop(EMBEDDING, CLASSES, groups, temperature), 1e-4)


@pytest.mark.parametrize("inside", [CrossEntropy(), Focal()])
def test_it_is_added_to_the_loss_inside(inside: Loss) -> None:
    plain = value(inside, CHILDREN, LOGITS, TARGET)
    ours = trained(SupCon(weight=0.3, of=inside, by="word"), word=WORDS)
    contrast = torch.tensor(loop(EMBEDDING, CLASSES, WORDS, 0.1))
    torch.testing.assert_close(ours, 0.7 * plain + 0.3 * contrast, rtol=1e-4, atol=1e-5)


def test_without_weight_and_in_evaluation_it_is_the_loss_inside() -> None:
    plain = value(CrossEntropy(), CHILDREN, LOGITS, TARGET)
    torch.testing.assert_close(trained(SupCon(weight=0)), plain)
    module = SupCon().build(CHILDREN, table_of(SupCon(), TARGET)[0]).eval()
    torch.testing.assert_close(module(output_of(LOGITS, EMBEDDING), batch_of(TARGET)), plain)


def test_lonely_soft_and_missing_clips_give_finite_slopes() -> None:
    target = torch.tensor(one_hot([0, 0, 1, 0, 0, 0, 0], 2))
    target[4] = torch.tensor([0.5, 0.5])
    target[5] = torch.nan
    embedding = EMBEDDING.clone()
    embedding[6] = 0
    embedding.requires_grad_()
    module = SupCon(weight=1).build(CHILDREN, table_of(SupCon(), target)[0])
    ours = module(output_of(LOGITS, embedding), batch_of(target))
    assert ours[[2, 4, 5]].tolist() == [0, 0, 0]
    ours.sum().backward()
    assert torch.isfinite(embedding.grad).all()
    assert (embedding.grad[[4, 5]] == 0).all()


def test_closer_clips_of_one_label_cost_less() -> None:
    apart = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    together = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    classes, groups = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
    costs = [supervised_contrast(e, classes, groups, 0.1).mean() for e in (apart, together)]
    assert costs[0] > 5 * costs[1]


def test_every_option_changes_the_loss() -> None:
    base = trained(SupCon())
    assert not torch.allclose(base, trained(SupCon(weight=0.1)))
    assert not torch.allclose(base, trained(SupCon(temperature=0.5)))
    assert not torch.allclose(base, trained(SupCon(by="word"), word=WORDS))
    assert not torch.allclose(base, trained(SupCon(of=Focal())))


def test_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="supcon is a loss of single tasks"):
        SupCon().build(MULTI, table_of(SupCon(), one_hot([0, 1], 3))[0])
