"""A download is the file that the store holds, or none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import RunError
from harken.storage import StoreError, downloads
from harken.storage.downloads import download
from harken.storage.retries import Changed
from harken.storage.store_facts import Facts, fact

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PART_BYTES", 100_000)


def test_one_request_for_a_small_file(faulty_bucket: FaultyBucket, tmp_path: Path) -> None:
    url, content = f"{faulty_bucket.url}/a.bin", os.urandom(50_000)
    storage.write_atomic(url, content)
    known = fact(url)
    faulty_bucket.proxy.reset()
    assert download(url, known, tmp_path / "a") == 50_000
    assert (tmp_path / "a").read_bytes() == content
    assert faulty_bucket.proxy.count() == 1


def test_only_the_broken_part_is_fetched_again(
    faulty_bucket: FaultyBucket, tmp_path: Path, small_parts: None
) -> None:
    url, content = f"{faulty_bucket.url}/a.bin", os.urandom(450_001)
    storage.write_atomic(url, content)
    known = fact(url)
    faulty_bucket.proxy.reset()
    faulty_bucket.proxy.drop(times=2, after_bytes=60_000, match="GET")
    assert download(url, known, tmp_path / "a") == len(content)
    assert (tmp_path / "a").read_bytes() == content
    gets = [request for request in faulty_bucket.proxy.requests if request.method == "GET"]
    media = [request for request in gets if "download" in request.path or url[:2] == "s3"]
    assert len(media) == 5 + 2


@pytest.mark.parametrize("size", [50_000, 250_000])
@pytest.mark.parametrize("other", [-10_000, 0, 10_000])
def test_a_file_that_changed_in_between(
    size: int, other: int, bucket: str, tmp_path: Path, small_parts: None
) -> None:
    url = f"{bucket}/a.bin"
    storage.write_atomic(url, os.urandom(size))
    known = fact(url)
    storage.write_atomic(url, os.urandom(size + other))
    if other == 0 and known.md5 is None and size < 100_000:
        return  # one request cannot tell; `test_copies` shows what the next one makes of it
    with pytest.raises(Changed):
        download(url, known, tmp_path / "a")


def test_what_is_not_what_the_store_says(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/a.bin"
    storage.write_atomic(url, b"content")
    known = fact(url)
    real = downloads.whole
    tried = []

    def short(store: Any, path: str) -> bytes:
        tried.append(path)
        return real(store, path)[:-1] if len(tried) < 3 else real(store, path)

    monkeypatch.setattr(downloads, "whole", short)
    assert download(url, known, tmp_path / "a") == 7
    assert len(tried) == 3
    monkeypatch.setattr(downloads, "whole", lambda store, path: b"123456")
    with pytest.raises(StoreError, match="6 bytes instead of 7"):
        download(url, known, tmp_path / "a")
    wrong = Facts(known.tag, 7, b"other digest")
    monkeypatch.setattr(downloads, "whole", real)
    with pytest.raises(StoreError, match="MD5"):
        download(url, wrong, tmp_path / "a")


def test_a_full_disk(bucket: str, tmp_path: Path) -> None:
    storage.write_atomic(f"{bucket}/a.bin", b"content")
    with pytest.raises(RunError, match="the disk is full"):
        download(f"{bucket}/a.bin", fact(f"{bucket}/a.bin"), Path("/dev/full"))
