"""A finished run passes; every way of spoiling one is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from harken.verbs.check import check_run
from harken.verbs.run_audit import FILES


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """One fold of a trained run, to be spoiled."""
    return Path(shutil.copytree(tiny_run / "fold-1", tmp_path / "run"))


def problems(run: Path) -> dict[str, str]:
    return {f.topic: f.text for f in check_run(run) if f.status == "problem"}


def test_a_finished_run_passes(tiny_run: Path) -> None:
    found = check_run(tiny_run)
    assert {f.status for f in found} <= {"ok", "warning"}
    assert {f.topic for f in found} == {
        "files", "weights", "predictions", "leak", "metrics", "learned",
    }  # fmt: skip
    assert sum(f.text.startswith("fold-2: ") for f in found) == 6


@pytest.mark.parametrize("name", [n for n in FILES if n not in ("recipe.yaml", "environment.json")])
def test_missing_files(run: Path, name: str) -> None:
    (run / name).unlink()
    assert problems(run)["files"] == f"not there: {name}"


def test_a_missing_summary(tiny_run: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(tiny_run, tmp_path / "whole"))
    (whole / "metrics.json").unlink()
    assert "summary over 3 folds" in problems(whole)["files"]


def test_weights_that_are_no_numbers(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    name = next(n for n, v in weights.items() if n.startswith("heads") and v.ndim == 2)
    weights[name][0, 0] = torch.nan
    save_file(weights, run / "model.safetensors")
    assert name in problems(run)["weights"]
    del weights[name]
    save_file(weights, run / "model.safetensors")
    assert "another recipe" in problems(run)["files"]


def rewrite(run: Path, change: pl.Expr | None = None, keep: slice | None = None) -> None:
    frame = pl.read_parquet(run / "predictions.parquet")
    frame = frame[keep] if keep is not None else frame
    frame = frame.with_columns(change) if change is not None else frame
    frame.write_parquet(run / "predictions.parquet")


def test_predictions_that_are_missing_or_twice(run: Path) -> None:
    count = len(pl.read_parquet(run / "predictions.parquet"))
    rewrite(run, keep=slice(1, None))
    assert "1 clips have no prediction" in problems(run)["predictions"]
    rewrite(run, change=pl.col("id").first())
    assert "twice" in problems(run)["predictions"]
    assert count > 2


def test_metrics_that_do_not_follow(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["metrics"]["accuracy"]["value"] = 0.123
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "test accuracy 0.123" in problems(run)["metrics"]


def test_no_better_than_guessing(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["metrics"]["balanced_accuracy"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "no better than guessing" in problems(run)["learned"]
    metrics["test"]["metrics"]["balanced_accuracy"] = {"value": 0.4, "low": 0.3, "high": 0.5}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (learned,) = [f for f in check_run(run) if f.topic == "learned"]
    assert learned.status == "warning"


def test_speakers_in_train_and_test(run: Path) -> None:
    splits = pl.read_parquet(run / "splits.parquet")
    test = pl.col("split") == "test"
    first = pl.col("id") == splits.filter(test)["id"][0]
    splits.with_columns(
        split=pl.when(first).then(pl.lit("train")).otherwise("split")
    ).write_parquet(run / "splits.parquet")
    found = problems(run)
    assert "1 groups are in train and test" in found["leak"]
    assert "outside the split" in found["predictions"]


def test_an_imported_run_needs_less(run: Path) -> None:
    for name in ("splits.parquet", "predictions.parquet", "metrics.json", "calibration.json"):
        (run / name).unlink()
    told = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(told | {"imported": {"system": "000"}}))
    assert problems(run) == {}
