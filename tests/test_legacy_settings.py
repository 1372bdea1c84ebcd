"""Old arguments become the settings that they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harken.errors import ConfigError
from harken.legacy_settings import DEFAULTS, check_sizes, read_settings, recipe_of
from harken.recipe import Recipe, validate
from legacy_models import ARGS_000, ARGS_001, GROUPS

NAMES = [name for group in GROUPS for name in group]


def recipe(arguments: dict[str, Any], scaled: bool = True, **over: Any) -> Recipe:
    run = read_settings(arguments | over, {}, None, "args.pkl")
    backbone: dict[str, Any] = {"kind": "timm", "name": "resnet18"}
    if run.system == "001":
        backbone = {"kind": "speech", "config": {"model_type": "wav2vec2"}}
    return validate(recipe_of(run, backbone, {}, scaled=scaled))


def dumped(arguments: dict[str, Any], scaled: bool = True, **over: Any) -> dict[str, Any]:
    return recipe(arguments, scaled, **over).model_dump(mode="json")


def test_audio_and_frontend() -> None:
    tree = dumped(ARGS_000, clip_length=10.0, reduce=True, resample_rate=8000)
    assert tree["audio"] | {"channel": "sum", "clip_seconds": 10.0} == tree["audio"]
    assert (tree["audio"]["sample_rate"], tree["audio"]["pad"]) == (8000, "mean")
    assert tree["frontend"] == {
        "kind": "legacy_fbank", "n_mels": 64, "frames": 128, "mean": -4.2677, "std": 4.569,
    }  # fmt: skip
    assert dumped(ARGS_000, reduce=False)["audio"]["channel"] == 0
    assert dumped(ARGS_000, clip_length=0)["audio"]["clip_seconds"] is None
    assert dumped(ARGS_001)["frontend"] == {"kind": "legacy_waveform", "normalize": "clip"}
    assert dumped(ARGS_001, False)["frontend"]["normalize"] == "none"


def test_optimisation() -> None:
    tree = dumped(ARGS_000)
    assert tree["optimizer"]["lr"] == 0.01
    assert (tree["optimizer"]["kind"], tree["optimizer"]["weight_decay"]) == ("adamw", 1e-4)
    assert (tree["schedule"]["kind"], tree["train"]["epochs"]) == ("onecycle", 20)
    assert (tree["train"]["batch_size"], tree["train"]["keep"]) == (8, "last")
    tree = dumped(ARGS_000, scheduler=None, optim="adam", loss="MSE")
    assert (tree["optimizer"]["kind"], tree["optimizer"]["lr"]) == ("adam", 3e-4)
    assert (tree["schedule"]["kind"], tree["loss"]["kind"]) == ("none", "mse")
    assert tree["data"]["target"]["task"] == "regression"
    assert dumped(ARGS_001)["seed"] == 4200
    assert dumped(ARGS_000)["loss"]["kind"] == "bce"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"num_mel_bins": "abc"}, "num_mel_bins must be a number, not 'abc' → --set num_mel_bins="),
        ({"clip_length": None}, "clip_length must be a number, not None"),
        ({"epochs": [3]}, r"epochs must be a number, not \[3\]"),
        ({"seed": "x"}, "seed must be a number, not 'x' → --set seed=0"),
        ({"reduce": "maybe"}, "reduce is True or False, not 'maybe'"),
        ({"scheduler": "cosine"}, "no scheduler 'cosine' → --set scheduler=onecycle or None"),
        ({"loss": "CE"}, "no loss 'CE' → --set loss=BCE or MSE"),
    ],
)
def test_values_of_another_kind_are_refused(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_settings(ARGS_000 | over, {}, None, "args.pkl")
    assert caught.value.where == "args.pkl"
    with pytest.raises(ConfigError, match=said) as caught:
        read_settings(ARGS_000, over, None, "args.pkl")
    assert caught.value.where in ("--set", "args.pkl")


def test_texts_mean_what_the_command_line_meant() -> None:
    said = {"reduce": "False", "shared_dense": "True", "scheduler": "None", "study": "None"}
    settings = read_settings(ARGS_000 | said | {"clip_length": "10"}, {}, None, "x").settings
    assert (settings["reduce"], settings["shared_dense"]) == (False, True)
    assert (settings["scheduler"], settings["study"]) == (None, None)
    assert settings["clip_length"] == 10.0
    assert dumped(ARGS_000, reduce="False")["audio"]["channel"] == 0


def test_data() -> None:
    tree = dumped(ARGS_000, prefix="speech_ai", bucket_name="lab", study="r01")["data"]
    assert tree["source"]["path"] == "gs://lab/speech_ai"
    assert (tree["source"]["study"], tree["source"]["table"]) == ("r01", "splits")
    assert tree["split"]["kind"] == "column"
    assert tree["target"]["groups"] == GROUPS
    assert tree["target"]["missing"] == "drop"
    assert dumped(ARGS_000, data_split_root="")["data"]["split"]["kind"] == "random"


def test_augmentation() -> None:
    assert dumped(ARGS_000, timem=0, mixup=0)["augment"] == []
    tree = dumped(ARGS_000, timem=24, freqm=0, noise=True)
    kinds = [augment["kind"] for augment in tree["augment"]]
    assert kinds == ["spec_mask", "spec_noise", "spec_roll"]
    mask = tree["augment"][0]
    assert (mask["num_time"], mask["time_width"], mask["num_freq"]) == (1, 24, 0)
    assert mask["fill"] == "zero"
    assert (tree["mix"]["p"], tree["mix"]["alpha"]) == (0.5, 10.0)
    assert dumped(ARGS_000, mixup=0)["mix"] is None


def test_what_never_ran_is_noted() -> None:
    run = read_settings(ARGS_000 | {"tshift": 0.9, "gain": 0.5}, {}, None, "args.pkl")
    recipe_of(run, {"kind": "timm", "name": "resnet18"}, {}, scaled=True)
    assert any("tshift, gain" in note and "none of them ever ran" in note for note in run.notes)


def test_defaults_are_taken_and_named() -> None:
    few = {"model_type": "resnet18", "dataset_std": 4.5, "target_labels": NAMES}
    run = read_settings(few, {}, None, "args.pkl")
    assert run.groups == [NAMES]
    assert run.settings["num_mel_bins"] == DEFAULTS["000"]["num_mel_bins"] == 128
    assert "target_length=1024, num_mel_bins=128, dataset_mean=0.0" in run.notes[0]
    assert read_settings(ARGS_001, {}, None, "args.pkl").notes == []


def test_labels_from_every_place(tmp_path: Path) -> None:
    sized = ARGS_000 | {"label_groups": None}
    assert read_settings(sized, {}, None, "x").groups == GROUPS
    single = sized | {"n_class": 4}
    assert read_settings(single, {}, None, "x").groups == [NAMES]
    (tmp_path / "labels.txt").write_text("a\n\nb, c\n")
    named = read_settings(ARGS_000, {}, str(tmp_path / "labels.txt"), "x")
    assert named.groups == [["a"], ["b", "c"]]
    with pytest.raises(ConfigError, match="do not name the labels"):
        read_settings(sized | {"n_class": [9]}, {}, None, "x")


def test_arguments_of_neither_system() -> None:
    with pytest.raises(ConfigError, match="neither of 000"):
        read_settings({"epochs": 3}, {}, None, "x")
    with pytest.raises(ConfigError, match="holds a list"):
        read_settings([1], {}, None, "x")


def test_sizes() -> None:
    run = read_settings(ARGS_000 | {"shared_dense": True, "sd_bottleneck": 24}, {}, None, "x")
    check_sizes(run, 24, [16, 16], "x")
    with pytest.raises(ConfigError, match=r"no units.*ask for 24.*shared_dense=False"):
        check_sizes(run, None, [16], "x")
    with pytest.raises(ConfigError, match="sd_bottleneck=30"):
        check_sizes(run, 30, [16], "x")
    with pytest.raises(ConfigError, match="clf_bottleneck=12"):
        check_sizes(run, 24, [12], "x")
