"""Numbers by name from JSON and tables; every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harken.errors import DataError
from harken.score_files import read_scores


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"s1": 0.5, "7": 2}'),
        ("a.json", '[{"who": "s1", "cer": 0.5}, {"who": "7", "cer": 2}]'),
        ("a.csv", "who,cer\ns1,0.5\n7,2\n7,2\n"),
        ("a.tsv", "cer\twho\n0.5\ts1\n2\t7\n"),
    ],
)
def test_files_of_any_kind(tmp_path: Path, name: str, text: str) -> None:
    assert read_scores(written(tmp_path, name, text), "who", "cer") == {"s1": 0.5, "7": 2.0}


def test_whole_numbers_are_names_too(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", "who,cer\n1,0.5\n2,1\n")
    assert read_scores(file, "who", "cer") == {"1": 0.5, "2": 1.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "who,cer\ns1,0.5\ns1,0.6\n", "'s1' has two numbers: 0.5 and 0.6"),
        ("a.csv", "who,cer\ns1,\ns2,1\n", "the number of 's1' is None"),
        ("a.csv", "who,cer\ns1,high\n", "the number of 's1' is 'high'"),
        ("a.csv", "who,score\ns1,1\n", "no column 'cer'"),
        ("a.json", '{"s1": "high"}', "the number of 's1' is 'high'"),
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "this file is empty"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_scores(written(tmp_path, name, text), "who", "cer")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read_scores("nowhere.json", "who", "cer")
