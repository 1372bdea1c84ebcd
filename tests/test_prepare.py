from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import soundfile

from harken.errors import ConfigError, DataError
from harken.recipe import validate
from harken.verbs.prepare import prepare
from test_trainer import tiny_recipe


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
