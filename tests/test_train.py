from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from harken.backbones import Backbone
from harken.checkpoint import RunFolder
from harken.cli import app
from harken.errors import ConfigError, DataError, HarkenError, RunError
from harken.recipe import dump_recipe
from harken.verbs.evaluate import evaluate
from harken.verbs.train import bf16_pays, dry_run, train
from test_trainer import tiny_recipe

FILES = {
    "recipe.yaml",
    "environment.json",
    "labels.json",
    "splits.parquet",
    "metrics.jsonl",
    "metrics.json",
    "predictions.parquet",
    "calibration.json",
    "model.safetensors",
}


def test_a_run_over_folds_leaves_every_file_and_a_summary(tiny_table: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(tiny_table), tmp_path / "run")
    assert [fold.path.name for fold in run.folds] == ["fold-1", "fold-2", "fold-3"]
    for fold in run.folds:
        assert {p.name for p in fold.path.iterdir()} >= FILES
        assert fold.has_state
    summary = run.read_json("metrics.json")
    accuracies = [fold["test"]["accuracy"] for fold in summary["folds"]]
    assert summary["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 3)
    pooled = run.read_table("predictions.parquet")
    assert sorted(pooled["id"]) == sorted(pl.read_csv(tiny_table)["path"].str.strip_suffix(".wav"))
    hits = (pooled["target"] == pooled["decision"]).mean()
    assert summary["pooled"]["metrics"]["accuracy"]["value"] == pytest.approx(hits)
    assert summary["pooled"]["num_groups"] == 3


def test_test_folds_never_choose(tiny_table: Path, tmp_path: Path) -> None:
    """Scrambling the labels of the test clips leaves the weights as they are."""
    one = train(tiny_recipe(tiny_table), tmp_path / "one", folds="1")
    frame = pl.read_csv(tiny_table)
    wrong = pl.when(pl.col("fold") == 1).then(pl.col("label").reverse()).otherwise(pl.col("label"))
    other_table = tiny_table.with_name("other.csv")
    frame.with_columns(wrong.alias("label")).write_csv(other_table)
    two = train(tiny_recipe(other_table), tmp_path / "two", folds="1")
    first, second = (load_file(r.path / "fold-1" / "model.safetensors") for r in (one, two))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_splits_are_written_and_disjoint_in_speakers(tiny_table: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(tiny_table), tmp_path / "run", folds=["2"])
    splits = run.folds[0].read_table("splits.parquet")
    speakers = splits.with_columns(pl.col("id").str.extract(r"_(\d)_").alias("speaker"))
    assert (
        speakers.group_by("speaker").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 3
    )
    assert set(splits["split"]) == {"train", "valid", "test"}


def test_only_the_folds_that_are_asked_for_run(tiny_table: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(tiny_table), tmp_path / "run", folds="1, 3")
    assert [fold.path.name for fold in run.folds] == ["fold-1", "fold-3"]
    with pytest.raises(ConfigError, match="no fold '9'; one of 1, 2, 3"):
        train(tiny_recipe(tiny_table), tmp_path / "other", folds="9")


def test_an_existing_run_is_refused(tiny_table: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    with pytest.raises(RunError, match="exists already"):
        train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    train(tiny_recipe(tiny_table), tmp_path / "run", folds="1", overwrite=True)


def test_resuming_with_another_recipe_is_refused(tiny_table: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    with pytest.raises(RunError, match="made by another recipe"):
        train(tiny_recipe(tiny_table, seed=5), tmp_path / "run", resume=True)


def test_a_mistake_in_the_data_makes_no_run_and_spares_the_old_one(
    tiny_table: Path, tmp_path: Path
) -> None:
    """What is told before training leaves nothing that a second try would stumble over."""
    run = train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    weights = run.path / "fold-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    source = {"kind": "table", "path": str(tiny_table), "group": "speaker"}
    split = {"kind": "fold", "column": "fold", "valid": 0.5}
    misspelt = tiny_recipe(tiny_table, data={"source": source, "target": "lable", "split": split})
    unknown = tiny_recipe(tiny_table, train={"monitor": "acuracy"})
    for recipe, folds in ((misspelt, "1"), (unknown, "1"), (tiny_recipe(tiny_table), "9")):
        with pytest.raises(HarkenError, match=r"lable|acuracy|'9'"):
            train(recipe, tmp_path / "new", folds=folds)
        with pytest.raises(HarkenError, match=r"lable|acuracy|'9'"):
            train(recipe, run.path, folds=folds, overwrite=True)
    assert not (tmp_path / "new").exists()
    assert weights.stat().st_mtime_ns == before


def test_resuming_with_other_clips_is_refused(tiny_table: Path, tmp_path: Path) -> None:
    """Else a fold could be judged on clips that it has learned from, or be pooled with others."""
    recipe = tiny_recipe(tiny_table)
    run = train(recipe, tmp_path / "run", folds="1")
    frame = pl.read_csv(tiny_table)
    frame.with_columns(pl.col("fold") % 3 + 1).write_csv(tiny_table)
    with pytest.raises(RunError, match="have changed since this run began"):
        train(recipe, run.path, folds="2", resume=True)
    (run.path / "fold-1" / "metrics.json").unlink()
    with pytest.raises(RunError, match="have changed since this run began"):
        train(recipe, run.path, folds="1", resume=True)
    frame.write_csv(tiny_table)
    assert train(recipe, run.path, folds="1", resume=True).folds[0].has("metrics.json")


def test_resuming_a_finished_run_repeats_nothing(tiny_table: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    before = (run.path / "fold-1" / "model.safetensors").stat().st_mtime_ns
    train(tiny_recipe(tiny_table), tmp_path / "run", folds="1,2", resume=True)
    assert (run.path / "fold-1" / "model.safetensors").stat().st_mtime_ns == before
    assert len(run.folds) == 2


def _start(recipe: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "harken", "train", str(recipe), "--out", str(out), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def _wait_for(path: Path, epochs: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= epochs:
            return
        time.sleep(0.01)
    assert process.poll() is None, process.stderr and process.stderr.read().decode()
    raise AssertionError("no epoch ended")


def test_a_run_that_is_killed_and_stopped_ends_with_the_same_bits(
    tiny_table: Path, tmp_path: Path
) -> None:
    """One process is killed, the next is asked to end, and a third ends what they began."""
    train_words = {"epochs": 60, "batch_size": 5, "ema": 0.9, "checkpoint_minutes": 0.001}
    recipe = tiny_recipe(tiny_table, train=train_words)
    path, run = tmp_path / "recipe.yaml", tmp_path / "broken"
    path.write_text(dump_recipe(recipe))
    log = run / "fold-1" / "metrics.jsonl"
    killed = _start(path, run, "--folds", "1", "--resume")
    _wait_for(log, 3, killed)
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL
    done = len(log.read_text().splitlines())
    stopped = _start(path, run, "--folds", "1", "--resume")
    _wait_for(log, done + 3, stopped)
    stopped.terminate()
    assert stopped.wait(60) == 1
    assert stopped.stderr
    assert b"continue with --resume" in stopped.stderr.read()
    assert not (run / "fold-1" / "metrics.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(recipe, run, folds="1", resume=True)
        train(recipe, tmp_path / "whole", folds="1")
    finally:
        torch.set_num_threads(threads)
    for name in ("model.safetensors", "last/state.safetensors"):
        one, two = (load_file(tmp_path / run / "fold-1" / name) for run in ("whole", "broken"))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_bad_recordings_stop_or_are_left_out(tiny_table: Path, tmp_path: Path) -> None:
    (tiny_table.parent / "low_0_1.wav").write_bytes(b"")
    (tiny_table.parent / "high_1_2.wav").write_text("not audio at all, only text")
    recipe = tiny_recipe(tiny_table)
    with pytest.raises(DataError, match=r"(low_0_1|high_1_2).wav"):
        train(recipe, tmp_path / "stop")
    data = recipe.data.model_copy(update={"on_bad_audio": "skip"})
    run = train(recipe.model_copy(update={"data": data}), tmp_path / "skip", folds="1")
    listed = run.read_json("quarantine.json")
    assert sorted(Path(entry["path"]).name for entry in listed) == ["high_1_2.wav", "low_0_1.wav"]
    assert all(entry["reason"] for entry in listed)
    assert len(run.folds[0].read_table("splits.parquet")) == 34


def test_clips_without_a_label_need_no_recording(tiny_table: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(tiny_table)
    label = pl.when(pl.int_range(pl.len()) < 2).then(None).otherwise(pl.col("label"))
    frame.with_columns(label=label).write_csv(tiny_table)
    for name in frame["path"][:2]:
        (tiny_table.parent / name).unlink()
    tree = yaml.safe_load(dump_recipe(tiny_recipe(tiny_table)))
    tree["data"]["target"] = {"columns": "label", "missing": "drop"}
    run = train(type(tiny_recipe(tiny_table)).model_validate(tree), tmp_path / "run", folds="1")
    measured = run.read_json("metrics.json")["pooled"]
    assert measured["num_clips"] == 10
    assert evaluate(run) == measured


def test_several_labels_per_clip(tiny_table: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(tiny_table).with_columns(
        (pl.col("label") != "noise").cast(pl.Int8).alias("tonal"),
        pl.when(pl.col("fold") == 2)
        .then(None)
        .otherwise((pl.col("label") == "high").cast(pl.Int8))
        .alias("high"),
    )
    frame.write_csv(tiny_table)
    recipe = tiny_recipe(tiny_table)
    tree = yaml.safe_load(dump_recipe(recipe))
    tree["data"]["target"] = ["tonal", "high"]
    multi = type(recipe).model_validate(tree)
    run = train(multi, tmp_path / "run", folds="1")
    table = run.folds[0].read_table("predictions.parquet")
    assert {"score_tonal", "score_high", "target_tonal", "target_high"} <= set(table.columns)
    metrics = run.folds[0].read_json("metrics.json")["test"]["metrics"]
    assert "average_precision" in metrics


def test_regression(tiny_table: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(dump_recipe(tiny_recipe(tiny_table)))
    tree["data"]["target"] = {"columns": "age", "task": "regression"}
    tree["data"]["split"] = {"kind": "random", "grouped": False, "test": 0.3, "valid": 0.2}
    tree["data"]["source"].pop("group")
    tree["mix"] = None
    run = train(type(tiny_recipe(tiny_table)).model_validate(tree), tmp_path / "run")
    metrics = run.read_json("metrics.json")["test"]["metrics"]
    assert {"mae", "rmse", "r2"} <= set(metrics)


def test_a_dry_run_overfits_one_batch_and_says_so(tiny_table: Path) -> None:
    recipe = tiny_recipe(tiny_table, train={"epochs": 1, "batch_size": 9})
    found = dry_run(recipe)
    assert found["learned"]
    assert found["parameters_without_gradient"] == 0
    frozen = recipe.model_copy(
        update={"optimizer": recipe.optimizer.model_copy(update={"lr": 1e-9})}
    )
    assert not dry_run(frozen, steps=20)["learned"]


def test_a_plugin_backbone_trains_through_the_same_command(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    plugin = tmp_path / "my_backbone.py"
    plugin.write_text(text.split("```python\n")[1].split("```")[0])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe(tiny_table)))
    monkeypatch.setattr(Backbone, "_kinds", dict(Backbone._kinds))
    words = ["train", path, "--folds", "1", f"plugins=[{plugin}]", "backbone=frame_net"]
    found = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "run")])
    assert found.exit_code == 0, found.output
    saved = load_file(tmp_path / "run" / "fold-1" / "model.safetensors")
    assert any("gate" in name for name in saved)


def test_the_environment_and_history_are_readable(tiny_table: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(tiny_table), tmp_path / "run", folds="1")
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"]
    assert isinstance(RunFolder.open(run.path).folds[0].labels().names, tuple)


@pytest.mark.parametrize(("capability", "pays"), [("AVX2", False), ("AVX512", True)])
def test_emulated_bf16_is_told(
    tiny_table: Path, monkeypatch: pytest.MonkeyPatch, capability: str, pays: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    train_words = {"precision": "bf16", "device": "cpu"}
    assert bf16_pays(tiny_recipe(tiny_table, train=train_words)) == pays
    assert bf16_pays(tiny_recipe(tiny_table))
