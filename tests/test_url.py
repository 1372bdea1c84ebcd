"""One name for places here and in buckets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import harken
from harken import storage
from harken.checkpoint import RunFolder
from harken.errors import ConfigError
from harken.storage import Url, is_local, join, local_path, place
from harken.storage.url import bucket_of, protocol_of


def test_join_keeps_urls_and_lets_absolute_parts_start_anew() -> None:
    assert join("gs://b/data/", "x", "a.wav") == "gs://b/data/x/a.wav"
    assert join("data", "/abs/a.wav") == "/abs/a.wav"
    assert join("data", "s3://b/a.wav") == "s3://b/a.wav"
    assert join("", "a.wav") == "a.wav"


def test_local_paths() -> None:
    assert is_local("data/a.wav")
    assert is_local(Path("data"))
    assert is_local("file:///data/a.wav")
    assert not is_local("memory://a.wav")
    assert not is_local(Url("gs://b"))
    assert local_path("file:///data/a.wav") == Path("/data/a.wav")
    assert local_path("~/a.wav") == Path.home() / "a.wav"


def test_a_url_that_pathlib_has_spoiled_is_no_local_folder(tmp_path: Path) -> None:
    for verb in (RunFolder.create, RunFolder.open, harken.load, storage.exists, storage.list_files):
        with pytest.raises(ConfigError, match="give it as text") as caught:
            verb(Path("gs://bucket/run"))
        assert "gs:/bucket/run" in str(caught.value)
    assert RunFolder.create(tmp_path / "gs:/run").path == tmp_path / "gs:/run"


def test_places_go_down_with_a_slash_wherever_they_are() -> None:
    assert place("runs/a") / "recipe.yaml" == Path("runs/a/recipe.yaml")
    folder = place("gs://b/runs/a/")
    assert str(folder / "recipe.yaml") == "gs://b/runs/a/recipe.yaml"
    assert (folder / "recipe.yaml").name == "recipe.yaml"
    assert (folder / "recipe.yaml").parent == folder
    assert {folder, Url("gs://b/runs/a")} == {folder}
    assert repr(folder) == "Url('gs://b/runs/a')"


def test_a_url_is_no_path() -> None:
    assert not isinstance(Url("gs://b/a"), os.PathLike)


def test_parts() -> None:
    assert protocol_of("gs://b/a/c.wav") == "gs"
    assert bucket_of("gs://b/a/c.wav") == "gs://b"
    assert bucket_of(Url("abfs://c@account.dfs.core.windows.net/a")) == (
        "abfs://c@account.dfs.core.windows.net"
    )
