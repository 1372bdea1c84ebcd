from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken.checkpoint import RunFolder
from harken.errors import ConfigError, DataError
from harken.labels import Labels
from harken.verbs.evaluate import arrays_of, evaluate


def test_evaluating_again_gives_the_same_numbers(tiny_run: Path) -> None:
    pooled = RunFolder(tiny_run).read_json("metrics.json")["pooled"]
    again = evaluate(tiny_run)
    for name, entry in pooled["metrics"].items():
        value = again["metrics"][name]["value"]
        assert value == (None if entry["value"] is None else pytest.approx(entry["value"]))
    fold = RunFolder(tiny_run).folds[0]
    written = fold.read_json("metrics.json")["valid"]["metrics"]["log_loss"]["value"]
    assert evaluate(fold, split="valid")["metrics"]["log_loss"]["value"] == pytest.approx(written)


def test_a_new_table_is_evaluated_and_written(tiny_run: Path) -> None:
    table = tiny_run.parent / "tiny" / "half.csv"
    pl.read_csv(tiny_run.parent / "tiny" / "clips.csv").head(18).write_csv(table)
    metrics = evaluate(tiny_run, on=table)
    assert metrics["num_clips"] == 18
    folder = RunFolder(tiny_run / "evaluations" / "half")
    assert len(folder.read_table("predictions.parquet")) == 18
    assert folder.read_json("metrics.json")["test"]["num_clips"] == 18


def test_labels_that_the_run_does_not_know_are_refused(tiny_run: Path) -> None:
    table = tiny_run.parent / "tiny" / "strange.csv"
    frame = pl.read_csv(tiny_run.parent / "tiny" / "clips.csv").head(5)
    frame.with_columns(pl.lit("middle").alias("label")).write_csv(table)
    with pytest.raises(DataError, match="middle"):
        evaluate(tiny_run, on=table)


def test_a_table_without_the_target_is_refused(tiny_run: Path) -> None:
    table = tiny_run.parent / "tiny" / "bare.csv"
    pl.read_csv(tiny_run.parent / "tiny" / "clips.csv").drop("label").write_csv(table)
    with pytest.raises(DataError, match="label"):
        evaluate(tiny_run, on=table)


def test_a_clip_that_vanished_from_the_table_is_named(tiny_run: Path, tmp_path: Path) -> None:
    table = tiny_run.parent / "tiny" / "clips.csv"
    text = table.read_text()
    try:
        table.write_text("\n".join(text.splitlines()[:-1]) + "\n")
        with pytest.raises(DataError, match="1 clips of this run are no longer in its table"):
            evaluate(tiny_run)
    finally:
        table.write_text(text)


def test_a_split_without_clips_is_one_error(tiny_run: Path) -> None:
    fold = RunFolder(tiny_run).folds[0]
    splits = fold.read_table("splits.parquet")
    try:
        fold.write_table("splits.parquet", splits.with_columns(pl.lit("train").alias("split")))
        with pytest.raises(ConfigError, match="no test clips"):
            evaluate(fold)
    finally:
        fold.write_table("splits.parquet", splits)


def test_predictions_tables_hold_all_that_metrics_need() -> None:
    labels = Labels("multi", ("a", "b"), ("a", "b"))
    frame = pl.DataFrame(
        {
            "decision": ["a", "a|b", "", None],
            "target_a": [1.0, 0.0, np.nan, 1.0],
            "target_b": [0.0, 1.0, 1.0, 0.0],
            "score_a": [0.9, 0.8, 0.1, 0.2],
            "score_b": [0.1, 0.7, 0.2, 0.3],
        }
    )
    target, score, decision = arrays_of(labels, frame)
    assert decision is not None
    assert decision.tolist() == [[True, False], [True, True], [False, False], [False, False]]
    assert score.shape == target.shape == (4, 2)
    single = Labels("single", ("x", "y"), ("label",))
    table = pl.DataFrame(
        {
            "target": ["y", None],
            "decision": ["x", "y"],
            "score_x": [1.0, 0.0],
            "score_y": [0.0, 1.0],
        }
    )
    target, _, decision = arrays_of(single, table)
    assert target[0].tolist() == [0, 1]
    assert np.isnan(target[1]).all()


def test_covariates_travel_to_the_predictions(tiny_run: Path) -> None:
    table = RunFolder(tiny_run).folds[0].read_table("predictions.parquet")
    assert {"id", "path", "group", "target", "decision", "loss", "age", "speaker"} <= set(
        table.columns
    )
    assert table["loss"].is_finite().all()
