from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from harken.backbones import TimmBackbone
from harken.backbones.timm import TimmModule, inspect_network
from harken.errors import ConfigError, MissingExtraError
from harken.frontends.frontend import FeatureSpec

timm = pytest.importorskip("timm")

SPEC = FeatureSpec("spectrogram", 64, 100.0, 100)
VIT: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2}
SWIN: dict[str, Any] = {"depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 1, 1]}
SMALL_VIT = {"name": "vit_tiny_patch16_224", "options": VIT}

# name, options, (rows, columns), columns of a clip of 50 frames, class token
FAMILIES: list[tuple[str, dict[str, Any], tuple[int, int], int, bool]] = [
    ("resnet10t", {}, (2, 4), 2, False),
    ("mobilenetv3_small_050", {}, (2, 4), 2, False),
    ("efficientnet_b0", {}, (2, 4), 2, False),
    ("convnext_atto", {}, (2, 3), 2, False),
    ("vit_tiny_patch16_224", VIT, (4, 7), 4, True),
    ("eva02_tiny_patch14_224", VIT, (5, 8), 4, True),
    ("deit3_small_patch16_224", VIT, (4, 7), 4, True),
    ("deit_tiny_distilled_patch16_224", VIT, (4, 7), 4, True),
    ("vit_medium_patch16_reg4_gap_256", VIT, (4, 7), 4, False),
    ("swin_tiny_patch4_window7_224", SWIN, (2, 4), 2, False),
    ("mixer_s32_224", {}, (2, 4), 2, False),
    ("levit_128s", {}, (1, 2), 1, False),
    ("efficientvit_b0", {}, (2, 4), 2, False),
    ("fastvit_t8", {}, (2, 4), 2, False),
    ("mambaout_femto", {}, (2, 4), 2, False),
    ("pit_ti_224", {}, (1, 1), 1, True),
]


def make(**options: Any) -> TimmModule:
    torch.manual_seed(0)
    module = TimmBackbone(**options).build(SPEC)
    assert isinstance(module, TimmModule)
    return module


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(2, 64, 100, generator=torch.Generator().manual_seed(0))
    features[1, :, 50:] = 0
    return features, torch.tensor([100, 50])


@pytest.mark.parametrize(
    ("name", "options", "grid", "columns", "has_cls"), FAMILIES, ids=[f[0] for f in FAMILIES]
)
def test_families_run_and_every_trained_parameter_gets_a_gradient(
    name: str, options: dict[str, Any], grid: tuple[int, int], columns: int, has_cls: bool
) -> None:
    module = make(name=name, options=options).train()
    hidden = module(*clips())
    assert hidden.grid == grid
    assert hidden.states.shape == (2, grid[0] * grid[1], module.dim)
    assert hidden.mask[0].all()
    assert hidden.mask[1].view(grid).sum(1).tolist() == [columns] * grid[0]
    assert (hidden.cls is not None) == module.has_cls == has_cls
    (hidden.states.square().mean() + (0 if hidden.cls is None else hidden.cls.mean())).backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    names = [key for key, p in module.named_parameters() if not p.requires_grad]
    assert all(".head." in key for key in names), names


@pytest.mark.parametrize(
    "options",
    [SMALL_VIT, {"name": "resnet10t"}, {"name": "mambaout_femto"}],
    ids=lambda o: o["name"],
)
def test_columns_follow_time_and_rows_follow_frequency(options: dict[str, Any]) -> None:
    """A change in the last frames or highest bins moves the corner of the map that it lies in."""
    module = make(**options).eval()
    rows, columns = module.layout.grid
    features, lengths = torch.zeros(1, 64, 100), torch.tensor([100])
    for bins, frames, corner in (
        (slice(0, 8), slice(0, 8), (0, 0)),
        (slice(56, 64), slice(92, 100), (-1, -1)),
    ):
        changed = features.clone()
        changed[:, bins, frames] = 5.0
        with torch.inference_mode():
            before, after = module(features, lengths), module(changed, lengths)
        moved = (after.states - before.states).norm(dim=2).view(rows, columns)
        # The stem's own response, before later layers spread it: the corner moves most.
        assert moved[corner] > moved.median()
        assert moved[corner] > 0.999 * moved[0, -1]
        assert moved[corner] > 0.999 * moved[-1, 0]


def test_the_network_is_timms() -> None:
    module = make(name="resnet10t").eval()
    network = timm.create_model("resnet10t", in_chans=1, num_classes=0, global_pool="").eval()
    network.load_state_dict(module.network.state_dict(), strict=True)
    features, lengths = clips()
    expected = network(features[:, None]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(features, lengths).states, expected)


def test_options_reach_the_network() -> None:
    assert make(name="resnet10t").dim == 512
    assert make(**SMALL_VIT).dim == 24
    assert len(make(**SMALL_VIT).network.blocks) == 2


def test_drop_path_acts_in_training_only_and_is_refused_where_there_is_none() -> None:
    module = make(name="resnet10t", drop_path=0.5, options={"zero_init_last": False})
    features, lengths = clips()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    torch.manual_seed(0)
    draws = [module.train()(features, lengths).states for _ in range(4)]
    assert any(not torch.allclose(draws[0], draw) for draw in draws[1:])
    assert torch.equal(module.eval()(features, lengths).states, module(features, lengths).states)
    with pytest.raises(ConfigError, match=r"backbone\.drop_path: vgg11 has no stochastic depth"):
        make(name="vgg11", drop_path=0.5)


def test_training_mode_survives_the_inspection() -> None:
    network = timm.create_model("resnet10t", in_chans=1, num_classes=0, global_pool="")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    inspect_network(network, (64, 100))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone\.name: timm has no network 'resnet81' → .*resnet18"
    ):
        make(name="resnet81")


