from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from harken import storage
from harken.errors import ConfigError, DataError
from harken.recipe import Recipe, dump_recipe
from harken.storage import store_facts
from harken.verbs import tokens as verb
from harken.verbs.encode import encode
from harken.verbs.new_table import manifest_of_files
from harken.verbs.prepare import prepare
from harken.verbs.token_clips import decode_some, given_clips, marked_as_training, training_clips
from test_trainer import tiny_recipe


def as_file(recipe: Recipe, path: Path) -> str:
    path.write_text(dump_recipe(recipe))
    return str(path)


def test_a_table_a_folder_and_files_are_the_same_clips(tiny_table: Path) -> None:
    folder = tiny_table.parent
    files = [str(path) for path in sorted(folder.glob("*.wav"))]
    found = [given_clips(names)[1] for names in ([str(tiny_table)], [str(folder)], files)]
    assert all(clips is not None and len(clips) == 36 for clips in found)
    paths = [set(clips.frame["path"].to_list()) for clips in found if clips is not None]
    assert paths[0] == paths[1] == paths[2]
    recipe, one = given_clips(files[:1], ["audio.sample_rate=8000"], {"audio": {"pad": "mean"}})
    assert one is not None
    assert len(one) == 1
    assert (recipe.audio.sample_rate, recipe.audio.pad) == (8000, "mean")


def test_a_recipe_is_read(tiny_table: Path, tmp_path: Path) -> None:
    file = as_file(tiny_recipe(tiny_table), tmp_path / "r.yaml")
    recipe, clips = given_clips([file], ["seed=4"])
    assert clips is None
    assert recipe.seed == 4
    with pytest.raises(ConfigError, match="recipes or clips"):
        given_clips([file, str(tiny_table)])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which clips"):
        given_clips([])
    with pytest.raises(ConfigError, match="no recordings"):
        given_clips([str(tmp_path)])
    with pytest.raises(DataError, match="no such file"):
        given_clips([str(tmp_path / "x.csv")])


def test_training_clips_are_those_that_training_trains_on(tiny_table: Path) -> None:
    recipe = tiny_recipe(tiny_table)
    corpus, folds = prepare(recipe)
    for fold in folds:
        found = training_clips(recipe, fold.name).frame["id"].to_list()
        assert found == corpus.manifest.frame["id"].filter(fold.split == "train").to_list()
    with pytest.raises(ConfigError, match="must not have seen test clips"):
        training_clips(recipe)
    with pytest.raises(ConfigError, match="no fold '9'"):
        training_clips(recipe, "9")


def test_what_training_leaves_out_is_left_out(tiny_table: Path) -> None:
    (tiny_table.parent / "low_0_0.wav").write_bytes(b"broken")
    data: dict[str, Any] = yaml.safe_load(dump_recipe(tiny_recipe(tiny_table)))["data"]
    data |= {"on_bad_audio": "skip", "split": {"kind": "random"}}
    recipe = tiny_recipe(tiny_table, data=data)
    corpus, folds = prepare(recipe)
    expected = corpus.manifest.frame["id"].filter(folds[0].split == "train").to_list()
    assert training_clips(recipe).frame["id"].to_list() == expected


def test_without_labels_a_column_decides(tiny_table: Path) -> None:
    frame = pl.read_csv(tiny_table).drop("label")
    frame.write_csv(tiny_table)
    source = {"kind": "table", "path": str(tiny_table)}
    recipe = tiny_recipe(tiny_table, data={"source": source})
    assert len(training_clips(recipe)) == 36
    split = pl.when(pl.col("speaker") == "s0").then(pl.lit("test")).otherwise(pl.lit("train"))
    frame.with_columns(split=split).write_csv(tiny_table)
    found = training_clips(recipe)
    assert set(found.frame["speaker"]) == {"s1", "s2"}
    assert len(marked_as_training(found)) == 24


def test_clips_are_decoded_as_evaluation_sees_them(tiny_table: Path) -> None:
    recipe = tiny_recipe(tiny_table)
    corpus, _ = prepare(recipe)
    batches, bad = decode_some(recipe, corpus.manifest, {})
    assert bad == []
    found = list(batches)
    assert [len(batch) for batch in found] == [32, 4]
    rows = np.concatenate([batch.rows.numpy() for batch in found])
    assert rows.tolist() == list(range(36))
    expected = corpus.dataset(rows, recipe.audio).batch(rows[:32], 0)
    np.testing.assert_array_equal(found[0].waveform.numpy(), expected.waveform.numpy())


def test_a_bucket_is_listed_once_for_all_clips(
    tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "cache"))
    recipe, local = given_clips([str(tiny_table.parent)], ["audio.sample_rate=8000"])
    assert local is not None
    urls = []
    for number, path in enumerate(local.frame["path"]):
        urls.append(f"memory://{tmp_path.name}/{number:02d}/{Path(path).name}")
        storage.write_atomic(urls[-1], Path(path).read_bytes())
    clips = manifest_of_files(urls)
    asked, facts = [], store_facts.facts

    def counted(some: Iterable[str]) -> Any:
        asked.append(list(some))
        return facts(asked[-1])

    for module in (store_facts, storage):
        monkeypatch.setattr(module, "facts", counted)
    monkeypatch.setattr(verb, "CLIPS", 9)
    verb.fit(recipe, clips, tmp_path / "v", k=5)
    assert [len(some) for some in asked if some] == [36]
    asked.clear()
    encode(tmp_path / "v", recipe, clips, tmp_path / "t.parquet", rows=9)
    assert [len(some) for some in asked if some] == [36]
    assert len(pl.read_parquet(tmp_path / "t.parquet")) == 36
