"""Tables made in parts: where parts lie, which are there, and how they are joined."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from harken import storage
from harken.errors import DataError
from harken.parts import local_parts, part_names, parts_folder, remove_parts
from harken.storage import Url


def test_parts_lie_hidden_beside_their_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parts_folder("a/t.parquet") == tmp_path / "a/.t.parquet.parts"
    assert parts_folder("gs://b/t.parquet") == Url("gs://b/.t.parquet.parts")
    assert parts_folder(Url("gs://b/a/t.npz"), "1f") == Url("gs://b/a/.t.npz.1f.parts")


def test_parts_are_read_and_removed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for table in (f"{bucket}/t.parquet", tmp_path / "t.parquet"):
        folder = parts_folder(table)
        assert part_names(folder) == set()
        for name in "ab":
            storage.write_atomic(folder / name, name)
        assert part_names(folder) == {"a", "b"}
        with local_parts([folder / "b", folder / "a"]) as copies:
            assert [copy.read_text() for copy in copies] == ["b", "a"]
        assert not list((tmp_path / "tmp").iterdir())
        remove_parts(folder)
        remove_parts(folder)
        assert part_names(folder) == set()


def test_a_part_that_is_missing_is_an_error() -> None:
    with pytest.raises(DataError, match="no such file"), local_parts([Url("memory://no/part")]):
        pass
