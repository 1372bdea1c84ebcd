"""Reading tables: formats, encodings, types that do not change what was written."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken import storage
from harken.errors import DataError
from harken.tables import as_text, find_column, keep_where, matches, read_table

TEXT = "path,label,age\na.wav,정상,3\nb.wav,장애,4\n"


def write(folder: Path, content: str | bytes, name: str = "clips.csv") -> str:
    storage.write_atomic(folder / name, content)
    return str(folder / name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
def test_korean_tables_in_the_encodings_that_people_have(encoding: str, tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, TEXT.encode(encoding)))
    assert frame.to_dict(as_series=False) == {
        "path": ["a.wav", "b.wav"],
        "label": ["정상", "장애"],
        "age": [3, 4],
        "row": [2, 3],
    }


def test_an_encoding_can_be_given_and_refused(tmp_path: Path) -> None:
    url = write(tmp_path, "path,label\na.wav,caf\xe9\n".encode("latin-1"))
    assert read_table(url, encoding="latin-1")["label"].to_list() == ["café"]
    with pytest.raises(DataError, match="not utf-8") as caught:
        read_table(url, encoding="utf-8")
    assert "encoding" in (caught.value.fix or "")
    with pytest.raises(DataError, match="unknown encoding 'klingon'"):
        read_table(url, encoding="klingon")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path,label\na.wav,x\n"),
        ("t.csv", "path;label\r\na.wav;x\r\n"),
        ("t.csv", "path\tlabel\na.wav\tx\n"),
        ("t.csv", "path,label\ra.wav,x\r"),
        ("t.tsv", "path\tlabel\na.wav\tx\n"),
        ("t.jsonl", '{"path": "a.wav", "label": "x"}\n'),
        ("t.json", '[{"path": "a.wav", "label": "x"}]'),
    ],
)
def test_formats_and_separators(name: str, content: str, tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, content, name))
    assert frame.drop("row").to_dicts() == [{"path": "a.wav", "label": "x"}]


def test_separator_can_be_given(tmp_path: Path) -> None:
    url = write(tmp_path, "path|label,x\na.wav|y\n")
    assert read_table(url, separator="|").columns == ["path", "label,x", "row"]


def test_parquet_from_memory() -> None:
    frame = pl.DataFrame({"path": ["a.wav"], "row": [9], "tags": [["x", "y"]]})
    storage.write_atomic("memory://t/clips.parquet", lambda path: frame.write_parquet(path))
    read = read_table("memory://t/clips.parquet")
    assert read.to_dicts() == [{"path": "a.wav", "table_row": 9, "tags": ["x", "y"], "row": 1}]


def test_types_are_inferred_without_loss(tmp_path: Path) -> None:
    lines = [
        "n,x,code,plus,long,mixed,gap,word",
        "1,1.5,007,+49,12345678901234567890,1,,a",
        "-2,nan,010,+1,1,x,3,",
    ]
    frame = read_table(write(tmp_path, "\n".join(lines)))
    kinds = {name: frame[name].dtype for name in frame.columns}
    assert kinds["n"] == pl.Int64
    assert kinds["x"] == pl.Float64
    assert kinds["gap"] == pl.Int64
    for name in ("code", "plus", "long", "mixed", "word"):
        assert kinds[name] == pl.String, name
    assert frame["code"].to_list() == ["007", "010"]
    assert frame["long"].to_list() == ["12345678901234567890", "1"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("0123456789+-.e ax", min_size=1, max_size=6), min_size=1, max_size=5))
def test_inference_never_changes_codes(cells: list[str]) -> None:
    frame = pl.DataFrame({"path": ["a"] * len(cells), "code": cells})
    storage.write_atomic("memory://t/codes.csv", frame.write_csv())
    column = read_table("memory://t/codes.csv")["code"]
    if column.dtype == pl.String:
        assert column.to_list() == cells
    elif column.dtype == pl.Int64:
        assert [str(value) for value in column] == [cell.replace("-0", "0") for cell in cells]
    else:
        assert column.to_list() == [float(cell) for cell in cells]


def test_rows_are_lines_of_the_file(tmp_path: Path) -> None:
    text = 'path,label\na.wav,"two\nlines"\n,\nb.wav,x\n'
    frame = read_table(write(tmp_path, text))
    assert frame["row"].to_list() == [2, 5]
    assert frame["path"].to_list() == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("content", "name", "where", "message"),
    [
        ("path,label\na,b\nc,d,e\n", "t.csv", "t.csv:3", "3 cells in a table of 2 columns"),
        ("path,label,label\na,b,c\n", "t.csv", "t.csv:1", "several columns are called 'label'"),
        ("", "t.csv", "t.csv", "empty CSV"),
        ("path," + "l" * 140_000 + "\na,b,c\n", "t.csv", "t.csv", "cannot read this table"),
        (b"PK\x03\x04rest", "t.csv", "t.csv", "spreadsheet"),
        ('{"path": "a"}\n{"path":\n', "t.jsonl", "t.jsonl:2", "not JSON"),
        (b"not parquet at all", "t.parquet", "t.parquet", "cannot read this table"),
    ],
)
def test_bad_tables(
    content: str | bytes, name: str, where: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, content, name))
    assert caught.value.where == where


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(str(tmp_path / "gone.csv"))


def test_find_column_names_the_nearest() -> None:
    frame = pl.DataFrame({"category": ["x"], "fold": [1], "row": [2]})
    with pytest.raises(DataError, match="did you mean 'category'") as caught:
        find_column(frame, "categroy", "t.csv")
    assert caught.value.fix == "one of ['category', 'fold']"


def test_as_text_writes_whole_floats_without_a_point() -> None:
    assert as_text(pl.Series([1.0, None, float("nan")])).to_list() == ["1", None, None]
    assert as_text(pl.Series([1.0, 2.5])).to_list() == ["1.0", "2.5"]
    assert as_text(pl.Series([True])).to_list() == ["true"]


def test_matches_compares_numbers_text_and_flags() -> None:
    for column in (pl.Series([1, 2]), pl.Series([1.0, 2.0]), pl.Series(["1", "2"])):
        for value in (1, 1.0, "1"):
            assert matches(column, [value]).to_list() == [True, False], (column, value)
    for column in (pl.Series([True, False]), pl.Series(["True", "False"])):
        assert matches(column, [True]).to_list() == [True, False]
    assert matches(pl.Series(["a", None, "b"]), ["a", None]).to_list() == [True, True, False]


def test_keep_where_takes_values_and_lists() -> None:
    frame = pl.DataFrame({"word": ["a", "b", "c", "a"], "sex": ["f", "f", "m", "m"]})
    assert keep_where(frame, {"word": "a"}, "t")["sex"].to_list() == ["f", "m"]
    kept = keep_where(frame, {"word": ["a", "b"], "sex": "f"}, "t")
    assert kept["word"].to_list() == ["a", "b"]
    with pytest.raises(DataError, match="no cell of column 'sex' is 'x'; there are f, m"):
        keep_where(frame, {"sex": "x"}, "t")


def test_jsonl_keeps_lists(tmp_path: Path) -> None:
    lines = [{"path": "a", "tags": ["x"]}, {"path": "b", "tags": []}]
    url = write(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl")
    assert read_table(url)["tags"].to_list() == [["x"], []]
