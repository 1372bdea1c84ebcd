"""Imported models give the scores of the models they were, to four decimals and better."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

import harken
from conftest import make_noise, make_tone
from harken.checkpoint import RunFolder
from harken.cli import main
from harken.errors import ConfigError, DataError, HarkenError, RunError
from harken.verbs.import_legacy import import_legacy
from legacy_models import (
    ARGS_000,
    ARGS_001,
    GROUPS,
    OldSpeech,
    OldTimm,
    old_fbank,
    old_input,
    randomise,
    warm,
    write_arguments,
    write_weights,
)
from tiny_checkpoints import tiny_checkpoint

SIZES = [1, 2, 1]
NAMES = [name for group in GROUPS for name in group]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """A clip of the full length, a shorter and a longer one."""
    files = []
    for number, seconds in enumerate((1.0, 0.4, 1.7)):
        wave = make_tone(seconds, frequency=200 * (number + 1)) + make_noise(seconds, seed=number)
        soundfile.write(tmp_path / f"clip{number}.wav", 0.5 * wave, 16000, subtype="PCM_16")
        files.append(tmp_path / f"clip{number}.wav")
    return files


def waves(clips: list[Path]) -> list[np.ndarray[Any, Any]]:
    return [soundfile.read(file, dtype="float32")[0] for file in clips]


def scores(run: Path, clips: list[Path]) -> np.ndarray[Any, Any]:
    table = harken.load(run).predict(clips, on_bad="stop")
    return table.select(f"score_{name}" for name in NAMES).to_numpy()


def timm_inputs(clips: list[Path]) -> Tensor:
    settings = (16000, 16000, 128, 64, -4.2677, 4.569)
    return torch.stack([old_fbank(wave, *settings) for wave in waves(clips)])[:, None]


def speech_inputs(clips: list[Path]) -> Tensor:
    return torch.stack([old_input(wave, 16000) for wave in waves(clips)])


@torch.no_grad()
def old_scores(model: OldTimm | OldSpeech, x: Tensor) -> np.ndarray[Any, Any]:
    """Scores of the old model, whose heads are first scaled so that clips differ clearly."""
    spread = np.ptp(model(x).numpy(), axis=0).mean()
    for head in model.classifiers:
        head.head.out.weight.mul_(0.5 / spread)
        head.head.out.bias.zero_()
    logits = model(x)
    for number, head in enumerate(model.classifiers):
        start = sum(SIZES[:number])
        head.head.out.bias.sub_(logits.mean(0)[start : start + SIZES[number]])
    scores: np.ndarray[Any, Any] = model(x).sigmoid().numpy()
    assert np.ptp(scores, axis=0).mean() > 0.05
    return scores


@pytest.mark.parametrize(
    ("name", "shared", "layernorm", "zipped", "protocol"),
    [
        ("test_resnet", None, False, True, 4),
        ("test_resnet", 24, True, False, 2),
        ("test_efficientnet", 24, False, True, 5),
        ("tf_efficientnet_b0", None, True, True, 0),
    ],
)
def test_000(
    tmp_path: Path,
    clips: list[Path],
    name: str,
    shared: int | None,
    layernorm: bool,
    zipped: bool,
    protocol: int,
) -> None:
    model = warm(randomise(OldTimm(name, SIZES, shared, 16, layernorm)), timm_inputs(clips))
    expected = old_scores(model, timm_inputs(clips))
    arguments = write_arguments(
        tmp_path, ARGS_000, protocol, model_type=name, shared_dense=shared is not None,
        sd_bottleneck=shared or 768, layernorm=layernorm,
    )  # fmt: skip
    weights = write_weights(tmp_path, model, zipped=zipped)
    import_legacy(weights, arguments, tmp_path / "run")
    assert scores(tmp_path / "run", clips) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("wav2vec2", {}),
        ("wav2vec2", {"layer": 0}),
        ("wav2vec2", {"layer": 1, "pooling": "max", "layernorm": True}),
        ("wav2vec2", {"layer": 2, "pooling": "sum", "shared": 24}),
        ("wav2vec2", {"weighted": True, "shared": 24, "layernorm": True}),
        ("hubert", {"weighted": True}),
        ("wavlm", {}),
        ("wav2vec2-large", {"layer": 1}),
        ("wav2vec2-large", {}),
    ],
)
def test_001(tmp_path: Path, clips: list[Path], family: str, settings: dict[str, Any]) -> None:
    folder = tiny_checkpoint(tmp_path / "encoder", family)
    model = randomise(OldSpeech(folder, SIZES, **settings))
    if settings.get("weighted"):
        model.weightsum.data = torch.tensor([0.6, -0.2, 0.9])
    arguments = write_arguments(
        tmp_path, ARGS_001, checkpoint=str(folder), layer=settings.get("layer", -1),
        weighted=settings.get("weighted", False), pooling_mode=settings.get("pooling", "mean"),
        shared_dense="shared" in settings, sd_bottleneck=settings.get("shared", 768),
        layernorm=settings.get("layernorm", False),
    )  # fmt: skip
    expected = old_scores(model, speech_inputs(clips))
    found = import_legacy(write_weights(tmp_path, model), arguments, tmp_path / "run")
    assert scores(tmp_path / "run", clips) == pytest.approx(expected, abs=1e-4)
    assert any("model.projector.weight" in note for note in found.notes)


class Files:
    """A small model of 000 with its arguments."""

    def __init__(self, folder: Path, **over: Any) -> None:
        self.folder = folder
        self.model = randomise(OldTimm("test_resnet", SIZES, 24, 16))
        self.over = {"model_type": "test_resnet", "shared_dense": True, "sd_bottleneck": 24} | over
        self.weights = write_weights(folder, self.model)
        self.arguments = write_arguments(folder, ARGS_000, **self.over)

    def load(self, **options: Any) -> Any:
        return import_legacy(self.weights, self.arguments, self.folder / "run", **options)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_run_folder_says_what_the_old_files_said(files: Files, tmp_path: Path) -> None:
    found = files.load()
    run = tmp_path / "run"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["audio"]["channel"] == "sum"
    assert recipe["audio"]["clip_seconds"] == 1.0
    assert recipe["backbone"]["name"] == "test_resnet"
    assert recipe["heads"] == {
        "shared": 24, "bottleneck": 16, "layer_norm": False, "activation": None, "dropout": 0.3,
        "by": None, "bins": None,
    }  # fmt: skip
    assert recipe["data"]["target"]["groups"] == GROUPS
    assert recipe["optimizer"]["lr"] == 0.01
    assert recipe["schedule"]["kind"] == "onecycle"
    assert (recipe["mix"]["p"], recipe["mix"]["alpha"]) == (0.5, 10.0)
    assert recipe["augment"][0]["time_width"] == 12
    assert json.loads((run / "labels.json").read_text())["names"] == NAMES
    told = json.loads((run / "environment.json").read_text())["imported"]
    assert told["system"] == "000"
    assert told["arguments"]["max_lr"] == 0.01
    assert len(told["files"]["weights"]["sha256"]) == 64
    assert told["notes"] == found.notes
    assert any("followed by a ReLU" in note for note in found.notes)
    assert not (run / "last").exists()


def test_a_shared_layer_without_activation_is_folded_into_the_heads(
    files: Files, tmp_path: Path, clips: list[Path]
) -> None:
    del files.model.dense.relu
    expected = old_scores(files.model, timm_inputs(clips))
    files.weights = write_weights(tmp_path, files.model)
    files.load(shared_activation="none")
    assert scores(tmp_path / "run", clips) == pytest.approx(expected, abs=1e-4)
    files.load(overwrite=True)
    assert scores(tmp_path / "run", clips) != pytest.approx(expected, abs=1e-2)


def test_weights_from_several_gpus_and_wrapped_ones(files: Files, tmp_path: Path) -> None:
    state = files.model.state_dict()
    wrapped = {"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(wrapped, files.weights)
    files.load()
    run = RunFolder.open(tmp_path / "run")
    assert run.has("model.safetensors")


def renamed(files: Files, old: str, new: str) -> None:
    state = {k.replace(old, new): v for k, v in files.model.state_dict().items()}
    torch.save(state, files.weights)


def test_heads_of_other_names_are_told_by_their_shapes(files: Files, tmp_path: Path) -> None:
    files.load()
    one = (tmp_path / "run/model.safetensors").read_bytes()
    renamed(files, "classifiers.", "clf_heads.")
    files.load(overwrite=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == one
    renamed(files, "model.", "backbone.net.")
    files.load(overwrite=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == one


def test_a_label_file_names_the_labels(files: Files, tmp_path: Path) -> None:
    files.arguments = write_arguments(
        tmp_path, ARGS_000, **files.over, target_labels=None, label_groups=None, n_class=None
    )
    with pytest.raises(ConfigError, match="--labels"):
        files.load()
    (tmp_path / "labels.txt").write_text("a\nb, c\nd\n")
    files.load(labels=str(tmp_path / "labels.txt"))
    assert RunFolder.open(tmp_path / "run").labels().groups == (("a",), ("b", "c"), ("d",))
    (tmp_path / "labels.txt").write_text("a, b, c, d\n")
    with pytest.raises(RunError, match=r"no heads for 4 labels.*classifiers\.0"):
        files.load(labels=str(tmp_path / "labels.txt"), overwrite=True)


BAD_ARGUMENTS = {
    "std": ({"dataset_std": 0.0}, ConfigError, "divides by it.*--set dataset_mean"),
    "rate": ({"resample_rate": 0}, ConfigError, "--set resample_rate"),
    "shared": ({"shared_dense": False}, ConfigError, "ask for none.*shared_dense=True"),
    "bottleneck": ({"clf_bottleneck": 768}, ConfigError, "clf_bottleneck=16"),
    "name": ({"model_type": "resnet99"}, ConfigError, "no network 'resnet99'"),
    "another": ({"model_type": "test_efficientnet"}, RunError, "weights"),
    "activation": ({"activation": "swish"}, ConfigError, "no activation"),
    "neither": ({"model_type": "x", "checkpoint": "y"}, ConfigError, "neither"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_arguments_that_do_not_fit_are_refused(files: Files, tmp_path: Path, name: str) -> None:
    over, kind, said = BAD_ARGUMENTS[name]
    files.arguments = write_arguments(tmp_path, ARGS_000, **files.over | over)
    with pytest.raises(kind, match=said):
        files.load()
    assert not (tmp_path / "run").exists()


def test_an_argument_can_be_replaced(files: Files, tmp_path: Path) -> None:
    files.arguments = write_arguments(tmp_path, ARGS_000, **files.over | {"dataset_std": 0.0})
    files.load(over={"dataset_std": 2.5})
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["frontend"]["std"] == 2.5
    with pytest.raises(ConfigError, match="did you mean 'dataset_std'"):
        files.load(over={"dataset_stdd": 2.5}, overwrite=True)


def test_weights_that_do_not_fit_are_refused(files: Files, tmp_path: Path) -> None:
    state = files.model.state_dict()
    first = next(key for key, value in state.items() if value.ndim == 4)
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({k: v for k, v in state.items() if k != first}, "is missing"),
        "extra": (state | {"model.extra.weight": torch.zeros(3)}, "model.extra.weight"),
        "stray": (state | {"temperature": torch.zeros(1)}, "no place: temperature"),
        "shape": (state | {first: torch.zeros(2, 1, 3, 3)}, "is .2, 1, 3, 3., not"),
        "another": ({"a.weight": torch.zeros(3)}, "another network"),
        "a head less": ({k: v for k, v in state.items() if "classifiers.2" not in k}, "no heads"),
        "nothing": ({}, "no state dict"),
    }
    for tensors, said in bad.values():
        torch.save(tensors, files.weights)
        with pytest.raises(RunError, match=said):
            files.load()
    torch.save(files.model, files.weights)
    with pytest.raises(RunError, match="cannot be read as weights"):
        files.load()
    files.weights.write_bytes(b"no weights")
    with pytest.raises(RunError, match="cannot be read as weights"):
        files.load()
    files.weights.unlink()
    with pytest.raises(RunError, match="no such file"):
        files.load()


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch trapped",)


def test_traps_are_refused_and_do_not_run(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = argparse.Namespace(**ARGS_000, trap=Trap())
    files.arguments.write_bytes(pickle.dumps(namespace))
    with pytest.raises(DataError, match=r"posix\.system"):
        files.load()
    files.arguments = write_arguments(tmp_path, ARGS_000, **files.over)
    torch.save({"model.conv1.weight": Trap()}, files.weights)
    with pytest.raises(HarkenError):
        files.load()
    assert not (tmp_path / "trapped").exists()


def test_a_network_that_transforms_after_pooling_is_refused(tmp_path: Path) -> None:
    model = randomise(OldTimm("mobilenetv3_small_050", SIZES))
    weights = write_weights(tmp_path, model)
    arguments = write_arguments(tmp_path, ARGS_000, model_type="mobilenetv3_small_050")
    with pytest.raises(RunError, match="embedding differs"):
        import_legacy(weights, arguments, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"weighted": True}, "weighted=False"),
        ({"layer": 7}, "no hidden state 7"),
        ({"checkpoint": "nowhere/large"}, "--checkpoint FOLDER"),
        ({"checkpoint": "wav2vec2-base-960h"}, "another network"),
    ],
)
def test_001_refuses_what_does_not_fit(tmp_path: Path, over: dict[str, Any], said: str) -> None:
    folder = tiny_checkpoint(tmp_path / "encoder", "wav2vec2")
    weights = write_weights(tmp_path, OldSpeech(folder, SIZES))
    arguments = write_arguments(tmp_path, ARGS_001, **{"checkpoint": str(folder)} | over)
    with pytest.raises(HarkenError, match=said):
        import_legacy(weights, arguments, tmp_path / "run")


def test_001_names_the_layers_it_leaves_out(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "encoder", "wav2vec2")
    weights = write_weights(tmp_path, OldSpeech(folder, SIZES))
    arguments = write_arguments(tmp_path, ARGS_001, layer=1)
    found = import_legacy(weights, arguments, tmp_path / "run", checkpoint=folder)
    assert any("encoder.layers.1." in note for note in found.notes)
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["backbone"]["freeze"] == "all"
    assert recipe["backbone"]["layer"] == 1
    assert recipe["backbone"]["checkpoint"] is None


def test_typed_as_a_person_would(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["import-legacy", "old_mdl.pt", "args.pkl", "--out", "run", "--set", "epochs=9"]
    command = [sys.executable, "-m", "harken", *words]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "note: " in made.stdout
    assert "run: run" in made.stdout
    assert "epochs: 9" in (tmp_path / "run/recipe.yaml").read_text()
    files.arguments.write_bytes(pickle.dumps(Trap()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harken", *words[:4], "other"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert said.startswith("harken: ")
    assert "posix.system" in said
    assert said.count("\n") == 1


def test_an_imported_run_is_evaluated_on_a_new_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harken.verbs.evaluate import evaluate

    rows = ["uid,subject," + ",".join(NAMES)]
    for number in range(6):
        uid = tmp_path / "tree" / f"u{number}"
        uid.mkdir(parents=True)
        soundfile.write(uid / "waveform.wav", make_noise(0.8, seed=number), 16000)
        (uid / "metadata.json").write_text('{"encoding": "WAV", "sample_rate_hz": 16000}')
        rows.append(f"u{number},s{number % 3},{number % 2},1,{(number + 1) % 2},{number % 3 > 0:d}")
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    Files(tmp_path, prefix=str(tmp_path / "tree")).load()
    metrics = evaluate(tmp_path / "run", on=tmp_path / "test.csv")
    assert metrics["num_clips"] == 6
