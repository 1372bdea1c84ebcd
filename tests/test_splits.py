"""`harken prepare splits`: no speaker in two parts, the sizes that were asked for, or an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harken import storage
from harken.errors import ConfigError, DataError
from harken.sources import UidFolder
from harken.split import ColumnSplit
from harken.verbs.splits import make_splits, read_size
from uid_trees import UidTree, write_uid_tree


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Twenty speakers of two tasks, two takes each; every fourth speaker is ill."""
    rows = [
        [f"u{speaker}-{task}-{take}", f"s{speaker}", task, int(speaker % 4 == 0)]
        for speaker in range(20)
        for task in ("vowel", "word")
        for take in range(2)
    ]
    path = tmp_path / "labels.csv"
    pl.DataFrame(rows, ["uid", "subject", "task", "ill"], orient="row").write_csv(path)
    return str(path)


def read(out: Path) -> dict[str, pl.DataFrame]:
    return {path.stem: pl.read_csv(path) for path in sorted(out.glob("*.csv"))}


def speakers(parts: dict[str, pl.DataFrame]) -> dict[str, set[str]]:
    return {name: set(part["subject"]) for name, part in parts.items()}


def disjoint(sets: dict[str, set[str]]) -> bool:
    return sum(map(len, sets.values())) == len(set().union(*sets.values()))


def test_counts_are_speakers(table: str, tmp_path: Path) -> None:
    done = make_splits(table, str(tmp_path / "a"), train=10, valid=3, test=5)
    parts = read(tmp_path / "a")
    found = speakers(parts)
    assert {name: len(its) for name, its in found.items()} == {"train": 10, "valid": 3, "test": 5}
    assert disjoint(found)
    assert parts["train"].columns == ["uid", "subject", "task", "ill"]
    assert {name: part.height for name, part in parts.items()} == done.num_rows
    assert "8 clips are in no part" in done.notes[0]


def test_shares_are_shares_of_speakers(table: str, tmp_path: Path) -> None:
    make_splits(table, str(tmp_path / "a"), valid=0.1, test=0.25)
    found = speakers(read(tmp_path / "a"))
    assert {name: len(its) for name, its in found.items()} == {"train": 13, "valid": 2, "test": 5}
    make_splits(table, str(tmp_path / "b"), valid=0, test=0.001)
    assert set(read(tmp_path / "b")) == {"train", "test"}
    assert len(speakers(read(tmp_path / "b"))["test"]) == 1


