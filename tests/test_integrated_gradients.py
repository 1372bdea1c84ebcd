from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burst_runs import BACKBONES, small, small_subject
from harken.errors import ConfigError
from harken.explain import IntegratedGradients
from test_attention import speech_subject


@pytest.mark.parametrize("backbone", [BACKBONES["cnn"], BACKBONES["ast"], {"kind": "mlp"}])
@pytest.mark.parametrize("task", ["single", "regression"])
def test_attributions_sum_to_the_difference(backbone: dict[str, Any], task: Any) -> None:
    """Completeness, the axiom that defines the method."""
    subject = small_subject(small(backbone, task=task))
    found = IntegratedGradients(points=128).relevance(subject)
    ends = torch.cat([subject.features, subject.baseline])
    with torch.no_grad():
        full, nothing = subject.evidence(ends).tolist()
    assert found.values.sum() == pytest.approx(full - nothing, rel=0.05, abs=2e-3)
    assert found.notes["difference"] == pytest.approx(full - nothing, abs=1e-5)
    assert found.notes["sum"] == pytest.approx(found.values.sum())
    wanted = abs(found.values.sum() - (full - nothing)) / abs(full - nothing)
    assert found.notes["completeness_error"] == pytest.approx(wanted, rel=0.05, abs=1e-3)


def test_a_linear_network_is_explained_exactly() -> None:
    """There the attributions are weight times difference, whatever the number of points."""
    model = small({"kind": "mlp", "hidden": [4]}, task="regression")
    model.backbone.layers[1] = torch.nn.Identity()  # type: ignore[union-attr, index]
    subject = small_subject(model, label=2)
    weight = model.heads.groups[0][-1].weight[2] @ model.backbone.layers[0].weight  # type: ignore
    wanted = weight.view(32, -1) * (subject.features - subject.baseline)[0]
    found = IntegratedGradients(points=2).relevance(subject).values
    assert found == pytest.approx(wanted.detach().numpy(), abs=1e-5)


def test_more_points_come_closer() -> None:
    subject = small_subject(small(BACKBONES["cnn"], "mean_max"))
    errors = [
        IntegratedGradients(points=n).relevance(subject).notes["completeness_error"]
        for n in (2, 256)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("freeze", ["all", 1, None])
def test_samples_get_attributions_even_through_frozen_layers(tmp_path: Path, freeze: Any) -> None:
    pytest.importorskip("transformers")
    subject = speech_subject(tmp_path, "wav2vec2", freeze=freeze)
    found = IntegratedGradients(points=8).relevance(subject)
    assert found.values.shape == (1, 100)
    assert found.notes["completeness_error"] < 0.2
    assert subject.model.backbone.frozen == {"all": "all", 1: "part", None: "none"}[freeze]


def test_a_network_without_gradients_is_told() -> None:
    class Deaf(torch.nn.Module):
        def forward(self, embedding: torch.Tensor, codes: object = None) -> torch.Tensor:
            return torch.zeros(len(embedding), 3)

    model = small(BACKBONES["cnn"])
    model.heads = Deaf()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="no gradient reaches"):
        IntegratedGradients().relevance(small_subject(model))


def test_the_same_again() -> None:
    subject = small_subject(small(BACKBONES["ast"], "cls"))
    one, two = (IntegratedGradients().relevance(subject).values for _ in range(2))
    assert np.array_equal(one, two)
