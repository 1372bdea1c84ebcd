"""Reading and writing: whole files or none, here and in every store."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import DataError, RunError
from harken.storage import StoreError, cache_folder
from harken.storage.stores import connect

BIG = 11 * 2**20  # beyond what the clients send in one request


def left_here() -> list[Path]:
    """What lies on this machine of files in buckets."""
    return [path for path in cache_folder().rglob("*") if path.is_file()]


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
from harken.errors import RunError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
try:
    storage.write_atomic({str(tmp_path / "x.bin")!r}, bytes(5000))
except RunError as error:
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


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "own"))


@pytest.mark.parametrize(
    "content",
    [b"", b"\r", b"a\r\n", b"\n", b"x\n--==0==--\n", b"a\0\r\n\r", bytes(range(256)) * 4],
)
def test_every_byte_arrives(bucket: str, content: bytes, empty_cache: None) -> None:
    url = f"{bucket}/x.bin"
    storage.write_atomic(url, content)
    assert left_here() == []  # a remote write leaves nothing behind
    assert storage.read_bytes(url) == content
    with storage.open_file(url) as file:
        assert file.read() == content
    assert left_here() == []
    assert storage.local_copy(url).read_bytes() == content


def test_large_files(bucket: str, monkeypatch: pytest.MonkeyPatch, empty_cache: None) -> None:
    monkeypatch.setattr("harken.storage.files._IN_MEMORY", 10**6)
    url, content = f"{bucket}/x.bin", os.urandom(BIG)
    storage.write_atomic(url, content)
    assert left_here() == []
    with storage.open_file(url) as file:
        assert file.read() == content


def test_text_is_utf8(bucket: str, tmp_path: Path) -> None:
    for folder in (bucket, str(tmp_path)):
        storage.write_atomic(f"{folder}/x.txt", "안녕\nx")
        with storage.open_file(f"{folder}/x.txt", "r") as file:
            assert file.read() == "안녕\nx"
        with storage.open_file(f"{folder}/x.txt", "r", encoding="latin-1") as file:
            assert file.read() != "안녕\nx"


def test_missing_files(bucket: str, tmp_path: Path) -> None:
    storage.write_atomic(f"{bucket}/a", b"x")
    for call in (storage.open_file, storage.read_bytes):
        for gone in (f"{bucket}/gone", str(tmp_path / "gone")):
            with pytest.raises(DataError, match="there is no such file") as caught:
                call(gone)
            assert caught.value.where == gone
    with pytest.raises(DataError, match="folder"):
        storage.open_file(tmp_path)


def test_a_remote_file_is_written_whole_or_not_at_all(bucket: str, empty_cache: None) -> None:
    url = f"{bucket}/deep/x.npy"
    storage.write_atomic(url, b"old")
    with storage.atomic_path(url) as temporary:
        assert temporary.suffix == ".npy"
        temporary.write_bytes(b"new")
        assert storage.read_bytes(url) == b"old"
    assert storage.read_bytes(url) == b"new"

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyError("own mistake")

    with pytest.raises(KeyError):
        storage.write_atomic(url, fail)
    assert storage.read_bytes(url) == b"new"
    assert storage.list_files(bucket) == [url]
    assert left_here() == []


@pytest.mark.parametrize("size", [1000, BIG])
def test_uploads_are_tried_again(
    size: int, faulty_bucket: FaultyBucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, proxy = f"{faulty_bucket.url}/x.bin", faulty_bucket.proxy
    content = os.urandom(size)
    if url.startswith("s3"):  # 100 MB would be needed for its own limit
        monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 * 2**20)
    proxy.cut_uploads(times=2, after_bytes=500)
    proxy.answer(503, times=2)
    storage.write_atomic(url, content)
    assert storage.read_bytes(url) == content


@pytest.mark.parametrize("size", [1000, BIG])
def test_a_failed_upload_leaves_the_old_file(
    size: int,
    faulty_bucket: FaultyBucket,
    quick_retries: None,
    monkeypatch: pytest.MonkeyPatch,
    empty_cache: None,
) -> None:
    url, proxy = f"{faulty_bucket.url}/x.bin", faulty_bucket.proxy
    if url.startswith("s3"):
        monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 * 2**20)
    storage.write_atomic(url, b"old")
    proxy.cut_uploads(times=1000, after_bytes=500, match="PUT" if "s3" in url else "upload")
    with pytest.raises(StoreError) as caught:
        storage.write_atomic(url, os.urandom(size))
    assert caught.value.where == url
    assert isinstance(caught.value, RunError)
    proxy.reset()
    assert storage.read_bytes(url) == b"old"
    assert storage.list_files(faulty_bucket.url) == [url]
    assert left_here() == []
    if "s3" in url:
        store, _ = connect(url)
        uploads = store.call_s3("list_multipart_uploads", Bucket=url.split("/")[2])
        assert "Uploads" not in uploads


def test_an_upload_that_arrives_short_is_noticed(
    bucket: str, monkeypatch: pytest.MonkeyPatch, quick_retries: None
) -> None:
    monkeypatch.setattr(
        "harken.storage.files._put",
        lambda store, temporary, path: store.pipe_file(path, temporary.read_bytes()[:-1]),
    )
    with pytest.raises(StoreError, match="4 bytes arrived of 5"):
        storage.write_atomic(f"{bucket}/x", b"12345")


UPLOAD = """
import sys
from harken import storage
from harken.storage import files
def put(store, temporary, path):
    print("ready", flush=True)
    sys.stdin.read()
files._put = put
storage.write_atomic(sys.argv[1], b"new")
"""


def test_killed_before_the_upload(gcs_bucket: str, empty_cache: None) -> None:
    url = f"{gcs_bucket}/x.bin"
    storage.write_atomic(url, b"old")
    command = [sys.executable, "-c", UPLOAD, url]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    assert storage.read_bytes(url) == b"old"
    [left] = left_here()
    storage.write_atomic(url, b"new")
    assert left_here() == [left]  # its writer might be alive
    os.utime(left, (1, 1))
    storage.write_atomic(url, b"newer")
    assert left_here() == []
