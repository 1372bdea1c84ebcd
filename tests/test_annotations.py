"""`harken prepare labels`: from one row per rating to one row per recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from harken import storage
from harken.errors import ConfigError, DataError
from harken.verbs.annotations import make_labels
from uid_trees import LABEL_DIGITS, write_uid_tree

RATINGS = """uid,feature,score,rater
u1,slow rate,2,r1
u1,slow rate,4,r2
u1,strained,1,r1
u1,strained,6,r2
u2,slow rate,-1,r1
u2,slow rate,1,r2
u2,strained,-1,r1
u3,breathy,,r1
"""


@pytest.fixture
def ratings(tmp_path: Path) -> str:
    path = tmp_path / "ratings.csv"
    path.write_text(RATINGS)
    return str(path)


def rows(tmp_path: Path, ratings: str, **options: Any) -> list[tuple[Any, ...]]:
    return make_labels(ratings, str(tmp_path / "labels.csv"), **options).frame.rows()


def test_codes_are_ignored_and_raters_are_combined(ratings: str, tmp_path: Path) -> None:
    options = {"ignore": [-1, 6]}
    done = make_labels(ratings, str(tmp_path / "labels.csv"), ignore=[-1, 6])
    assert done.features == ["slow rate", "strained", "breathy"]
    assert done.frame.columns == ["uid", "slow rate", "strained", "breathy"]
    expected = [("u1", 4, 1, None), ("u2", 1, None, None), ("u3", None, None, None)]
    assert done.frame.rows() == expected
    assert "3 ratings are ignored" in done.notes
    assert "slow rate: 1 × 4, 1 × 1, 1 missing" in done.notes
    assert pl.read_csv(tmp_path / "labels.csv")["slow rate"].to_list() == [4, 1, None]
    assert rows(tmp_path, ratings, **options, over_raters="mean")[0] == ("u1", 3, 1, None)
    assert rows(tmp_path, ratings, over_raters="median")[0] == ("u1", 3.0, 3.5, None)
    assert rows(tmp_path, ratings)[0] == ("u1", 4, 6, None)


def test_binary_labels(ratings: str, tmp_path: Path) -> None:
    found = rows(tmp_path, ratings, ignore=[-1, 6], binary_above=1)
    assert found == [("u1", 1, 0, None), ("u2", 0, None, None), ("u3", None, None, None)]
    assert rows(tmp_path, ratings, ignore=[-1, 6], binary_above=4)[0] == ("u1", 0, 0, None)


def test_task_and_subject_join(ratings: str, tmp_path: Path) -> None:
    table = tmp_path / "recordings.csv"
    table.write_text("uid,subject,task,age\nu2,s2,word,3\nu1,s1,vowel,4\nu9,s9,word,3\n")
    done = make_labels(ratings, str(tmp_path / "labels.csv"), table=str(table))
    assert done.frame.columns[:3] == ["uid", "task", "subject"]
    assert done.frame["task"].to_list() == ["vowel", "word", None]
    assert f"1 recordings are not in {table}: 'u3' …" in done.notes
    only = make_labels(ratings, str(tmp_path / "o.csv"), table=str(table), task=["word"])
    assert only.frame["uid"].to_list() == ["u2"]
    aged = make_labels(
        ratings, str(tmp_path / "o.csv"), table=str(table), task=["3"], task_column="age"
    )
    assert aged.frame["uid"].to_list() == ["u2"]
    with pytest.raises(DataError, match="did you mean 'word'"):
        make_labels(ratings, str(tmp_path / "o.csv"), table=str(table), task=["words"])
    with pytest.raises(DataError, match="no column 'task'"):
        make_labels(ratings, str(tmp_path / "o.csv"), task=["word"])


def test_columns_of_other_names_and_parquet(ratings: str, tmp_path: Path) -> None:
    frame = pl.read_csv(ratings).rename({"uid": "file", "feature": "sign", "score": "grade"})
    frame.with_columns(subject=pl.lit("s")).write_csv(ratings)
    names = {"uid": "file", "feature": "sign", "score": "grade"}
    done = make_labels(ratings, str(tmp_path / "labels.parquet"), **names)
    assert done.frame.columns[:2] == ["uid", "subject"]
    assert pl.read_parquet(tmp_path / "labels.parquet").equals(done.frame)


def test_a_uid_tree(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=4, takes=1, study="ataxia")
    done = make_labels(str(tree.audio), str(tmp_path / "x.csv"), study="ataxia", binary_above=1)
    assert done.frame.columns == ["uid", "task", "subject", *LABEL_DIGITS]
    truth = pl.read_csv(tree.table).select(done.frame.columns).sort("uid")
    assert done.frame.sort("uid").equals(truth)


def test_duplicate_names_in_metadata_keep_the_highest(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=1, takes=1)
    file = tree.folder(tree.uids[0]) / "metadata.json"
    features = [{"name": "even", "score": 2}, {"name": "even", "score": "5"}]
    diag = [{"name": "ataxia", "score": 1}, {"name": "even", "score": None}]
    about = json.loads(file.read_text()) | {"features": features, "diag": diag}
    file.write_text(json.dumps(about))
    done = make_labels(str(tree.audio), str(tmp_path / "x.csv"))
    assert done.frame["even"].to_list() == [5, 3, 3]
    assert done.frame["ataxia"].to_list() == [1, None, None]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"even": 1}, "'features' must be a list"),
        ([{"name": "even"}], "must hold entries such as"),
        (["even"], "must hold entries such as"),
        ([{"name": "even", "score": "high"}], "the score 'high' is no number"),
    ],
)
def test_broken_ratings_in_metadata(tmp_path: Path, value: Any, message: str) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=1, takes=1)
    file = tree.folder(tree.uids[0]) / "metadata.json"
    file.write_text(json.dumps({"features": value}))
    with pytest.raises(DataError, match=message) as caught:
        make_labels(str(tree.audio), str(tmp_path / "x.csv"))
    assert caught.value.where == str(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("u1,slow rate,2,r1", "u1,slow rate,bad,r1", "ratings.csv:2: column 'score' must"),
        ("u2,strained", ",strained", "ratings.csv:8: column 'uid' is empty here"),
        ("u2,strained", "u2,", "ratings.csv:8: column 'feature' is empty here"),
        ("u2,strained", "u2,task", "a feature is called 'task'"),
        ("uid,feature", "uid,features", "did you mean 'features'"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(
    ratings: str, tmp_path: Path, old: str, new: str, message: str
) -> None:
    Path(ratings).write_text(RATINGS.replace(old, new))
    with pytest.raises(DataError, match=message):
        make_labels(ratings, str(tmp_path / "x.csv"))
    assert not (tmp_path / "x.csv").exists()


def test_other_mistakes(ratings: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match="--over-raters: one of max, mean, median, not 'min'"):
        make_labels(ratings, out, over_raters="min")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="only UID trees have studies"):
        make_labels(ratings, out, study="ataxia")
    table = tmp_path / "recordings.csv"
    table.write_text("uid,subject\nu1,s1\nu1,s2\n")
    with pytest.raises(DataError, match="the recording 'u1' has different values in subject"):
        make_labels(ratings, out, table=str(table))
    table.write_text("uid,subject\nx1,s1\n")
    with pytest.raises(DataError, match="no recording is in this table, not even 'u1'"):
        make_labels(ratings, out, table=str(table))
    tree = write_uid_tree(tmp_path / "tree", num_speakers=3, num_digits=1, takes=1)
    for uid in tree.uids:
        (tree.folder(uid) / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match=r"no metadata\.json holds a list"):
        make_labels(str(tree.audio), out)


def test_what_is_read_is_not_written_over(
    ratings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "recordings.csv"
    table.write_text("uid,subject\nu1,s1\n")
    monkeypatch.chdir(tmp_path)
    for out in (ratings, "ratings.csv", "recordings.csv"):
        with pytest.raises(ConfigError, match="is a table that is read, and would be lost"):
            make_labels(ratings, out, table=str(table))
    assert Path(ratings).read_text() == RATINGS
    assert table.read_text() == "uid,subject\nu1,s1\n"


def test_remote_tables() -> None:
    storage.write_atomic("memory://ratings/r.csv", RATINGS)
    make_labels("memory://ratings/r.csv", "memory://ratings/labels.csv")
    assert storage.read_bytes("memory://ratings/labels.csv").startswith(b"uid,slow rate,")


def test_as_a_person_types_it(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=3)
    words = ["labels", "annotations.csv", "--out", "wide.csv", "--ignore", "-1", "--ignore", "6"]
    command = [sys.executable, "-m", "harken", "prepare", *words, "--binary-above", "1"]
    found = subprocess.run(
        [*command, "--table", "labels.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "wide.csv: 36 recordings, 4 features" in found.stdout
    truth = pl.read_csv(tree.table).drop("digit")
    assert pl.read_csv(tmp_path / "wide.csv").select(truth.columns).equals(truth)
    wrong = subprocess.run(
        [*command, "--table", "gone.csv"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert wrong.stderr == "harken: gone.csv: there is no such file\n"
