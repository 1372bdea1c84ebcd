from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from harken.labels import Labels
from harken.standings import WHOLE, Run
from harken.verbs.run_scores import find_folders, flatten, read_run, read_runs, runs_in
from many_runs import AGE, MULTI, PAIR, SIDE_BY_SIDE, SIGNS, THREE, predictions, write_run


def read(path: Path, metric: str | None = None, split: str = "valid") -> Run:
    (found,) = find_folders([path])
    return read_run(found, metric, split)


def truth(labels: Labels, frame: pl.DataFrame, name: str) -> np.ndarray[Any, Any]:
    if labels.task == "single":
        return (frame["target"] == name).to_numpy().astype(float)
    return frame[f"target_{name}"].to_numpy()


# --- numbers ---


@pytest.mark.parametrize("labels", [THREE, MULTI, SIDE_BY_SIDE], ids=["three", "multi", "side"])
def test_every_label_has_the_number_of_scikit_learn(tmp_path: Path, labels: Labels) -> None:
    frame = predictions(labels, 1.0)
    run = read(write_run(tmp_path / "run", frame, labels))
    expected = {
        name: roc_auc_score(truth(labels, frame, name), frame[f"score_{name}"])
        for name in labels.names
    }
    assert run.state == "ranked"
    assert run.values == pytest.approx(expected)
    assert (run.metric, run.task, run.split) == ("roc_auc", labels.task, "valid")
    assert (run.num_clips, run.num_folds) == (60, None)


def test_two_classes_have_one_column_of_the_positive_one(tmp_path: Path) -> None:
    frame = predictions(PAIR, 1.0)
    path = write_run(tmp_path / "run", frame, PAIR)
    area = roc_auc_score(frame["target"] == "rough", frame["score_rough"])
    assert read(path).values == pytest.approx({"rough": area})
    average = average_precision_score(frame["target"] == "rough", frame["score_rough"])
    assert read(path, "average_precision").values == pytest.approx({"rough": average})
    f1 = f1_score(frame["target"] == "rough", frame["decision"] == "rough")
    assert read(path, "f1").values == pytest.approx({"rough": f1})


def test_metrics_without_labels_have_one_number(tmp_path: Path) -> None:
    frame = predictions(THREE, 1.0)
    run = read(write_run(tmp_path / "run", frame, THREE), "accuracy")
    assert run.values == pytest.approx({WHOLE: accuracy_score(frame["target"], frame["decision"])})


@pytest.mark.parametrize(
    ("metric", "reference"), [(None, mean_absolute_error), ("r2", r2_score)], ids=["mae", "r2"]
)
def test_values_have_errors(tmp_path: Path, metric: str | None, reference: Any) -> None:
    frame = predictions(AGE, 1.0)
    run = read(write_run(tmp_path / "run", frame, AGE), metric)
    expected = {n: reference(frame[f"target_{n}"], frame[f"score_{n}"]) for n in AGE.names}
    assert run.values == pytest.approx(expected)
    assert run.metric == (metric or "mae")


def test_the_split_that_is_asked_for_is_measured(tmp_path: Path) -> None:
    frames = [predictions(PAIR, 1.0), predictions(PAIR, 0.2, seed=1, split="test")]
    path = write_run(tmp_path / "run", pl.concat(frames))
    for split, frame in zip(("valid", "test"), frames, strict=True):
        area = roc_auc_score(frame["target"] == "rough", frame["score_rough"])
        assert read(path, None, split).values == pytest.approx({"rough": area})
    assert read(path).clips != read(path, None, "test").clips


