"""The contract that every backbone keeps, run over every registered kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harken.backbones import Backbone, BackboneModule, Hidden
from harken.choice import Config
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec
from harken.heads import Heads
from harken.pooling import ClsPooling, MeanPooling

BINS, FRAMES = 40, 96
SPEC = FeatureSpec("spectrogram", BINS, 100.0, FRAMES)

CONFIGS: dict[str, dict[str, Any]] = {
    "cnn": {"kind": "cnn", "widths": [8, 12], "convs_per_block": 2},
    "cnn-all": {
        "kind": "cnn",
        "widths": [8, 12],
        "pool": "max",
        "activation": "silu",
        "residual": True,
        "freq_channel": True,
        "dropout": 0.1,
    },
    "cnn-baseline": {"kind": "cnn", "style": "baseline"},
    "ast": {"kind": "ast", "dim": 24, "depth": 2, "num_heads": 2},
    "ast-all": {
        "kind": "ast",
        "patch_size": [20, 8],
        "patch_stride": [20, 6],
        "dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
        "qkv_bias": False,
        "cls_token": False,
        "positions": "separable",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "drop_path": 0.1,
        "layer_scale": 0.1,
    },
    "ast-sincos": {"kind": "ast", "dim": 24, "depth": 2, "num_heads": 2, "positions": "sincos"},
    # Residual branches that start at zero pass no gradient in the first step, so they do not here.
    "timm": {"kind": "timm", "name": "resnet10t", "options": {"zero_init_last": False}},
    "timm-vit": {
        "kind": "timm",
        "name": "vit_tiny_patch16_224",
        "options": {"depth": 2, "embed_dim": 24, "num_heads": 2},
    },
    # The families that read waveforms, or one rate only, are in test_encoders.
    "speech": {
        "kind": "speech",
        "config": {
            "model_type": "audio-spectrogram-transformer",
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_mel_bins": BINS,
            "max_length": FRAMES,
        },
    },
    # How they read tokens is in their own tests.
    "lstm": {"kind": "lstm", "dim": 8, "hidden": 6},
    "lstm-all": {
        "kind": "lstm",
        "dim": 8,
        "hidden": 6,
        "num_layers": 2,
        "bidirectional": False,
        "stride": 3,
        "dropout": 0.1,
        "mask_rate": 0.0,
        "activation": "relu",
    },
    "bert": {"kind": "bert", "dim": 24, "depth": 2, "num_heads": 2},
    "bert-all": {
        "kind": "bert",
        "dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 2,
        "stride": 3,
        "dropout": 0.2,
        "attention_dropout": 0.1,
    },
    "bert-learned": {"kind": "bert", "dim": 24, "depth": 1, "positions": "learned"},
    "bag": {"kind": "bag", "dim": 8},
    "mlp": {"kind": "mlp", "hidden": [16, 8]},
    "mlp-statistics": {"kind": "mlp", "summary": "statistics", "hidden": [16, 8]},
}
SEQUENCES = ("lstm", "bert", "bag")
ANY_LENGTH = [
    name
    for name in CONFIGS
    if name.startswith(("cnn", "ast", "mlp-", *SEQUENCES)) and "baseline" not in name
]


class Slot(Config):
    backbone: Backbone


def make(name: str, spec: FeatureSpec = SPEC) -> BackboneModule:
    torch.manual_seed(0)
    return Slot.model_validate({"backbone": CONFIGS[name]}).backbone.build(spec)


def clips(*lengths: int, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of several lengths, zero-padded; the same clip number is always the same noise."""
    features = torch.zeros(len(lengths), BINS, frames)
    for i, n in enumerate(lengths):
        noise = torch.randn(BINS, 2 * FRAMES, generator=torch.Generator().manual_seed(i))
        features[i, :, :n] = noise[:, :n]
    return features, torch.tensor(lengths)


