"""The learned sum over layers: the mean at first, learned, and right for poolings of parts."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from harken.backbones.layer_mix import LayerMix

KINDS: list[Literal["raw", "softmax"]] = ["raw", "softmax"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_mean_over_layers(kind: Literal["raw", "softmax"]) -> None:
    layers = torch.randn(4, 3, 5)
    mix = LayerMix(3, 5, kind)
    torch.testing.assert_close(mix(layers.flatten(1)), layers.mean(1))
    torch.testing.assert_close(mix.weights, torch.full((3,), 1 / 3))


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_a_pooling_is_summed_by_itself(kind: Literal["raw", "softmax"]) -> None:
    means, peaks = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    mix = LayerMix(3, 5, kind)
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.5, -1.0, 2.0]))
    weights = mix.weights[:, None]
    wanted = torch.cat([(part * weights).sum(1) for part in (means, peaks)], dim=1)
    found = mix(torch.cat((means.flatten(1), peaks.flatten(1)), dim=1))
    torch.testing.assert_close(found, wanted)


def test_softmax_weights_are_positive_and_sum_to_one_and_raw_ones_need_not() -> None:
    raw, soft = LayerMix(3, 1, "raw"), LayerMix(3, 1, "softmax")
    with torch.no_grad():
        for mix in (raw, soft):
            mix.scores.copy_(torch.tensor([1.0, -2.0, 3.0]))
    assert raw.weights.tolist() == [1.0, -2.0, 3.0]
    assert bool((soft.weights > 0).all())
    assert soft.weights.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_which_layer_tells(kind: Literal["raw", "softmax"]) -> None:
    torch.manual_seed(0)
    mix, layers = LayerMix(4, 1, kind), torch.randn(64, 4, 1)
    optimizer = torch.optim.Adam(mix.parameters(), lr=0.1)
    for _ in range(100):
        loss = (mix(layers.flatten(1)) - layers[:, 2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert int(mix.weights.argmax()) == 2
    assert mix.weights[2].item() > 0.8
