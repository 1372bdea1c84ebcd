from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from harken.errors import DataError
from harken.labels import Labels
from harken.manifest import Manifest
from harken.recipe import validate
from harken.sources import Table
from harken.verbs.new_table import encode, labels_in, load_table, manifest_of_files, source_on
from uid_trees import write_uid_tree

MULTI = Labels("multi", ("slow", "rapid", "strained"), ("slow", "rapid", "strained"))
SINGLE = Labels("single", ("a", "b"), ("label",))


def manifest(**columns: list[Any]) -> Manifest:
    count = len(next(iter(columns.values()))) if columns else 2
    ids = {"id": [str(i) for i in range(count)], "path": [f"/{i}.wav" for i in range(count)]}
    return Manifest(pl.DataFrame(ids | columns), "new.csv")


def test_roles_and_conditions_are_kept_where_the_new_table_has_them(tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("path,speaker,task\na.wav,s1,vowel\nb.wav,s2,word\n")
    own = Table(path="old.csv", group="speaker", fold="part", weight="w", where={"task": "vowel"})
    source = source_on(own, str(new))
    assert source == Table(path=str(new), group="speaker", where={"task": "vowel"})
    assert source.load().frame["group"].to_list() == ["s1"]
    new.write_text("path\na.wav\nb.wav\n")
    assert source_on(own, str(new)) == Table(path=str(new))
    assert len(source_on(own, str(new)).load()) == 2


def test_a_uid_tree_takes_another_table_of_uids(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=2, takes=1)
    new = tmp_path / "new.csv"
    new.write_text("uid\n" + "\n".join(tree.uids[:2]) + "\n")
    source = {"kind": "uid_folder", "path": str(tree.audio), "table": str(tree.table)}
    recipe = validate({"data": {"source": source}})
    assert load_table(recipe, str(new)).frame["id"].to_list() == list(tree.uids[:2])


def test_conditions_on_metadata_hold_for_a_table_of_uids_alone(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=2, takes=2)
    new = tmp_path / "new.csv"
    new.write_text("uid\n" + "\n".join(tree.uids) + "\n")
    source = {"kind": "uid_folder", "path": str(tree.audio), "where": {"task": "counting"}}
    found = load_table(validate({"data": {"source": source}}), str(new))
    assert set(found.frame["task"]) == {"counting"}
    assert len(found) == len(tree.uids) // 2


def test_derived_columns_may_build_on_derived_columns(tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("path,score\na.wav,1\nb.wav,4\n")
    steps = [
        {"kind": "threshold", "name": "high", "column": "score", "at_least": 3},
        {"kind": "any_of", "name": "odd", "columns": ["high"]},
    ]
    source = {"kind": "table", "path": "old.csv"}
    found = load_table(validate({"data": {"source": source, "derive": steps}}), str(new))
    assert found.frame["odd"].to_list() == [0, 1]
    new.write_text("path\na.wav\n")
    plain = load_table(validate({"data": {"source": source, "derive": steps}}), str(new))
    assert "odd" not in plain


def test_files_become_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = manifest_of_files(["a/x.wav", "/b/y.wav", "gs://bucket/z.wav"]).frame
    assert found["id"].to_list() == ["x", "y", "z"]
    assert found["path"].to_list() == [f"{tmp_path}/a/x.wav", "/b/y.wav", "gs://bucket/z.wav"]
    with pytest.raises(DataError, match="stands in row"):
        manifest_of_files(["x.wav", "x.wav"])


def test_labels_may_be_all_there_or_all_absent() -> None:
    whole = manifest(slow=[0, 1], rapid=[None, 1], strained=[1, 0])
    found = labels_in(MULTI, whole)
    assert found is not None
    assert found.missing == "mask"
    assert np.isnan(encode(found, whole)[0, 1])
    assert labels_in(MULTI, manifest(age=[3, 4])) is None


def test_missing_label_columns_are_named_with_what_is_near() -> None:
    with pytest.raises(DataError) as caught:
        labels_in(MULTI, manifest(slow=[0, 1], rapids=[1, 1]))
    text = str(caught.value)
    assert "2 of the run's 3 label columns are missing" in text
    assert "'rapid', did you mean 'rapids'?, 'strained'" in text
    assert "new.csv" in text


def test_a_label_that_the_run_never_saw_names_its_row() -> None:
    found = labels_in(SINGLE, manifest(label=["a", "c", None]))
    assert found is not None
    with pytest.raises(DataError, match=r"new.csv:2: the label 'c' is not one of a, b") as caught:
        encode(found, manifest(label=["a", "c", None]))
    assert "rename the cell, or empty it" in str(caught.value)
    assert "data.target" not in str(caught.value)


def test_columns_are_derived_where_their_origins_are_there(tmp_path: Path) -> None:
    derive = [
        {"kind": "any_of", "name": "distorted", "columns": ["consonants", "vowels"]},
        {"kind": "recode", "columns": ["slow"], "map": {"1": 0, "2..5": 1}},
    ]
    source = {"kind": "table", "path": "old.csv"}
    recipe = validate({"data": {"source": source, "derive": derive}})
    new = tmp_path / "new.csv"
    new.write_text("path,consonants,vowels\na.wav,0,3\nb.wav,0,0\n")
    found = load_table(recipe, str(new))
    assert found.frame["distorted"].to_list() == [1, 0]
    assert "slow" not in found
    new.write_text("path\na.wav\n")
    assert "distorted" not in load_table(recipe, str(new))
    new.write_text("path,vowels\na.wav,1\n")
    with pytest.raises(DataError, match="consonants"):
        load_table(recipe, str(new))
