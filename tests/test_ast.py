from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harken.backbones import AstBackbone
from harken.backbones.ast import AstModule, DropPath, Positions
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("spectrogram", 128, 99.6, 498)
SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2}


def make(spec: FeatureSpec = SPEC, **options: Any) -> AstModule:
    torch.manual_seed(0)
    module = AstBackbone(**{**SMALL, **options}).build(spec)
    assert isinstance(module, AstModule)
    return module


def run(module: AstModule, frames: int = 498) -> torch.Tensor:
    features = torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(0))
    states: torch.Tensor = module(features, torch.tensor([frames])).states
    return states


def test_128_by_498_gives_588_patches_and_a_class_token() -> None:
    module = make()
    hidden = module(torch.randn(2, 128, 498), torch.tensor([498, 498]))
    assert hidden.grid == (12, 49)
    assert hidden.states.shape == (2, 588, 16)
    assert hidden.cls is not None
    assert hidden.cls.shape == (2, 16)
    assert [tuple(t.shape) for t in module.positions.tables] == [(16, 12, 49)]


@pytest.mark.parametrize(
    ("frames", "columns"), [(1, 1), (15, 1), (16, 1), (25, 1), (26, 2), (498, 49)]
)
def test_a_patch_belongs_to_a_clip_if_it_lies_within(frames: int, columns: int) -> None:
    hidden = make()(torch.randn(2, 128, 498), torch.tensor([frames, 498]))
    assert hidden.mask[0].view(12, 49).sum(1).tolist() == [columns] * 12


@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": 8},
        {"patch_size": [128, 4]},
        {"patch_stride": 16},
        {"patch_stride": [16, 10]},
        {"depth": 3},
        {"num_heads": 4},
        {"mlp_ratio": 2.0},
        {"qkv_bias": False},
        {"cls_token": False},
        {"positions": "separable"},
        {"positions": "sincos"},
        {"max_seconds": 2.0},
        {"layer_scale": 0.1},
    ],
)
def test_each_option_changes_the_states(options: dict[str, Any]) -> None:
    plain, changed = run(make().eval()), run(make(**options).eval())
    assert plain.shape != changed.shape or not torch.allclose(plain, changed, atol=1e-4)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "drop_path"])
def test_each_dropout_acts_in_training_only(option: str) -> None:
    module = make(**{option: 0.5})
    torch.manual_seed(0)
    module.train()
    draws = [run(module) for _ in range(8)]
    assert any(not torch.equal(draws[0], draw) for draw in draws[1:])
    module.eval()
    assert torch.equal(run(module), run(module))


def test_drop_path_rises_with_depth_and_keeps_the_mean() -> None:
    module = make(depth=5, drop_path=0.4)
    rates = [block.drop_path.rate for block in module.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    kept = DropPath(0.4).train()(torch.ones(20000, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert kept.mean() == pytest.approx(1, abs=0.03)


def test_layer_scale_starts_at_its_value() -> None:
    block = make(layer_scale=1e-3).blocks[0]
    assert torch.equal(block.scale1, torch.full((16,), 1e-3))
    assert make().blocks[0].scale1 is None


def test_learned_positions_are_cut_for_short_clips() -> None:
    positions = Positions("learned", 3, 10, 8)
    table = positions.tables[0]
    assert torch.equal(positions(torch.tensor([4]), 4)[0], table[:, :, :4])


def test_a_longer_clip_stretches_the_table_over_its_own_length() -> None:
    positions = Positions("learned", 1, 5, 1)
    positions.tables[0].data = torch.arange(5.0).view(1, 1, 5)
    both = positions(torch.tensor([9, 4]), 9)[:, 0, 0]
    assert both[0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert both[1, :4].tolist() == [0, 1, 2, 3]


def test_separable_positions_are_a_row_plus_a_column() -> None:
    positions = Positions("separable", 3, 10, 8)
    row, column = positions.tables
    assert (row.numel(), column.numel()) == (24, 80)
    vectors = positions(torch.tensor([10]), 10)[0]
    torch.testing.assert_close(vectors[:, 2, 7], row[:, 2, 0] + column[:, 0, 7])


def test_sincos_positions_follow_the_formula_at_any_length() -> None:
    positions = Positions("sincos", 3, 10, 8)
    assert not list(positions.parameters())
    vectors = positions(torch.tensor([50]), 50)[0]
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    expected += [math.sin(47), math.sin(0.47), math.cos(47), math.cos(0.47)]
    torch.testing.assert_close(vectors[:, 2, 47], torch.tensor(expected))


@pytest.mark.parametrize(
    ("spec", "max_seconds", "columns"),
    [(498, None, 49), (None, None, 99), (None, 5.0, 49), (498, 10.0, 99)],
)
def test_the_table_is_as_long_as_the_clips(
    spec: int | None, max_seconds: float | None, columns: int
) -> None:
    module = make(FeatureSpec("spectrogram", 128, 99.6, spec), max_seconds=max_seconds)
    assert module.positions.tables[0].shape[2] == columns


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide dim 16"),
        ({"dim": 18, "positions": "sincos"}, "divisible by 4"),
        ({"positions": "sincos", "max_seconds": 3.0}, "max_seconds does nothing"),
        ({"depth": 1, "drop_path": 0.1}, "drop_path does nothing"),
        ({"patch_size": [16]}, "patch_size"),
        ({"patch_stride": 0}, "patch_stride"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        AstBackbone(**{**SMALL, **options})


def test_a_patch_higher_than_the_spectrogram_is_refused() -> None:
    with pytest.raises(ConfigError, match="a patch of 16 bins does not fit a spectrogram of 12"):
        make(FeatureSpec("spectrogram", 12, 100.0, 498))


def copy_block(block: nn.Module, theirs: nn.Module) -> None:
    """Take over a block of transformers' ASTModel."""
    weights = theirs.state_dict()
    qkv = [f"attention.{name}_proj" for name in "qkv"]
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "mlp.fc1"}
    names |= {"fc2": "mlp.fc2", "proj": "attention.o_proj"}
    state = {
        f"{ours}.{part}": weights[f"{name}.{part}"]
        for ours, name in names.items()
        for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        state[f"qkv.{part}"] = torch.cat([weights[f"{name}.{part}"] for name in qkv])
    block.load_state_dict(state, strict=True)


def test_parity_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_length=100,
        num_mel_bins=48,
        patch_size=16,
        frequency_stride=10,
        time_stride=10,
    )
    theirs = transformers.ASTModel(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours = make(FeatureSpec("spectrogram", 48, 100.0, 100), dim=32, depth=2, num_heads=4).eval()
    ours.norm.load_state_dict(theirs.layernorm.state_dict())
    ours.project.load_state_dict(theirs.embeddings.patch_embeddings.projection.state_dict())
    blocks = theirs.layers if hasattr(theirs, "layers") else theirs.encoder.layer
    for block, layer in zip(ours.blocks, blocks, strict=True):
        copy_block(block, layer)
    features = torch.randn(2, 48, 100)
    with torch.inference_mode():
        expected = theirs(features.transpose(1, 2)).last_hidden_state
        tokens = theirs.embeddings(features.transpose(1, 2))
        torch.testing.assert_close(ours.encode(tokens, None), expected, atol=1e-5, rtol=1e-5)
        patches = theirs.embeddings.patch_embeddings(features.transpose(1, 2))
        maps = ours.project(features[:, None]).flatten(2).transpose(1, 2)
        torch.testing.assert_close(maps, patches, atol=1e-5, rtol=1e-5)
