"""Optimisers: torch's own steps, decay where it belongs, the same order every time."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harken.choice import Config
from harken.errors import ConfigError
from harken.optim import Adam, AdamW, Optimizer, Sgd, scale_lr

KINDS = [AdamW(lr=0.01), Adam(lr=0.01), Sgd(lr=0.1), Sgd(lr=0.1, nesterov=True)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 4, 3, bias=False), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(24, 2)
    )


def batch() -> tuple[Tensor, Tensor]:
    noise = torch.randn(16, 1, 8, generator=torch.Generator().manual_seed(1))
    return noise, (noise.mean((1, 2)) > 0).long()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    data, target = batch()
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(data), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}{getattr(c, 'nesterov', '')}")
def test_a_few_steps_lower_the_loss(config: Optimizer) -> None:
    model = network()
    losses = train(model, config.build(model), 10)
    assert losses[-1] < 0.7 * losses[0]


def test_steps_equal_torchs() -> None:
    pairs = [
        (AdamW(lr=0.01, weight_decay=0.1, decay_all=True, betas=(0.8, 0.9)), torch.optim.AdamW),
        (Adam(lr=0.01, weight_decay=0.1, decay_all=True, betas=(0.8, 0.9)), torch.optim.Adam),
        (Sgd(lr=0.01, weight_decay=0.1, decay_all=True, nesterov=True), torch.optim.SGD),
    ]
    for config, theirs in pairs:
        one, two = network(), network()
        options = (
            {"momentum": 0.9, "nesterov": True} if config.kind == "sgd" else {"betas": (0.8, 0.9)}
        )
        train(one, config.build(one), 5)
        train(two, theirs(two.parameters(), lr=0.01, weight_decay=0.1, **options), 5)
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_only_matrices_decay_unless_all_do() -> None:
    model = network()
    optimizer = AdamW(weight_decay=0.3).build(model)
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert [p.shape for p in by_decay[0.3]] == [(4, 1, 3), (2, 24)]
    assert [tuple(p.shape) for p in by_decay[0.0]] == [(4,), (4,), (2,)]
    every = AdamW(weight_decay=0.3, decay_all=True).build(model)
    assert {group["weight_decay"] for group in every.param_groups} == {0.3}


def test_frozen_parameters_are_left_out_and_the_order_is_the_models() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = Sgd().build(model)
    chosen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = [model[3].weight, model[1].weight, model[1].bias, model[3].bias]
    assert chosen == [id(p) for p in wanted]
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        Sgd().build(model)


@pytest.mark.parametrize("config", KINDS[:3], ids=lambda c: c.kind)
def test_the_fused_kernel_is_taken_on_a_cpu(config: Optimizer) -> None:
    assert all(group["fused"] for group in config.build(network()).param_groups)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind}{getattr(c, 'nesterov', '')}")
def test_a_restored_state_continues_bit_by_bit(config: Optimizer) -> None:
    model = network()
    optimizer = config.build(model)
    train(model, optimizer, 4)
    other = network()
    other.load_state_dict(model.state_dict())
    restored = config.build(other)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 4)
    train(other, restored, 4)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_option_changes_the_weights() -> None:
    def weights(config: Optimizer) -> Tensor:
        model = network()
        train(model, config.build(model), 5)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    variants = {
        AdamW: [{"lr": 0.1}, {"weight_decay": 5.0}, {"betas": (0.5, 0.9)}, {"eps": 1.0}],
        Adam: [{"lr": 0.1}, {"weight_decay": 5.0}, {"betas": (0.5, 0.9)}, {"eps": 1.0}],
        Sgd: [{"lr": 0.1}, {"weight_decay": 5.0}, {"momentum": 0.0}, {"nesterov": True}],
    }
    for kind, options in variants.items():
        base = weights(kind())
        for option in options:
            assert not torch.allclose(base, weights(kind(**option))), (kind, option)
        some, every = kind(weight_decay=5.0), kind(weight_decay=5.0, decay_all=True)
        assert not torch.allclose(weights(some), weights(every))


def test_scaling_starts_from_the_initial_rate() -> None:
    optimizer = AdamW(lr=0.2).build(network())
    assert scale_lr(optimizer, 0.5) == pytest.approx(0.1)
    assert scale_lr(optimizer, 0.5) == pytest.approx(0.1)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


def test_values_that_cannot_work_are_refused() -> None:
    class Holder(Config):
        optimizer: Optimizer

    assert Holder.model_validate({"optimizer": {"kind": "sgd", "momentum": 0.5}}).optimizer == Sgd(
        momentum=0.5
    )
    for wrong in ({"lr": 0}, {"weight_decay": -1}, {"betas": (0.9, 1.0)}):
        with pytest.raises(ValidationError):
            AdamW(**wrong)
    with pytest.raises(ValidationError, match="nesterov needs a momentum"):
        Sgd(momentum=0.0, nesterov=True)
