"""Every example is valid; on the real recordings each trains one short epoch and predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import harken
from harken.checkpoint import RunFolder
from harken.errors import ConfigError
from harken.recipe import Recipe, read_recipe
from harken.verbs.prepare import prepare
from harken.verbs.train import train
from tiny_checkpoints import shared_checkpoint

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
SHORT = ["train.epochs=1", "evaluate.num_resamples=20"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_and_says_how_to_run_it(path: Path) -> None:
    assert isinstance(read_recipe([path]), Recipe)
    assert f"harken train examples/{path.name}" in path.read_text()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["esc10_cnn", "esc10_ast", "esc10_timm"])
def test_esc10_examples_run(name: str, esc10: Path, tmp_path: Path) -> None:
    path = next(each for each in EXAMPLES if each.stem == name)
    recipe = read_recipe([path], [f"data.source.path={esc10}", *SHORT])
    run = train(recipe, tmp_path / "run", folds="1")
    metrics = run.folds[0].read_json("metrics.json")["test"]
    assert metrics["num_clips"] == 80
    assert len(metrics["labels"]) == 10
    clip = sorted((esc10 / "audio").glob("*.ogg"))[0]
    assert harken.load(run.path).predict([clip])["error"][0] is None


@pytest.mark.realdata
def test_the_published_split_of_fsdd(fsdd: Path, tmp_path: Path) -> None:
    path = next(each for each in EXAMPLES if each.stem == "fsdd_cnn")
    words = [f"data.source.path={fsdd / 'recordings'}", *SHORT]
    recipe = read_recipe([path], words)
    corpus, (fold,) = prepare(recipe)
    assert len(corpus.manifest) == 3000
    assert corpus.labels.names == tuple("0123456789")
    tests = corpus.manifest.frame["take"].to_numpy()[fold.split == "test"]
    assert set(tests) == {0, 1, 2, 3, 4}
    assert len(tests) == 300
    metrics = train(recipe, tmp_path / "run").read_json("metrics.json")["test"]
    assert metrics["metrics"]["accuracy"]["value"] > 0.2


def named(name: str) -> Path:
    return next(each for each in EXAMPLES if each.stem == name)


@pytest.fixture(scope="module")
def few_children(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make a small corpus, once for all tests."""
    folder = tmp_path_factory.mktemp("children")
    return [
        f"data.source.path={folder / 'clips'}",
        f"data.cache={folder / 'cache'}",
        "data.source.speakers=45",
        "data.source.clips_per_speaker=6",
        "data.source.seconds=0.5",
        "audio.clip_seconds=0.6",
    ]


def parts_of(run: RunFolder) -> dict[str, Any]:
    """What a run on children must have, whatever the network."""
    metrics: dict[str, Any] = run.read_json("metrics.json")["test"]
    assert {"sensitivity", "specificity", "balanced_accuracy"} <= set(metrics["metrics"])
    assert set(metrics["by"]) == {"age", "word", "sex", "site"}
    names = {column["name"] for column in run.read_json("covariates.json")}
    assert {"age", "word"} <= names
    return metrics


def test_whisper_is_told_age_and_word_in_two_rows(few_children: list[str], tmp_path: Path) -> None:
    checkpoint = f"backbone.checkpoint={shared_checkpoint('whisper')}"
    words = [*few_children, *SHORT, checkpoint, "backbone.freeze=1", "data.split.folds=3"]
    recipe = read_recipe([named("ssd_whisper")], words)
    run = train(recipe, tmp_path / "run", folds="1").folds[0]
    parts_of(run)
    predictor = harken.load(run.path)
    (model,) = predictor.models
    assert model.frontend.spec.dim == 78
    clip = read_recipe([named("ssd_whisper")], words).data.source.load().frame["path"][0]
    scores = [
        predictor.predict([clip], covariates={"age": age, "word": word})["score_ssd"][0]
        for age, word in ((3, "물"), (9, "물"), (3, "사과"))
    ]
    assert len(set(scores)) == 3


def test_a_row_too_many_for_whisper_is_refused(few_children: list[str], tmp_path: Path) -> None:
    checkpoint = f"backbone.checkpoint={shared_checkpoint('whisper')}"
    words = [*few_children, checkpoint, "backbone.freeze=1", "frontend.n_mels=80"]
    with pytest.raises(ConfigError, match="reads 80 bins, not 82"):
        train(read_recipe([named("ssd_whisper")], words), tmp_path / "run", folds="1")


SMALL_RESNET = ["backbone.name=resnet10t", "frontend.n_mels=32", "frontend.hop_length=320"]


def test_resnet_has_heads_for_bands_of_age(few_children: list[str], tmp_path: Path) -> None:
    words = [*few_children, *SHORT, *SMALL_RESNET]
    run = train(read_recipe([named("ssd_resnet")], words), tmp_path / "run")
    parts_of(run)
    assert len(harken.load(run.path).models[0].heads.groups) == 3


def test_torchvisions_weights_start_the_resnet(few_children: list[str], tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    words = [*SMALL_RESNET[1:], "backbone.name=resnet18"]
    words += [f"backbone.checkpoint={tmp_path / 'resnet18.pth'}", "train.batch_size=90"]
    run = train(read_recipe([named("ssd_resnet")], [*few_children, *SHORT, *words]), tmp_path / "r")
    (tmp_path / "resnet18.pth").unlink()
    assert harken.load(run.path).models[0].backbone.dim == 512  # needs the file no more


def test_age_is_regressed_over_the_whole_set(few_children: list[str], tmp_path: Path) -> None:
    line = next(x for x in named("ssd_resnet").read_text().splitlines() if "regression" in x)
    target = "{columns: age, task: regression, labels: null, positive: null}"
    assert f"data.target='{target}'" in line
    words = [f"data.target={target}", "loss=null", "covariates=[]"]
    words += ["heads.by=null", "heads.bins=null", "calibrate.thresholds=none"]
    recipe = read_recipe([named("ssd_resnet")], [*few_children, *SHORT, *SMALL_RESNET, *words])
    metrics = train(recipe, tmp_path / "run").read_json("metrics.json")["test"]
    assert {"r2", "mae"} <= set(metrics["metrics"])


@pytest.mark.realdata
def test_accents_are_tested_on_other_speakers(fsdd: Path, tmp_path: Path) -> None:
    words = [f"data.source.path={fsdd / 'recordings'}", *SHORT, "data.source.where.take=[0, 1, 2]"]
    recipe = read_recipe([named("fsdd_accent")], words)
    corpus, folds = prepare(recipe)
    assert corpus.labels.names == ("DEU", "USA")
    group = corpus.manifest.frame["group"].to_numpy()
    for fold in folds:
        assert not set(group[fold.split == "test"]) & set(group[fold.split == "train"])
        assert len(set(group[fold.split == "test"])) == 2
    run = train(recipe, tmp_path / "run", folds="all")
    assert [fold.read_json("metrics.json")["test"]["num_clips"] for fold in run.folds] == [60, 60]
