from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken.errors import RunError
from harken.report.contents import read_contents
from run_folders import write_kfold, write_multi, write_regression, write_single


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    contents = read_contents(write_single(tmp_path / "run"))
    assert contents.task == "single"
    assert contents.names == ["clear", "rough"]
    assert contents.positive == 1
    assert not contents.is_kfold
    assert list(contents.histories) == ["run"]
    assert len(contents.histories["run"]) == 12
    assert contents.recipe["backbone"]["kind"] == "timm"
    assert len(contents.quarantine) == 2
    judged = contents.judged()
    assert judged is not None
    assert contents.scores(judged).shape == (60, 2)
    assert (contents.target(judged).sum(axis=1) == 1).all()


def test_a_named_positive_class_counts(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    told = {"task": "single", "names": ["clear", "rough"], "positive": "clear"}
    (folder / "labels.json").write_text(json.dumps(told))
    assert read_contents(folder).positive == 0


def test_folds_are_found_in_natural_order(tmp_path: Path) -> None:
    contents = read_contents(write_kfold(tmp_path / "run", num_folds=11))
    assert contents.is_kfold
    assert list(contents.histories)[:3] == ["fold-1", "fold-2", "fold-3"]
    assert list(contents.histories)[-1] == "fold-11"
    assert contents.test["num_clips"] == 60


def test_only_test_clips_are_judged_and_unknown_labels_are_nan(tmp_path: Path) -> None:
    contents = read_contents(write_multi(tmp_path / "run"))
    judged = contents.judged()
    assert judged is not None
    assert judged["split"].unique().to_list() == ["test"]
    assert np.isnan(contents.target(judged)).any()


def test_values_of_a_regression_are_numbers(tmp_path: Path) -> None:
    contents = read_contents(write_regression(tmp_path / "run"))
    judged = contents.judged()
    assert judged is not None
    table = contents.target(judged)
    assert table.shape == (90, 1)
    assert np.isfinite(table).all()
    plain = judged.drop("target_age")
    assert contents.target(plain) == pytest.approx(table, rel=1e-4)


@pytest.mark.parametrize(
    "name",
    ["recipe.yaml", "labels.json", "metrics.jsonl", "predictions.parquet", "quarantine.json"],
)
def test_a_missing_file_is_empty(tmp_path: Path, name: str) -> None:
    folder = write_single(tmp_path / "run")
    (folder / name).unlink()
    contents = read_contents(folder)
    assert contents.names == ["clear", "rough"]
    assert contents.task == "single"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunError, match="not a run folder"):
            read_contents(folder)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "recipe.yaml"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_single(tmp_path / "run")
    (folder / name).write_text("{[")
    with pytest.raises(RunError, match="damaged") as caught:
        read_contents(folder)
    assert caught.value.where is not None
    assert caught.value.where.endswith(name)


def test_a_half_written_last_line_is_skipped(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 13, "train_l')
    assert len(read_contents(folder).histories["run"]) == 12


def test_predictions_without_scores_are_not_judged(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    frame = pl.read_parquet(folder / "predictions.parquet")
    frame.drop("score_rough").write_parquet(folder / "predictions.parquet")
    assert read_contents(folder).judged() is None
