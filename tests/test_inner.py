"""The loss inside another: defaults by task, side information of all, hooks that reach it."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from harken.batch import Batch, Output
from harken.losses import Balancing, Bce, CrossEntropy, Focal, Loss, LossModule, Severity, Smoothed
from harken.losses.inner import AroundModule, default_loss
from loss_values import CHILDREN, MULTI, batch_of, normal, one_hot, output_of, value

TARGET = one_hot([0, 1, 1, 0], 2)
LOGITS = normal(4, 2)
WORDS, SPEAKERS = ["a", "a", "b", "b"], ["x", "y", "x", "y"]


def nested() -> Loss:
    tree = {
        "kind": "severity",
        "scores": {"x": 0.0, "y": 1.0},
        "of": {
            "kind": "balancing",
            "by": "word",
            "of": {"kind": "smoothed", "by": "word", "table": {"a": {"td": [0.5, 0.5]}}},
        },
    }
    return TypeAdapter(Loss).validate_python(tree)


def test_losses_nest_and_are_dumped_and_read_again() -> None:
    loss = nested()
    assert isinstance(loss, Severity)
    assert isinstance(loss.of, Balancing)
    assert isinstance(loss.of.of, Smoothed)
    assert TypeAdapter(Loss).validate_python(loss.model_dump()) == loss
    assert {known.name for known in loss.covariates()} == {"speaker", "word"}
    inside = value(loss.of.of, CHILDREN, LOGITS, TARGET, word=WORDS)
    ours = value(loss, CHILDREN, LOGITS, TARGET, word=WORDS, speaker=SPEAKERS)
    torch.testing.assert_close(ours, torch.tensor([1.0, 3, 1, 3]) * 2 * inside)


def test_nothing_named_is_the_task_s_own() -> None:
    assert default_loss("single") == CrossEntropy()
    assert default_loss("multi") == Bce()
    target, logits = one_hot([0, 1], 3), normal(2, 3)
    loss = Severity(scores={"x": 1.0})
    ours = value(loss, MULTI, logits, target, speaker=["x", "x"])
    torch.testing.assert_close(ours, 3 * value(Bce(), MULTI, logits, target))


def test_a_wrong_loss_inside_is_named() -> None:
    with pytest.raises(ValidationError, match=r"unknown kind 'focall'.*did you mean 'focal'"):
        Balancing(by="word", of="focall")
    assert Balancing(by="word", of="focal").of == Focal()


def test_files_inside_are_read_in(tmp_path: object) -> None:
    path = f"{tmp_path}/scores.json"
    with open(path, "w") as file:
        file.write('{"x": 1}')
    loss = Balancing(by="word", of=Severity(scores=path)).resolved()
    assert isinstance(loss.of, Severity)
    assert loss.of.scores == {"x": 1.0}


class Records(LossModule):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[object] = []

    def forward(self, output: Output, batch: Batch) -> Tensor:
        self.heard.append(self.training)
        return output.logits.sum(1)

    def attach(self, width: int) -> None:
        self.heard.append(width)

    def observe(self, output: Output, batch: Batch) -> None:
        self.heard.append("observe")

    def end_step(self) -> None:
        self.heard.append("step")

    def end_epoch(self) -> dict[str, float]:
        return {"said": 1.0}


def test_hooks_reach_the_loss_inside() -> None:
    inside = Records()
    module = AroundModule(AroundModule(inside))
    module.attach(7)
    module.observe(output_of(LOGITS), batch_of(TARGET))
    module.end_step()
    assert inside.heard == [7, "observe", "step"]
    assert module.end_epoch() == {"said": 1.0}
    module.eval()
    assert not inside.training
