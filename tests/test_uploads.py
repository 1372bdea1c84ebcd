"""Many files go up at once, not without bound, and none is lost silently."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harken import storage
from harken.errors import DataError
from harken.storage import Uploads, uploads


def test_all_are_there_at_the_end(bucket: str) -> None:
    names = [f"{bucket}/files/{number}.bin" for number in range(100)]
    with Uploads() as going:
        for name in names:
            going.put(name, name.encode())
    assert [storage.read_bytes(name).decode() for name in names] == names


def test_many_at_once_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    together, under_way, most = threading.Barrier(16), [0], [0]
    lock = threading.Lock()

    def write(url: str, content: bytes) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        if int(url) < 16:
            together.wait(20)  # sixteen are under way at once
        time.sleep(0.001)
        with lock:
            under_way[0] -= 1

    monkeypatch.setattr(uploads, "write_atomic", write)
    with Uploads() as going:
        for number in range(200):
            going.put(str(number), b"x")
    assert 16 <= most[0] <= uploads.IN_FLIGHT
    monkeypatch.setattr(uploads, "_BYTES", 10)
    most[0] = 0
    with Uploads() as going:
        for number in range(100, 150):
            going.put(str(number), bytes(10))
    assert most[0] <= 2


def put(going: Uploads, count: int) -> int:
    for number in range(count):
        going.put(str(number), b"")
    return 0


def test_one_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(url: str, content: bytes) -> None:
        if url == "7":
            raise DataError("the seventh fails")

    monkeypatch.setattr(uploads, "write_atomic", write)
    going = Uploads()
    with pytest.raises(DataError, match="seventh"), going:
        put(going, 20)
    with Uploads() as going:
        going.put("7", b"")
        with pytest.raises(DataError, match="seventh"):
            going.wait()


def test_an_error_beside_them_ends_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uploads, "write_atomic", lambda url, content: time.sleep(0.05))
    begin = time.monotonic()
    going = Uploads()
    with pytest.raises(ZeroDivisionError), going:
        print(1 / put(going, uploads._FILES))
    assert time.monotonic() - begin < 2
