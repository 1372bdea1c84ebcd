from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from harken.checkpoint import RunFolder
from harken.errors import ConfigError, DataError, RunError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.verbs.evaluate import evaluate, flat, prediction_table
from harken.verbs.measure import arrays_of


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


def test_a_table_without_labels_is_predicted_and_nothing_measured(tiny_run: Path) -> None:
    table = tiny_run.parent / "tiny" / "bare.csv"
    frame = pl.read_csv(tiny_run.parent / "tiny" / "clips.csv").head(7)
    frame.select("path", pl.col("label").alias("lable")).write_csv(table)
    metrics = evaluate(tiny_run, on=table)
    assert metrics["num_clips"] == 0
    assert metrics["metrics"] == {}
    assert "no labels: no metrics, only predictions of 7 clips" in metrics["notes"][0]
    assert "did you mean 'lable'" in metrics["notes"][0]
    folder = RunFolder(tiny_run / "evaluations" / "bare")
    predictions = folder.read_table("predictions.parquet")
    labelled = evaluate_frame(tiny_run, frame.head(7), "seven")
    assert predictions["target"].null_count() == 7
    assert predictions["decision"].to_list() == labelled["decision"].to_list()
    assert not folder.has("per_class.csv")


def evaluate_frame(run: Path, frame: pl.DataFrame, name: str) -> pl.DataFrame:
    table = run.parent / "tiny" / f"{name}.csv"
    frame.write_csv(table)
    evaluate(run, on=table)
    return RunFolder(run / "evaluations" / name).read_table("predictions.parquet")


def test_clips_without_a_label_are_predicted_and_left_out_of_the_metrics(tiny_run: Path) -> None:
    frame = pl.read_csv(tiny_run.parent / "tiny" / "clips.csv")
    holes = pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise(pl.col("label"))
    predictions = evaluate_frame(tiny_run, frame.with_columns(holes.alias("label")), "holes")
    assert len(predictions) == 36
    assert predictions["target"].null_count() == 10
    metrics = RunFolder(tiny_run / "evaluations" / "holes").read_json("metrics.json")["test"]
    assert metrics["num_clips"] == 26
    assert "10 clips without a target are left out" in metrics["notes"]


def test_a_table_of_one_class_leaves_gaps_and_says_so(tiny_run: Path) -> None:
    frame = pl.read_csv(tiny_run.parent / "tiny" / "clips.csv")
    evaluate_frame(tiny_run, frame.filter(pl.col("label") == "low"), "one")
    folder = RunFolder(tiny_run / "evaluations" / "one")
    metrics = folder.read_json("metrics.json")["test"]
    assert metrics["metrics"]["accuracy"]["value"] is not None
    assert metrics["metrics"]["roc_auc"]["value"] is None
    assert any(note.startswith("roc_auc is undefined for 'high'") for note in metrics["notes"])
    table = pl.read_csv(folder.path / "per_class.csv")
    assert table["label"].to_list() == ["high", "low", "noise"]
    assert table["roc_auc"].null_count() == 3
    assert table["recall"].null_count() == 2
    assert table["support"].to_list() == [0, 12, 0]


def test_every_label_has_a_row_in_a_plain_table(tiny_run: Path) -> None:
    for folder in (RunFolder(tiny_run), *RunFolder(tiny_run).folds):
        table = pl.read_csv(folder.path / "per_class.csv")
        assert table.columns[:3] == ["label", "support", "roc_auc"]
        metrics = folder.read_json("metrics.json")
        rows = (metrics.get("pooled") or metrics["test"])["per_class"]
        assert table["label"].to_list() == [row["label"] for row in rows]
        assert table["roc_auc"].to_list() == pytest.approx([r["roc_auc"]["value"] for r in rows])
        assert table["roc_auc_low"].to_list() == pytest.approx([r["roc_auc"]["low"] for r in rows])


def test_predictions_can_be_read_as_text(tiny_run: Path) -> None:
    table = tiny_run.parent / "tiny" / "text.csv"
    pl.read_csv(tiny_run.parent / "tiny" / "clips.csv").head(5).write_csv(table)
    evaluate(tiny_run, on=table, csv=True)
    folder = tiny_run / "evaluations" / "text"
    text, parquet = (
        pl.read_csv(folder / "predictions.csv"),
        pl.read_parquet(folder / "predictions.parquet"),
    )
    assert text.columns == parquet.columns
    assert text["score_low"].to_list() == pytest.approx(parquet["score_low"].to_list())
    own = evaluate(tiny_run, csv=True)
    assert len(pl.read_csv(tiny_run / "evaluations" / "test" / "predictions.csv")) == 36
    assert own["num_clips"] == 36


def test_lists_and_mappings_become_text() -> None:
    frame = pl.DataFrame({"id": ["a"], "tags": [["x", "y"]], "more": [{"n": 1}]})
    assert flat(frame).write_csv().splitlines()[1] == 'a,x|y,"{""n"":1}"'


def test_weights_of_another_network_are_refused(tiny_run: Path) -> None:
    fold = RunFolder(tiny_run).folds[0]
    text = fold.read_text("recipe.yaml")
    try:
        fold.write_text("recipe.yaml", text.replace("widths: [4, 8]", "widths: [4, 9]"))
        with pytest.raises(RunError, match="weights are of another recipe"):
            evaluate(fold)
    finally:
        fold.write_text("recipe.yaml", text)


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


def test_every_column_of_the_table_stays_beside_the_predictions() -> None:
    own = {"target": ["t", "u"], "table_target": ["v", "w"], "loss": [1, 2]}
    frame = pl.DataFrame({"id": ["a", "b"], "path": ["a", "b"], "label": ["x", "y"], **own})
    labels = Labels("single", ("x", "y"), ("label",))
    manifest = Manifest(frame)
    corpus = SimpleNamespace(manifest=manifest, labels=labels, target=labels.encode(manifest))
    nan = np.full(2, np.nan)
    table = prediction_table(corpus, np.arange(2), np.eye(2), nan, None, "test", "1")
    assert table["target"].to_list() == ["x", "y"]
    assert table["table_target"].to_list() == own["table_target"]
    assert table["table_table_target"].to_list() == own["target"]
    assert table["table_loss"].to_list() == own["loss"]


def test_covariates_travel_to_the_predictions(tiny_run: Path) -> None:
    table = RunFolder(tiny_run).folds[0].read_table("predictions.parquet")
    assert {"id", "path", "group", "target", "decision", "loss", "age", "speaker"} <= set(
        table.columns
    )
    assert table["loss"].is_finite().all()