def test_missing_targets_are_left_out_and_a_one_sided_label_has_no_number(tmp_path: Path) -> None:
    frame = predictions(MULTI, 1.0)
    rough, slow = "target_rough voice", "target_slow"
    frame = frame.with_columns(
        pl.when(pl.int_range(60) < 9).then(None).otherwise(pl.col(rough)).alias(rough),
        pl.lit(0.0).alias(slow),
    )
    run = read(write_run(tmp_path / "run", frame, MULTI))
    known = frame.filter(pl.col(rough).is_not_null())
    assert run.values["rough voice"] == pytest.approx(
        roc_auc_score(known[rough], known["score_rough voice"])
    )
    assert run.values["slow"] is None
    assert run.state == "ranked"


def test_folds_give_the_mean_of_those_that_define_a_number(tmp_path: Path) -> None:
    frames = [predictions(MULTI, 1.0, seed=i) for i in range(3)]
    frames[2] = frames[2].with_columns(pl.lit(0.0).alias("target_slow"))
    run = read(write_run(tmp_path / "run", frames, MULTI))
    for name in SIGNS:
        used = frames[:2] if name == "slow" else frames
        areas = [roc_auc_score(f[f"target_{name}"], f[f"score_{name}"]) for f in used]
        assert run.values[name] == pytest.approx(sum(areas) / len(areas))
    assert run.notes == ("slow: mean of the 2 of 3 folds that define it",)
    assert (run.num_folds, run.num_clips) == (3, 180)


def test_the_same_clips_have_the_same_fingerprint(tmp_path: Path) -> None:
    one = read(write_run(tmp_path / "one", predictions(PAIR, 1.0)))
    two = read(write_run(tmp_path / "two", predictions(PAIR, 0.5, seed=3).reverse()))
    less = read(write_run(tmp_path / "less", predictions(PAIR, 1.0)[1:]))
    assert one.clips == two.clips != less.clips


def test_the_interval_is_the_runs_own_if_it_is_of_this_number(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", predictions(PAIR, 1.0))
    value = read(path).values["rough"]
    for told, expected in ((value, (0.7, 0.9)), (0.123, (None, None))):
        entry = {"roc_auc": {"value": told, "low": 0.7, "high": 0.9}}
        (path / "metrics.json").write_text(json.dumps({"valid": {"metrics": entry}}))
        run = read(path)
        assert (run.low, run.high) == expected
        assert run.values == {"rough": value}


# --- settings ---


def test_settings_come_from_the_recipe_and_not_from_the_name(tmp_path: Path) -> None:
    words = ["optimizer.lr=0.05", "backbone.widths=[4, 8, 16]", "augment.0.max_gain_db=3.0"]
    path = write_run(tmp_path / "lr0.9_bs3", predictions(PAIR, 1.0), words=words)
    settings = read(path).settings
    assert settings["optimizer.lr"] == 0.05
    assert settings["backbone.widths"] == "[4, 8, 16]"
    assert settings["augment.0.max_gain_db"] == 3.0
    assert settings["augment.0.kind"] == "gain"
    assert settings["train.monitor"] is None
    assert read(path).is_whole


def test_a_recipe_lies_flat() -> None:
    tree = {"a": {"b": 1, "c": []}, "d": [1, 2], "e": [{"f": None}, 3], "g": {}, "h": "x"}
    assert flatten(tree) == {
        "a.b": 1, "a.c": "[]", "d": "[1, 2]", "e.0.f": None, "e.1": 3, "g": "{}", "h": "x"
    }  # fmt: skip


def trial(state: str, **more: Any) -> dict[str, Any]:
    values = {"optimizer.lr": 0.1, "backbone": {"kind": "lstm", "dim": 8}}
    told = {"study": "first", "number": 7, "values": values, "metric": "roc_auc", "value": 0.5}
    return told | {"state": state, "error": None} | more


def test_a_trial_tells_its_study_and_what_was_searched(tmp_path: Path) -> None:
    path = write_run(tmp_path / "trial-0007", predictions(PAIR, 1.0), trial=trial("complete"))
    run = read(path)
    assert (run.study, run.trial, run.state) == ("first", 7, "ranked")
    assert run.searched == ("optimizer.lr", "backbone")
    assert run.settings["optimizer.lr"] == 0.01  # the recipe is what was run


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("pruned", None, "the search stopped it early"),
        ("pruned", "after epoch 3", "after epoch 3"),
        ("failed", "the loss is not finite", "the loss is not finite"),
        ("failed", None, "no reason"),
    ],
)
def test_pruned_and_failed_trials_are_listed_as_such(
    tmp_path: Path, state: str, error: str | None, words: str
) -> None:
    told = trial(state, error=error)
    run = read(write_run(tmp_path / "trial-0007", predictions(PAIR, 1.0), trial=told))
    assert run.state == state
    assert words in run.reason
    assert run.values == {}
    assert run.settings["train.batch_size"] == 5


