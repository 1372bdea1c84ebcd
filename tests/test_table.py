"""The source `table`: any columns, any root, clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harken import storage
from harken.errors import DataError
from harken.manifest import Manifest
from harken.sources import Source, Table


def load(folder: Path, text: str, **options: Any) -> Manifest:
    storage.write_atomic(folder / "clips.csv", text)
    return Table(path=str(folder / "clips.csv"), **options).load()


def test_the_tiny_table(tiny_table: Path) -> None:
    manifest = Table(path=str(tiny_table), group="speaker").load()
    assert len(manifest) == 36
    assert all(Path(path).is_file() for path in manifest.frame["path"])
    assert manifest.frame["group"].to_list() == manifest.frame["speaker"].to_list()
    assert manifest.frame["id"][0] == "low_0_0"
    assert manifest.frame["row"].to_list() == list(range(2, 38))
    assert set(manifest.columns) >= {"label", "speaker", "fold", "age"}
    assert manifest.notes == ()
    assert Source.member("table") is Table
    assert Table.default_target is None


def test_paths_start_from_the_root_and_have_one_spelling(tmp_path: Path) -> None:
    rows = ["file", "./a.wav", "b//c.wav", "/abs/d.wav", "gs://bucket/e.wav", "x/../f.wav"]
    manifest = load(tmp_path, "\n".join(rows), audio="file")
    base = str(tmp_path)
    assert manifest.frame["path"].to_list() == [
        f"{base}/a.wav",
        f"{base}/b/c.wav",
        "/abs/d.wav",
        "gs://bucket/e.wav",
        f"{base}/f.wav",
    ]
    up = load(tmp_path, "path\n../../x/a.wav\n..b/../c.wav\n", root="/r/s/t")
    assert up.frame["path"].to_list() == ["/r/x/a.wav", "/r/s/t/c.wav"]
    remote = load(tmp_path, "path\na.wav\n", root="s3://bucket/audio/")
    assert remote.frame["path"].to_list() == ["s3://bucket/audio/a.wav"]


def test_a_relative_root_starts_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_atomic("clips.csv", "path\na.wav\n")
    assert Table(path="clips.csv").load().frame["path"][0] == f"{tmp_path}/a.wav"
    assert Table(path="clips.csv", root="wav").load().frame["path"][0] == f"{tmp_path}/wav/a.wav"


def test_a_remote_table_lies_beside_its_recordings() -> None:
    storage.write_atomic("memory://bucket/set/clips.csv", "path,label\na.wav,x\n")
    manifest = Table(path="memory://bucket/set/clips.csv").load()
    assert manifest.frame["path"].to_list() == ["memory://bucket/set/a.wav"]


def test_ids_are_stems_else_paths_else_a_column(tmp_path: Path) -> None:
    assert load(tmp_path, "path\na/x.wav\nb/y.tar.wav\n").frame["id"].to_list() == ["x", "y.tar"]
    repeated = load(tmp_path, "path\na/x.wav\nb/x.wav\n")
    assert repeated.frame["id"].to_list() == ["a/x.wav", "b/x.wav"]
    assert load(tmp_path, "path,id\na.wav,007\nb.wav,008\n").frame["id"].to_list() == ["007", "008"]
    named = load(tmp_path, "path,uid\na.wav,1\nb.wav,2\n", id="uid")
    assert named.frame["id"].to_list() == ["1", "2"]


def test_an_id_column_that_repeats_is_kept_under_another_name(tmp_path: Path) -> None:
    manifest = load(tmp_path, "path,id\na.wav,7\nb.wav,7\n", group="id")
    assert manifest.frame["id"].to_list() == ["a", "b"]
    assert manifest.frame["group"].to_list() == ["7", "7"]
    assert manifest.frame["table_id"].to_list() == [7, 7]
    assert manifest.notes == ("the table's own column 'id' is called 'table_id' here",)
    both = load(tmp_path, "path,id,table_id\na.wav,7,x\nb.wav,7,y\n")
    assert both.frame.select("table_id", "table_table_id").rows() == [("x", 7), ("y", 7)]


def test_duplicate_ids_name_both_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the id '1' stands in row 2 and again here") as caught:
        load(tmp_path, "path,uid\na.wav,1\nb.wav,2\nc.wav,1\n", id="uid")
    assert caught.value.where == "clips.csv:4"
    with pytest.raises(DataError, match="the id 'a' stands in row 2 and again here"):
        load(tmp_path, "path\na.wav\na.wav\n")


def test_parts_of_recordings(tmp_path: Path) -> None:
    text = "path,start,end\na.wav,0,1.5\na.wav,1.5,4\nb.wav,,\nb.wav,2,\n"
    manifest = load(tmp_path, text)
    assert manifest.frame["start"].to_list() == [0.0, 1.5, None, 2.0]
    assert manifest.frame["duration"].to_list() == [1.5, 2.5, None, None]
    assert manifest.frame["id"].to_list() == ["a:0-1.5", "a:1.5-4", "b", "b:2-"]


def test_times_in_other_columns(tmp_path: Path) -> None:
    onset = load(tmp_path, "path,on,off\na.wav,1,3\n", start="on", end="off")
    long = load(tmp_path, "path,start,duration\na.wav,1,2\n")
    named = load(tmp_path, "path,start,len\na.wav,1,2\n", duration="len")
    for manifest in (onset, long, named):
        assert manifest.frame.select("start", "duration").rows() == [(1.0, 2.0)]
    only_end = load(tmp_path, "path,off\na.wav,3\n", end="off")
    assert only_end.frame.select("start", "duration").rows() == [(None, 3.0)]
    assert only_end.frame["id"].to_list() == ["a:0-3"]
    plain = load(tmp_path, "path,duration\na.wav,3.2\n")
    assert plain.frame.select("duration", "table_duration").rows() == [(None, 3.2)]
    with pytest.raises(DataError, match="not both"):
        load(tmp_path, "path,a,b\na.wav,1,2\n", end="a", duration="b")


@pytest.mark.parametrize(
    ("text", "message", "row"),
    [
        ("path,start,end\na.wav,0,1\na.wav,2,2\n", "the end must come after the start", 3),
        ("path,start,end\na.wav,3,1\n", "the end must come after the start", 2),
        ("path,start,end\na.wav,-1,1\n", "start must be 0 or more", 2),
        ("path,start,end\na.wav,0,1\nb.wav,soon,2\n", "must hold seconds, and this is 'soon'", 3),
        ("path,label\na.wav,x\n,y\n", "no path to a recording", 3),
        ("path,group\na.wav,x\nb.wav,\n", "no group", 3),
    ],
)
def test_bad_rows(text: str, message: str, row: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, text)
    assert caught.value.where == f"clips.csv:{row}"


@pytest.mark.parametrize(
    "option", ["audio", "id", "start", "end", "group", "fold", "split", "weight", "duration"]
)
def test_unknown_columns_name_the_nearest(option: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'speker', did you mean 'speaker'") as caught:
        load(tmp_path, "path,speaker\na.wav,s\n", **{option: "speker"})
    assert caught.value.where == "clips.csv"
    assert "'path', 'speaker'" in str(caught.value.fix)


def test_body_weight_is_not_the_weight_of_a_clip(tmp_path: Path) -> None:
    text = "path,weight,w\na.wav,70,2\n"
    assert load(tmp_path, text).frame["table_weight"].to_list() == [70]
    assert "weight" not in load(tmp_path, text)
    assert load(tmp_path, text, weight="w").frame["weight"].to_list() == [2.0]


def test_roles_copy_columns(tmp_path: Path) -> None:
    text = "path,who,part,set,group\na.wav,7,1,train,control\n"
    frame = load(tmp_path, text, group="who", fold="part", split="set").frame
    row = frame.row(0, named=True)
    assert row["group"] == "7"
    assert (row["fold"], row["split"], row["table_group"]) == (1, "train", "control")
    assert (row["who"], row["part"], row["set"]) == (7, 1, "train")


def test_where_keeps_row_numbers(tmp_path: Path) -> None:
    text = "path,task,take\na.wav,vowel,0\nb.wav,word,1\nc.wav,vowel,2\n"
    manifest = load(tmp_path, text, where={"task": "vowel", "take": [1, 2]})
    assert manifest.place(0) == "clips.csv:4"
    with pytest.raises(DataError, match="no cell of column 'task' is 'vowl', did you mean 'vowel'"):
        load(tmp_path, text, where={"task": "vowl"})
    with pytest.raises(DataError, match="no clip is left"):
        load(tmp_path, text, where={"task": "word", "take": 2})


def test_rows_left_out_may_be_broken(tmp_path: Path) -> None:
    text = "path,use\na.wav,1\n,0\n"
    assert len(load(tmp_path, text, where={"use": 1})) == 1


def test_missing_recordings_are_no_error_yet(tmp_path: Path) -> None:
    assert len(load(tmp_path, "path\nnot_there.wav\n")) == 1


def test_korean_table(tmp_path: Path) -> None:
    text = "파일,진단\nㄱ.wav,정상\nㄴ.wav,장애\n".encode("cp949")
    storage.write_atomic(tmp_path / "표.csv", text)
    manifest = Table(path=str(tmp_path / "표.csv"), audio="파일").load()
    assert manifest.frame["진단"].to_list() == ["정상", "장애"]
    assert manifest.frame["id"].to_list() == ["ㄱ", "ㄴ"]
    with pytest.raises(DataError, match="not utf-8"):
        Table(path=str(tmp_path / "표.csv"), audio="파일", encoding="utf-8").load()


def test_separator_option(tmp_path: Path) -> None:
    assert load(tmp_path, "path|x\na,b.wav|1\n", separator="|").frame["x"].to_list() == [1]
    with pytest.raises(ValidationError):
        Table(path="x.csv", separator="||")


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Table(path=str(tmp_path / "gone.csv")).load()


def test_a_filter_says_how_many_rows_it_keeps(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("path,task\na.wav,vowel\nb.wav,word\nc.wav,word\n")
    manifest = Table(path=str(path), where={"task": "word"}).load()
    assert manifest.notes == ("where {task: word} keeps 2 of 3 rows",)
    assert Table(path=str(path)).load().notes == ()
