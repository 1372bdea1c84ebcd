"""The examples with tokens, on small shares of real recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import harken
from audioset_trees import write_audioset_tree
from harken.backbones import CnnBackbone, MlpBackbone
from harken.frontends.frontend import FeatureSpec
from harken.recipe import Recipe, read_recipe
from harken.verbs.train import train

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["train.epochs=1", "evaluate.num_resamples=0", "frontend.num_frames=3000", "frontend.k=20"]


def recipe_of(name: str, *words: str) -> Recipe:
    return read_recipe([EXAMPLES / f"{name}.yaml"], [*words, *SHORT])


def audioset_words(folder: Path, esc10: Path | None) -> list[str]:
    tree = write_audioset_tree(folder, esc10, num_sounds=3, clips=4, eval_clips=1, seconds=1.0)
    source: dict[str, Any] = tree.source()
    return [
        *(f"data.source.{key}={value}" for key, value in source.items() if key != "segments"),
        *(f"data.source.segments.{key}={value}" for key, value in source["segments"].items()),
        "data.split.valid=0.3",
        "audio.clip_seconds=1.0",
        "train.batch_size=4",
        "backbone.hidden=16",
        "frontend.k=20",
    ]


@pytest.mark.realdata
def test_audioset_example_trains_on_a_tree_of_that_shape(esc10: Path, tmp_path: Path) -> None:
    words = audioset_words(tmp_path, esc10)
    run = train(recipe_of("audioset_tokens", *words), tmp_path / "run")
    metrics = run.read_json("metrics.json")["test"]
    assert metrics["metrics"]["average_precision"]["value"] is not None


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["esc10_tokens_lstm", "esc10_tokens_bert"])
def test_esc10_examples_run(name: str, esc10: Path, tmp_path: Path) -> None:
    words = ["audio.sample_rate=8000", "audio.clip_seconds=1.0", "frontend.features.fmax=4000"]
    recipe = recipe_of(name, f"data.source.path={esc10}", *words)
    run = train(recipe, tmp_path / "run", folds="1")
    assert run.folds[0].read_json("metrics.json")["test"]["num_clips"] == 80
    clip = sorted((esc10 / "audio").glob("*.ogg"))[0]
    assert harken.load(run.path).predict([clip])["error"][0] is None


def test_the_small_convolutional_networks_read_clips_of_any_length() -> None:
    any_length = FeatureSpec("spectrogram", 64, 100.0, None)
    two = CnnBackbone(widths=[32, 64], convs_per_block=1, pool="max").build(any_length)
    assert two.dim == 64
    flat = MlpBackbone(hidden=[512, 256]).build(FeatureSpec("spectrogram", 64, 100.0, 40))
    assert flat.dim == 256