def test_an_unknown_option_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.options: .*'breadth'"):
        make(name="resnet10t", options={"breadth": 3})


def test_a_network_that_cannot_read_the_size_is_reported() -> None:
    with pytest.raises(
        ConfigError, match=r"nest_tiny cannot read a spectrogram of 64 × 100: .*square"
    ):
        make(name="nest_tiny")


@pytest.mark.parametrize("key", ["num_classes", "in_chans", "drop_rate", "pretrained"])
def test_options_that_harken_sets_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=f"'{key}' cannot be set here"):
        TimmBackbone(name="resnet10t", options={key: 1})


def test_two_sources_of_weights_are_refused() -> None:
    with pytest.raises(ValidationError, match="either pretrained or checkpoint"):
        TimmBackbone(name="resnet10t", pretrained=True, checkpoint="x.safetensors")


def test_a_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harken\[timm\]'"):
        make(name="resnet10t")


def test_an_unreachable_hub_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    with pytest.raises(
        ConfigError, match=r"backbone\.pretrained: the weights of .* → .*checkpoint="
    ):
        make(name="resnet10t", pretrained=True)


def test_hub_weights_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's part is played by a timm whose `pretrained` networks hold only sevens."""
    create = timm.create_model

    def fetch(name: str, pretrained: bool = False, **arguments: Any) -> Any:
        network = create(name, pretrained=False, **arguments)
        for parameter in network.parameters():
            parameter.data.fill_(7.0 if pretrained else 0.0)
        return network

    monkeypatch.setattr(timm, "create_model", fetch)
    assert {p.mean().item() for p in make(name="resnet10t", pretrained=True).parameters()} == {7.0}
    assert {p.mean().item() for p in make(name="resnet10t").parameters()} == {0.0}


def colour_weights(path: Path, name: str, **options: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """Weights of a timm network for colour images with its classifier, as the hub has them."""
    torch.manual_seed(5)
    state = timm.create_model(name, **options).state_dict()
    save_file(state, path / "weights.safetensors")
    return str(path / "weights.safetensors"), state


def test_a_checkpoint_of_colour_images_fits(tmp_path: Path) -> None:
    file, state = colour_weights(tmp_path, "resnet10t")
    loaded = make(name="resnet10t", checkpoint=file).network.state_dict()
    stem = loaded.pop("conv1.0.weight")
    torch.testing.assert_close(stem, state["conv1.0.weight"].sum(1, keepdim=True))
    assert not any(key.startswith("fc") for key in loaded)
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_checkpoint_with_a_nested_classifier_and_another_image_size_fits(tmp_path: Path) -> None:
    file, state = colour_weights(tmp_path, "vit_tiny_patch16_224", **VIT)
    loaded = make(**SMALL_VIT, checkpoint=file).network.state_dict()
    assert state["pos_embed"].shape == (1, 197, 24)
    assert loaded["pos_embed"].shape == (1, 29, 24)
    assert torch.equal(loaded["blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
    file, state = colour_weights(tmp_path, "convnext_atto")
    loaded = make(name="convnext_atto", checkpoint=file).network.state_dict()
    assert torch.equal(loaded["head.norm.weight"], state["head.norm.weight"])


def test_harkens_own_weights_fit(tmp_path: Path) -> None:
    module = make(name="resnet10t")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    save_file(module.network.state_dict(), tmp_path / "own.safetensors")
    twin = make(name="resnet10t", checkpoint=str(tmp_path / "own.safetensors"))
    for key, value in twin.state_dict().items():
        assert torch.equal(value, module.state_dict()[key]), key


def test_weights_of_another_network_are_refused_with_their_keys(tmp_path: Path) -> None:
    file, state = colour_weights(tmp_path, "resnet10t")
    with pytest.raises(
        ConfigError, match=r"backbone\.checkpoint: .* does not fit the network: .* more"
    ):
        make(name="mobilenetv3_small_050", checkpoint=file)
    del state["bn1.weight"]
    state["extra"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(3)
    save_file(state, file)
    with pytest.raises(ConfigError) as caught:
        make(name="resnet10t", checkpoint=file)
    text = str(caught.value)
    assert "bn1.weight missing; extra unknown; bn1.bias is (3,), not (64,)" in text


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle"])
def test_unreadable_weights_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"backbone\.checkpoint: .*weights\.safetensors"):
        make(name="resnet10t", checkpoint=str(file))