def test_a_trial_that_failed_before_its_recipe_is_listed_with_its_values(tmp_path: Path) -> None:
    (tmp_path / "trial-0007").mkdir()
    (tmp_path / "trial-0007" / "trial.json").write_text(json.dumps(trial("failed", error="no")))
    (run,) = read_runs(find_folders([tmp_path]), None, "valid")
    assert (run.name, run.state, run.reason) == ("trial-0007", "failed", "no")
    assert run.settings == {"optimizer.lr": 0.1, "backbone.kind": "lstm", "backbone.dim": 8}
    assert not run.is_whole


# --- what is broken ---


def spoil(path: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "state", "words"),
    [
        ("predictions.parquet", None, "unfinished", "no predictions.parquet"),
        ("predictions.parquet", b"", "broken", "predictions.parquet is damaged"),
        ("predictions.parquet", b"PAR1 but not really PAR1", "broken", "is damaged"),
        ("labels.json", None, "broken", "no labels.json"),
        ("labels.json", b"{", "broken", "labels.json is damaged"),
        ("labels.json", b"[]", "broken", "labels.json is damaged"),
        ("labels.json", b"{}", "broken", "labels.json is damaged"),
        ("recipe.yaml", b"a: [", "broken", "recipe.yaml is damaged"),
        ("recipe.yaml", b"- a", "broken", "recipe.yaml is damaged"),
        ("recipe.yaml", b"\xff\xfe\x00", "broken", "recipe.yaml is damaged"),
        ("trial.json", b"nothing", "broken", "trial.json is damaged"),
        ("trial.json", b"{}", "broken", "trial.json is damaged"),
        ("metrics.json", b"{", "broken", "metrics.json is damaged"),
    ],
)
def test_every_damage_is_a_reason(
    tmp_path: Path, name: str, content: bytes | None, state: str, words: str
) -> None:
    path = write_run(tmp_path / "run", predictions(PAIR, 1.0))
    spoil(path, name, content)
    run = read(path)
    assert run.state == state
    assert words in run.reason
    assert "\n" not in run.reason


def test_a_parquet_file_broken_anywhere_is_a_reason(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", predictions(PAIR, 1.0))
    whole = (path / "predictions.parquet").read_bytes()
    good = read(path).values
    for place in range(0, len(whole), len(whole) // 40):
        for content in (whole[:place], whole[:place] + b"\xff\x00" * 8 + whole[place + 16 :]):
            spoil(path, "predictions.parquet", content)
            run = read(path)
            # A byte inside a name or a score is no damage that a file could tell.
            assert run.state == "broken" or run.values.keys() == good.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.lit("test").alias("split"), "has no valid clips (it has test clips)"),
        (pl.lit(None, pl.String).alias("target"), "no clip has a target"),
        (pl.lit(float("nan")).alias("score_rough"), "scores are not finite"),
        (pl.lit("x").alias("score_rough"), ""),
    ],
)
def test_tables_that_cannot_be_measured(tmp_path: Path, change: pl.Expr, words: str) -> None:
    frame = predictions(PAIR, 1.0).with_columns(change)
    run = read(write_run(tmp_path / "run", frame))
    assert run.state == "broken"
    assert words in run.reason


