from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from harken.backbones import BertBackbone
from harken.backbones.bert import BertModule
from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("tokens", 9, 100.0, None)
SMALL = {"dim": 8, "depth": 1, "num_heads": 2, "dropout": 0.0}
IDS, LENGTHS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 1, 0, 0, 0]]), torch.tensor([6, 3])


def build(spec: FeatureSpec = SPEC, **over: object) -> BertModule:
    torch.manual_seed(0)
    module = BertBackbone.model_validate({**SMALL, **over}).build(spec)
    assert isinstance(module, BertModule)
    return module.eval()


def test_the_class_token_is_a_reserved_id_and_not_the_first_frame() -> None:
    module = build()
    hidden = module(IDS, LENGTHS)
    assert hidden.states.shape == (2, 6, 8)
    assert hidden.cls is not None
    with torch.no_grad():
        module.reads.embedding.weight[module.reads.cls_id, 0] += 1
    other = module(IDS, LENGTHS)
    assert other.cls is not None
    assert not torch.allclose(hidden.cls, other.cls)


def test_a_clips_class_token_sees_every_step() -> None:
    module = build()
    x = module.reads(IDS[:1], LENGTHS[:1])[0].detach().requires_grad_()
    module.reads.forward = lambda features, lengths: (x, lengths)  # type: ignore[method-assign]
    hidden = module(IDS[:1], LENGTHS[:1])
    assert hidden.cls is not None
    hidden.cls.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()


def test_every_option_changes_the_states() -> None:
    plain = build()(IDS, LENGTHS)
    for over in (
        {"depth": 2},
        {"num_heads": 4},
        {"mlp_ratio": 2},
        {"dim": 12},
        {"stride": 2},
        {"positions": "learned"},
    ):
        states = build(**over)(IDS, LENGTHS).states
        assert states.shape != plain.states.shape or not torch.allclose(states, plain.states), over
    for over in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"mask_rate": 0.5}):
        module = build(**over).train()
        assert not torch.equal(module(IDS, LENGTHS).states, module(IDS, LENGTHS).states), over


def test_sines_reach_any_length_and_learned_positions_say_where_they_end() -> None:
    long = torch.zeros(1, 3000).long(), torch.tensor([3000])
    assert build()(*long).states.shape == (1, 3000, 8)
    with pytest.raises(DataError, match="3000 steps and the network has 2048 positions"):
        build(positions="learned")(*long)
    assert build(positions="learned", max_positions=3000)(*long).states.shape[1] == 3000
    fixed = FeatureSpec("tokens", 9, 100.0, 400)
    assert len(build(fixed, positions="learned", stride=4).state_dict()["table"]) == 100
    with pytest.raises(ConfigError, match="400 steps and the network 200 positions"):
        build(fixed, positions="learned", max_positions=200)


def test_depths_run_from_the_vectors_to_the_last_norm() -> None:
    module = build(depth=3)
    found = [module.depth_of(name) for name, _ in module.named_parameters()]
    assert sorted(set(found)) == [0, 1, 2, 3, 4]
    assert module.num_depths == 5


@pytest.mark.parametrize("over", [{"dim": 9}, {"num_heads": 3}, {"max_positions": 5}])
def test_impossible_settings_are_refused(over: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        BertBackbone.model_validate({**SMALL, **over})
