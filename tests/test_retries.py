"""What is tried again, how often, and what is not."""

from __future__ import annotations

import time

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import DataError, HarkenError
from harken.storage import StoreError, retries

pytestmark = pytest.mark.usefixtures("quick_retries")
everywhere = pytest.mark.parametrize("faulty_bucket", ["gcs", "s3", "azure"], indirect=True)


class Status(Exception):  # noqa: N818
    def __init__(self, code: int) -> None:
        self.code = code


def test_errors_that_pass() -> None:
    passing = [Status(code) for code in (408, 429, 500, 502, 503, 504)]
    passing += [ConnectionResetError(), TimeoutError(), retries.Damaged("short")]
    assert all(retries.is_transient(error) for error in passing)
    lasting = [Status(code) for code in (400, 401, 403, 404, 416)]
    lasting += [FileNotFoundError(), PermissionError(), OSError("Forbidden: b"), ValueError()]
    assert not any(retries.is_transient(error) for error in lasting)


def test_pauses_grow_and_are_not_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 1.0)

    def fail() -> None:
        raise ConnectionResetError

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            retries.retried(fail)
    first, second = pauses[:5], pauses[5:]
    assert len(second) == len(first) == retries.ATTEMPTS - 1
    assert first != second
    assert all(0.5 * 2**i <= pause <= 2**i for i, pause in enumerate(first))


def test_no_attempt_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "LAST_START", -1.0)
    tried = []

    def fail() -> None:
        tried.append(1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        retries.retried(fail)
    assert len(tried) == 1


@everywhere
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_store_is_asked_again(faulty_bucket: FaultyBucket, status: int) -> None:
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    storage.write_atomic(url, b"content")
    proxy.reset()
    proxy.answer(status, times=3)
    assert storage.read_bytes(url) == b"content"
    assert proxy.count() == 4  # the clients' own retries do not multiply ours
    proxy.answer(status, times=2)
    assert storage.exists(url)
    proxy.answer(status, times=2)
    assert len(storage.list_files(faulty_bucket.url)) == 1


@everywhere
def test_a_store_that_stays_busy_is_given_up(faulty_bucket: FaultyBucket) -> None:
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    storage.write_atomic(url, b"content")
    proxy.reset()
    proxy.answer(503, times=1000)
    with pytest.raises(StoreError, match="keeps answering with an error") as caught:
        storage.read_bytes(url)
    assert caught.value.where == url
    assert proxy.count() == retries.ATTEMPTS


@everywhere
@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_are_not_tried_again(faulty_bucket: FaultyBucket, status: int) -> None:
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    storage.write_atomic(url, b"content")
    proxy.reset()
    proxy.answer(status, times=1000, match="a.bin")
    with pytest.raises(HarkenError) as caught:
        storage.read_bytes(url)
    assert isinstance(caught.value, DataError) == (status == 404)
    assert proxy.count("a.bin") == 1


@everywhere
def test_a_connection_that_breaks_in_the_middle(faulty_bucket: FaultyBucket) -> None:
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    content = bytes(range(256)) * 1000
    storage.write_atomic(url, content)
    proxy.reset()
    proxy.drop(times=2, after_bytes=100_000)
    assert storage.read_bytes(url) == content
    assert proxy.count() == 3


@everywhere
def test_a_store_that_stalls(faulty_bucket: FaultyBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harken.storage.stores._READ_SECONDS", 0.5)
    url, proxy = f"{faulty_bucket.url}/a.bin", faulty_bucket.proxy
    storage.write_atomic(url, b"content" * 100)
    proxy.reset()
    proxy.stall()
    begin = time.monotonic()
    assert storage.read_bytes(url) == b"content" * 100
    assert time.monotonic() - begin < 5
    assert proxy.count() == 2
