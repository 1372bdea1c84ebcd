"""UID trees: what lies there, and what metadata files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harken import storage
from harken.errors import DataError
from harken.sources.uid_tree import UidEntry, map_files, scalars, scan
from uid_trees import write_uid_tree


def entry(folder: Path, text: str | bytes) -> UidEntry:
    folder.mkdir(exist_ok=True)
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "metadata.json").write_bytes(raw)
    return UidEntry("u", str(folder), {})


def test_every_recording_is_found(tmp_path: Path) -> None:
    tree = write_uid_tree(tmp_path, num_speakers=3, num_digits=3, takes=1, formats=("wav", "flac"))
    entries = scan(str(tree.audio))
    assert sorted(entries) == sorted(tree.uids)
    assert entries["s0-1-0"].waveforms == {".flac": f"{tree.audio}/s0-1-0/waveform.flac"}
    assert entries["s0-1-0"].metadata()["subject"] == "s0"


def test_a_folder_with_only_metadata_is_one_too(tmp_path: Path) -> None:
    entry(tmp_path / "u", "{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "speech.wav").touch()
    found = scan(str(tmp_path))
    assert list(found) == ["u"]
    with pytest.raises(DataError, match="there is no recording") as caught:
        found["u"].waveform("MP3")
    assert caught.value.where == str(tmp_path / "u")


@pytest.mark.parametrize(
    ("encoding", "suffix"),
    [
        ("MP3", ".mp3"), ("mp3", ".mp3"), ("FLAC", ".flac"), ("LINEAR16", ".wav"), (None, ".wav"),
        ("WAV", ".wav"), ("OGG_OPUS", ".ogg"), ("AMR", ".wav"),
    ],
)  # fmt: skip
def test_of_several_recordings_the_encoding_chooses(encoding: str | None, suffix: str) -> None:
    waveforms = {s: f"waveform{s}" for s in (".ogg", ".mp3", ".flac", ".wav")}
    assert UidEntry("u", "u", waveforms).waveform(encoding) == f"waveform{suffix}"


def test_what_lies_there_counts_where_the_encoding_is_wrong() -> None:
    assert UidEntry("u", "u", {".flac": "waveform.flac"}).waveform("MP3") == "waveform.flac"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "this is not JSON"),
        ("", "this is not JSON"),
        (b"\xff\xfe{}", "this is not JSON"),
        ("[1]", "found a list"),
        ('"text"', 'found "text"'),
    ],
)
def test_broken_metadata(tmp_path: Path, text: str | bytes, message: str) -> None:
    broken = entry(tmp_path / "u", text)
    with pytest.raises(DataError, match=message) as caught:
        broken.metadata()
    assert caught.value.where == str(tmp_path / "u" / "metadata.json")
    assert "\n" not in str(caught.value)


def test_missing_metadata(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata\.json: there is no such file"):
        UidEntry("u", str(tmp_path), {}).metadata()


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert entry(tmp_path, b'\xef\xbb\xbf{"task": "x"}').metadata() == {"task": "x"}


def test_trees_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        scan(str(tmp_path / "gone"))
    (tmp_path / "waveform.wav").touch()
    with pytest.raises(DataError, match="no recordings of the form <uid>"):
        scan(str(tmp_path))
    storage.write_atomic(tmp_path / "study" / "u" / "waveform.wav", b"")
    with pytest.raises(DataError) as caught:
        scan(str(tmp_path))
    assert caught.value.fix == "study: study, which has some"


def test_only_what_fits_a_cell_is_a_column() -> None:
    metadata = {
        "task": "x",
        "age": 3,
        "ok": True,
        "features": [{"name": "a"}],
        "more": {},
        "no": None,
    }
    assert scalars(metadata) == {"task": "x", "age": 3, "ok": True, "no": None}


def test_the_order_of_work_is_kept() -> None:
    assert map_files(lambda number: number * 2, range(100)) == list(range(0, 200, 2))
