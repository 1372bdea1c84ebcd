from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

import harken
from harken.audio import BadAudio
from harken.checkpoint import RunFolder
from harken.errors import RunError
from harken.predictor import Predictor


def test_scores_from_a_file_are_evaluation_s_own(tiny_run: Path) -> None:
    """Bit for bit: prediction rounds like the cache, and pads like evaluation."""
    fold = RunFolder(tiny_run).folds[0]
    table = fold.read_table("predictions.parquet").filter(pl.col("split") == "test")
    predicted = Predictor.load(fold).predict(table["path"].to_list())
    names = [name for name in table.columns if name.startswith("score_")]
    for name in names:
        assert predicted[name].to_list() == pytest.approx(table[name].to_list(), abs=1e-6)
    assert predicted["decision"].to_list() == table["decision"].to_list()


def test_a_run_over_folds_averages_its_classifiers(tiny_run: Path) -> None:
    file = str(sorted((tiny_run.parent / "tiny").glob("*.wav"))[0])
    whole = harken.load(tiny_run).predict([file])
    each = [Predictor.load(fold).predict([file]) for fold in RunFolder(tiny_run).folds]
    mean = sum(part["score_low"][0] for part in each) / 3
    assert whole["score_low"][0] == pytest.approx(mean)


def test_the_classifier_learned_something(tiny_run: Path) -> None:
    pooled = RunFolder(tiny_run).read_json("metrics.json")["pooled"]["metrics"]
    assert pooled["balanced_accuracy"]["value"] > 0.6


def test_bad_files_get_a_row_with_the_reason(tiny_run: Path, tmp_path: Path) -> None:
    good = str(sorted((tiny_run.parent / "tiny").glob("*.wav"))[0])
    (tmp_path / "text.wav").write_text("hello")
    files = [str(tmp_path / "none.wav"), good, str(tmp_path / "text.wav")]
    table = harken.load(tiny_run).predict(files)
    assert table["path"].to_list() == files
    assert [error is None for error in table["error"]] == [False, True, False]
    assert table["decision"][0] is None
    with pytest.raises(BadAudio):
        harken.load(tiny_run).predict(files, on_bad="stop")


def test_weights_of_another_recipe_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(RunFolder(tiny_run).folds[0].path, copy)
    recipe = (copy / "recipe.yaml").read_text().replace("widths: [4, 8]", "widths: [4, 9]")
    assert "[4, 9]" in recipe
    (copy / "recipe.yaml").write_text(recipe)
    with pytest.raises(RunError, match="another recipe"):
        harken.load(copy)


def test_a_run_without_weights_is_one_error(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(RunFolder(tiny_run).folds[0].path, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match="no weights yet"):
        harken.load(copy)
    with pytest.raises(RunError, match="no run here"):
        harken.load(tmp_path / "none")


def test_clips_of_any_length_get_the_same_scores_in_any_batch(tiny_run: Path) -> None:
    predictor = harken.load(tiny_run)
    files = sorted((tiny_run.parent / "tiny").glob("*.wav"))[:5]
    clips = [predictor.clip(file) for file in files]
    alone = torch.cat([torch.tensor(predictor.scores([predictor.batch([c])])) for c in clips])
    together = torch.tensor(predictor.scores([predictor.batch(clips)]))
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
