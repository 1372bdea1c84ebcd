"""Storage: names, listing, downloads and writes that never leave half a file."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from harken import storage
from harken.errors import ConfigError, DataError, MissingExtraError, RunError


@pytest.fixture
def memory() -> str:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    return "memory://bucket/data"


def test_join_keeps_urls_and_lets_absolute_parts_start_anew() -> None:
    assert storage.join("gs://b/data/", "x", "a.wav") == "gs://b/data/x/a.wav"
    assert storage.join("data", "/abs/a.wav") == "/abs/a.wav"
    assert storage.join("data", "s3://b/a.wav") == "s3://b/a.wav"
    assert storage.join("", "a.wav") == "a.wav"


def test_is_local() -> None:
    assert storage.is_local("data/a.wav")
    assert storage.is_local("file:///data/a.wav")
    assert not storage.is_local("memory://a.wav")
    assert storage.local_path("file:///data/a.wav") == Path("/data/a.wav")


@pytest.mark.parametrize("place", ["local", "memory"])
def test_write_read_exists_list(place: str, tmp_path: Path, memory: str) -> None:
    base = str(tmp_path / "data") if place == "local" else memory
    assert not storage.exists(storage.join(base, "b.wav"))
    for name in ("b.wav", "sub/a.WAV", "sub/.hidden.wav", ".git/c.wav", "notes.txt"):
        storage.write_atomic(storage.join(base, name), name.encode())
    assert storage.exists(storage.join(base, "b.wav"))
    assert storage.read_bytes(storage.join(base, "sub/a.WAV")) == b"sub/a.WAV"
    listed = storage.list_files(base, [".wav"])
    assert listed == [storage.join(base, "b.wav"), storage.join(base, "sub/a.WAV")]
    assert storage.list_files(base) == [listed[0], storage.join(base, "notes.txt"), listed[1]]


def test_text_is_utf8(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "x.txt", "안녕")
    with storage.open_file(tmp_path / "x.txt", "r") as file:
        assert file.read() == "안녕"


@pytest.mark.parametrize("place", ["local", "memory"])
def test_missing_files_and_folders(place: str, tmp_path: Path, memory: str) -> None:
    gone = storage.join(str(tmp_path) if place == "local" else memory, "gone")
    for call in (storage.open_file, storage.list_files):
        with pytest.raises(DataError, match="there is no such") as caught:
            call(gone)
        assert caught.value.where == gone
    if place == "memory":
        with pytest.raises(DataError, match="there is no such file"):
            storage.local_copy(gone)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        storage.open_file(tmp_path)


def test_listing_follows_links_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").write_bytes(b"")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "real")
    assert storage.list_files(root) == [str(root / "link" / "a.wav")]


def test_local_copy_of_a_local_file_is_the_file(tmp_path: Path) -> None:
    assert storage.local_copy(tmp_path / "a.wav") == tmp_path / "a.wav"


def test_local_copy_downloads_once_and_again_after_a_change(memory: str) -> None:
    url = storage.join(memory, "a.wav")
    storage.write_atomic(url, b"one")
    copy = storage.local_copy(url)
    assert (copy.name, copy.read_bytes()) == ("a.wav", b"one")
    stamp = copy.stat().st_mtime_ns
    assert storage.local_copy(url) == copy
    assert copy.stat().st_mtime_ns == stamp
    storage.write_atomic(url, b"other")
    assert storage.local_copy(url).read_bytes() == b"other"


def test_atomic_path_replaces_at_the_end_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.npy"
    storage.write_atomic(target, b"old")
    with storage.atomic_path(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".npy")
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert [p.name for p in target.parent.iterdir()] == ["x.npy"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.stat().st_mode == plain.stat().st_mode


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    storage.write_atomic(target, b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyError("own mistake")

    with pytest.raises(KeyError):
        storage.write_atomic(target, fail)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_run_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.txt"
    storage.write_atomic(target, b"old")

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="the disk is full") as caught:
        storage.write_atomic(target, b"new content")
    assert caught.value.where == str(target)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_full_disk_told_in_words_only(tmp_path: Path) -> None:
    def rust(path: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(RunError, match="the disk is full"):
        storage.write_atomic(tmp_path / "x.safetensors", rust)
    assert not list(tmp_path.iterdir())


def test_a_real_limit_of_the_system_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")
    script = f"""
import resource, signal
from harken import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
try:
    storage.write_atomic({str(tmp_path / "x.bin")!r}, bytes(5000))
except storage.RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the disk is full" in done.stdout, done.stderr
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_a_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="cannot write"):
        storage.write_atomic(tmp_path / "file" / "x.txt", b"")


def test_unknown_stores_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot read from zz://"):
        storage.exists("zz://bucket/x")

    def absent(url: str) -> None:
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingExtraError, match=r"harken\[gcs\]"):
        storage.exists("gs://bucket/x")
