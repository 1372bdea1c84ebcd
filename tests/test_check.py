"""The audit of splits: nothing of a clip may sit on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from harken.check import check_splits, overlaps
from harken.errors import DataError
from harken.manifest import Manifest
from harken.split import Fold


def clips(**columns: Any) -> Manifest:
    names = list("abcdef")
    paths = [f"/{name}.wav" for name in names]
    frame = pl.DataFrame({"id": names, "path": paths, "row": range(2, 8)})
    return Manifest(frame.with_columns(**columns), origin="clips.csv")


FOLD = Fold("1", np.array(["train", "train", "train", "valid", "test", ""]))


def test_a_sound_split_is_counted() -> None:
    manifest = clips(group=pl.Series(["x", "x", "y", "z", "w", "x"]))
    (audit,) = check_splits(manifest, [FOLD], ["1", "1", "1", "2", "3", "2"])
    assert audit.num_clips == {"train": 3, "valid": 1, "test": 1}
    assert audit.num_groups == {"train": 2, "valid": 1, "test": 1}
    assert audit.num_duplicates == 2
    assert check_splits(clips(), [FOLD])[0].num_groups == {}


@pytest.mark.parametrize(
    ("columns", "digests", "message", "fix"),
    [
        ({"group": list("xxyzxx")}, None, "the group 'x' is in both train and test", "split by"),
        (
            {"path": ["/1", "/2", "/3", "/2", "/5", "/6"]},
            None,
            "the recording '/2' is in both",
            "rec",
        ),
        ({}, list("123415"), "identical audio is in both train and test", "leave one"),
    ],
)
def test_leaks(columns: dict[str, Any], digests: Any, message: str, fix: str) -> None:
    manifest = clips(**{name: pl.Series(cells) for name, cells in columns.items()})
    with pytest.raises(DataError, match=message) as caught:
        check_splits(manifest, [FOLD], digests)
    assert fix in (caught.value.fix or "")


def test_both_clips_and_the_fold_are_named() -> None:
    sound = Fold("1", np.array(["train"] * 5 + ["test"]))
    digests = ["1", "2", "3", "4", "2", "1"]
    with pytest.raises(DataError) as caught:
        check_splits(clips(), [FOLD, sound], digests)
    assert "clip 'b' and clip 'e' (clips.csv:3 and clips.csv:6)" in str(caught.value)
    assert caught.value.where == "clips.csv, fold 1"
    with pytest.raises(DataError, match=r"and 1 more such cases"):
        check_splits(clips(), [FOLD], ["1", "2", "3", "1", "2", "9"])


def test_unused_clips_and_unknown_sounds_do_not_leak() -> None:
    check_splits(clips(), [FOLD], ["1", "2", "3", "4", "5", "1"])
    check_splits(clips(), [FOLD], [None, None, "", "", None, ""])


def test_groups_may_be_shared_where_the_split_says_so() -> None:
    manifest = clips(group=pl.Series(list("xxxxxx")))
    check_splits(manifest, [Fold("1", FOLD.split, grouped=False)])
    with pytest.raises(DataError, match="the group 'x'"):
        check_splits(manifest, [FOLD])
    with pytest.raises(DataError, match="identical audio"):
        check_splits(manifest, [Fold("1", FOLD.split, grouped=False)], list("111111"))


def test_overlaps_are_listed() -> None:
    manifest = clips(group=pl.Series(["x", "y", "y", "x", "y", "z"]))
    found = overlaps(manifest, FOLD, ["1", "2", "3", "4", "1", "5"])
    assert found.select("kind", "value", "first_id", "second_id", "second_split").rows() == [
        ("group", "x", "a", "d", "valid"),
        ("group", "y", "b", "e", "test"),
        ("digest", "1", "a", "e", "test"),
    ]
    assert overlaps(clips(), FOLD).height == 0
