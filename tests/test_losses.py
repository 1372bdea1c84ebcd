"""Losses: torch's values on known targets, nothing from missing ones, honest weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from harken.batch import Batch, Output
from harken.choice import Config
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.covariates import TrainingTable
from harken.losses import Bce, CrossEntropy, Huber, Loss, Mse, default_loss

NAMES = ("cat", "dog", "owl")
SINGLE = Labels("single", NAMES, ("label",))
MULTI = Labels("multi", NAMES, NAMES)
VALUES = Labels("regression", ("age",), ("age",))
HARD = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[HARD]


def batch_of(target: Tensor) -> Batch:
    rows = torch.arange(len(target))
    waveform = torch.zeros(len(target), 4)
    nothing = torch.zeros(len(target), 0)
    return Batch(rows, waveform, torch.full_like(rows, 4), target, torch.ones(len(target)), nothing)


def value(
    loss: Loss, labels: Labels, logits: Tensor, target: Tensor, train: object = None
) -> Tensor:
    rows = target.numpy() if train is None else train
    module = loss.build(labels, TrainingTable(np.asarray(rows, dtype=np.float32)))
    return module(Output(logits, logits), batch_of(target))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", ["none", [0.5, 2.0, 1.0]])
def test_cross_entropy_is_torchs(logits: Tensor, smoothing: float, weights: object) -> None:
    loss = CrossEntropy(class_weights=weights, smoothing=smoothing)
    ours = value(loss, SINGLE, logits, torch.tensor(ONE_HOT))
    given_weights = None if weights == "none" else torch.tensor(weights)
    theirs = F.cross_entropy(
        logits,
        torch.tensor(HARD),
        weight=given_weights,
        reduction="none",
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (10,)


@given(share=st.floats(0, 1), smoothing=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_soft_target_is_the_blend_of_two_hard_ones(share: float, smoothing: float) -> None:
    logits = torch.randn(1, 3, generator=torch.Generator().manual_seed(2))
    one, two = torch.eye(3)[:1], torch.eye(3)[1:2]
    loss = CrossEntropy(class_weights=[1.0, 3.0, 0.2], smoothing=smoothing)
    blend = value(loss, SINGLE, logits, share * one + (1 - share) * two)
    parts = [value(loss, SINGLE, logits, target) for target in (one, two)]
    torch.testing.assert_close(blend, share * parts[0] + (1 - share) * parts[1])


def test_balanced_weights_follow_the_training_rows_and_average_to_one(logits: Tensor) -> None:
    module = CrossEntropy(class_weights="balanced").build(SINGLE, TrainingTable(ONE_HOT))
    weights = dict(module.named_buffers())["weights"]
    torch.testing.assert_close(weights, torch.tensor([10 / 9, 10 / 6, 10 / 15]))
    assert weights[HARD].mean() == pytest.approx(1.0)
    assert not module.state_dict()
    weighted = module(Output(logits, logits), batch_of(torch.tensor(ONE_HOT)))
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


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_row_without_a_target_gives_nothing(logits: Tensor, smoothing: float) -> None:
    target = torch.tensor(ONE_HOT)
    target[3] = torch.nan
    logits = logits.requires_grad_()
    ours = value(CrossEntropy(smoothing=smoothing), SINGLE, logits, target, ONE_HOT)
    assert ours[3] == 0
    assert (ours[:3] > 0).all()
    ours.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[3] == 0).all()
    assert torch.isfinite(logits.grad).all()


def test_bce_is_torchs_mean_over_observed_labels(logits: Tensor) -> None:
    target = torch.tensor(ONE_HOT)
    target[0, 1] = torch.nan
    target[1] = torch.nan
    ours = value(Bce(), MULTI, logits, target)
    cells = F.binary_cross_entropy_with_logits(logits, torch.tensor(ONE_HOT), reduction="none")
    assert ours[0] == pytest.approx(float((cells[0, 0] + cells[0, 2]) / 2))
    assert ours[1] == 0
    torch.testing.assert_close(ours[2:], cells[2:].mean(1))


def test_missing_labels_get_no_gradient(logits: Tensor) -> None:
    target = torch.tensor(ONE_HOT)
    missing = torch.rand(10, 3, generator=torch.Generator().manual_seed(3)) < 0.4
    missing[5] = True
    target[missing] = torch.nan
    logits = logits.requires_grad_()
    value(Bce(pos_weight=[1.0, 2.0, 3.0], smoothing=0.1), MULTI, logits, target).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[missing] == 0).all()
    assert (logits.grad[~missing] != 0).all()


def test_pos_weight_is_negatives_over_positives_of_observed_rows(logits: Tensor) -> None:
    rows = ONE_HOT.copy()
    rows[0, 2] = np.nan
    module = Bce(pos_weight="balanced").build(MULTI, TrainingTable(rows))
    expected = torch.tensor([7 / 3, 8 / 2, 4 / 5])
    torch.testing.assert_close(dict(module.named_buffers())["weights"], expected)
    theirs = F.binary_cross_entropy_with_logits(
        logits, torch.tensor(ONE_HOT), pos_weight=expected, reduction="none"
    )
    ours = module(Output(logits, logits), batch_of(torch.tensor(ONE_HOT)))
    torch.testing.assert_close(ours, theirs.mean(1))


def test_bce_smoothing_moves_targets_towards_one_half(logits: Tensor) -> None:
    ours = value(Bce(smoothing=0.2), MULTI, logits, torch.tensor(ONE_HOT))
    moved = torch.tensor(ONE_HOT) * 0.8 + 0.1
    theirs = F.binary_cross_entropy_with_logits(logits, moved, reduction="none").mean(1)
    torch.testing.assert_close(ours, theirs)


def test_regression_losses_are_torchs_over_observed_columns() -> None:
    labels = Labels("regression", ("age", "score"), ("age", "score"))
    logits = torch.tensor([[1.0, 5.0], [0.0, -2.0], [3.0, 3.0]], requires_grad=True)
    target = torch.tensor([[1.5, 1.0], [torch.nan, 0.0], [torch.nan, torch.nan]])
    assert value(Mse(), labels, logits, target).tolist() == [(0.25 + 16) / 2, 4.0, 0.0]
    assert value(Huber(), labels, logits, target).tolist() == [(0.125 + 3.5) / 2, 1.5, 0.0]
    assert value(Huber(delta=3.0), labels, logits, target).tolist()[1] == 2.0
    value(Mse(), labels, logits, target).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 4.0], [0.0, -4.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("loss", "labels"),
    [(CrossEntropy(), MULTI), (Bce(), SINGLE), (Mse(), SINGLE), (Huber(), MULTI), (Bce(), VALUES)],
)
def test_a_loss_of_another_task_is_refused(loss: Loss, labels: Labels) -> None:
    with pytest.raises(ConfigError, match=r"^loss: .* tasks, and the target is a .* → use "):
        loss.build(labels, TrainingTable(np.zeros((2, labels.num_classes), np.float32)))


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


def test_the_slot_and_its_defaults() -> None:
    class Holder(Config):
        loss: Loss

    assert set(Loss.kinds()) >= {"cross_entropy", "bce", "mse", "huber"}
    assert Holder.model_validate({"loss": "bce"}).loss == Bce() == default_loss("multi")
    assert default_loss("single") == CrossEntropy()
    assert default_loss("regression") == Mse()
