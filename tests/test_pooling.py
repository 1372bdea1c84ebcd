from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.backbones import BackboneModule, Hidden
from harken.choice import Config
from harken.errors import ConfigError
from harken.pooling import Attention, AttentionPooling, ClsPooling, Pooling, PoolingModule

DIM = 5
KINDS = sorted(k for k, cls in Pooling.kinds().items() if cls.__module__.startswith("harken."))
WIDTHS = {"mean_max": 2 * DIM, "statistics": 2 * DIM}


class Slot(Config):
    pooling: Pooling


class Backbone(BackboneModule):
    dim = DIM

    def __init__(self, has_cls: bool = True) -> None:
        super().__init__()
        self.has_cls = has_cls


def make(kind: str) -> PoolingModule:
    torch.manual_seed(0)
    return Slot.model_validate({"pooling": kind}).pooling.build(Backbone())


def hidden(*counts: int, frames: int | None = None, seed: int = 0) -> Hidden:
    frames = frames or max(counts)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(counts), 40, DIM, generator=generator)[:, :frames]
    mask = torch.arange(frames) < torch.tensor(counts)[:, None]
    cls = torch.randn(len(counts), DIM, generator=generator)
    return Hidden(states, mask, cls=cls)


def test_all_kinds_are_there() -> None:
    assert KINDS == ["attention", "cls", "max", "mean", "mean_max", "statistics", "sum"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_is_as_said(kind: str) -> None:
    module = make(kind)
    assert module.dim == WIDTHS.get(kind, DIM)
    assert module(hidden(7, 3)).shape == (2, module.dim)


@pytest.mark.parametrize("kind", KINDS)
def test_states_beyond_the_end_do_not_count(kind: str) -> None:
    module, states = make(kind), hidden(9, 4, 1)
    spoilt = states.states.clone()
    spoilt[1, 4:], spoilt[2, 1:] = 1e6, -1e6
    changed = Hidden(spoilt, states.mask, cls=states.cls)
    torch.testing.assert_close(module(changed), module(states))


def reference(kind: str, x: torch.Tensor) -> torch.Tensor:
    deviation = x.std(0) if len(x) > 1 else torch.full((DIM,), 1e-4)
    return {
        "mean": x.mean(0),
        "sum": x.sum(0),
        "max": x.amax(0),
        "mean_max": torch.cat((x.mean(0), x.amax(0))),
        "statistics": torch.cat((x.mean(0), deviation)),
    }[kind]


@pytest.mark.parametrize("kind", ["mean", "sum", "max", "mean_max", "statistics"])
@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), extra=st.integers(0, 10), seed=st.integers(0, 99))
def test_values_equal_torchs_on_the_cut_states(
    kind: str, count: int, extra: int, seed: int
) -> None:
    states = hidden(count, frames=count + extra, seed=seed)
    got = make(kind)(states)[0]
    torch.testing.assert_close(got, reference(kind, states.states[0, :count]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_even_for_one_state(kind: str) -> None:
    states = hidden(5, 1)
    states.states.requires_grad_()
    assert states.cls is not None
    states.cls.requires_grad_()
    module = make(kind)
    module(states).square().sum().backward()
    gradient = states.cls.grad if kind == "cls" else states.states.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient[0].abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_attention_follows_its_formula() -> None:
    module = make("attention")
    assert isinstance(module, Attention)
    states = hidden(6, 3)
    first, _, second = module.judge
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(second, torch.nn.Linear)
    x = states.states[1, :3]
    share = (torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T).softmax(0)
    torch.testing.assert_close(module(states)[1], (share * x).sum(0))
    weights = module.weights(states)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert not weights[1, 3:].any()


def test_attention_has_an_option() -> None:
    count = {
        d: sum(p.numel() for p in AttentionPooling(dim=d).build(Backbone()).parameters())
        for d in (4, 8)
    }
    assert count == {4: 4 * DIM + 4 + 4, 8: 8 * DIM + 8 + 8}


def test_cls_needs_a_class_token() -> None:
    states = hidden(4, 2)
    assert torch.equal(make("cls")(states), states.cls)
    with pytest.raises(
        ConfigError, match=r"pooling.kind: this backbone has no class token → .*mean"
    ):
        ClsPooling().build(Backbone(has_cls=False))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_float32_under_autocast(kind: str) -> None:
    states = hidden(4, 2)
    assert states.cls is not None
    half = Hidden(states.states.bfloat16(), states.mask, cls=states.cls.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert make(kind)(half).dtype == torch.float32


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'statistics'"):
        Slot.model_validate({"pooling": "statistic"})
