"""The moving average: its formula, its buffers, and getting the model back unharmed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harken.ema import Ema
from harken.errors import RunError


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.linear.weight
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("window", torch.ones(4), persistent=False)


def changed(model: Network, step: int) -> None:
    noise = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in (*model.parameters(), model.norm.running_mean, model.mean):
            value.copy_(torch.randn(value.shape, generator=noise))
        model.norm.num_batches_tracked += 1


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_parameters_and_norm_statistics_follow_the_formula_and_buffers_are_copied() -> None:
    model = Network()
    ema = Ema(model, 0.3)
    expected = values(model)
    for step in range(12):
        changed(model, step)
        ema.update(model, step)
        decay = min(0.3, (1 + step) / (10 + step))
        for name in ("linear.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
            expected[name] = decay * expected[name] + (1 - decay) * model.state_dict()[name]
    state = ema.state_dict()
    for name in ("linear.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(state[name], expected[name])
    assert torch.equal(state["mean"], model.mean)
    assert state["norm.num_batches_tracked"] == 12
    assert "window" not in state
    assert ema.decay_at(0) == 0.1
    assert ema.decay_at(1000) == 0.3


def test_decay_changes_the_average() -> None:
    averages = []
    for decay in (0.1, 0.9):
        model = Network()
        with torch.no_grad():
            model.linear.weight.zero_()
        ema = Ema(model, decay)
        for step in range(20):
            changed(model, step)
            ema.update(model, step)
        averages.append(ema.state_dict()["linear.weight"])
    assert not torch.allclose(averages[0], averages[1], atol=0.05)


def test_swapping_twice_gives_the_model_back_with_tied_weights() -> None:
    model = Network()
    ema = Ema(model, 0.9)
    average = {name: value.clone() for name, value in ema.state_dict().items()}
    changed(model, 0)
    own = values(model)
    with ema.applied(model):
        for name, value in average.items():
            assert torch.equal(model.state_dict()[name], value)
        assert model.tied.weight is model.linear.weight
    for name, value in values(model).items():
        assert torch.equal(value, own[name])
    for name, value in ema.state_dict().items():
        assert torch.equal(value, average[name])


def test_the_model_comes_back_after_an_error() -> None:
    model = Network()
    ema = Ema(model, 0.9)
    changed(model, 0)
    own = values(model)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ema.applied(model):
        fail()
    assert all(torch.equal(value, own[name]) for name, value in values(model).items())


def test_a_saved_average_continues_bit_by_bit() -> None:
    model = Network()
    ema = Ema(model, 0.5)
    for step in range(5):
        changed(model, step)
        ema.update(model, step)
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in saved.values())
    assert list(saved) == list(model.state_dict())
    other = Ema(Network(), 0.5)
    other.load_state_dict(saved)
    changed(model, 5)
    ema.update(model, 5)
    other.update(model, 5)
    for name, value in ema.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    fresh = Network()
    other.copy_to(fresh)
    assert torch.equal(fresh.linear.weight, other.state_dict()["linear.weight"])


def test_an_average_of_another_model_is_refused() -> None:
    ema = Ema(Network(), 0.5)
    state = ema.state_dict()
    with pytest.raises(RunError, match=r"of another model: linear\.bias"):
        ema.load_state_dict({**state, "linear.bias": torch.zeros(4)})
    state.pop("mean")
    with pytest.raises(RunError, match="of another model: mean"):
        ema.load_state_dict(state)
