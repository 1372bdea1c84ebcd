"""The source `folder`: classes from sub-folders, columns from file names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harken import storage
from harken.errors import DataError
from harken.sources import Folder
from harken.sources.folder import to_regex


def touch(folder: Path, *names: str) -> str:
    for name in names:
        storage.write_atomic(folder / name, b"")
    return str(folder)


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    path = touch(tmp_path, "dog/a.wav", "dog/deep/b.FLAC", "cat/a.ogg", "readme.txt")
    manifest = Folder(path=path).load()
    assert manifest.frame["label"].to_list() == ["cat", "dog", "dog"]
    assert manifest.frame["id"].to_list() == ["cat/a.ogg", "dog/a.wav", "dog/deep/b.FLAC"]
    assert manifest.frame["path"][0] == f"{path}/cat/a.ogg"
    assert manifest.notes == ()
    assert Folder.default_target == "label"


def test_files_beside_the_classes_are_counted(tmp_path: Path) -> None:
    manifest = Folder(path=touch(tmp_path, "dog/a.wav", "b.wav", "c.wav")).load()
    assert len(manifest) == 1
    assert "2 recordings do not lie in a sub-folder" in manifest.notes[0]
    assert "'b.wav'" in manifest.notes[0]


def test_pattern_fields_become_columns(tmp_path: Path) -> None:
    names = ["0_ann_0.wav", "0_ann_10.wav", "1_bob_2.wav", "odd.wav", "1_b_c_3.wav"]
    manifest = Folder(path=touch(tmp_path, *names), pattern="{label}_{group}_{take}.wav").load()
    assert manifest.frame["label"].to_list() == ["0", "0", "1"]
    assert manifest.frame["group"].to_list() == ["ann", "ann", "bob"]
    assert manifest.frame["take"].to_list() == [0, 10, 2]
    assert manifest.frame["id"].to_list() == ["0_ann_0", "0_ann_10", "1_bob_2"]
    assert "2 recordings do not match" in manifest.notes[0]


def test_a_field_with_one_word_stays_text(tmp_path: Path) -> None:
    path = touch(tmp_path, "a_1.wav", "b_x.wav")
    assert Folder(path=path, pattern="{label}_{take}.wav").load().frame["take"].to_list() == [
        "1",
        "x",
    ]


def test_pattern_with_folders_and_skipped_parts(tmp_path: Path) -> None:
    path = touch(tmp_path, "s1/x-7-dog.wav", "s2/y-8-cat.wav", "s2/deep/y-8-cat.wav")
    manifest = Folder(path=path, pattern="{group}/{_}-{age}-{label}.wav").load()
    assert manifest.frame.select("group", "age", "label").rows() == [
        ("s1", 7, "dog"),
        ("s2", 8, "cat"),
    ]
    assert "_" not in manifest
    inside = Folder(path=path, pattern="{_}-{age}-{label}.wav").load()
    assert len(inside) == 3


def test_id_and_fold_fields(tmp_path: Path) -> None:
    path = touch(tmp_path, "1-007-a.wav", "2-008-b.wav")
    manifest = Folder(path=path, pattern="{fold}-{id}-{label}.wav").load()
    assert manifest.frame["id"].to_list() == ["007", "008"]
    assert manifest.frame["fold"].to_list() == [1, 2]


def test_where_and_extensions(tmp_path: Path) -> None:
    path = touch(tmp_path, "a_0.wav", "a_1.wav", "b_1.ogg")
    assert len(Folder(path=path, pattern="{label}_{take}.{_}", where={"take": 1}).load()) == 2
    only = Folder(path=path, pattern="{label}_{take}.{_}", extensions=[".ogg"]).load()
    assert only.frame["label"].to_list() == ["b"]


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Folder(path=str(tmp_path / "gone")).load()
    with pytest.raises(DataError, match="no recordings in this folder"):
        Folder(path=touch(tmp_path, "readme.txt")).load()
    path = touch(tmp_path, "a.wav")
    with pytest.raises(DataError, match="none of 1 recordings lie in a sub-folder"):
        Folder(path=path).load()
    with pytest.raises(DataError, match="none of 1 recordings match"):
        Folder(path=path, pattern="{label}_{take}.wav").load()


@pytest.mark.parametrize(
    "pattern",
    ["plain.wav", "{label}{take}.wav", "{a}_{a}.wav", "{path}_x.wav", "{a b}.wav", "{a_{b}.wav"],
)
def test_patterns_that_cannot_work(pattern: str) -> None:
    with pytest.raises(ValidationError):
        Folder(path="x", pattern=pattern)


def test_the_dot_is_a_dot() -> None:
    assert not re.match(to_regex("{label}.wav"), "dogxwav")
    assert re.match(to_regex("spk{group}.wav"), "spkk1.wav")


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.text("abz019-.", min_size=1, max_size=5)] * 2), st.integers(0, 99))
def test_patterns_read_back_what_was_written(words: tuple[str, str], take: int) -> None:
    name = f"{words[0]}_{words[1]}_{take}.wav"
    found = re.match(to_regex("{label}_{group}_{take}.wav"), name)
    assert found is not None
    assert found.group("label", "group", "take") == (*words, str(take))


def test_remote_folder() -> None:
    storage.write_atomic("memory://folder/set/dog/a.wav", b"")
    manifest = Folder(path="memory://folder/set").load()
    assert manifest.frame["path"].to_list() == ["memory://folder/set/dog/a.wav"]


@pytest.mark.realdata
def test_fsdd(fsdd: Path) -> None:
    manifest = Folder(path=str(fsdd / "recordings"), pattern="{label}_{group}_{take}.wav").load()
    assert len(manifest) == 3000
    assert sorted(manifest.frame["label"].unique()) == list("0123456789")
    assert manifest.frame["group"].n_unique() == 6
    assert manifest.frame["take"].unique().sort().to_list() == list(range(50))
    assert Path(manifest.frame["path"][0]).is_file()
