"""Every example is valid; on the real recordings each trains one short epoch and predicts."""

from __future__ import annotations

from pathlib import Path

import pytest

import harken
from harken.recipe import Recipe, read_recipe
from harken.verbs.prepare import prepare
from harken.verbs.train import train

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
