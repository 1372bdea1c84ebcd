from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from harken.backbones import BagBackbone
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FeatureSpec
from harken.ngrams import NGrams
from harken.pooling import MeanPooling
from harken.recipe import Recipe, dump_recipe
from harken.verbs.bag import bag
from harken.verbs.train import train
from test_cli import invoke
from test_trainer import tiny_recipe, trainer_of

FRONTEND = {
    "kind": "tokens",
    "k": 6,
    "features": {"kind": "log_mel", "n_mels": 16, "normalize": "none"},
}


def token_recipe(table: Path, **over: Any) -> Recipe:
    base: dict[str, Any] = {
        "augment": [],
        "mix": None,
        "frontend": FRONTEND,
        "backbone": {"kind": "bag", "dim": 8},
        "pooling": "mean",
        "train": {"epochs": 3, "batch_size": 12},
    }
    return tiny_recipe(table, **(base | over))


def test_the_mean_leaves_out_the_padding() -> None:
    module = BagBackbone(dim=4).build(FeatureSpec("tokens", 9, 100.0, None))
    ids = torch.tensor([[3, 5, 0, 0], [1, 1, 2, 2]])
    mean = MeanPooling().build(module)(module(ids, torch.tensor([2, 4])))
    table = module.get_parameter("reads.embedding.weight")
    torch.testing.assert_close(mean[0], (table[3] + table[5]) / 2)
    torch.testing.assert_close(mean[1], (table[1] + table[2]) / 2)


def test_runs_of_tokens_are_measured_with_the_folds_and_metrics_of_training(
    tiny_table: Path, tmp_path: Path
) -> None:
    recipe = token_recipe(tiny_table)
    run = bag(recipe, tmp_path / "bag")
    trained = train(recipe, tmp_path / "run")
    assert len(run.folds) == 3
    for mine, theirs in zip(run.folds, trained.folds, strict=True):
        assert mine.read_table("splits.parquet").equals(theirs.read_table("splits.parquet"))
        about = mine.read_json("probe.json")["embeddings"]
        assert about["ngrams"]["largest"] == 2
        assert about["runs"] > 6
    one, two = (r.read_json("metrics.json")["pooled"] for r in (run, trained))
    assert one["metrics"].keys() == two["metrics"].keys()
    assert one["num_clips"] == two["num_clips"] == 36
    assert one["metrics"]["accuracy"]["value"] > 0.8


def test_tokens_are_kept_in_memory_and_learned_from(tiny_table: Path, tmp_path: Path) -> None:
    trainer = trainer_of(token_recipe(tiny_table), tmp_path)
    assert trainer.memory is not None
    assert trainer.memory.features.dtype == torch.int64
    rows = trainer.train_loader.dataset.rows[[2, 0]]
    tokens, lengths = trainer.memory.batch(torch.from_numpy(rows))
    waves = torch.from_numpy(np.stack([trainer.train_loader.dataset.cache.read(r) for r in rows]))
    expected, counts = trainer.model.features(waves, torch.full((2,), waves.shape[1]))
    assert torch.equal(tokens, expected)
    assert torch.equal(lengths, counts)


def words_of(table: Path, seed: int = 0) -> pl.DataFrame:
    """Tokens that tell the label by the order of 0 and 1 alone."""
    clips = pl.read_csv(table)
    rng = np.random.default_rng(seed)
    pairs = {"low": [0, 0, 1, 1], "high": [0, 1, 0, 1], "noise": [1, 0, 0, 1]}
    tokens = [[*pairs[x], 2] * 5 + rng.integers(3, 6, 4).tolist() for x in clips["label"]]
    return pl.DataFrame({"id": clips["path"].str.strip_suffix(".wav"), "tokens": tokens})


def accuracy(run: RunFolder) -> float:
    value = run.read_json("metrics.json")["pooled"]["metrics"]["accuracy"]["value"]
    assert isinstance(value, float)
    return value


def test_a_table_of_tokens_needs_no_audio_and_longer_runs_tell_more(
    tiny_table: Path, tmp_path: Path
) -> None:
    recipe = token_recipe(tiny_table, frontend="log_mel")
    ids = pl.read_csv(tiny_table)["path"]
    for path in ids:
        (tiny_table.parent / path).unlink()
    table = tmp_path / "tokens.parquet"
    words_of(tiny_table).write_parquet(table)
    found = {
        n: accuracy(bag(recipe, tmp_path / str(n), tokens=table, ngrams=NGrams(largest=n)))
        for n in (1, 3)
    }
    assert found[1] < 0.7
    assert found[3] == 1.0
    notes = json.loads((tmp_path / "3/fold-1/metrics.json").read_text())["test"]["notes"]
    assert any("made beforehand" in note for note in notes)


def test_clips_without_tokens_are_named_or_left_out(tiny_table: Path, tmp_path: Path) -> None:
    table = tmp_path / "tokens.parquet"
    words_of(tiny_table).head(30).write_parquet(table)
    recipe = token_recipe(tiny_table)
    with pytest.raises(DataError, match="6 clips have no tokens"):
        bag(recipe, tmp_path / "a", tokens=table)
    words_of(tiny_table).filter(pl.col("id") != "low_0_0").write_parquet(table)
    data = recipe.data.model_copy(update={"on_bad_audio": "skip"})
    run = bag(recipe.model_copy(update={"data": data}), tmp_path / "b", tokens=table)
    assert run.read_json("metrics.json")["pooled"]["num_clips"] == 35
    pl.concat([words_of(tiny_table)] * 2).write_parquet(table)
    with pytest.raises(DataError, match="ids occur twice"):
        bag(recipe, tmp_path / "c", tokens=table)


def test_a_recipe_without_tokens_is_refused(tiny_table: Path, tmp_path: Path) -> None:
    recipe = token_recipe(tiny_table, frontend="log_mel")
    with pytest.raises(ConfigError, match="this recipe makes no tokens"):
        bag(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_prints_the_metrics(tiny_table: Path, tmp_path: Path) -> None:
    recipe, table = tmp_path / "r.yaml", tmp_path / "tokens.parquet"
    recipe.write_text(dump_recipe(token_recipe(tiny_table)))
    words_of(tiny_table).write_parquet(table)
    words = ["--tokens", table, "--ngrams", "3", "--collapse", "--out", tmp_path / "run"]
    assert "accuracy" in invoke("bag", recipe, *words)
