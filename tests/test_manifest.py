"""The manifest: what it holds and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import DataError
from harken.manifest import Clip, Manifest


def make(**columns: Any) -> Manifest:
    size = len(next(iter(columns.values()))) if columns else 3
    names = [f"c{i}" for i in range(size)]
    frame = pl.DataFrame({"id": names, "path": [f"/d/{n}.wav" for n in names], **columns})
    return Manifest(frame, origin="clips.csv")


def test_missing_columns_are_added_in_their_types() -> None:
    manifest = make(label=["a", "b", "a"], group=[7, 8, 7], weight=[1, 2, 3], fold=[1.0, 2.0, 1.0])
    assert manifest.columns[:5] == ["id", "path", "start", "duration", "row"]
    assert manifest.frame.schema["start"] == pl.Float64
    assert manifest.frame["row"].to_list() == [1, 2, 3]
    assert manifest.frame["group"].to_list() == ["7", "8", "7"]
    assert manifest.frame["fold"].to_list() == ["1", "2", "1"]
    assert manifest.frame["weight"].dtype == pl.Float64
    assert "label" in manifest
    assert len(manifest) == 3


def test_clips_are_tuples() -> None:
    manifest = make(start=[None, 0.5], duration=[None, 1.0])
    assert manifest.clips() == [
        Clip("c0", "/d/c0.wav", None, None),
        Clip("c1", "/d/c1.wav", 0.5, 1.0),
    ]


@pytest.mark.parametrize(
    ("columns", "message", "where"),
    [
        ({"id": ["a", "b", "a"]}, "the id 'a' stands in row 2 and again here", "clips.csv:4"),
        (
            {"path": ["/a", None, ""]},
            r"no path to a recording \(and in 1 more rows\)",
            "clips.csv:3",
        ),
        ({"id": ["a", "b", None]}, "no id", "clips.csv:4"),
        ({"start": [0.0, -1.0, 0.0]}, "start must be 0 or more", "clips.csv:3"),
        ({"duration": [0.0, 1.0, 1.0]}, "the end must come after the start", "clips.csv:2"),
        ({"group": ["a", None, "b"]}, "no group", "clips.csv:3"),
        ({"weight": [1.0, None, float("nan")]}, "weight must be", "clips.csv:3"),
        (
            {"weight": ["1", "much", "2"]},
            "weight must be a number, and this is 'much'",
            "clips.csv:3",
        ),
    ],
)
def test_bad_rows(columns: dict[str, Any], message: str, where: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make(**{"row": [2, 3, 4], **columns})
    assert caught.value.where == where


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no clip is left"):
        make(label=[])
    with pytest.raises(DataError, match="there is no column 'path'"):
        Manifest(pl.DataFrame({"id": ["a"]}))


def test_filter_and_take_keep_rows_and_origin() -> None:
    manifest = make(label=["a", "b", "a"])
    assert manifest.filter(pl.col("label") == "a").frame["row"].to_list() == [1, 3]
    assert manifest.filter(np.array([False, True, False])).place(0) == "clips.csv:2"
    assert manifest.take(np.array([2, 0])).frame["id"].to_list() == ["c2", "c0"]
    with pytest.raises(DataError, match="no clip is left"):
        manifest.filter(np.zeros(3, dtype=bool))


def test_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'speaker'") as caught:
        make(speaker=["a"]).column("speeker")
    assert caught.value.where == "clips.csv"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_round_trip(suffix: str, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    size = data.draw(st.integers(1, 5))
    seconds = st.one_of(st.none(), st.floats(0.001, 1e4))
    label = st.text("abc한,;\"' 0", min_size=1, max_size=4).filter(lambda t: t.strip("0 "))
    columns = {
        "start": pl.Series(
            data.draw(st.lists(seconds, min_size=size, max_size=size)), dtype=pl.Float64
        ),
        "row": np.arange(2, size + 2),
        "group": data.draw(st.lists(st.sampled_from(["01", "2"]), min_size=size, max_size=size)),
        "label": data.draw(st.lists(label, min_size=size, max_size=size)),
    }
    manifest = make(**columns)
    url = str(tmp_path_factory.getbasetemp() / f"m.{suffix}")
    manifest.save(url)
    loaded = Manifest.load(url, origin="clips.csv")
    assert loaded.frame.to_dicts() == manifest.frame.to_dicts()
    assert loaded.origin == "clips.csv"
    assert Manifest.load(url).origin == f"m.{suffix}"