@pytest.mark.parametrize("column", ["id", "split", "target", "decision", "score_rough"])
def test_columns_that_are_not_there(tmp_path: Path, column: str) -> None:
    run = read(write_run(tmp_path / "run", predictions(PAIR, 1.0).drop(column)))
    assert run.state == "broken"
    assert column in run.reason


def test_a_metric_of_another_task_is_a_reason(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "run", predictions(AGE, 1.0), AGE), "roc_auc")
    assert run.state == "broken"
    assert "regression task has no roc_auc" in run.reason


def test_folds_that_are_not_done_are_unfinished(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [predictions(PAIR, 1.0, seed=i) for i in range(2)])
    (path / "metrics.json").unlink()
    assert (read(path).state, "not all folds" in read(path).reason) == ("unfinished", True)
    (path / "fold-2" / "predictions.parquet").unlink()
    assert "no fold-2/predictions.parquet" in read(path).reason


# --- finding ---


def test_runs_are_found_at_any_depth_and_folds_are_not_runs(tmp_path: Path) -> None:
    frame = predictions(PAIR, 1.0)
    write_run(tmp_path / "a", [frame, frame])
    write_run(tmp_path / "deep" / "er" / "b", frame)
    write_run(tmp_path / "study" / "trial-0000", frame)
    (tmp_path / "study" / "study.json").write_text("{}")
    (tmp_path / "study" / "recipe.yaml").write_text("{}")
    (tmp_path / "empty").mkdir()
    names = [folder.name for folder in find_folders([tmp_path])]
    assert names == ["a", "deep/er/b", "study/trial-0000"]
    assert [folder.name for folder in find_folders([tmp_path / "a"])] == ["a"]
    assert [folder.name for folder in find_folders([tmp_path / "a" / "fold-1"])] == ["fold-1"]


def test_thousands_of_runs_are_found_at_once() -> None:
    names = ("recipe.yaml", "metrics.json", *(f"fold-{k}/recipe.yaml" for k in range(5)))
    files = [f"study/trial-{number}/{name}" for number in range(4000) for name in names]
    begin = time.monotonic()
    found = runs_in([*files, "study/trial-0/last/state.safetensors"])
    assert time.monotonic() - begin < 10
    assert len(found) == 4000
    assert all(found[f"study/trial-{number}"] == set(names) for number in range(4000))


def test_several_places_name_runs_in_full_and_each_once(tmp_path: Path) -> None:
    frame = predictions(PAIR, 1.0)
    one, two = write_run(tmp_path / "x" / "run", frame), write_run(tmp_path / "y" / "run", frame)
    found = find_folders([tmp_path / "x", tmp_path / "y", tmp_path / "x" / "run"])
    assert [folder.name for folder in found] == [str(one), str(two)]


def test_runs_in_a_bucket_are_read_like_local_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "one", predictions(PAIR, 1.0))
    write_run(tmp_path / "two", [predictions(PAIR, 0.5, seed=i) for i in range(2)])
    fs = fsspec.filesystem("memory")
    fs.put(f"{tmp_path}/", "/scored/runs/", recursive=True)
    local = read_runs(find_folders([tmp_path]), None, "valid")
    remote = read_runs(find_folders(["memory://scored/runs"]), None, "valid")
    assert [run.name for run in remote] == ["a/one", "two"]
    assert [run.path for run in remote] == [
        "memory://scored/runs/a/one", "memory://scored/runs/two"
    ]  # fmt: skip
    for here, there in zip(local, remote, strict=True):
        assert (here.values, here.settings, here.clips) == (
            there.values, there.settings, there.clips
        )  # fmt: skip
    fs.rm("/scored", recursive=True)


def test_a_link_to_a_run_is_the_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", predictions(PAIR, 1.0))
    shutil.copytree(path, tmp_path / "copy")
    (tmp_path / "link").symlink_to(path)
    assert len(find_folders([tmp_path])) == 2
