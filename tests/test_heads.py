from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from harken.heads import Heads

GROUPS = [["slow"], ["fast", "strained"], ["rough", "breathy", "hoarse"]]


def layers(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head.children()]


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), bottleneck=st.booleans())
def test_columns_are_the_sum_of_the_groups(sizes: list[int], bottleneck: bool) -> None:
    groups = [[f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    module = Heads(bottleneck=4 if bottleneck else None).build(6, groups)
    assert module(torch.randn(3, 6)).shape == (3, sum(sizes))


def test_groups_follow_the_column_order() -> None:
    module = Heads().build(6, GROUPS).eval()
    x = torch.randn(2, 6)
    expected = torch.cat([head(x) for head in module.groups], dim=1)
    assert torch.equal(module(x), expected)
    last = [head[-1] for head in module.groups]
    with torch.no_grad():
        for i, linear in enumerate(last):
            linear.weight.zero_()
            linear.bias.fill_(i)
    assert module(x)[0].tolist() == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Dropout", "Linear"]),
        ({"bottleneck": 4}, ["Linear", "ReLU", "Dropout", "Linear"]),
        (
            {"bottleneck": 4, "layer_norm": True, "activation": "gelu"},
            ["Linear", "LayerNorm", "GELU", "Dropout", "Linear"],
        ),
        ({"bottleneck": 4, "activation": "tanh"}, ["Linear", "Tanh", "Dropout", "Linear"]),
        ({"bottleneck": 4, "activation": "silu"}, ["Linear", "SiLU", "Dropout", "Linear"]),
        ({"bottleneck": 4, "activation": "none"}, ["Linear", "Identity", "Dropout", "Linear"]),
    ],
)
def test_layers_come_in_the_published_order(options: dict[str, Any], expected: list[str]) -> None:
    module = Heads(**options).build(6, GROUPS)
    assert [layers(head) for head in module.groups] == [expected] * 3


def test_the_shared_layer_is_one_dense_layer_with_relu() -> None:
    module = Heads(shared=7).build(6, GROUPS)
    assert layers(module.shared) == ["Linear", "ReLU"]
    x = torch.randn(2, 6)
    linear = module.shared[0]
    expected = torch.cat([head(torch.relu(linear(x))) for head in module.groups], dim=1)
    assert torch.equal(module(x), expected)
    assert layers(Heads().build(6, GROUPS).shared) == []


def test_what_the_groups_read_is_the_shared_layer_s_output() -> None:
    x = torch.randn(2, 6)
    module = Heads(shared=7).build(6, GROUPS)
    assert module.has_shared
    assert torch.equal(module.after_shared(x), torch.relu(module.shared[0](x)))
    bare = Heads().build(6, GROUPS)
    assert not bare.has_shared
    assert torch.equal(bare.after_shared(x), x)


@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "activation": "gelu", "shared": 5}])
def test_bottlenecks_are_read_before_norm_and_activation(options: dict[str, Any]) -> None:
    module = Heads(bottleneck=4, **options).build(6, GROUPS).eval()
    x = torch.randn(2, 6)
    read = module.after_shared(x)
    firsts = [nn.functional.linear(read, h[0].weight, h[0].bias) for h in module.groups]
    torch.testing.assert_close(module.after_first(x, "sum"), firsts[0] + firsts[1] + firsts[2])
    torch.testing.assert_close(module.after_first(x), sum(firsts) / 3)
    rest = [head[1:](first) for head, first in zip(module.groups, firsts, strict=True)]
    torch.testing.assert_close(module(x), torch.cat(rest, dim=1))


def test_dropout_acts_in_training_only() -> None:
    module = Heads(dropout=0.5).build(64, GROUPS)
    x = torch.randn(2, 64)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_each_group_trains_its_own_head_only() -> None:
    module = Heads(bottleneck=4).build(6, GROUPS)
    module(torch.randn(2, 6))[:, 1:3].sum().backward()
    touched = [
        head[0].weight.grad is not None and bool(head[0].weight.grad.any())
        for head in module.groups
    ]
    assert touched == [False, True, False]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"layer_norm": True}, "layer_norm does nothing without a bottleneck"),
        ({"activation": "relu"}, "activation does nothing without a bottleneck"),
        ({"activation": "swish", "bottleneck": 4}, "activation"),
        ({"bottleneck": 0}, "bottleneck"),
        ({"shared": -1}, "shared"),
        ({"dropout": 1.0}, "dropout"),
        ({"bottlenek": 4}, "did you mean 'bottleneck'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        Heads(**options)


@pytest.mark.parametrize("options", [{}, {"shared": 8, "bottleneck": 4, "layer_norm": True}])
def test_config_round_trips(options: dict[str, Any]) -> None:
    heads = Heads(**options)
    assert Heads.model_validate(heads.model_dump()) == heads
