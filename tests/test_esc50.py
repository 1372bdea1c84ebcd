"""The source `esc50`: published folds, sources as groups."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from harken import storage
from harken.errors import DataError
from harken.labels import Labels, Target
from harken.sources import Esc50

META = """filename,fold,target,category,esc10,src_file,take
1-1-A-0.wav,1,0,dog,True,1,A
1-1-B-0.wav,1,0,dog,True,1,B
2-2-A-3.wav,2,3,cow,False,2,A
2-3-A-1.wav,2,1,rooster,True,3,A
"""


def test_columns_groups_and_paths(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "meta" / "esc50.csv", META)
    manifest = Esc50(path=str(tmp_path)).load()
    assert manifest.frame["group"].to_list() == ["1", "1", "2", "3"]
    assert manifest.frame["fold"].to_list() == [1, 1, 2, 2]
    assert manifest.frame["target"].to_list() == [0, 0, 3, 1]
    assert manifest.frame["path"][0] == f"{tmp_path}/audio/1-1-A-0.wav"
    assert manifest.frame["id"][0] == "1-1-A-0"
    assert manifest.notes == ()


def test_esc10_keeps_its_classes(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "meta" / "esc50.csv", META)
    manifest = Esc50(path=str(tmp_path), esc10=True).load()
    assert set(manifest.frame["category"]) == {"dog", "rooster"}


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no meta/esc50\.csv") as caught:
        Esc50(path=str(tmp_path)).load()
    assert caught.value.where == str(tmp_path)


@pytest.mark.realdata
def test_esc10(esc10: Path) -> None:
    manifest = Esc50(path=str(esc10)).load()
    assert len(manifest) == 400
    assert all(Path(path).is_file() for path in manifest.frame["path"])
    counts = manifest.frame.group_by("category", "fold").len()["len"]
    assert counts.to_list() == [8] * 50
    assert manifest.frame.group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1
    labels = Labels.learn(Target.model_validate(Esc50.default_target), manifest)
    assert labels.names[:3] == ("chainsaw", "clock_tick", "crackling_fire")
    assert labels.encode(manifest).sum(axis=0).tolist() == [40.0] * 10
