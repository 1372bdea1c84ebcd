"""Subgroups and speakers on the page: rows, sentences, drawings, and what is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from harken.labels import Labels
from harken.recipe import validate
from harken.report import figures
from harken.report.contents import Contents, read_contents
from harken.report.subgroup_tables import MAX_SUBGROUPS, partitions, votes
from harken.verbs.measure import summarise_predictions
from run_folders import write_kfold, write_regression, write_single
from test_page import page_of


def with_subgroups(folder: Path, word: Any = None, **evaluation: Any) -> Path:
    """Add what `evaluate.by` and `evaluate.vote` give to a run folder without training."""
    frame = pl.read_parquet(folder / "predictions.parquet")
    rows = len(frame)
    words = (
        np.array(["cup", "bee", "zoo & <b>co</b>"])[np.arange(rows) % 3] if word is None else word
    )
    frame = frame.with_columns(word=pl.Series(words), sex=pl.Series(["f", "m"] * (rows // 2)))
    frame.write_parquet(folder / "predictions.parquet")
    told = json.loads((folder / "labels.json").read_text())
    labels = Labels(told["task"], tuple(told["names"]), ("label",))
    if labels.task == "regression" and "target_age" not in frame.columns:
        frame = frame.with_columns(target_age=pl.col("target"))
    tree = {"data": {"source": {"kind": "table", "path": "none.csv"}}}
    asked = {"num_resamples": 100, "by": ["word", "sex"], "vote": "group", **evaluation}
    found = summarise_predictions(validate({**tree, "evaluate": asked}), labels, frame)
    metrics = json.loads((folder / "metrics.json").read_text())
    part = metrics["pooled"] if "pooled" in metrics else metrics["test"]
    part |= {name: found[name] for name in ("by", "vote") if name in found}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def single(tmp_path: Path) -> Contents:
    return read_contents(with_subgroups(write_single(tmp_path / "run")))


def test_rows_hold_what_the_metrics_say(single: Contents) -> None:
    word, sex = partitions(single)
    told = single.test["by"]["word"]
    assert [part.column for part in (word, sex)] == ["word", "sex"]
    assert word.metrics[0] == "Balanced accuracy (UAR)"
    assert [row.name for row in word.rows] == ["bee", "cup", "zoo & <b>co</b>"]
    for row, group in zip(word.rows, told["groups"], strict=True):
        assert row.clips == str(group["num_clips"])
        assert row.values[0].value == group["metrics"]["balanced_accuracy"]["value"]
        assert sum(count for count, _ in row.classes) == group["num_clips"]
    gap = told["gap"]
    assert word.gap.startswith(f"Balanced accuracy (UAR) differs by {gap['value']:.3f} between")
    assert f"{gap['worst']} (worst)" in word.gap
    assert "95 % interval" in word.gap


def test_speakers_are_measured_with_the_leading_metrics_first(single: Contents) -> None:
    rows, notes = votes(single)
    assert rows[0].key == "balanced_accuracy"
    assert rows[0].test.value == single.test["vote"]["metrics"]["balanced_accuracy"]["value"]
    assert notes == single.test["vote"]["notes"]
    none = read_contents(write_single(single.folder.parent / "plain"))
    assert partitions(none) == []
    assert votes(none) == ([], [])


def test_the_page_has_both_and_escapes_names(single: Contents) -> None:
    text, outline = page_of(single.folder)
    assert "Subgroups" in outline.headings()
    assert "Each speaker decided once" in outline.headings()
    assert "zoo &amp; &lt;b&gt;co" in text
    assert "<b>co</b>" not in text
    assert "By sex" in text
    assert all(a.get("aria-label") for a in outline.of("svg") if not a.get("aria-hidden"))
    plain, bare = page_of(write_single(single.folder.parent / "plain"))
    assert not {"Subgroups", "Each speaker decided once"} & set(bare.headings())
    assert "#subgroups" not in plain


def test_of_very_many_words_the_worst_are_shown(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    frame = pl.read_parquet(folder / "predictions.parquet")
    frame = pl.concat([frame] * 10).with_columns(id=pl.int_range(10 * len(frame)).cast(pl.String))
    frame.write_parquet(folder / "predictions.parquet")
    words = [f"word {i // 2 % 100:03d}" for i in range(len(frame))]
    contents = read_contents(with_subgroups(folder, words, by=[{"column": "word", "min_clips": 4}]))
    (part,) = partitions(contents)
    assert part.num_rows == 100
    assert len(part.rows) == MAX_SUBGROUPS
    values = [row.values[0].value for row in part.rows]
    assert values == sorted(values)
    told = [
        g["metrics"]["balanced_accuracy"]["value"] for g in contents.test["by"]["word"]["groups"]
    ]
    assert values[0] == min(value for value in told if value is not None)
    text, _ = page_of(folder)
    assert f"The {MAX_SUBGROUPS} worst of 100 subgroups" in text


def test_small_subgroups_say_why_they_are_not_measured(tmp_path: Path) -> None:
    folder = write_single(tmp_path / "run")
    rows = len(pl.read_parquet(folder / "predictions.parquet"))
    words = ["rare"] * 2 + ["often"] * (rows - 2)
    text, _ = page_of(with_subgroups(folder, words))
    assert re.search(r'colspan="\d+" class="quiet">fewer than 5 clips: not measured<', text)


@pytest.mark.parametrize("write", [write_kfold, write_regression])
def test_other_runs_have_them_too(tmp_path: Path, write: Any) -> None:
    folder = with_subgroups(write(tmp_path / "run"))
    contents = read_contents(folder)
    first = partitions(contents)[0]
    assert bool(first.labels) == (contents.task != "regression")
    text, _ = page_of(folder)
    assert first.metrics[0] in text


def test_runs_that_share_their_test_clips_say_so(tmp_path: Path) -> None:
    folder = write_kfold(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    mean = dict.fromkeys(metrics["mean"], 0.5)
    metrics["valid"] = {"mean": mean, "std": mean, "pooled": metrics["pooled"]}
    for fold in metrics["folds"]:
        fold["valid"] = mean
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text, _ = page_of(folder)
    assert "mean over the folds' models" in text.replace("&#39;", "'")
    assert "on the same held-out clips" in text
    assert "own validation part" in text
    assert "0.500 ± 0.500" in text


def test_drawings_need_two_subgroups() -> None:
    rows = [(0.5, 0.4, 0.6), (0.7, np.nan, np.nan)]
    drawn = figures.intervals(["a", "b" * 40], rows, "UAR", 0.6, "my word")
    assert drawn is not None
    assert "UAR by my word: a 0.500" in drawn.alt
    assert "dotted: all clips" in drawn.caption
    assert 'id="by-my-word-' in drawn.svg
    plain = figures.intervals(["a", "b"], rows, "UAR", np.nan, "word")
    assert plain is not None
    assert "dotted" not in plain.caption
    assert figures.intervals(["a", "b"], [rows[0], (np.nan,) * 3], "UAR", 0.6, "word") is None
