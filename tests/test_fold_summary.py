from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken.checkpoint import RunFolder
from harken.predictor import read_run_recipe
from harken.verbs.fold_summary import NOT_TESTED, summarise_folds


def test_folds_are_averaged_and_pooled(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    written = run.read_json("metrics.json")
    summary = summarise_folds(run, read_run_recipe(run))
    assert summary["mean"] == written["mean"]
    each = [fold["test"]["accuracy"] for fold in summary["folds"]]
    assert [fold["name"] for fold in summary["folds"]] == ["1", "2", "3"]
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(each))
    assert summary["std"]["accuracy"] == pytest.approx(np.std(each, ddof=1))
    assert summary["pooled"]["num_clips"] == 36


def test_folds_that_have_not_seen_their_test_clips(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    for fold in run.folds:
        fold.write_json("metrics.json", {"valid": fold.read_json("metrics.json")["valid"]})
        seen = fold.read_table("predictions.parquet").filter(pl.col("split") == "valid")
        fold.write_table("predictions.parquet", seen)
    before = run.read_json("metrics.json")
    summary = summarise_folds(run, read_run_recipe(run))
    assert summary == run.read_json("metrics.json")
    assert set(summary) == {"folds", "valid", "notes"}
    assert summary["notes"] == [NOT_TESTED]
    assert summary["valid"]["mean"] == before["valid"]["mean"]
    assert all(fold["test"] == {} for fold in summary["folds"])
    assert set(run.read_table("predictions.parquet")["split"]) == {"valid"}
