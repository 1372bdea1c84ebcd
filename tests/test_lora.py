"""Low-rank adapters: they start as nothing, they alone learn, and they reach every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harken.backbones.lora import Lora
from harken.backbones.speech import SpeechModule
from harken.errors import ConfigError
from test_encoders import features, module
from test_speech import EACH


def adapters(built: SpeechModule) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in built.named_parameters() if ".lora_" in name}


def output(built: SpeechModule, family: str) -> torch.Tensor:
    with torch.no_grad():
        return built(*features(family, 0.6)).states


@pytest.mark.parametrize("family", EACH)
def test_adapters_begin_as_nothing_and_reach_the_output(family: str) -> None:
    plain, built = module(family), module(family, lora={"rank": 2})
    torch.testing.assert_close(output(plain, family), output(built, family))
    assert {n for n, p in built.named_parameters() if p.requires_grad} == set(adapters(built))
    before = output(built, family)
    hidden = built(*features(family, 0.6))
    hidden.states.square().sum().backward()
    outer = {name: p for name, p in adapters(built).items() if "lora_B" in name}
    assert len(outer) == 4
    with torch.no_grad():
        for name, parameter in outer.items():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name
            parameter.add_(0.5)
    assert not torch.allclose(output(built, family), before, atol=1e-3)


def test_every_option_changes_something() -> None:
    def changed(**options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        built = module("wav2vec2", lora={"rank": 2, **options})
        with torch.no_grad():
            for name, parameter in adapters(built).items():
                parameter.fill_(0.3 if "lora_A" in name else 0.5)
        built.train()
        torch.manual_seed(1)
        return built(*features("wav2vec2", 0.6)).states

    base = changed()
    for options in ({"rank": 3}, {"alpha": 4.0}, {"dropout": 0.5}, {"targets": ["k_proj"]}):
        assert not torch.allclose(base, changed(**options)), options
    assert torch.equal(base, changed())


def test_counts_of_what_learns() -> None:
    built = module("wav2vec2", lora={"rank": 4, "targets": ["q_proj", "output_dense"]})
    # Two blocks; a product of (32, 4) and (4, 32), and one of (48, 4) and (4, 32).
    wanted = 2 * (4 * (32 + 32) + 4 * (48 + 32))
    assert sum(p.numel() for p in built.parameters() if p.requires_grad) == wanted
    upper = module("wav2vec2", lora={"rank": 4}, freeze=1)
    assert {name.split("layers.")[1][0] for name in adapters(upper)} == {"1"}
    assert upper.still == 3


def test_the_state_dict_rebuilds_strictly() -> None:
    one, two = (module("wavlm", lora={"rank": 2}) for _ in range(2))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    two.load_state_dict(one.state_dict(), strict=True)
    assert torch.equal(output(one, "wavlm"), output(two, "wavlm"))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"have no dense layer 'query'; they have .*q_proj"
    ) as error:
        module("wav2vec2", lora={"targets": ["q_proj", "query"]})
    assert error.value.where == "backbone.lora.targets"
    for wrong in ({"rank": 0}, {"targets": []}, {"dropout": 1.0}, {"rang": 2}):
        with pytest.raises(ValidationError):
            Lora.model_validate(wrong)
    with pytest.raises(ConfigError, match="no block is left to adapt"):
        module("wav2vec2", lora={"rank": 2}, freeze=2)
    with pytest.raises(ValidationError, match="lora learns nothing with freeze: all"):
        module("wav2vec2", lora={"rank": 2}, freeze="all")
    with pytest.raises(ConfigError, match="no block is left to adapt"):
        module("wav2vec2", layer=0, lora={"rank": 2})
