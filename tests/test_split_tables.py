"""Tables as one file, or as a folder of train, valid and test."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from harken import storage
from harken.errors import DataError
from harken.sources import Table
from harken.sources.split_tables import (
    has_split_files,
    is_folder,
    read_tables,
    split_files,
    without_valid_groups,
)
from harken.split import ColumnSplit


def write(folder: Path, **tables: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return str(folder)


TRAIN = "path,speaker,label\na.wav,s1,x\nb.wav,s2,y\nc.wav,s3,x\n"
TEST = "path,speaker,label\nd.wav,s4,x\n"


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "dev"])
def test_a_folder_becomes_one_table(tmp_path: Path, valid: str) -> None:
    tables = {"train": TRAIN, "test": TEST, valid: "path,speaker,label\nb.wav,s2,y\n"}
    folder = write(tmp_path / "splits", **tables, train_noval="path\nz.wav\n")
    table, origin = read_tables(folder)
    assert table["split"].to_list() == ["train"] * 3 + ["valid", "test"]
    assert table["row"].to_list() == [2, 3, 4, 2, 2]
    assert origin == "splits/*.csv"
    assert list(split_files(folder)) == ["train", "valid", "test"]


def test_one_file_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path, clips=TRAIN)
    table, origin = read_tables(f"{folder}/clips.csv")
    assert (table.height, origin) == (3, "clips.csv")
    assert "split" not in table.columns
    assert is_folder(folder)
    assert not is_folder(f"{folder}/clips.csv")
    assert not is_folder(f"{folder}/gone")


def test_columns_of_other_types_and_columns_that_are_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, train="uid,age,split\n7,3,a\n", test="uid,site\n007,b\n")
    table, _ = read_tables(folder)
    assert table["uid"].to_list() == ["7", "007"]
    assert table["age"].to_list() == [3, None]
    assert table["site"].to_list() == [None, "b"]
    assert table["table_split"].to_list() == ["a", None]


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", clips=TRAIN)
    assert not has_split_files(folder)
    with pytest.raises(DataError, match=r"no train\.csv, valid\.csv or test\.csv") as caught:
        read_tables(folder)
    assert "harken prepare splits" in str(caught.value)
    twice = write(tmp_path / "b", val=TRAIN, validation=TRAIN)
    assert has_split_files(twice)
    with pytest.raises(DataError, match="two tables for valid"):
        read_tables(twice)
    book = tmp_path / "clips.xlsx"
    book.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"spreadsheet.*save it as CSV"):
        read_tables(str(book))


def test_speakers_that_validate_do_not_train() -> None:
    frame = pl.DataFrame(
        {
            "speaker": ["a", "a", "b", "b", "c", None],
            "split": ["train", "test", "train", "valid"] + ["train"] * 2,
        }
    )
    kept, notes = without_valid_groups(frame, "speaker", "t")
    assert kept["speaker"].to_list() == ["a", "a", "b", "c", None]
    assert notes == [
        "1 clips of the training table are left out: their speaker (1 in all) is in the "
        "validation table"
    ]
    assert without_valid_groups(kept, "speaker", "t") == (kept, [])
    with pytest.raises(DataError, match="the speaker of every training clip"):
        without_valid_groups(frame.filter(pl.col("speaker") == "b"), "speaker", "t")


def test_the_source_table_takes_a_folder(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "splits", train=TRAIN, val="path,speaker,label\nz.wav,s2,y\n", test=TEST
    )
    manifest = Table(path=folder, group="speaker", root="/clips").load()
    assert manifest.frame["id"].to_list() == ["a", "c", "z", "d"]
    assert manifest.frame["path"][0] == "/clips/a.wav"
    assert "1 clips of the training table are left out" in manifest.notes[0]
    own = Table(path=folder, group="speaker").load()
    assert own.frame["path"][0] == f"{folder}/a.wav"
    (fold,) = ColumnSplit().assign(manifest)
    assert fold.split.tolist() == ["train", "train", "valid", "test"]


def test_validation_is_carved_where_there_is_no_table_of_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "splits", train=TRAIN, test=TEST)
    manifest = Table(path=folder, group="speaker").load()
    (fold,) = ColumnSplit(valid=1).assign(manifest)
    assert sorted(fold.split) == ["test", "train", "train", "valid"]
    with pytest.raises(DataError, match="valid needs 3 of 3 groups, and training needs some too"):
        ColumnSplit(valid=3).assign(manifest)


def test_a_remote_folder() -> None:
    storage.write_atomic("memory://tables/s/train.csv", TRAIN)
    storage.write_atomic("memory://tables/s/test.csv", TEST)
    table, origin = read_tables("memory://tables/s/")
    assert (table.height, origin) == (4, "s/*.csv")
    manifest = Table(path="memory://tables/s").load()
    assert manifest.frame["path"][0] == "memory://tables/s/a.wav"
