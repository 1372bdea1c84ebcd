"""Files arrive ahead of those who ask for them, not without bound."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bucket_servers import FaultyBucket
from harken import storage
from harken.errors import DataError
from harken.storage import ReadAhead, StoreError, ahead, facts
from harken.storage.copies import files_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARKEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    names = [f"memory://{tmp_path.name}/{number}.txt" for number in range(50)]
    for name in names:
        storage.write_atomic(name, name)
    return names


def test_all_arrive_in_order_with_what_was_found(urls: list[str]) -> None:
    with ReadAhead(urls, facts(urls), Path.read_text) as files:
        for url in urls:
            loan, text = files.get(url)
            assert text == loan.path.read_text() == url
            files.release(url)


def wait_until(reached: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_many_at_once_and_no_more_than_the_bound(
    urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_FILES_AHEAD", 20)
    arrived: list[str] = []
    together = threading.Barrier(16)

    def note(path: Path) -> None:
        if len(arrived) < 16:
            arrived.append(path.name)
            together.wait(20)  # sixteen are under way at once
        else:
            arrived.append(path.name)

    with ReadAhead(urls, facts(urls), note) as files:
        wait_until(lambda: len(arrived) == 20)
        time.sleep(0.1)
        assert len(arrived) == 20
        for url in urls[:5]:
            files.get(url)
            files.release(url)
        wait_until(lambda: len(arrived) == 25)


def test_the_bytes_are_bounded_too(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(urls[0])
    monkeypatch.setattr(ahead, "_BYTES_AHEAD", 3 * size)
    with ReadAhead(urls[:8], facts(urls), Path.read_text) as files:
        assert files.get(urls[7]).result == urls[7]  # asked for out of order, it comes all the same
        assert len(files._waiting) == 4
        for url in urls[:8]:
            files.get(url)
            files.release(url)


def test_what_is_released_may_be_removed(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARKEN_CACHE_GIGABYTES", "2e-7")  # 200 bytes
    monkeypatch.setattr(ahead, "_FILES_AHEAD", 2)
    with ReadAhead(urls, facts(urls), Path.read_text) as files:
        for url in urls:
            assert files.get(url).loan.path.read_text() == url
            files.release(url)
    assert len(list(files_folder().rglob("*.txt"))) < 10


def test_a_file_that_is_gone(urls: list[str]) -> None:
    known = facts(urls)
    storage.remove_file(urls[3])
    with ReadAhead(urls[:6], known, Path.read_text) as files:
        with pytest.raises(DataError, match="there is no such file"):
            files.get(urls[3])
        assert files.get(urls[5]).result == urls[5]


def test_a_store_that_dies_is_not_a_missing_file(
    faulty_bucket: FaultyBucket, quick_retries: None
) -> None:
    names = [f"{faulty_bucket.url}/{number}.txt" for number in range(12)]
    for name in names:
        storage.write_atomic(name, name)
    known = facts(names)
    faulty_bucket.proxy.answer(503, times=1000)
    with (
        pytest.raises(StoreError, match="keeps answering"),
        ReadAhead(names, known, Path.read_text) as files,
    ):
        files.get(names[0])


def test_an_error_does_not_wait_for_what_is_under_way(urls: list[str]) -> None:
    goes_on, begun = threading.Event(), threading.Event()

    def wait(path: Path) -> None:
        begun.set()
        assert goes_on.wait(20)

    files = ReadAhead(urls, facts(urls), wait).__enter__()
    assert begun.wait(20)
    files.__exit__(KeyboardInterrupt)
    assert not goes_on.is_set()
    goes_on.set()
    files._pool.shutdown()
    with pytest.raises(RuntimeError):
        files.get(urls[0])
