"""SAM: the published step as a plain loop, both passes alike, and training as usual around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from harken.batch import Batch
from harken.optim import AdamW, Optimizer, Sgd
from harken.sam import Sam
from harken.track import Silent
from harken.trainer import Trainer
from test_trainer import InterruptedTestError, fitted, tiny_recipe, trainer_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


DATA = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
LABELS = (DATA.mean(1) > 0).long()


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(DATA), LABELS)


def train(config: Sam, steps: int = 5) -> tuple[nn.Module, list[float]]:
    model, losses = network(), []
    optimizer = config.build(model)
    for _ in range(steps):
        loss_of(model).backward()
        with config.uphill(model, optimizer):
            again = loss_of(model)
            again.backward()
        losses.append(float(loss_of(model).detach()))
        optimizer.step()
        optimizer.zero_grad()
    return model, losses


def published(rho: float, adaptive: bool, base: torch.optim.Optimizer, model: nn.Module) -> None:
    """One step as in Foret et al. 2021, algorithm 1, weight by weight."""
    model.zero_grad()
    loss_of(model).backward()
    scale = [p.detach().abs() if adaptive else torch.ones_like(p) for p in model.parameters()]
    gradients = [p.grad.clone() for p in model.parameters()]
    norm = sum(((s * g) ** 2).sum() for s, g in zip(scale, gradients, strict=True)) ** 0.5
    kept = [p.detach().clone() for p in model.parameters()]
    running = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    with torch.no_grad():
        for p, s, g in zip(model.parameters(), scale, gradients, strict=True):
            p += rho * s**2 * g / norm
    model.zero_grad()
    loss_of(model).backward()
    model.load_state_dict(running, strict=False)
    with torch.no_grad():
        for p, value in zip(model.parameters(), kept, strict=True):
            p.copy_(value)
    base.step()


@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, False), (0.5, True)])
@pytest.mark.parametrize("base", ["sgd", "adamw", "adam"])
def test_steps_are_the_published_ones(rho: float, adaptive: bool, base: str) -> None:
    ours, _ = train(Sam(lr=0.01, base=base, rho=rho, adaptive=adaptive, weight_decay=0.0))
    theirs = network()
    optimizer = Optimizer.member(base)(lr=0.01, weight_decay=0.0).build(theirs)
    for _ in range(5):
        published(rho, adaptive, optimizer, theirs)
    for name, value in theirs.state_dict().items():
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-6, rtol=1e-4)


def test_a_few_steps_lower_the_loss() -> None:
    for base in ("adamw", "adam", "sgd"):
        _, losses = train(Sam(lr=0.05, base=base), 12)
        assert losses[-1] < 0.7 * losses[0]


def test_weights_and_running_statistics_are_back_after_the_second_pass() -> None:
    model, config = network(), Sam(rho=1.0)
    optimizer = config.build(model)
    loss_of(model).backward()
    first = [p.grad.clone() for p in model.parameters()]
    before = {k: v.clone() for k, v in model.state_dict().items() if "batches" not in k}
    with pytest.raises(RuntimeError, match="inside"), config.uphill(model, optimizer):  # noqa: PT012
        assert not torch.equal(model[0].weight, before["0.weight"])
        assert all(p.grad is None for p in model.parameters())
        loss_of(model).backward()
        raise RuntimeError("inside")
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(torch.equal(p.grad, g) for p, g in zip(model.parameters(), first, strict=True))
    assert model[1].momentum == 0.1


def test_frozen_weights_stay() -> None:
    model, config = network(), Sam()
    model[0].requires_grad_(False)
    optimizer = config.build(model)
    loss_of(model).backward()
    kept = model[0].weight.clone()
    with config.uphill(model, optimizer):
        assert torch.equal(model[0].weight, kept)


def test_options_reach_the_base() -> None:
    model = network()
    group = Sam(lr=0.3, base="sgd", momentum=0.5, nesterov=True).build(model).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.5, True)
    optimizer = Sam(betas=(0.5, 0.6), eps=1e-3, weight_decay=0.2).build(model)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 1e-3, 0.2)


def test_options_without_effect_are_refused() -> None:
    for wrong in ({"momentum": 0.5}, {"nesterov": True}, {"base": "sgd", "eps": 1.0}):
        with pytest.raises(ValidationError, match="does nothing with base"):
            Sam(**wrong)
    with pytest.raises(ValidationError, match="nesterov needs a momentum"):
        Sam(base="sgd", momentum=0.0, nesterov=True)
    assert Sam.model_validate(Sam(base="sgd", momentum=0.5).model_dump()).momentum == 0.5


# --- in training ---


def sam_recipe(table: Path, train: dict[str, Any] | None = None, **sam: Any) -> Any:
    options = {"kind": "sam", "lr": 0.01, **sam}
    base = {"epochs": 2, "batch_size": 5, "ema": 0.9, **(train or {})}
    return tiny_recipe(table, optimizer=options, train=base)


def weights_of(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


def differ(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        {"rho": 0.2},
        {"adaptive": True},
        {"base": "sgd"},
        {"base": "adam"},
        {"betas": [0.5, 0.9]},
        {"eps": 0.1},
        {"weight_decay": 0.0},
    ],
)
def test_every_option_changes_the_run(
    tiny_table: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    fitted(sam_recipe(tiny_table, weight_decay=0.1), tmp_path / "sam")
    options = {"weight_decay": 0.1, **options}
    fitted(sam_recipe(tiny_table, **options), tmp_path / "other")
    assert differ(weights_of(tmp_path / "sam"), weights_of(tmp_path / "other"))


def test_it_differs_from_its_base(tiny_table: Path, tmp_path: Path) -> None:
    fitted(sam_recipe(tiny_table, weight_decay=0.01), tmp_path / "sam")
    base = sam_recipe(tiny_table).model_copy(update={"optimizer": AdamW(lr=0.01)})
    fitted(base, tmp_path / "base")
    assert differ(weights_of(tmp_path / "sam"), weights_of(tmp_path / "base"))


class Watches(Silent):
    """Breaks off after some batches."""

    def __init__(self, stop: int) -> None:
        self.left = stop

    def advance(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedTestError


@pytest.mark.parametrize("batch", [3, 6])
def test_a_broken_run_resumes_to_the_same_weights(
    tiny_table: Path, tmp_path: Path, batch: int
) -> None:
    train = {"epochs": 3, "accumulate": 2, "checkpoint_minutes": 1e-9, "clip_norm": 0.5}
    recipe = sam_recipe(tiny_table, train)
    whole = fitted(recipe, tmp_path / "whole")
    broken = trainer_of(recipe, tmp_path / "broken")
    broken.tracker = Watches(batch)
    with pytest.raises(InterruptedTestError):
        broken.fit()
    again = trainer_of(recipe, tmp_path / "broken")
    again.fit(resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert not differ(weights_of(tmp_path / "whole"), weights_of(tmp_path / "broken"))


def recorded(trainer: Trainer) -> list[tuple[list[int], float]]:
    """Record the clips and the loss of every pass, with the climb of no length."""
    passes: list[tuple[list[int], float]] = []
    original = trainer._look

    def look(batch: Batch, number: int) -> Any:
        output, seen = original(batch, number)
        passes.append((batch.rows.tolist(), float(output.logits.detach().double().sum())))
        return output, seen

    trainer._look = look  # type: ignore[method-assign]
    return passes


def test_both_passes_see_the_same_clips_with_the_same_draws(
    tiny_table: Path, tmp_path: Path
) -> None:
    """Gain, masks, mixup and dropout are drawn by batch; a climb of no length changes nothing."""
    recipe = sam_recipe(tiny_table, {"epochs": 1, "accumulate": 2}, rho=1e-12)
    trainer = trainer_of(recipe, tmp_path / "run")
    passes = recorded(trainer)
    trainer.fit()
    count = len(trainer.train_loader.order.batches(0))
    assert len(passes) == 2 * count
    assert passes[:2] == passes[2:4]
    assert passes[0] != passes[1]
    assert passes[-1][0] == passes[-2 if count % 2 else -3][0]
    assert trainer.progress.history[0]["train_loss"] == pytest.approx(
        fitted(
            recipe.model_copy(update={"optimizer": AdamW(lr=0.01, weight_decay=0.0)}),
            tmp_path / "base",
        ).progress.history[0]["train_loss"],
        rel=1e-3,
    )


def test_accumulated_batches_equal_one_large_batch(tiny_table: Path, tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "augment": [],
        "mix": None,
        "backbone": {"kind": "mlp", "summary": "statistics", "hidden": [8]},
        "optimizer": {"kind": "sam", "lr": 0.01, "rho": 0.3},
    }
    base = {"epochs": 1, "batch_size": 12, "clip_norm": 1.0}
    one = fitted(tiny_recipe(tiny_table, train=base, **plain), tmp_path / "one")
    split = base | {"batch_size": 6, "accumulate": 2}
    two = trainer_of(tiny_recipe(tiny_table, train=split, **plain), tmp_path / "two")
    halves = [h for rows in one.train_loader.order.batches(0) for h in np.array_split(rows, 2)]
    two.train_loader.order.batches = lambda epoch: halves  # type: ignore[method-assign]
    two.fit()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, two.model.state_dict()[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("option", [{"clip_norm": 0.01}, {"precision": "bf16"}, {"ema": None}])
def test_the_loop_s_options_still_act(
    tiny_table: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    sgd = {"base": "sgd", "lr": 0.05}
    fitted(sam_recipe(tiny_table, **sgd), tmp_path / "one")
    trainer = fitted(sam_recipe(tiny_table, option, **sgd), tmp_path / "two")
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert differ(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_plain_optimisers_pass_once(tiny_table: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_table, optimizer={"kind": "sgd"}, train={"epochs": 1})
    assert recipe.optimizer == Sgd()
    trainer = trainer_of(recipe, tmp_path / "run")
    passes = recorded(trainer)
    trainer.fit()
    assert len(passes) == len(trainer.train_loader.order.batches(0))