def test_the_seed_decides(table: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_splits(table, str(tmp_path / name), test=5, valid=3, seed=seed)
    one, two, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert set(one) == {"train.csv", "valid.csv", "test.csv", "splits.json"}
    assert one == two
    assert one["test.csv"] != other["test.csv"]


def test_splits_json_says_what_was_done(table: str, tmp_path: Path) -> None:
    make_splits(table, str(tmp_path / "a"), test=5, valid=0.1, seed=3, test_task=["word"])
    said = json.loads((tmp_path / "a" / "splits.json").read_text())
    assert said["source"] == table
    assert (said["seed"], said["group"], said["test_task"]) == (3, "subject", ["word"])
    assert said["sizes"] == {"train": None, "valid": 0.1, "test": 5}
    for part, frame in read(tmp_path / "a").items():
        assert set(said["parts"][part]["speakers"]) == set(frame["subject"])
        assert said["parts"][part]["num_rows"] == frame.height


def test_tasks(table: str, tmp_path: Path) -> None:
    make_splits(table, str(tmp_path / "a"), test=5, train_task=["vowel"], test_task=["word"])
    parts = read(tmp_path / "a")
    assert set(parts["train"]["task"]) == set(parts["valid"]["task"]) == {"vowel"}
    assert set(parts["test"]["task"]) == {"word"}
    assert disjoint(speakers(parts))
    pl.read_csv(table).rename({"task": "what"}).write_csv(table)
    make_splits(table, str(tmp_path / "b"), test=5, test_task=["word"], task_column="what")
    assert set(read(tmp_path / "b")["test"]["what"]) == {"word"}
    with pytest.raises(DataError, match="did you mean 'vowel'"):
        make_splits(table, str(tmp_path / "c"), train_task=["vowl"], task_column="what")
    with pytest.raises(DataError, match="there is no column 'task'"):
        make_splits(table, str(tmp_path / "c"), train_task=["vowel"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("who.txt", "s1\ns3\n\ns5\ns99\n"),
        ("who.csv", "speakerID,age\ns1,3\ns3,4\ns5,4\ns99,5\n"),
        ("who.csv", "subject,age\ns1,3\ns3,4\ns5,4\ns99,5\n"),
        ("who.csv", "anything\ns1\ns3\ns5\ns99\n"),
    ],
)
def test_a_list_of_test_speakers(table: str, tmp_path: Path, name: str, text: str) -> None:
    listed = tmp_path / name
    listed.write_text(text)
    done = make_splits(table, str(tmp_path / "a"), test=2, test_speakers=str(listed))
    assert set(done.speakers["test"]) < {"s1", "s3", "s5"}
    assert "1 of them are not in the table" in done.notes[0]
    done = make_splits(table, str(tmp_path / "b"), test=3, test_speakers=str(listed))
    assert done.speakers["test"] == ["s1", "s3", "s5"]
    with pytest.raises(DataError, match="test needs 4, and 3 can be drawn") as caught:
        make_splits(table, str(tmp_path / "c"), test=4, test_speakers=str(listed))
    assert "--test 3 at most" in str(caught.value)


def test_lists_that_cannot_be_used(table: str, tmp_path: Path) -> None:
    listed = tmp_path / "who.csv"
    for text, message in (
        ("a,b\ns1,s2\n", "which column holds"),
        ("speakerID\nx\n", "no speaker of"),
        ("s1\ns3\ns5\n", r"who.csv:1: .* 's1' is a speaker → put a line subject before it"),
    ):
        listed.write_text(text)
        with pytest.raises(DataError, match=message):
            make_splits(table, str(tmp_path / "a"), test_speakers=str(listed))


def test_stratify_spreads_a_label(table: str, tmp_path: Path) -> None:
    ill = []
    for seed in range(8):
        for name in ("plain", "even"):
            stratify = ["ill"] if name == "even" else []
            out = tmp_path / f"{name}{seed}"
            make_splits(table, str(out), test=4, valid=4, seed=seed, stratify=stratify)
            test = read(out)["test"]
            ill.append((name, test.filter(pl.col("ill") == 1)["subject"].n_unique()))
    assert {count for name, count in ill if name == "even"} == {1}
    assert len({count for name, count in ill if name == "plain"}) > 1
    with pytest.raises(DataError, match="did you mean 'ill'"):
        make_splits(table, str(tmp_path / "x"), stratify=["il"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 20}, "0 are left when 20 are tested"),
        ({"test": 21}, "test needs 21, and 20 can be drawn"),
        ({"test": 10, "valid": 10}, "10 are left when 10 are tested, and valid 10 and train 1"),
        ({"test": 5, "valid": 5, "train": 11}, "15 are left when 5 are tested"),
    ],
)
def test_too_few_speakers(table: str, tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_splits(table, str(tmp_path / "a"), **sizes)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("sizes", [{"test": 1.5}, {"valid": -1}, {"train": 0}, {"test": 1.0}])
def test_sizes_that_make_no_sense(table: str, tmp_path: Path, sizes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_splits(table, str(tmp_path / "a"), **sizes)


def test_sizes_as_words() -> None:
    assert read_size("50", "--test") == 50
    assert read_size("0.2", "--test") == 0.2
    with pytest.raises(ConfigError, match="--test: expected a number of speakers"):
        read_size("many", "--test")


def test_speakers_are_found_or_asked_for(table: str, tmp_path: Path) -> None:
    frame = pl.read_csv(table)
    frame.rename({"subject": "who"}).write_csv(table)
    with pytest.raises(DataError, match="--group with one of"):
        make_splits(table, str(tmp_path / "a"))
    done = make_splits(table, str(tmp_path / "a"), group="who")
    assert len(set().union(*done.speakers.values())) == 20
    frame.with_columns(subject=pl.when(pl.col("uid") != "u0-vowel-1").then("subject")).write_csv(
        table
    )
    with pytest.raises(DataError, match=r"labels\.csv:3: no speaker in column 'subject'"):
        make_splits(table, str(tmp_path / "b"))


def test_old_tables_are_not_replaced_unasked(table: str, tmp_path: Path) -> None:
    out = str(tmp_path / "a")
    make_splits(table, out, test=5)
    with pytest.raises(DataError, match="there already → --overwrite"):
        make_splits(table, out, test=2)
    make_splits(table, out, test=2, overwrite=True)
    assert len(speakers(read(tmp_path / "a"))["test"]) == 2
    with pytest.raises(DataError, match="these splits have no valid"):
        make_splits(table, out, test=2, valid=0, overwrite=True)


def test_a_uid_tree(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_digits=2, study="ataxia")
    make_splits(str(tree.audio), str(tmp_path / "a"), test=2, valid=1, study="ataxia")
    parts = read(tmp_path / "a")
    assert parts["train"].columns[:3] == ["uid", "subject", "task"]
    assert disjoint(speakers(parts))
    manifest = UidFolder(path=str(tree.audio), study="ataxia", table=str(tmp_path / "a")).load()
    (fold,) = ColumnSplit().assign(manifest)
    assert {part: int((fold.split == part).sum()) for part in parts} == {
        "train": 12,
        "valid": 4,
        "test": 8,
    }


def test_remote_tables(table: str) -> None:
    storage.write_atomic("memory://splits/labels.csv", Path(table).read_bytes())
    done = make_splits("memory://splits/labels.csv", "memory://splits/a", test=5)
    assert storage.exists("memory://splits/a/train.csv")
    assert done.files["test"] == "memory://splits/a/test.csv"


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_speaker_is_in_two_parts(data: Any) -> None:
    number = data.draw(st.integers(3, 12))
    rows = data.draw(st.lists(st.integers(0, number - 1), min_size=number, max_size=40))
    tasks = data.draw(st.lists(st.sampled_from("ab"), min_size=len(rows), max_size=len(rows)))
    frame = pl.DataFrame({"subject": [f"s{row}" for row in rows], "task": tasks})
    source, out = "memory://any/t.csv", "memory://any/out"
    storage.write_atomic(source, frame.write_csv())
    size = st.one_of(st.integers(1, 4), st.floats(0.05, 0.5))
    valid, test = data.draw(size), data.draw(size)
    task = data.draw(st.sampled_from([(), ("a",), ("b",)]))
    try:
        done = make_splits(
            source, out, valid=valid, test=test, test_task=task, seed=number, overwrite=True
        )
    except DataError as error:
        if "too few speakers" in str(error) or "no cell" in str(error):
            return
        raise
    found = {part: set(names) for part, names in done.speakers.items()}
    assert disjoint(found)
    assert all(found.values())
    for part, wanted in (("valid", valid), ("test", test)):
        if isinstance(wanted, int):
            assert len(found[part]) == wanted


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harken", "prepare", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_as_a_person_types_it(tmp_path: Path) -> None:
    tree: UidTree = write_uid_tree(tmp_path, num_digits=2)
    words = [
        "splits",
        "labels.csv",
        "--out",
        "mine",
        "--train",
        "3",
        "--valid",
        "1",
        "--test",
        "0.34",
    ]
    found = typed(tmp_path, *words, "--test-task", "counting", "--seed", "7", "--stratify", "even")
    assert found.returncode == 0, found.stderr
    assert "mine/test.csv: 4 clips of 2 speakers" in found.stdout
    assert len(tree.speakers) == 6
    again = typed(tmp_path, *words)
    assert again.returncode == 1
    assert again.stderr == "harken: mine/train.csv: this table is there already → --overwrite\n"
