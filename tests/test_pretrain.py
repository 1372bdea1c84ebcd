from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import harken
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, HarkenError, RunError
from harken.optim import Sgd
from harken.pretraining import Masking
from harken.recipe import Recipe, validate
from harken.track import Silent
from harken.verbs.pretrain import pretrain
from harken.verbs.train import train
from test_cli import invoke

TONES = (300.0, 700.0, 1200.0, 2000.0)


@pytest.fixture(scope="module")
def melodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of four tones in turn, upwards or downwards (the label), 50 ms each."""
    folder = tmp_path_factory.mktemp("melodies")
    rows = []
    for number in range(24):
        label = ("up", "down")[number % 2]
        tones = TONES if label == "up" else TONES[::-1]
        time = np.arange(400) / 8000
        phase = number % 4
        parts = [np.sin(2 * np.pi * tones[(i + phase) % 4] * time) for i in range(12)]
        noise = 0.01 * np.random.default_rng(number).standard_normal(4800)
        soundfile.write(folder / f"{number}.wav", 0.5 * np.concatenate(parts) + noise, 8000)
        rows.append([f"{number}.wav", label if number < 16 else ""])
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    return folder / "clips.csv"


def melody_recipe(table: Path, **over: Any) -> Recipe:
    tree: dict[str, Any] = {
        "data": {
            "source": {"kind": "table", "path": str(table)},
            "split": {"kind": "random", "valid": 0.25, "test": 0},
        },
        "audio": {"sample_rate": 8000},
        "frontend": {
            "kind": "tokens",
            "k": 8,
            "features": {
                "kind": "log_mel",
                "n_mels": 16,
                "n_fft": 256,
                "win_length": 256,
                "hop_length": 160,
            },
        },
        "backbone": {"kind": "lstm", "dim": 16, "hidden": 24},
        "pooling": "mean",
        "optimizer": {"kind": "adamw", "lr": 0.02},
        "train": {"epochs": 12, "batch_size": 6},
        "evaluate": {"num_resamples": 0},
    }
    return validate(tree | over)


@pytest.fixture(scope="module")
def pretrained(melodies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(melody_recipe(melodies), tmp_path_factory.mktemp("pre") / "run").path


def test_hidden_tokens_are_told_better_than_by_their_frequency(pretrained: Path) -> None:
    found = json.loads((pretrained / "pretraining.json").read_text())
    valid = found["valid"]
    assert valid["accuracy"] > valid["unigram"]["accuracy"] + 0.2
    assert valid["surprise"] < valid["unigram"]["surprise"]
    assert valid["num_hidden"] > 20
    rows = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert {"train_loss", "train_accuracy", "valid_loss", "valid_accuracy"} <= set(rows[0])
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]


def fine_tuning(table: Path, run: Path, **backbone: Any) -> Recipe:
    recipe = melody_recipe(table)
    tree = recipe.model_dump(mode="json")
    tree["data"] |= {"target": {"columns": ["label"], "missing": "drop"}}
    tree["data"]["split"] = {"kind": "random", "valid": 2, "test": 2}
    tree["backbone"] |= {"checkpoint": str(run), **backbone}
    tree["frontend"] = {"kind": "tokens", "vocabulary": str(run / "vocabulary.safetensors")}
    tree["train"] |= {"epochs": 1}
    return validate(tree)


def test_fine_tuning_starts_from_the_pretrained_weights(
    melodies: Path, pretrained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(pretrained, tmp_path / "pre")
    still = Sgd(lr=1e-12)
    recipe = fine_tuning(melodies, copy).model_copy(update={"optimizer": still})
    run = train(recipe, tmp_path / "fine")
    before, after = (load_file(p / "model.safetensors") for p in (copy, run.path))
    names = [name for name in after if name.startswith(("backbone.", "frontend."))]
    assert len(names) > 5
    for name in names:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    # A run stands by itself.
    shutil.rmtree(copy)
    scores = harken.load(run.path).predict([melodies.parent / "0.wav"])
    assert scores["error"][0] is None


def test_another_vocabulary_or_network_is_refused(
    melodies: Path, pretrained: Path, tmp_path: Path
) -> None:
    own = fine_tuning(melodies, pretrained).model_dump(mode="json")
    own["frontend"] = melody_recipe(melodies).model_dump(mode="json")["frontend"]
    with pytest.raises(ConfigError, match="another vocabulary") as error:
        train(validate(own), tmp_path / "a")
    assert "vocabulary.safetensors" in str(error.value)
    with pytest.raises(ConfigError, match="another network"):
        train(fine_tuning(melodies, pretrained, hidden=20), tmp_path / "b")
    with pytest.raises(ConfigError, match="no pretrained network"):
        train(fine_tuning(melodies, pretrained, checkpoint=str(tmp_path)), tmp_path / "c")


class _InterruptedError(Exception):
    pass


class Interrupting(Silent):
    def epoch(self, row: Any) -> None:
        if row["epoch"] == 5:
            raise _InterruptedError


def test_a_broken_run_goes_on_to_the_same_weights(
    melodies: Path, pretrained: Path, tmp_path: Path
) -> None:
    recipe, out = melody_recipe(melodies), tmp_path / "run"
    with pytest.raises(_InterruptedError):
        pretrain(recipe, out, tracker=Interrupting())
    assert not RunFolder(out).has("pretraining.json")
    with pytest.raises(RunError, match="other options") as error:
        pretrain(recipe, out, resume=True, masking=Masking(rate=0.4))
    words = f"harken pretrain {out}/recipe.yaml --resume --out {out} --rate 0.15 --span 1"
    assert str(error.value).endswith(words)
    with pytest.raises(RunError, match="another recipe") as error:
        pretrain(melody_recipe(melodies, seed=3), out, resume=True)
    assert str(error.value).endswith(words)
    pretrain(recipe, out, resume=True)
    whole, broken = (load_file(p / "model.safetensors") for p in (pretrained, out))
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


def test_test_clips_are_not_heard(melodies: Path, tmp_path: Path) -> None:
    recipe = fine_tuning(melodies, tmp_path)
    plain = recipe.model_copy(
        update={
            "backbone": melody_recipe(melodies).backbone,
            "frontend": melody_recipe(melodies).frontend,
        }
    )
    from harken.verbs.prepare import prepare
    from harken.verbs.pretrain import _prepared

    corpus, (fold,) = prepare(plain)
    heard, part = _prepared(plain, None, None)
    assert len(heard.manifest) == 24
    tests = set(corpus.manifest.frame["id"].to_numpy()[fold.split == "test"])
    assert tests == set(heard.manifest.frame["id"].to_numpy()[part.split == "test"])
    assert (part.split == "train").sum() == (fold.split == "train").sum() + 8


def test_any_folder_of_sound_will_do(melodies: Path) -> None:
    from harken.verbs.pretrain import _prepared
    from harken.verbs.token_clips import training_clips

    source = {"kind": "folder", "path": str(melodies.parent), "pattern": "{name}.{_}"}
    data = {"source": source, "split": {"kind": "random", "valid": 0.25, "test": 0}}
    recipe = melody_recipe(melodies, data=data)
    heard, part = _prepared(recipe, None, None)
    assert len(heard.manifest) == 24
    assert (part.split == "valid").sum() == 6
    assert len(training_clips(recipe)) == 24


@pytest.mark.parametrize(
    ("over", "text"),
    [
        ({"frontend": "log_mel"}, "the front-end makes spectrogram"),
        ({"backbone": "bag"}, "cannot tell a hidden token"),
        ({"backbone": "cnn"}, "cannot read tokens"),
        ({"frontend": "waveform"}, "cannot read waveform"),
        ({"augment": [{"kind": "spec_mask"}]}, "no spectrogram"),
        ({"mix": {"kind": "mixup", "domain": "features"}}, "tokens cannot be mixed"),
    ],
)
def test_what_cannot_work_is_refused_before_audio_is_decoded(
    over: dict[str, Any], text: str, tmp_path: Path
) -> None:
    recipe = melody_recipe(tmp_path / "missing.csv", **over)
    with pytest.raises(ConfigError, match=text):
        pretrain(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folds_want_a_choice(melodies: Path, tmp_path: Path) -> None:
    tree = fine_tuning(melodies, tmp_path).model_dump(mode="json")
    tree["data"]["split"] = {"kind": "kfold", "folds": 2, "valid": 2}
    base = melody_recipe(melodies).model_dump(mode="json")
    recipe = validate(tree | {"backbone": base["backbone"], "frontend": base["frontend"]})
    with pytest.raises(HarkenError, match="--fold"):
        pretrain(recipe, tmp_path / "run")


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_options_of_training_hold_and_bad_recordings_are_told(
    melodies: Path, tmp_path: Path
) -> None:
    table = tmp_path / "clips.csv"
    names = [f"{melodies.parent}/{number}.wav" for number in range(24)]
    table.write_text("\n".join(["path", *names, "none.wav"]) + "\n")
    recipe = melody_recipe(
        table,
        train={"epochs": 2, "batch_size": 6, "epoch_clips": 6, "tensorboard": True},
        data=melody_recipe(table).data.model_dump(mode="json") | {"on_bad_audio": "skip"},
    )
    told = Noting()
    run = pretrain(recipe, tmp_path / "run", tracker=told)
    assert [row["id"] for row in run.read_json("quarantine.json")] == ["none"]
    assert [note.partition(": ")[2] for note in told.notes] == ["missing"]
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]
    assert list((run.path / "tensorboard").iterdir())


def test_a_mistake_in_the_table_leaves_an_older_run(
    melodies: Path, pretrained: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(pretrained, tmp_path / "run")
    with pytest.raises(HarkenError):
        pretrain(melody_recipe(tmp_path / "none.csv"), old, overwrite=True)
    assert (old / "pretraining.json").is_file()
    with pytest.raises(RunError, match="exists already"):
        pretrain(melody_recipe(melodies), old)


def test_the_command_tells_how_well_it_went(melodies: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(melody_recipe(melodies).model_dump(mode="json")))
    words = [recipe, "train.epochs=1", "--span", "2", "--out", tmp_path / "run"]
    assert "hidden tokens of validation clips" in invoke("pretrain", *words)
    assert (tmp_path / "run/vocabulary.safetensors").is_file()
