from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from harken.backbones.timm import TimmBackbone, TimmModule
from harken.errors import ConfigError
from harken.frontends.frontend import FeatureSpec

SPEC = FeatureSpec("spectrogram", 64, 100.0, 96)


def make(**options: Any) -> TimmModule:
    module = TimmBackbone(**{"name": "resnet18", **options}).build(SPEC)
    assert isinstance(module, TimmModule)
    return module.eval()


def of_torchvision() -> torch.nn.Module:
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None)
    for module in network.modules():  # statistics as after training, so that they show
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return of_torchvision()


@pytest.mark.parametrize(
    "name", ["weights.pth", "weights.pt", "weights.bin", "weights.safetensors"]
)
def test_torchvisions_weights_give_torchvisions_maps(
    network: torch.nn.Module, tmp_path: Path, name: str
) -> None:
    state, file = network.state_dict(), tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, file)
    else:
        torch.save(state, file)
    module = make(checkpoint=str(file))
    image = torch.randn(2, 64, 96)
    with torch.no_grad():
        found = module(image, torch.tensor([96, 96])).states
        x: Any = image[:, None].expand(-1, 3, -1, -1)
        for child in list(network.children())[:-2]:
            x = child(x)
    torch.testing.assert_close(found, x.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2"]
)
def test_torchvisions_residual_networks_have_timms_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().state_dict()
        ours = timm.create_model(name).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_a_wrapped_state_of_several_devices_fits(network: torch.nn.Module, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.pth")
    loaded = make(checkpoint=str(tmp_path / "last.pth")).network.state_dict()
    assert torch.equal(loaded["layer1.0.conv1.weight"], state["module.layer1.0.conv1.weight"])


def test_weights_of_another_depth_are_refused_by_their_names(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"layer1\.0\.conv3\.weight missing.* more"):
        make(name="resnet50", checkpoint=str(tmp_path / "weights.pth"))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/harken-trap"),))


def test_no_code_of_a_pickle_runs(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"backbone\.checkpoint: .*cannot be read as weights"):
        make(checkpoint=str(tmp_path / "weights.pth"))
    assert not Path("/tmp/harken-trap").exists()


@pytest.mark.parametrize(("name", "content"), [("a.pth", None), ("a.pth", b"no"), ("a.bin", b"")])
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"backbone\.checkpoint: .*" + name):
        make(checkpoint=str(tmp_path / name))
