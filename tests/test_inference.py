from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harken.covariates import TrainingTable
from harken.errors import ConfigError
from harken.inference import infer, pick_device
from harken.losses import default_loss
from harken.predictor import Predictor


def test_auto_takes_what_there_is() -> None:
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_device_that_is_not_there_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"no cuda device → train.device=auto"):
        pick_device("cuda")


def test_inference_is_deterministic_and_restores_the_mode(tiny_run: Path, tiny_table: Path) -> None:
    predictor = Predictor.load(tiny_run)
    model = predictor.models[0].train()
    files = sorted(tiny_table.parent.glob("*.wav"))[:3]
    batch = predictor.batch([predictor.clip(file) for file in files])
    device = torch.device("cpu")
    one, losses = infer(model, [batch], device)
    two, _ = infer(model, [batch], device)
    np.testing.assert_array_equal(one, two)
    assert model.training
    assert one.shape == (3, 3)
    assert np.isnan(losses).all()


def test_losses_are_those_of_the_clips_with_targets(tiny_run: Path, tiny_table: Path) -> None:
    predictor = Predictor.load(tiny_run)
    batch = predictor.batch(
        [predictor.clip(f) for f in sorted(tiny_table.parent.glob("*.wav"))[:2]]
    )
    batch.target[0] = torch.tensor([0.0, 1.0, 0.0])
    loss = default_loss("single").build(
        predictor.labels, TrainingTable(np.eye(3, dtype=np.float32))
    )
    logits, losses = infer(predictor.models[0], [batch], torch.device("cpu"), loss)
    expected = -torch.tensor(logits[0]).log_softmax(0)[1]
    assert losses[0] == pytest.approx(float(expected), abs=1e-6)
    assert np.isnan(losses[1])
