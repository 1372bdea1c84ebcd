"""Optimisers: torch's own steps, decay where it belongs, the same order every time."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harken.backbones import AstBackbone, BackboneModule, FeatureSpec, Hidden, TimmBackbone
from harken.checkpoint import Progress, RunFolder
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


class Steps(BackboneModule):
    """A backbone of three depths, and weights that belong to the heads."""

    def __init__(self, num_depths: int = 3) -> None:
        super().__init__()
        self.num_depths, self.dim = num_depths, 4
        self.low, self.middle, self.top = (nn.Linear(4, 4) for _ in range(3))
        self.mix = nn.Parameter(torch.ones(2))

    def depth_of(self, name: str) -> int:
        return ["low", "middle", "top", "mix"].index(name.partition(".")[0])

    def forward(self, features: Tensor, lengths: Tensor) -> Hidden:
        x: Tensor = self.top(self.middle(self.low(features))) * self.mix.sum()
        return Hidden(x[:, None], torch.ones(len(x), 1, dtype=torch.bool))


class Whole(nn.Module):
    """What a classifier is to the optimiser."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.pooling, self.heads = backbone, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, data: Tensor) -> Tensor:
        states = self.backbone(data, torch.ones(len(data))).states[:, 0]
        out: Tensor = self.heads(self.pooling(states))
        return out


def rates(config: Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Return each parameter's rate and decay."""
    by_id = {
        id(p): (group["initial_lr"], group["weight_decay"])
        for group in config.build(model).param_groups
        for p in group["params"]
    }
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def test_the_rate_falls_from_layer_to_layer() -> None:
    found = rates(AdamW(lr=0.08, layer_decay=0.5, weight_decay=0.1), Whole(Steps()))
    assert found == {
        "backbone.mix": (0.08, 0.0),
        "backbone.low.weight": (0.02, 0.1),
        "backbone.low.bias": (0.02, 0.0),
        "backbone.middle.weight": (0.04, 0.1),
        "backbone.middle.bias": (0.04, 0.0),
        "backbone.top.weight": (0.08, 0.1),
        "backbone.top.bias": (0.08, 0.0),
        "pooling.weight": (0.08, 0.1),
        "pooling.bias": (0.08, 0.0),
        "heads.weight": (0.08, 0.1),
        "heads.bias": (0.08, 0.0),
    }


def test_the_heads_have_a_rate_of_their_own() -> None:
    config = AdamW(lr=0.01, head_lr=0.5)
    found = {name: rate for name, (rate, _) in rates(config, Whole(Steps())).items()}
    heads = {name for name, rate in found.items() if rate == 0.5}
    assert heads == {"backbone.mix", "pooling.weight", "pooling.bias", "heads.weight", "heads.bias"}
    assert {found[name] for name in found.keys() - heads} == {0.01}
    both = rates(AdamW(lr=0.01, head_lr=0.5, layer_decay=0.1), Whole(Steps()))
    assert both["backbone.low.weight"][0] == pytest.approx(0.0001)
    assert both["heads.bias"][0] == 0.5
    # A backbone that tells no layers apart still parts from the heads.
    flat = rates(config, Whole(Steps(num_depths=0)))
    assert {rate for name, (rate, _) in flat.items() if "backbone" not in name} == {0.5}
    assert {rate for name, (rate, _) in flat.items() if "backbone" in name} == {0.01}


def test_the_first_group_shows_lr_and_all_rates_follow_the_schedule() -> None:
    optimizer = AdamW(lr=0.08, head_lr=0.5, layer_decay=0.5).build(Whole(Steps()))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [
        0.08, 0.08, 0.5, 0.5, 0.04, 0.04, 0.02, 0.02,
    ]  # fmt: skip
    assert scale_lr(optimizer, 0.25) == pytest.approx(0.02)
    assert optimizer.param_groups[2]["lr"] == pytest.approx(0.125)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.005)


def test_rates_by_layer_survive_a_resume(tmp_path: Path) -> None:
    config = AdamW(lr=0.01, head_lr=0.05, layer_decay=0.7)
    data, target = torch.randn(16, 4), torch.arange(16) % 2

    def advance(model: nn.Module, optimizer: torch.optim.Optimizer, factor: float) -> None:
        scale_lr(optimizer, factor)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), target).backward()
        optimizer.step()

    one, two = Whole(Steps()), Whole(Steps())
    first = config.build(one)
    for factor in (1.0, 0.9):
        advance(one, first, factor)
    run = RunFolder(tmp_path)
    run.save_state(Progress(), one, first, None)
    second = config.build(two)
    RunFolder(tmp_path).load_state(two, second)
    assert [g["lr"] for g in second.param_groups] == [g["lr"] for g in first.param_groups]
    for factor in (0.8, 0.7):
        advance(one, first, factor)
        advance(two, second, factor)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_layers_that_cannot_be_told_apart_or_do_not_learn_are_refused() -> None:
    config = AdamW(layer_decay=0.5)
    with pytest.raises(ConfigError, match="this backbone tells no layers apart") as error:
        config.build(Whole(BackboneModule()))
    assert error.value.where == "optimizer.layer_decay"
    frozen = Whole(Steps())
    for part in (frozen.backbone.low, frozen.backbone.middle, frozen.backbone.top):
        part.requires_grad_(False)
    with pytest.raises(ConfigError, match="the backbone does not learn"):
        config.build(frozen)
    assert rates(AdamW(head_lr=0.5), frozen)["backbone.mix"][0] == 0.5
    for wrong in ({"layer_decay": 0.0}, {"layer_decay": 1.0}, {"head_lr": 0.0}):
        with pytest.raises(ValidationError):
            AdamW(**wrong)


def test_backbones_that_tell_depths() -> None:
    spec = FeatureSpec("spectrogram", 32, 100.0, 64)
    ast = AstBackbone(dim=12, depth=2, num_heads=3).build(spec)
    found = {name: ast.depth_of(name) for name, _ in ast.named_parameters()}
    assert ast.num_depths == 4
    assert {found[n] for n in ("project.weight", "positions.tables.0", "cls_token")} == {0}
    assert (found["blocks.0.qkv.weight"], found["blocks.1.fc2.bias"], found["norm.weight"]) == (
        1, 2, 3,
    )  # fmt: skip
    resnet = TimmBackbone(name="resnet18").build(spec)
    depths = {name: resnet.depth_of(name) for name, _ in resnet.named_parameters()}
    assert resnet.num_depths == 9
    assert depths["network.conv1.weight"] == 0
    assert depths["network.layer4.1.bn2.bias"] == 8
    assert sorted(set(depths.values())) == list(range(9))
