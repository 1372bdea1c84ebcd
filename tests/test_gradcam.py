from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from burst_runs import BACKBONES, noise_wave, small, small_subject
from harken.explain import GradCam, Subject
from harken.explain.grid import spread

MEL = {"kind": "log_mel", "n_mels": 40, "n_fft": 256, "win_length": 200, "hop_length": 80}


def test_the_map_is_the_papers_formula() -> None:
    """Weights are the mean gradients over the map; the sum over channels is cut at zero."""
    subject = small_subject(small(BACKBONES["cnn"], "mean_max"))
    hidden = subject.hidden()
    states = hidden.states.detach().requires_grad_()
    pooled = subject.model.pooling(type(hidden)(states, hidden.mask, hidden.grid))
    logits = subject.model.heads(pooled)
    (logits[0, 0] - logits[0, 1:].logsumexp(0)).backward()
    assert states.grad is not None
    wanted = (states.detach() * states.grad.mean(1, keepdim=True)).sum(-1)[0].numpy()
    signed = GradCam(signed=True).relevance(subject).values
    assert signed == pytest.approx(spread(wanted.astype(float), hidden, subject), abs=1e-6)
    assert np.ptp(signed) > 0
    assert GradCam().relevance(subject).values == pytest.approx(np.maximum(signed, 0))


def test_tokens_are_weighted_by_their_own_gradients() -> None:
    subject = small_subject(small(BACKBONES["ast"]))
    hidden = subject.hidden()
    weight = subject.model.heads.groups[0][-1].weight.detach()
    logits = subject.model.classify(*subject.inputs(subject.features)).logits[0].detach()
    slope = torch.zeros(3)
    slope[0], slope[1:] = 1, -logits[1:].softmax(0)
    tokens = hidden.states[0].detach() @ (slope @ weight) / hidden.states.shape[1]
    found = GradCam(signed=True).relevance(subject).values
    wanted = spread(tokens.double().numpy(), hidden, subject)
    assert found == pytest.approx(wanted, abs=1e-6)
    # Without the mean over time and the bias, that is the whole of the logit: nothing is lost.
    assert float(tokens.sum()) == pytest.approx(
        float(slope @ (logits - subject.model.heads.groups[0][-1].bias.detach())), abs=1e-4
    )


@pytest.mark.parametrize(
    ("backbone", "pooling", "shape"),
    [
        (BACKBONES["cnn"], "mean_max", (40, 101)),
        (BACKBONES["cnn"], "attention", (40, 101)),
        ({"kind": "cnn", "style": "baseline"}, "mean", (40, 101)),
        ({"kind": "cnn", "style": "baseline", "share_conv": True}, "mean", (40, 101)),
        ({"kind": "timm", "name": "resnet10t"}, "mean", (40, 101)),
        ({"kind": "timm", "name": "test_vit", "options": {"patch_size": 8}}, "cls", (40, 101)),
        ({"kind": "ast", "dim": 32, "depth": 2, "num_heads": 2}, "cls", (40, 101)),
        ({"kind": "ast", "dim": 32, "depth": 2, "num_heads": 2}, "mean", (40, 101)),
    ],
)
def test_every_kind_of_network_has_a_map(
    backbone: dict[str, Any], pooling: str, shape: tuple[int, int]
) -> None:
    model = small(backbone, pooling, MEL)
    subject = small_subject(model)
    method = GradCam(signed=True)
    assert method.fits(model)
    values = method.relevance(subject).values
    assert values.shape == shape
    assert np.ptp(values) > 0
    assert np.array_equal(values, method.relevance(subject).values)
    assert all(p.grad is None for p in model.parameters())


def test_frozen_layers_below_do_not_hinder() -> None:
    model = small(BACKBONES["cnn"], "mean_max").requires_grad_(False)
    assert np.ptp(GradCam().relevance(small_subject(model)).values) > 0


def test_labels_have_maps_of_their_own() -> None:
    model = small(BACKBONES["cnn"], "mean_max")
    one, other = (
        GradCam(signed=True).relevance(Subject.of(model, noise_wave(), i)).values for i in (0, 1)
    )
    assert not np.allclose(one, other)
