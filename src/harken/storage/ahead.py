"""Reading ahead: remote files on their way here while others are worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

from harken.storage.copies import Loan, borrow
from harken.storage.store_facts import Facts
from harken.storage.stores import IN_FLIGHT

R = TypeVar("R")

_FILES_AHEAD = 4 * IN_FLIGHT  # each keeps a file open
_BYTES_AHEAD = 2 * 10**9


class Arrived(NamedTuple, Generic[R]):
    """A file that is here, and what was found in it."""

    loan: Loan
    result: R


class ReadAhead(Generic[R]):
    """Fetches remote files in the order in which they will be asked for, many at once.

    What is fetched but not released yet is bounded in number and in bytes. A context manager.

    Args:
        order: The files, each once.
        known: What the stores say of them.
        then: Is applied to each file where it arrives, beside the downloads of others.
    """

    def __init__(
        self, order: Iterable[str], known: Mapping[str, Facts], then: Callable[[Path], R]
    ) -> None:
        self._queue, self._known, self._then = deque(order), known, then
        self._waiting: dict[str, Future[Arrived[R]]] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ahead")
        self._go_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._queue.clear()
        # After an error, downloads from a store that does not answer are not waited for.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        for url in list(self._waiting):
            self.release(url)

    def get(self, url: str) -> Arrived[R]:
        """Wait for a file; it stays until it is released.

        Raises:
            DataError: there is no such file.
            StoreError: the store does not answer.
        """
        if url not in self._waiting:
            self._submit(url)
        return self._waiting[url].result()

    def release(self, url: str) -> None:
        """Say that a file is not needed any more."""
        future = self._waiting.pop(url, None)
        if future is None:
            return
        self._bytes -= self._size(url)
        future.add_done_callback(_give_back)
        self._go_on()

    def _go_on(self) -> None:
        while self._queue and len(self._waiting) < _FILES_AHEAD and self._bytes < _BYTES_AHEAD:
            url = self._queue.popleft()
            if url not in self._waiting:
                self._submit(url)

    def _submit(self, url: str) -> None:
        self._bytes += self._size(url)
        self._waiting[url] = self._pool.submit(self._fetch, url)

    def _fetch(self, url: str) -> Arrived[R]:
        loan = borrow(url, self._known.get(url))
        try:
            return Arrived(loan, self._then(loan.path))
        except BaseException:
            loan.give_back()
            raise

    def _size(self, url: str) -> int:
        known = self._known.get(url)
        return (known.size or 0) if known else 0


def _give_back(future: Future[Arrived[R]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().loan.give_back(used_up=True)
