from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
import torch

import harken
from harken.check import check_splits
from harken.errors import ConfigError, DataError
from harken.losses import default_loss
from harken.predictor import new_classifier
from harken.recipe import Recipe, validate
from harken.sources import Table
from harken.verbs.prepare import load_clips, prepare
from harken.verbs.train import train
from test_trainer import tiny_recipe
from uid_trees import LABEL_GROUPS, UidTree, write_uid_tree


def test_a_second_run_decodes_nothing(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "cache"))
    recipe = tiny_recipe(tiny_table)
    first, _ = prepare(recipe)
    second, folds = prepare(recipe)
    assert first.cache.num_decoded == 36
    assert second.cache.num_decoded == 0
    assert [fold.name for fold in folds] == ["1", "2", "3"]


def test_identical_audio_in_two_splits_is_an_error(tiny_table: Path) -> None:
    wave, rate = soundfile.read(tiny_table.parent / "low_0_0.wav")
    soundfile.write(tiny_table.parent / "low_1_0.wav", wave, rate)
    with pytest.raises(DataError, match=r"low_[01]_0"):
        prepare(tiny_recipe(tiny_table))


def test_a_source_without_a_usual_target_asks_for_one(tiny_table: Path) -> None:
    data = {"source": {"kind": "table", "path": str(tiny_table)}}
    with pytest.raises(ConfigError, match=r"data.target: say what to learn"):
        prepare(validate({"data": data}))


def test_one_class_only_is_an_error(tiny_table: Path) -> None:
    pl.read_csv(tiny_table).filter(pl.col("label") == "low").write_csv(tiny_table)
    with pytest.raises(DataError, match="only the class 'low'"):
        prepare(tiny_recipe(tiny_table))


def test_a_class_missing_from_training_is_an_error(tiny_table: Path) -> None:
    frame = pl.read_csv(tiny_table)
    frame.filter((pl.col("label") != "low") | (pl.col("fold") == 1)).write_csv(tiny_table)
    with pytest.raises(DataError, match="low"):
        prepare(tiny_recipe(tiny_table))


def test_clips_without_a_target_are_left_out_and_counted(tiny_table: Path) -> None:
    frame = pl.read_csv(tiny_table)
    empty = pl.when(pl.int_range(pl.len()) < 3).then(None).otherwise(pl.col("label"))
    frame.with_columns(empty.alias("label")).write_csv(tiny_table)
    recipe = tiny_recipe(tiny_table)
    target = recipe.data.target
    assert target is not None
    with pytest.raises(DataError, match="no label"):
        prepare(recipe)
    data = recipe.data.model_copy(update={"target": target.model_copy(update={"missing": "drop"})})
    corpus, _ = prepare(recipe.model_copy(update={"data": data}))
    assert len(corpus.manifest) == 33
    assert "3 clips without a target are left out" in corpus.notes


def test_weights_come_from_the_table(tiny_table: Path) -> None:
    frame = pl.read_csv(tiny_table).with_columns(pl.lit(2.5).alias("importance"))
    frame.write_csv(tiny_table)
    recipe = tiny_recipe(tiny_table)
    assert prepare(recipe)[0].weight.tolist() == [1.0] * 36
    source = recipe.data.source.model_copy(update={"weight": "importance"})
    data = recipe.data.model_copy(update={"source": source})
    assert prepare(recipe.model_copy(update={"data": data}))[0].weight.tolist() == [2.5] * 36


def uid_recipe(
    tree: UidTree, target: Any, table: Path | None = None, where: Any = None, **data: Any
) -> Recipe:
    """A recipe over a UID tree's own split tables, on a tiny network."""
    source = {"kind": "uid_folder", "path": str(tree.audio), "table": str(table or tree.splits)}
    source |= {"where": where} if where else {}
    split = {"kind": "column", "valid": 1}
    return validate(
        {
            "data": {"source": source, "target": target, "split": split, **data},
            "audio": {"sample_rate": 8000, "clip_seconds": 0.4},
            "frontend": {"kind": "log_mel", "n_mels": 16},
            "backbone": {"kind": "cnn", "widths": [4, 8]},
            "optimizer": {"kind": "adamw", "lr": 0.01},
            "train": {"epochs": 2, "batch_size": 12},
            "evaluate": {"num_resamples": 10},
        }
    )


def test_a_uid_tree_with_two_classifiers_from_a_label_file(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=6)
    target = {"label_file": str(tree.label_file)}
    recipe = uid_recipe(tree, target, where={"task": "counting"})
    corpus, (fold,) = prepare(recipe)
    assert "where {task: counting} keeps 36 of 72 rows" in corpus.notes
    assert corpus.labels.groups == LABEL_GROUPS
    names = [name for group in LABEL_GROUPS for name in group]
    assert list(corpus.labels.names) == names
    assert corpus.target.shape == (36, 4)
    truth = corpus.manifest.frame.select(names).to_numpy()
    np.testing.assert_array_equal(corpus.target, truth)
    check_splits(corpus.manifest, [fold])
    assert all((fold.split == part).any() for part in ("train", "valid", "test"))
    model = new_classifier(recipe, corpus.labels)
    assert [head[-1].out_features for head in model.heads.groups] == [2, 2]
    batch = corpus.dataset(np.arange(3), recipe.audio).batch(np.arange(3), 0)
    assert model(batch.waveform, batch.lengths).logits.shape == (3, 4)


