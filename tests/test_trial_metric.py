from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from harken import trial_metric
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, RunError
from harken.trial_metric import report_metric, summary_metric


def valid_of_folds(run: Path, name: str) -> list[float]:
    folds = json.loads((run / "metrics.json").read_text())["folds"]
    return [fold["valid"][name] for fold in folds]


def test_it_is_the_mean_over_the_folds_validation_clips(tiny_run: Path) -> None:
    for name in ("roc_auc", "balanced_accuracy", "log_loss"):
        values = valid_of_folds(tiny_run, name)
        assert len(values) == 3
        assert summary_metric(RunFolder.open(tiny_run), name) == (
            name,
            pytest.approx(sum(values) / 3),
        )


def test_it_is_not_of_test_clips(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    before = summary_metric(RunFolder.open(tmp_path / "run"))
    for fold in metrics["folds"]:
        fold["test"] = dict.fromkeys(fold["test"], 0.123)
    metrics["pooled"]["metrics"]["balanced_accuracy"]["value"] = 0.123
    path.write_text(json.dumps(metrics))
    assert summary_metric(RunFolder.open(tmp_path / "run")) == before


def test_the_default_is_what_training_monitored(tiny_run: Path, tmp_path: Path) -> None:
    name, value = summary_metric(RunFolder.open(tiny_run))
    assert name == "balanced_accuracy"
    assert value == pytest.approx(np.mean(valid_of_folds(tiny_run, name)))
    shutil.copytree(tiny_run, tmp_path / "run")
    for recipe in (tmp_path / "run").rglob("recipe.yaml"):
        recipe.write_text(recipe.read_text().replace("monitor: null", "monitor: log_loss"))
    assert summary_metric(RunFolder.open(tmp_path / "run"))[0] == "log_loss"


def test_one_fold_is_a_run_too_and_the_loss_is_of_its_kept_weights(tiny_run: Path) -> None:
    fold = RunFolder.open(tiny_run / "fold-2")
    entry = fold.read_json("metrics.json")["valid"]["metrics"]["roc_auc"]
    assert summary_metric(fold, "roc_auc") == ("roc_auc", entry["value"])
    seen = fold.read_table("predictions.parquet").filter(pl.col("split") == "valid")
    assert summary_metric(fold, "loss")[1] == pytest.approx(seen["loss"].mean())
    whole = [summary_metric(RunFolder(tiny_run / f"fold-{i}"), "loss")[1] for i in (1, 2, 3)]
    assert summary_metric(RunFolder.open(tiny_run), "loss")[1] == pytest.approx(np.mean(whole))


def test_what_cannot_be_told_is_said(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metric 'roc_acu', did you mean 'roc_auc'"):
        summary_metric(RunFolder.open(tiny_run), "roc_acu")
    run = tmp_path / "run"
    shutil.copytree(tiny_run / "fold-1", run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["valid"]["metrics"]["roc_auc"]["value"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match="roc_auc is undefined"):
        summary_metric(RunFolder.open(run), "roc_auc")
    (run / "metrics.json").write_text(json.dumps({"test": metrics["test"]}))
    with pytest.raises(RunError, match=r"no validation clips.*data\.split"):
        summary_metric(RunFolder.open(run))
    (run / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"not finished.*--resume"):
        summary_metric(RunFolder.open(run))


@pytest.fixture
def metric_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(path))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    return path


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_service_finds_one_line_with_the_number(metric_file: Path) -> None:
    assert report_metric("roc_auc", 0.875, epochs=12, checkpoint="gs://b/r/trial-7") == metric_file
    (line,) = read(metric_file)
    assert isinstance(line.pop("timestamp"), float)
    assert line == {
        "trial": "7",
        "roc_auc": "0.875",
        "global_step": "12",
        "checkpoint_path": "gs://b/r/trial-7",
    }


def test_a_trial_started_again_still_has_one_number(metric_file: Path) -> None:
    report_metric("roc_auc", 0.5)
    report_metric("roc_auc", 0.75)
    assert [line["roc_auc"] for line in read(metric_file)] == ["0.75"]


def test_the_newest_hundred_lines_are_kept(
    metric_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(105):
        monkeypatch.setenv("CLOUD_ML_TRIAL_ID", str(number))
        report_metric("mae", float(number))
    lines = read(metric_file)
    assert [line["trial"] for line in lines] == [str(number) for number in range(5, 105)]


def test_a_foreign_line_is_left_alone(metric_file: Path) -> None:
    metric_file.parent.mkdir()
    metric_file.write_text("not JSON\n[1]\n")
    report_metric("mae", 1.0)
    assert metric_file.read_text().splitlines()[:2] == ["not JSON", "[1]"]


def test_without_a_name_the_file_is_the_services_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial_metric.METRIC_FILE == "/tmp/hypertune/output.metrics"
    monkeypatch.delenv("CLOUD_ML_HP_METRIC_FILE", raising=False)
    monkeypatch.delenv("CLOUD_ML_TRIAL_ID", raising=False)
    monkeypatch.setattr(trial_metric, "METRIC_FILE", str(tmp_path / "own"))
    assert report_metric("mae", 0.25) == tmp_path / "own"
    assert read(tmp_path / "own")[0]["trial"] == "0"
    assert trial_metric.trial_id() is None


def test_what_is_no_number_is_not_told(metric_file: Path) -> None:
    with pytest.raises(RunError, match="nan"):
        report_metric("mae", float("nan"))
    assert not metric_file.exists()
    metric_file.parent.write_text("in the way")
    with pytest.raises(RunError, match="cannot tell"):
        report_metric("mae", 1.0)
