"""Questions about what there is, alike on this machine and in every store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bucket_servers import FaultProxy, FaultyBucket, make_bucket, point_at
from harken import storage
from harken.errors import DataError

NAMES = ["b.wav", "sub/a.WAV", "sub/deep er/ü[1]*.wav", "notes #1.txt"]
HIDDEN = ["sub/.hidden.wav", ".git/c.wav"]


@pytest.fixture(params=["local", "gcs", "s3", "azure", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        folder = str(tmp_path / "data")
    elif request.param == "memory":
        folder = f"memory://{tmp_path.name}/data"
    else:
        folder = request.getfixturevalue(f"{request.param}_bucket") + "/data"
    for name in (*NAMES, *HIDDEN):
        storage.write_atomic(storage.join(folder, name), name.encode())
    return folder


def test_files_and_folders(base: str) -> None:
    for name in NAMES:
        file = storage.join(base, name)
        assert storage.exists(file)
        assert storage.is_file(file)
        assert not storage.is_folder(file)
        assert storage.read_bytes(file) == name.encode()
    assert storage.is_folder(base)
    assert storage.is_folder(f"{base}/sub/deep er/")
    assert not storage.is_file(f"{base}/sub")
    for name in ("su", "b", "sub/gone", "b.wav/x"):
        assert not storage.exists(f"{base}/{name}"), name
        assert not storage.is_folder(f"{base}/{name}"), name


def test_lists(base: str) -> None:
    assert storage.list_files(base) == sorted(storage.join(base, name) for name in NAMES)
    assert storage.list_files(base, [".wav"]) == [storage.join(base, name) for name in NAMES[:3]]
    assert [place.name for place in storage.entries(base)] == [
        ".git",
        "b.wav",
        "notes #1.txt",
        "sub",
    ]
    assert storage.entries(f"{base}/gone") == []
    assert storage.entries(f"{base}/b.wav") == []
    for name in ("gone", "b.wav", "su"):
        with pytest.raises(DataError, match="there is no such folder"):
            storage.list_files(f"{base}/{name}")


def test_removal(base: str) -> None:
    storage.remove_file(f"{base}/b.wav")
    storage.remove_file(f"{base}/b.wav")
    storage.write_atomic(f"{base}/subway.txt", b"stays")
    storage.write_atomic(f"{base}/sub/deep er/ü1x.wav", b"goes")
    storage.remove_folder(f"{base}/sub")
    storage.remove_folder(f"{base}/sub")
    assert not storage.exists(f"{base}/sub")
    assert [place.name for place in storage.entries(base)] == [
        ".git",
        "notes #1.txt",
        "subway.txt",
    ]
    storage.make_folder(f"{base}/new")
    storage.write_atomic(f"{base}/new/x", b"")
    assert storage.is_folder(f"{base}/new")


WRITE = """
import sys
from harken import storage
for line in sys.stdin:
    storage.write_atomic(line.strip(), b"content")
    print("done", flush=True)
"""


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_what_another_process_wrote_a_moment_ago_is_seen(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{kind}_bucket") + "/run"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    for number in range(3):
        file = f"{folder}/{number}.txt"
        assert not storage.exists(file)
        assert len(storage.entries(folder)) == number
        writer.stdin.write(f"{file}\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "done\n"
        assert storage.is_file(file)
        assert len(storage.entries(folder)) == number + 1
        assert len(storage.list_files(folder)) == number + 1
    storage.remove_file(file)
    assert not storage.exists(file)
    writer.communicate(timeout=30)


def test_a_list_is_one_request(faulty_bucket: FaultyBucket) -> None:
    for number in range(30):
        storage.write_atomic(f"{faulty_bucket.url}/a/{number}.wav", b"x")
    faulty_bucket.proxy.reset()
    assert len(storage.list_files(f"{faulty_bucket.url}/a")) == 30
    assert faulty_bucket.proxy.count() == 1


def test_whether_there_is_a_file_is_one_request_to_google(
    gcs_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_bucket("gs", gcs_address)
    with FaultProxy(gcs_address) as proxy:
        point_at(monkeypatch, "gs", proxy.url)
        storage.write_atomic(f"{url}/a/b.txt", b"x")
        for name, found in (("a/b.txt", True), ("a/c.txt", False), ("a", False)):
            proxy.reset()
            assert storage.is_file(f"{url}/{name}") == found
            assert proxy.count() == 1


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").write_bytes(b"")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "real")
    assert storage.list_files(root) == [str(root / "link" / "a.wav")]
