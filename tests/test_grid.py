from __future__ import annotations

import numpy as np
import pytest
import torch

from burst_runs import BACKBONES, small, small_subject
from harken.backbones.backbone import Hidden
from harken.explain.grid import spread, stretch


def test_a_constant_stays_constant() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    hidden = subject.hidden()
    values = spread(np.full(hidden.states.shape[1], 3.0), hidden, subject)
    assert values.shape == (32, 101)
    assert np.allclose(values, 3.0)


def test_states_of_padding_do_not_count() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    mask = torch.tensor([[True, True, False, False] * 2])
    hidden = Hidden(torch.zeros(1, 8, 1), mask, grid=(2, 4))
    values = spread(np.array([1.0, 1, 99, 99] * 2), hidden, subject)
    assert np.allclose(values, 1.0)


def test_states_without_bins_give_one_row() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    hidden = Hidden(torch.zeros(1, 5, 1), torch.ones(1, 5, dtype=torch.bool))
    values = spread(np.arange(5.0), hidden, subject)
    assert values.shape == (1, 101)
    assert (np.diff(values[0]) >= 0).all()


def test_interpolation_is_between_centres() -> None:
    subject = small_subject(small(BACKBONES["cnn"]))
    values = stretch(np.array([[0.0, 1.0]]), (np.array([16.0]), np.array([10.5, 20.5])), subject)
    assert values[0, 10] == 0
    assert values[0, 15] == pytest.approx(0.5)
    assert values[0, 20:].tolist() == [1.0] * 81


@pytest.mark.parametrize("kind", ["cnn", "ast", "timm"])
@pytest.mark.parametrize("place", [30, 70])
def test_a_state_lies_over_the_frames_that_reach_it(kind: str, place: int) -> None:
    """Frames are changed at one place; the states that change must be drawn there."""
    backbone = {
        "cnn": BACKBONES["cnn"],
        "ast": {"kind": "ast", "dim": 32, "depth": 1, "num_heads": 2, "patch_stride": 8},
        "timm": {"kind": "timm", "name": "resnet10t"},
    }[kind]
    subject = small_subject(small(backbone))
    other = subject.features.clone()
    other[..., place : place + 4] += 3.0
    with torch.no_grad():
        if kind == "ast":  # attention spreads a change at once; the patches themselves do not
            project = subject.model.backbone.project
            before, after = (project(f[:, None]).flatten(2).mT for f in (subject.features, other))
        else:
            before = subject.hidden().states
            after = subject.model.hidden(*subject.inputs(other)).states
    change = (after - before).norm(dim=-1)[0].double().numpy()
    drawn = spread(change, subject.hidden(), subject).sum(0)
    centre = float((drawn * np.arange(subject.steps)).sum() / drawn.sum())
    limit = 12 if kind == "timm" else 4
    assert abs(centre - (place + 1.5)) < limit
