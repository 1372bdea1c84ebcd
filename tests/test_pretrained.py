"""Checkpoints by folder, bucket and hub id, and what is said when they are not there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from harken.backbones import SpeechBackbone
from harken.backbones.pretrained import architecture, preprocessor
from harken.errors import ConfigError, MissingExtraError
from harken.frontends import FeatureSpec, Waveform
from test_encoders import features, module
from tiny_checkpoints import shared_checkpoint, tiny_checkpoint

SPEC = FeatureSpec("waveform", 1, 16000.0, None)


def states(checkpoint: str, **options: Any) -> torch.Tensor:
    built = SpeechBackbone(checkpoint=checkpoint, **options).build(SPEC).eval()
    with torch.no_grad():
        return built(*features("wav2vec2", 0.5)).states


def refusal(checkpoint: str, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        SpeechBackbone(checkpoint=checkpoint, **options).resolved().build(SPEC)
    assert "\n" not in str(error.value)
    assert error.value.where is not None
    assert error.value.where.startswith(("backbone.", "audio."))
    return error.value


def test_the_architecture_says_what_the_encoder_is_and_nothing_else() -> None:
    found = architecture(str(shared_checkpoint("wav2vec2")))
    assert found["model_type"] == "wav2vec2"
    assert (found["hidden_size"], found["num_hidden_layers"]) == (32, 2)
    assert not {"architectures", "transformers_version", "vocab_size", "pad_token_id"} & set(found)
    assert json.loads(json.dumps(found)) == found


def test_a_rate_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_checkpoint("hubert"), tmp_path / "music")
    settings = preprocessor(str(folder)) | {"sampling_rate": 24000, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    chosen = SpeechBackbone(checkpoint=str(folder)).resolved()
    assert chosen.config is not None
    assert chosen.config["sampling_rate"] == 24000
    assert chosen.default_frontend() == Waveform(normalize="none")
    assert chosen.build(FeatureSpec("waveform", 1, 24000.0, None)).dim == 32
    assert "made for 24000 Hz and would get 16000" in refusal(str(folder)).message


def test_a_bucket_gives_what_a_folder_gives(tmp_path: Path) -> None:
    folder = shared_checkpoint("wav2vec2")
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe_file(f"/models/tiny/{file.name}", file.read_bytes())
    url = "memory://models/tiny"
    assert torch.equal(states(url), states(str(folder)))
    assert SpeechBackbone(checkpoint=url).resolved().config == architecture(str(folder))
    # Weights in several files, as large models are saved.
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for name, keys in parts.items():
        save_file({key: weights[key] for key in keys}, tmp_path / name, {"format": "pt"})
        memory.pipe_file(f"/models/parts/{name}", (tmp_path / name).read_bytes())
    index = {"metadata": {}, "weight_map": {k: n for n, keys in parts.items() for k in keys}}
    memory.pipe_file("/models/parts/model.safetensors.index.json", json.dumps(index).encode())
    memory.pipe_file("/models/parts/config.json", (folder / "config.json").read_bytes())
    assert torch.equal(states("memory://models/parts"), states(str(folder)))
    memory.rm_file("/models/parts/model.safetensors.index.json")
    assert "neither model.safetensors nor" in refusal("memory://models/parts").message
    assert "there is no such folder" in refusal("memory://models/nothing").message


def test_only_what_is_used_is_loaded() -> None:
    one = module("wav2vec2", layer=1)
    both = module("wav2vec2")
    lost = set(both.state_dict()) - set(one.state_dict())
    assert lost
    assert all(".layers.1." in name for name in lost)
    assert torch.equal(
        one.state_dict()["encoder.network.encoder.layers.0.layer_norm.weight"],
        both.state_dict()["encoder.network.encoder.layers.0.layer_norm.weight"],
    )


def test_the_hub_out_of_reach_says_how_to_give_a_folder() -> None:
    error = refusal("facebook/wav2vec2-base-960h")
    assert "no folder of that name here, and the hub did not give the checkpoint" in error.message
    assert error.fix is not None
    assert "hf download facebook/wav2vec2-base-960h --local-dir FOLDER" in error.fix
    assert "backbone.checkpoint=FOLDER" in error.fix


def test_a_hub_without_an_address_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants as hub

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ENDPOINT", "https://hub.invalid")
    assert "the hub did not give the checkpoint" in refusal("org/name").message
    assert "Retrying" not in capfd.readouterr().err


def test_wrong_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(f"{tmp_path}/nowhere").message
    (tmp_path / "empty").mkdir()
    error = refusal(str(tmp_path / "empty"))
    assert "has no config.json" in error.message
    assert error.fix is not None
    assert "config.json and model.safetensors" in error.fix
    folder = shutil.copytree(shared_checkpoint("wav2vec2"), tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    assert "weights cannot be read" in refusal(str(folder)).message
    (folder / "model.safetensors").unlink()
    assert "weights cannot be read" in refusal(str(folder)).message
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(str(folder)).message
    (folder / "config.json").write_text('{"model_type": 3}')
    assert "has no model_type" in refusal(str(folder)).message


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(shared_checkpoint("wav2vec2"), tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    gone = "encoder.layers.1.attention.q_proj.weight"
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors")
    assert f"do not fit the encoder: {gone} is missing" in refusal(str(folder)).message
    architecture_of_another = {**architecture(str(folder)), "intermediate_size": 40}
    error = refusal(str(shared_checkpoint("wav2vec2")), config=architecture_of_another)
    assert "has another shape" in error.message
    assert "and 3 more" in error.message


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "copy", "wav2vec2")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(states(str(folder)), states(str(shared_checkpoint("wav2vec2"))))

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({**weights, "trap": Trap()}, folder / "pytorch_model.bin")
    assert "weights cannot be read" in refusal(str(folder)).message
    assert not (tmp_path / "sprung").exists()


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harken\[hf\]'"):
        SpeechBackbone(config={"model_type": "wav2vec2"}).build(SPEC)
