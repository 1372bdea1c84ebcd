"""Many files on their way into a bucket at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from harken.storage.files import write_atomic
from harken.storage.stores import IN_FLIGHT
from harken.storage.url import Location

_FILES = 4 * IN_FLIGHT
_BYTES = 256 * 10**6


class Uploads:
    """Writes files while the next ones are read. A context manager; all are there at its end.

    What waits is bounded in number and in bytes.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._bytes = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="upload")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def put(self, url: Location, content: bytes) -> None:
        """Write a file some time soon, whole or not at all.

        Raises:
            HarkenError: one of the files before could not be written.
        """
        while self._waiting and (len(self._waiting) >= _FILES or self._bytes >= _BYTES):
            self._end_one()
        self._waiting.append((len(content), self._pool.submit(write_atomic, url, content)))
        self._bytes += len(content)

    def wait(self) -> None:
        """Wait until all files are there.

        Raises:
            HarkenError: one of them could not be written.
        """
        while self._waiting:
            self._end_one()

    def _end_one(self) -> None:
        size, upload = self._waiting.popleft()
        self._bytes -= size
        upload.result()