def test_a_run_keeps_what_the_label_file_said(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=6, takes=1)
    tree.label_file.write_text("small\n\nhas_i, even\n")
    run = train(uid_recipe(tree, {"label_file": str(tree.label_file)}), tmp_path / "run")
    tree.label_file.unlink()
    predictor = harken.load(run.path)
    assert predictor.labels.names == ("small", "has_i", "even")
    assert predictor.recipe.data.target is not None
    assert predictor.recipe.data.target.groups == [["small"], ["has_i", "even"]]
    assert "label_file: null" in run.read_text("recipe.yaml")
    scores = run.read_table("predictions.parquet").columns
    assert [name for name in scores if name.startswith("score_")] == [
        "score_small",
        "score_has_i",
        "score_even",
    ]


def test_columns_are_derived_before_the_labels_are_learned(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=4, takes=1)
    scores = tmp_path / "scores.csv"
    frame = pl.read_csv(tree.table).with_columns(cs=pl.col("digit") + 1, v=pl.lit(1))
    frame.with_columns(split=pl.lit("train")).write_csv(scores)
    derive = [
        {"kind": "recode", "columns": ["cs", "v"], "map": {1: 0, "2..3": 1}, "missing": [4]},
        {"kind": "any_of", "name": "distortions", "columns": ["cs", "v"]},
    ]
    split = {"kind": "random", "valid": 1, "test": 1}
    recipe = uid_recipe(tree, ["distortions", "even"], scores, derive=derive, split=split)
    corpus, _ = prepare(recipe)
    digits = corpus.manifest.frame["digit"].to_numpy()
    expected = np.array([0, 1, 1, np.nan])[digits]
    np.testing.assert_array_equal(corpus.target[:, 0], expected)
    assert "derived column 'distortions': 12 × 1, 6 × 0, 6 missing" in corpus.notes
    other = Table(path=str(scores), audio="uid", where={"digit": 0})
    assert load_clips(recipe, other).frame["distortions"].to_list() == [0] * 6
    frame.select("uid", distortions="even").write_csv(tmp_path / "rated.csv")
    rated = Table(path=str(tmp_path / "rated.csv"), audio="uid")
    assert load_clips(recipe, rated).frame["distortions"].sum() == 12


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_a_missing_label_gives_no_gradient_and_the_others_do(tmp_path: Path, loss: str) -> None:
    tree = write_uid_tree(tmp_path, num_digits=6, takes=1)
    for part in ("train", "test"):
        path = tree.splits / f"{part}.csv"
        # One label is unknown of every clip of the batch below, another is known of all.
        unknown = pl.when(pl.col("digit") < 4).then(None).otherwise(pl.col("even"))
        pl.read_csv(path).with_columns(even=unknown).write_csv(path)
    task = "regression" if loss == "mse" else "multi"
    recipe = uid_recipe(tree, {"columns": ["even", "round"], "task": task})
    corpus, _ = prepare(recipe)
    rows = np.flatnonzero(corpus.manifest.frame["digit"].to_numpy() < 4)
    batch = corpus.dataset(rows, recipe.audio).batch(rows, 0)
    assert torch.isnan(batch.target[:, 0]).all()
    model = new_classifier(recipe, corpus.labels)
    built = default_loss(corpus.labels.task).build(corpus.labels, corpus.target)
    assert loss in type(built).__name__.lower() or loss in str(default_loss(corpus.labels.task))
    built(model(batch.waveform, batch.lengths), batch).mean().backward()
    weight = model.heads.groups[0][-1].weight.grad
    assert weight is not None
    assert weight[0].abs().max() == 0
    assert weight[1].abs().max() > 0


BAD = {
    "column": ("labels.txt", "even\nrounded, small\n", "labels.txt:2: splits/*.csv has no column"),
    "empty": ("labels.txt", "\n", "labels.txt: this label file is empty"),
    "twice": (
        "labels.txt",
        "even\neven\n",
        "labels.txt:2: the label 'even' stands in labels.txt:1",
    ),
    "metadata": ("audio/s0-0-0/metadata.json", "{", "audio/s0-0-0/metadata.json: this is not JSON"),
    "no metadata": ("audio/s0-0-0/metadata.json", None, "metadata.json: there is no such file"),
    "no sound": ("audio/s0-0-0/waveform.wav", None, "audio/s0-0-0: there is no recording"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    name, text, message = BAD[case]
    tree = write_uid_tree(tmp_path, num_digits=3, takes=1)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    recipe = uid_recipe(tree, {"label_file": str(tree.label_file)})
    with pytest.raises(DataError) as caught:
        prepare(recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_as_a_person_types_it(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=3, takes=1)
    tree.label_file.write_text("even\nroundd\n")
    (tmp_path / "r.yaml").write_text(
        "data:\n"
        "  source: {kind: uid_folder, path: audio, table: splits}\n"
        "  target: {label_file: labels.txt}\n"
        "  split: {kind: column, valid: 1}\n"
    )
    command = [sys.executable, "-m", "harken", "prepare", "r.yaml"]
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    lines = "harken: labels.txt:2: splits/*.csv has no column 'roundd', did you mean 'round'?"
    assert wrong.stderr.strip().splitlines()[-1] == lines