def embed(module: BackboneModule, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The mean of a clip's own states, then the class token where there is one."""
    hidden = module(features, lengths)
    parts = [MeanPooling().build(module)(hidden)]
    if module.has_cls:
        parts.append(ClsPooling().build(module)(hidden))
    return torch.cat(parts, dim=1)


def test_every_kind_is_covered() -> None:
    own = {k for k, cls in Backbone.kinds().items() if cls.__module__.startswith("harken.")}
    assert own == {config["kind"] for config in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_agree(name: str) -> None:
    module = make(name)
    hidden = module(*clips(FRAMES, 50, 1))
    assert isinstance(hidden, Hidden)
    batch, frames, dim = hidden.states.shape
    assert (batch, dim) == (3, module.dim)
    assert hidden.mask.shape == (batch, frames)
    assert hidden.mask.dtype == torch.bool
    assert hidden.mask[0].all()
    assert hidden.mask.any(1).all()
    assert (hidden.cls is not None) == module.has_cls
    if hidden.grid is not None:
        rows, columns = hidden.grid
        assert rows * columns == frames
        per_row = hidden.mask.view(batch, rows, columns)
        assert torch.equal(per_row, per_row[:, :1].expand_as(per_row)), "rows differ in their mask"
    if hidden.cls is not None:
        assert hidden.cls.shape == (batch, dim)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [(FRAMES, FRAMES), (FRAMES, 60)])
def test_gradient_reaches_every_parameter(name: str, lengths: tuple[int, int]) -> None:
    module = make(name).train()
    features, frames = clips(*lengths)
    features.requires_grad_()
    embed(module, features, frames).square().sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
        assert parameter.grad.isfinite().all(), key
    assert features.grad is not None
    assert features.grad[0].abs().sum() > 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 17, 50, 95])
def test_padding_does_not_change_the_embedding(name: str, length: int) -> None:
    module = make(name).eval()
    with torch.inference_mode():
        alone = embed(module, *clips(length, frames=length))[0]
        padded = embed(module, *clips(length, frames=FRAMES))[0]
        batched = embed(module, *clips(length, FRAMES, 3))[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_longer_neighbours_do_not_change_the_embedding(name: str) -> None:
    spec = FeatureSpec("spectrogram", BINS, 10.0, None)
    module = make(name, spec).eval()
    with torch.inference_mode():
        alone = embed(module, *clips(150, frames=150))[0]
        batched = embed(module, *clips(150, 190, 20, frames=190))[0]
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_training_does_not_see_the_padding(name: str) -> None:
    module = make(name).train()
    for part in module.modules():
        part.p = 0.0 if isinstance(part, torch.nn.Dropout) else getattr(part, "p", None)
        if hasattr(part, "rate"):
            part.rate = 0.0
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.0
    short = embed(module, *clips(60, 41, frames=60))
    long = embed(module, *clips(60, 41, frames=FRAMES))
    torch.testing.assert_close(long, short, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_is_deterministic_and_listens(name: str) -> None:
    module = make(name).eval()
    features, lengths = clips(FRAMES, 70)
    with torch.inference_mode():
        first, second = embed(module, features, lengths), embed(module, features, lengths)
        other = embed(module, features.flip(0), lengths.flip(0))
    assert torch.equal(first, second)
    torch.testing.assert_close(other.flip(0), first, atol=1e-5, rtol=0)
    assert (first[0] - first[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_weights_give_equal_logits(name: str) -> None:
    module = make(name)
    module(*clips(FRAMES, 60))  # moves the running statistics of batch norms
    head = Heads().build(module.dim, [["a", "b", "c"]]).eval()
    torch.manual_seed(1)
    twin = Slot.model_validate({"backbone": CONFIGS[name]}).backbone.build(SPEC)
    twin.load_state_dict(module.state_dict(), strict=True)
    assert all(value.is_contiguous() for value in module.state_dict().values())
    features, lengths = clips(FRAMES, 33)
    pool = MeanPooling().build(module)
    with torch.inference_mode():
        logits, again = (head(pool(m.eval()(features, lengths))) for m in (module, twin))
    assert torch.equal(logits, again)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_round_trips(name: str) -> None:
    slot = Slot.model_validate({"backbone": CONFIGS[name]})
    assert Slot.model_validate(slot.model_dump()) == slot
    assert Slot.model_validate_json(slot.model_dump_json()) == slot


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["waveform", "tokens"])
def test_other_features_are_refused(name: str, kind: str) -> None:
    if kind == "tokens" and name.startswith(SEQUENCES):
        pytest.skip("sequence models read tokens")
    with pytest.raises(ConfigError, match=f"cannot read {kind} features"):
        make(name, FeatureSpec(kind, 1, 16000.0, 16000))


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - {*ANY_LENGTH, "speech"}))
def test_networks_of_one_size_need_clips_of_one_length(name: str) -> None:
    with pytest.raises(ConfigError, match=r"audio\.clip_seconds"):
        make(name, FeatureSpec("spectrogram", BINS, 100.0, None))


@pytest.mark.parametrize("name", CONFIGS)
def test_autocast_stays_near_float32(name: str) -> None:
    module = make(name).eval()
    features, lengths = clips(FRAMES, 70)
    with torch.inference_mode():
        exact = embed(module, features, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rough = embed(module, features, lengths)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max() + 0.02
