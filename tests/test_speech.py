"""The backbone `speech`: layers, sums, freezing, checkpointing, and every option of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from pydantic import ValidationError
from torch import Tensor

from harken.backbones import Hidden, SpeechBackbone
from harken.backbones.speech import SpeechModule
from harken.errors import ConfigError
from harken.frontends import FeatureSpec, Waveform
from harken.pooling import MeanMaxPooling, MeanPooling
from harken.recipe import read_recipe
from test_encoders import backbone, features, frontend, module
from test_trainer import tiny_recipe
from tiny_checkpoints import tiny_checkpoint

EACH = [
    "wav2vec2",
    "wav2vec2-large",
    "wavlm",
    "data2vec-audio",
    "sew",
    "sew-d",
    "whisper",
    "audio-spectrogram-transformer",
    "wav2vec2-bert",
]
"""One of everything that is walked in its own way."""

QUIET = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time": 0.0,
}
"""A wav2vec 2.0 without anything random."""

LACKS = {
    "whisper": {"mask_time"},
    "audio-spectrogram-transformer": {"mask_time", "activation_dropout"},
}


def quiet(family: str) -> dict[str, float]:
    return {name: zero for name, zero in QUIET.items() if name not in LACKS.get(family, ())}


def trained(built: SpeechModule, steps: int = 3) -> SpeechModule:
    """Take some steps of a toy task."""
    built.train()
    x, lengths = features("wav2vec2", 0.5, 0.4)
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        hidden = built(x, lengths)
        loss = built.merge(MeanPooling().build(built)(hidden)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return built


def weights(built: SpeechModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in built.state_dict().items()}


def merged(built: SpeechModule, hidden: Hidden) -> Tensor:
    return built.merge(MeanPooling().build(built)(hidden))


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("kind", ["raw", "softmax"])
def test_a_weighted_sum_begins_as_the_mean_over_the_hidden_states(family: str, kind: str) -> None:
    x, lengths = features(family, 0.8, 0.5)
    built = module(family, weighted=kind)
    layers = [module(family, layer=layer) for layer in range(3)]
    wanted = torch.stack([merged(layer, layer(x, lengths)) for layer in layers]).mean(0)
    hidden = built(x, lengths)
    assert built.dim == hidden.states.shape[2] == 96
    assert built.merged_dim(built.dim) == 32
    torch.testing.assert_close(merged(built, hidden), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(built.describe()["layer_weights"], [1 / 3] * 3)


def test_the_weights_of_a_sum_are_learned_and_told() -> None:
    built = trained(module("wav2vec2", weighted="softmax", freeze="all"))
    told = built.describe()
    assert told["encoder"] == "wav2vec2"
    assert sum(told["layer_weights"]) == pytest.approx(1.0)
    assert len(set(told["layer_weights"])) > 1
    wide = MeanMaxPooling().build(built)
    assert built.merge(wide(built(*features("wav2vec2", 0.5)))).shape == (1, 64)
    assert built.merged_dim(wide.dim) == 64


FREEZES: list[dict[str, Any]] = [
    {"freeze": "feature_encoder"},
    {"freeze": 1},
    {"freeze": 2},
    {"freeze": "all"},
    {"freeze": 1, "weighted": "raw"},
    {"freeze": "all", "weighted": "raw"},
    {"freeze": "all", "layer": 1},
    {"freeze": "feature_encoder", "weighted": "raw"},
]


@pytest.mark.parametrize("options", FREEZES, ids=str)
def test_what_is_frozen_keeps_its_weights_and_its_randomness_off(options: dict[str, Any]) -> None:
    config = backbone("wav2vec2").resolved().config or {}
    built = module("wav2vec2", config={**config, "hidden_dropout": 0.3}, **options)
    before = weights(built)
    if built.frozen == "part" or built.mix is not None:
        trained(built)
    after = weights(built)
    for name, value in before.items():
        depth = built.depth_of(name)
        still = (built.frozen == "all" and depth < built.num_depths) or depth < built.still
        if still:
            assert torch.equal(value, after[name]), name
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert bool(changed) == (built.frozen == "part" or built.mix is not None)
    for name, parameter in built.named_parameters():
        assert parameter.requires_grad == (built.depth_of(name) >= built.still or "mix" in name)
    built.train()
    x, lengths = features("wav2vec2", 0.5, 0.4)
    (first, counts), (second, _) = built.lower(x, lengths), built.lower(x, lengths)
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert not first.requires_grad
    beyond = torch.arange(first.shape[2]) >= counts[:, None]
    assert (first.masked_select(beyond[:, None]) == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize("options", [FREEZES[n] for n in (0, 3, 4)], ids=str)
def test_the_frozen_and_the_learning_part_make_the_whole(
    family: str, options: dict[str, Any]
) -> None:
    frozen = module(family, **options)
    whole = module(family, **{k: v for k, v in options.items() if k != "freeze"})
    x, lengths = features(family, 0.9, 0.5)
    states, counts = frozen.lower(x, lengths)
    assert states.shape[0] == 2
    assert states.shape[2] >= int(counts.max())
    mine, wanted = frozen.upper(states, counts), whole(x, lengths)
    assert torch.equal(mine.mask, wanted.mask)
    assert mine.grid == wanted.grid
    torch.testing.assert_close(
        mine.states[mine.mask], wanted.states[wanted.mask], atol=1e-5, rtol=1e-5
    )
    # A kept clip is cut to its length and padded again to its next batch.
    short = frozen.upper(states[1:, :, : int(counts[1])], counts[1:])
    torch.testing.assert_close(
        short.states[short.mask], wanted.states[1][wanted.mask[1]], atol=1e-5, rtol=1e-5
    )
    if wanted.cls is not None and mine.cls is not None and short.cls is not None:
        torch.testing.assert_close(mine.cls, wanted.cls, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(short.cls[0], wanted.cls[1], atol=1e-5, rtol=1e-5)


def test_adapters_leave_the_convolutions_still() -> None:
    built = module("wav2vec2", lora={"rank": 2})
    assert (built.frozen, built.still) == ("part", 1)


def test_nothing_left_to_learn_is_all() -> None:
    assert module("wav2vec2", freeze=2).frozen == "all"
    assert module("wav2vec2-large", freeze=2).frozen == "part"  # its last norm learns
    assert module("wav2vec2-large", freeze=2, layer=2).frozen == "all"


@pytest.mark.parametrize("family", EACH)
def test_gradient_checkpointing_is_on_and_changes_no_gradient(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harken.backbones.speech as speech

    calls: list[str] = []
    real = torch.utils.checkpoint.checkpoint

    def counted(step: Any, *inputs: Any, **options: Any) -> Any:
        calls.append(step.__name__)
        return real(step, *inputs, **options)

    monkeypatch.setattr(speech, "recompute", counted)
    zero = quiet(family)
    grads = []
    for on in (False, True):
        built = module(family, gradient_checkpointing=on, **zero).train()
        hidden = built(*features(family, 0.6, 0.5))
        hidden.states.square().sum().backward()
        grads.append({n: p.grad for n, p in built.named_parameters()})
    assert calls == ["extract", "block", "block"]
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert (grad is None) == (other is None)
        if grad is not None and other is not None:
            assert torch.equal(grad, other), name
    with torch.no_grad():
        built(*features(family, 0.6))
    assert len(calls) == 3


@pytest.mark.parametrize("family", EACH)
def test_every_random_option_changes_training_and_only_training(family: str) -> None:
    zero = quiet(family)
    x, lengths = features(family, 0.9, 0.6)

    with torch.no_grad():
        base = module(family, **zero)(x, lengths).states
        for option in [*zero, *(["mask_feature"] if "mask_time" in zero else [])]:
            built = module(family, **{**zero, option: 0.6})
            torch.testing.assert_close(built(x, lengths).states, base)
            built.train()
            torch.manual_seed(5)
            first = built(x, lengths).states
            assert not torch.allclose(base, first), option
            torch.manual_seed(5)
            assert torch.equal(built(x, lengths).states, first), option


@pytest.mark.parametrize("family", LACKS)
def test_settings_that_a_family_does_not_have_are_refused(family: str) -> None:
    for option in LACKS[family]:
        with pytest.raises(ConfigError, match="has no such setting") as error:
            module(family, **{option: 0.0})
        assert error.value.where == f"backbone.{option}"


def test_a_config_without_checkpoint_starts_from_random_weights() -> None:
    settings = backbone("wav2vec2").resolved().config
    assert settings is not None
    chosen = SpeechBackbone(config={**settings, "hidden_size": 16})
    assert chosen.resolved() == chosen
    torch.manual_seed(0)
    one = chosen.build(frontend("wav2vec2").spec)
    torch.manual_seed(0)
    two = chosen.build(frontend("wav2vec2").spec)
    assert one.dim == 16
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert chosen.default_frontend() == backbone("wav2vec2").default_frontend()


@pytest.mark.parametrize("family", EACH)
@pytest.mark.parametrize(
    "options", [{"layer": 1, "mask_time": 0.2}, {"weighted": "raw", "freeze": 1}], ids=str
)
def test_the_resolved_config_rebuilds_without_the_checkpoint(
    family: str, options: dict[str, Any]
) -> None:
    options = {k: v for k, v in options.items() if k not in LACKS.get(family, ())}
    chosen = backbone(family, **options).resolved()
    original = chosen.build(frontend(family).spec)
    alone = SpeechBackbone.model_validate({**chosen.model_dump(), "checkpoint": None})
    copy = alone.build(frontend(family).spec)
    copy.load_state_dict(original.state_dict(), strict=True)
    x, lengths = features(family, 0.6)
    with torch.no_grad():
        assert torch.equal(original.eval()(x, lengths).states, copy.eval()(x, lengths).states)


def test_layers_out_of_range_are_refused() -> None:
    spec = frontend("wav2vec2").spec
    with pytest.raises(ConfigError, match="no hidden state 3: there are 0 to 2") as error:
        backbone("wav2vec2", layer=3).build(spec)
    assert error.value.where == "backbone.layer"
    with pytest.raises(ConfigError, match="2 blocks cannot be frozen: 1 are used") as error:
        backbone("wav2vec2", layer=1, freeze=2).build(spec)
    assert error.value.where == "backbone.freeze"


def test_contradictions_are_refused() -> None:
    for options, text in (
        ({"layer": -2}, "greater than or equal to -1"),
        ({"freeze": 0}, "freeze"),
        ({"freeze": "some"}, "freeze"),
        ({"weighted": "raw", "layer": 1}, "layer does nothing with weighted"),
        ({"freeze": "all", "gradient_checkpointing": True}, "does nothing with freeze: all"),
        ({"freeze": "all", "hidden_dropout": 0.1}, "hidden_dropout does nothing with freeze: all"),
        ({"freeze": "all", "layerdrop": 0.1}, "layerdrop does nothing with freeze: all"),
        ({"freeze": 3, "mask_time": 0.1}, "mask_time does nothing with freeze: 3; leave it out"),
        ({"weightd": "raw"}, "did you mean 'weighted'"),
    ):
        with pytest.raises(ValidationError, match=text):
            SpeechBackbone(checkpoint="x", **options)
    with pytest.raises(ValidationError, match="give a checkpoint, or a config"):
        SpeechBackbone()


def test_unknown_encoders_are_refused_with_the_known_ones() -> None:
    spec = FeatureSpec("waveform", 1, 16000.0, None)
    with pytest.raises(
        ConfigError, match=r"did you mean 'wav2vec2'.*; there are .*whisper"
    ) as error:
        SpeechBackbone(config={"model_type": "wav2vec"}).build(spec)
    assert error.value.where == "backbone.config.model_type"
    with pytest.raises(ConfigError, match="encoders with add_adapter are not known"):
        SpeechBackbone(config={"model_type": "wav2vec2", "add_adapter": True}).build(spec)
    with pytest.raises(ConfigError, match="transformers refuses this architecture"):
        SpeechBackbone(config={"model_type": "wav2vec2", "hidden_size": "wide"}).build(spec)
    with pytest.raises(ConfigError, match="whisper has no such setting") as error:
        module("whisper", mask_time=0.1)
    assert error.value.fix == "augment with spec_mask instead"


@pytest.mark.parametrize("family", EACH)
def test_depths_rise_from_the_input_to_the_output(family: str) -> None:
    built = module(family, weighted="raw")
    assert built.num_depths == 5
    found = {built.depth_of(name) for name, _ in built.named_parameters()}
    assert {0, 1, 2, 3, 5} <= found <= {0, 1, 2, 3, 4, 5}
    assert built.depth_of("mix.scores") == 5


@pytest.mark.parametrize("family", EACH)
def test_bfloat16_trains(family: str) -> None:
    built = module(family, **quiet(family)).train()
    x, lengths = features(family, 0.6, 0.5)
    exact = built(x, lengths).states.detach()
    with torch.autocast("cpu", torch.bfloat16):
        rough = built(x, lengths).states
    error = (rough.detach().float() - exact).abs().mean() / exact.abs().mean()
    assert 1e-6 < error < 0.1
    rough.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize(
    ("family", "options"),
    [("wav2vec2", {"freeze": "all", "weighted": "softmax"}), ("wavlm", {"lora": {"rank": 2}})],
    ids=["frozen", "lora"],
)
def test_a_run_is_read_back_without_its_checkpoint(
    tmp_path: Path, tiny_table: Path, family: str, options: dict[str, Any]
) -> None:
    from harken.predictor import load
    from harken.verbs.train import train

    folder = tiny_checkpoint(tmp_path / "encoder", family)
    sections: dict[str, Any] = {
        "backbone": {"kind": "speech", "checkpoint": str(folder), **options},
        "audio": {"clip_seconds": 0.3},
        "frontend": None,
        "augment": [],
        "mix": None,
        "optimizer": {"kind": "adamw", "lr": 1e-3, "head_lr": 0.01},
        "train": {"epochs": 2, "batch_size": 6, "ema": 0.9},
    }
    run = train(tiny_recipe(tiny_table, **sections), tmp_path / "run", folds=["1"])
    shutil.rmtree(folder)
    clip = str(tiny_table.parent / "high_0_0.wav")
    scores = load(run.path).predict([clip])
    assert scores["error"].to_list() == [None]
    # The front-end of the checkpoint stands in the run's own recipe.
    saved = read_recipe([tmp_path / "run" / "recipe.yaml"])
    assert saved.frontend == Waveform()
    assert isinstance(saved.backbone, SpeechBackbone)
    assert saved.backbone.config is not None
