"""The source `uid_folder`: real trees, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from conftest import make_tone
from harken import storage
from harken.audio import Audio, load
from harken.errors import DataError
from harken.sources import Source, UidFolder
from harken.split import ColumnSplit
from uid_trees import RATE, UidTree, write_uid_tree


@pytest.fixture
def tree(tmp_path: Path) -> UidTree:
    formats = ("wav", "mp3", "flac")
    return write_uid_tree(tmp_path, num_speakers=4, num_digits=3, takes=2, formats=formats)


def source(tree: UidTree, **options: Any) -> UidFolder:
    return UidFolder.model_validate({"path": str(tree.audio), "study": tree.study, **options})


def change(tree: UidTree, uid: str, **values: Any) -> None:
    file = tree.folder(uid) / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_every_format_loads(tree: UidTree) -> None:
    manifest = source(tree, table=str(tree.table)).load()
    assert manifest.frame["id"].to_list() == list(tree.uids)
    suffixes = manifest.frame["path"].str.extract(r"\.(\w+)$", 1).to_list()
    assert set(suffixes) == {"wav", "mp3", "flac"}
    for clip in manifest.clips()[:6]:
        wave = load(clip, Audio(sample_rate=RATE))
        assert abs(len(wave) / RATE - 0.4) < 0.2
    assert manifest.notes == ()
    assert Source.kinds()["uid_folder"] is UidFolder


def test_columns_come_from_the_table_and_from_the_metadata(tree: UidTree) -> None:
    change(tree, tree.uids[0], age=7, subject="of the metadata", duration=3.5, weight=70)
    manifest = source(tree, table=str(tree.table)).load()
    frame = manifest.frame
    assert frame["group"].to_list() == frame["subject"].to_list() == [u[:2] for u in tree.uids]
    assert frame["age"].to_list()[:2] == [7, None]
    assert frame["encoding"].to_list()[:3] == ["LINEAR16", "MP3", "FLAC"]
    assert frame["sample_rate_hz"].unique().to_list() == [RATE]
    assert frame["metadata_duration"][0] == 3.5
    assert frame["metadata_weight"][0] == 70
    assert "weight" not in manifest
    assert frame["duration"].null_count() == len(frame)
    assert "features" not in manifest


def test_without_a_table_every_uid_is_a_clip(tree: UidTree) -> None:
    manifest = source(tree).load()
    assert manifest.frame["id"].to_list() == sorted(tree.uids)
    assert manifest.frame["group"][0] == "s0"
    assert set(manifest.frame["task"]) == {"counting", "repeating"}


def test_only_ids_are_needed(tree: UidTree, tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("uid\n" + "\n".join(tree.uids[3:5]) + "\n")
    assert source(tree, table=str(ids)).load().frame["id"].to_list() == list(tree.uids[3:5])
    ids.write_text("name,uid\n" + "\n".join(f"{uid},x" for uid in tree.uids[3:5]) + "\n")
    assert source(tree, table=str(ids), id="name").load().frame["uid"].to_list() == ["x", "x"]


def test_a_study_lies_between_the_root_and_the_uids(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=2, takes=1, study="ataxia")
    assert len(source(tree).load()) == 6
    with pytest.raises(DataError, match="study: ataxia"):
        UidFolder(path=str(tree.audio)).load()


def test_the_recordings_own_rate_counts_and_a_mismatch_is_reported(tree: UidTree) -> None:
    for uid in tree.uids[:2]:
        change(tree, uid, sample_rate_hz=44100)
    change(tree, tree.uids[2], sample_rate_hz=None, sample_rate=RATE)
    change(tree, tree.uids[3], sample_rate_hz="fast")
    manifest = source(tree, table=str(tree.table)).load()
    (note,) = manifest.notes
    assert note.startswith("3 recordings have another sample rate than their metadata say")
    assert f"{tree.uids[0]}/waveform.wav has {RATE} Hz, not 44100" in note
    assert manifest.frame["sample_rate_hz"].drop_nulls().unique().to_list() == [RATE]
    unchecked = source(tree, table=str(tree.table), check_rates=False).load()
    assert unchecked.notes == ()
    assert unchecked.frame["sample_rate_hz"][0] == "44100"
    assert len(load(manifest.clips()[0], Audio(sample_rate=RATE))) == round(0.4 * RATE)


def test_a_folder_of_split_tables(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=6, num_digits=2, valid=True)
    manifest = source(tree, table=str(tree.splits)).load()
    (fold,) = ColumnSplit().assign(manifest)
    speakers = {
        part: set(manifest.frame["group"].to_numpy()[fold.split == part])
        for part in ("train", "valid", "test")
    }
    assert speakers == {"train": {"s0", "s1", "s2"}, "valid": {"s3"}, "test": {"s4", "s5"}}
    train = pl.read_csv(tree.splits / "train.csv")
    both = pl.concat([train, pl.read_csv(tree.splits / "valid.csv")])
    both.write_csv(tree.splits / "train.csv")
    again = source(tree, table=str(tree.splits)).load()
    assert again.frame["id"].to_list() == manifest.frame["id"].to_list()
    assert "4 clips of the training table are left out: their subject" in again.notes[0]


def test_validation_is_carved_by_speaker_and_never_empty(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=6, num_digits=2)
    manifest = source(tree, table=str(tree.splits)).load()
    (fold,) = ColumnSplit(valid=1).assign(manifest)
    groups = manifest.frame["group"].to_numpy()
    assert len(set(groups[fold.split == "valid"])) == 1
    assert not set(groups[fold.split == "valid"]) & set(groups[fold.split == "train"])
    with pytest.raises(DataError, match="valid needs 4 of 4 groups"):
        ColumnSplit(valid=4).assign(manifest)


def test_where_looks_at_table_and_metadata(tree: UidTree, tmp_path: Path) -> None:
    kept = source(tree, where={"task": "counting"}).load()
    assert len(kept) == 12
    assert kept.notes == ("where {task: counting} keeps 12 of 24 rows",)
    ids = tmp_path / "ids.csv"
    ids.write_text("uid,site\n" + "\n".join(f"{uid},{i % 3}" for i, uid in enumerate(tree.uids)))
    both = source(tree, table=str(ids), where={"task": "counting", "site": [0, 1]}).load()
    assert set(both.frame["task"]) == {"counting"}
    assert set(both.frame["site"]) == {0, 1}
    assert f"keeps {len(both)} of 24 rows" in both.notes[0]
    with pytest.raises(DataError, match="no cell of column 'task' is 'countings'"):
        source(tree, where={"task": "countings"}).load()
    with pytest.raises(DataError, match="no column 'tasks'"):
        source(tree, where={"tasks": "counting"}).load()


def test_group_and_weight_are_chosen(tree: UidTree) -> None:
    table = pl.read_csv(tree.table).with_columns(age=7.0, weight=pl.lit("70 kg"), path=pl.lit("x"))
    table.write_csv(tree.table)
    manifest = source(tree, table=str(tree.table), group="task", weight="age").load()
    assert set(manifest.frame["group"]) == {"counting", "repeating"}
    assert manifest.frame["weight"].to_list() == [7.0] * 24
    assert manifest.frame["table_weight"][0] == "70 kg"
    assert manifest.frame["table_path"][0] == "x"
    assert "the table's own column 'path' is called 'table_path' here" in manifest.notes
    with pytest.raises(DataError, match="did you mean 'subject'"):
        source(tree, group="subjekt").load()


def spoil(tree: UidTree, how: str) -> str:
    folder = tree.folder(tree.uids[1])
    file = folder / "metadata.json"
    if how == "no folder":
        shutil.rmtree(folder)
    elif how == "no metadata":
        file.unlink()
    elif how == "broken metadata":
        file.write_text('{"task": ')
    elif how == "metadata is a list":
        file.write_text("[]")
    else:
        next(folder.glob("waveform.*")).unlink()
    return str(folder if how == "no recording" else file)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", "labels.csv:3: there is no folder 's0-0-1' in "),
        ("no metadata", "there is no such file"),
        ("broken metadata", "this is not JSON"),
        ("metadata is a list", "expected a mapping"),
        ("no recording", "there is no recording"),
    ],
)
def test_bad_trees_stop_with_one_line_or_are_skipped_and_counted(
    tree: UidTree, how: str, message: str
) -> None:
    place = spoil(tree, how)
    with pytest.raises(DataError) as caught:
        source(tree, table=str(tree.table)).load()
    text = str(caught.value)
    assert message in text
    assert "on_missing=skip" in text
    assert how == "no folder" or text.startswith(place)
    assert "\n" not in text
    manifest = source(tree, table=str(tree.table), on_missing="skip").load()
    assert tree.uids[1] not in manifest.frame["id"].to_list()
    assert len(manifest) == 23
    assert manifest.notes[0].startswith("1 uids are left out, such as ")
    assert message in manifest.notes[0]


def test_several_faults_are_counted_and_nothing_left_is_an_error(tree: UidTree) -> None:
    for uid in tree.uids:
        (tree.folder(uid) / "metadata.json").unlink()
    with pytest.raises(DataError, match="and so for 23 more uids"):
        source(tree).load()
    with pytest.raises(DataError, match="and so for 23 more uids"):
        source(tree, on_missing="skip").load()


def test_bad_tables(tree: UidTree, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    cases = {
        "name\nx\n": "no column 'uid'",
        f"uid,x\n{tree.uids[0]},1\n,2\n": "t.csv:3: no uid",
        f"uid\n{tree.uids[0]}\n{tree.uids[0]}\n": "stands in row 2 and again here",
        "uid\ns0-0-9\n": "did you mean 's0-0-",
    }
    for text, message in cases.items():
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            source(tree, table=str(table)).load()


def test_an_unreadable_recording_is_left_to_decoding(tree: UidTree) -> None:
    path = next(tree.folder(tree.uids[0]).glob("waveform.*"))
    path.write_bytes(b"no sound")
    assert len(source(tree).load()) == 24


def test_a_remote_tree(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=2, takes=1)
    for file in tree.audio.rglob("*.*"):
        name = file.relative_to(tree.audio)
        storage.write_atomic(f"memory://uids/ataxia/{name}", file.read_bytes())
    storage.write_atomic("memory://uids/splits/train.csv", (tree.splits / "train.csv").read_bytes())
    remote = UidFolder(path="memory://uids", study="ataxia", table="memory://uids/splits")
    manifest = remote.load()
    assert manifest.frame["path"][0] == "memory://uids/ataxia/s0-0-0/waveform.wav"
    assert len(load(manifest.clips()[0], Audio(sample_rate=RATE))) == round(0.4 * RATE)
    storage.write_atomic("memory://uids/ataxia/s0-0-0/metadata.json", "{")
    with pytest.raises(
        DataError, match=r"memory://uids/ataxia/s0-0-0/metadata\.json: this is not JSON"
    ):
        remote.load()


def test_another_table_or_another_tree(tree: UidTree, tmp_path: Path) -> None:
    old = source(tree, table=str(tree.splits), weight="digit")
    ids = tmp_path / "ids.csv"
    ids.write_text(f"uid\n{tree.uids[5]}\n")
    assert old.on(str(ids)).load().frame["id"].to_list() == [tree.uids[5]]
    other = write_uid_tree(tmp_path / "other", num_speakers=3, num_digits=2, takes=1)
    new = source(tree, table=str(tree.splits)).on(str(other.audio))
    assert sorted(new.load().frame["id"]) == sorted(other.uids)


def test_new_recordings_need_neither_the_group_nor_the_filtered_columns(
    tree: UidTree, tmp_path: Path
) -> None:
    chosen = {"group": "digit", "where": {"digit": [0, 1], "task": "counting"}}
    old = source(tree, table=str(tree.splits), **chosen)
    assert set(old.load().frame["group"]) == {"0", "1"}
    ids = tmp_path / "ids.csv"
    ids.write_text("uid\n" + "\n".join(tree.uids))
    new = old.on(str(ids)).load()
    # The task is in the metadata, the digit nowhere; the speakers are the usual group.
    assert set(new.frame["task"]) == {"counting"}
    assert len(new) == len(tree.uids) // 2
    assert set(new.frame["group"]) == set(tree.speakers)
    assert "keeps 12 of 24 rows" in new.notes[0]
    ids.write_text("uid,digit\n" + "\n".join(f"{uid},7" for uid in tree.uids))
    with pytest.raises(DataError, match="no cell of column 'digit' is 0"):
        old.on(str(ids)).load()
    other = write_uid_tree(tmp_path / "other", num_speakers=3, num_digits=2, takes=1)
    assert set(old.on(str(other.audio)).load().frame["group"]) == set(other.speakers)


def test_the_nearest_uid_is_looked_for_once(
    tree: UidTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def count(word: str, known: Any) -> str:
        looked.append(word)
        return ", did you mean this?"

    monkeypatch.setattr("harken.sources.uid_folder.nearest", count)
    table = tmp_path / "t.csv"
    table.write_text("uid\n" + "\n".join([*tree.uids, *(f"x{n}" for n in range(40))]))
    found = source(tree, table=str(table), on_missing="skip").load()
    assert len(found) == len(tree.uids)
    assert "40 uids are left out, such as t.csv:26: there is no folder 'x0'" in found.notes[0]
    assert "did you mean this?" in found.notes[0]
    assert looked == ["x0"]


def test_a_thousand_recordings_take_seconds(tmp_path: Path) -> None:
    import time

    wave = make_tone(0.05, RATE)
    soundfile.write(tmp_path / "one.wav", wave, RATE)
    raw = (tmp_path / "one.wav").read_bytes()
    for number in range(1000):
        folder = tmp_path / "tree" / f"u{number}"
        folder.mkdir(parents=True)
        (folder / "waveform.wav").write_bytes(raw)
        (folder / "metadata.json").write_text(
            json.dumps({"subject": f"s{number % 9}", "n": number})
        )
    began = time.perf_counter()
    manifest = UidFolder(path=str(tmp_path / "tree")).load()
    assert time.perf_counter() - began < 30
    assert np.sum(manifest.frame["n"].to_numpy()) == 999 * 500


@pytest.mark.realdata
def test_fsdd_as_a_uid_tree(fsdd: Path, tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, fsdd, takes=1, formats=("wav", "flac"))
    manifest = source(tree, table=str(tree.splits)).load()
    assert len(manifest) == 60
    assert set(manifest.frame.filter(pl.col("split") == "test")["group"]) == {"theo", "yweweler"}
