"""Batches in a reproducible order, made ahead by threads.

The order is a function of (seed, epoch), so a run can be resumed at any step. Threads suffice
because decoding is done: reading the memory map and numpy's arithmetic release the GIL.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from harken.batch import Batch
from harken.dataset import ClipDataset, Rows
from harken.seeds import generator


def even_batches(rows: Rows, batch_size: int) -> list[Rows]:
    """Cut rows into batches of at most `batch_size` whose sizes differ by at most one.

    A last batch of one clip would spoil batch normalisation; dropping it would waste a clip.
    """
    count = -(-len(rows) // batch_size)
    return list(np.array_split(rows, count))


class Order:
    """Which rows come in which batch, epoch by epoch."""

    def __init__(self, dataset: ClipDataset, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def batches(self, epoch: int) -> list[Rows]:
        """Return the epoch's batches of manifest rows: here, all rows as they stand."""
        del epoch
        return even_batches(self.dataset.rows, self.batch_size)


class Shuffled(Order):
    """Every clip once an epoch; clips of any length are batched with clips of like length."""

    bucket_batches = 50

    def batches(self, epoch: int) -> list[Rows]:
        """Return a fresh permutation, sorted by length inside blocks of `bucket_batches`."""
        rng = generator(self.dataset.seed or 0, "order", epoch)
        order = rng.permutation(len(self.dataset))
        if self.dataset.audio.clip_seconds is not None:
            return even_batches(self.dataset.rows[order], self.batch_size)
        lengths = self.dataset.lengths
        block = self.bucket_batches * self.batch_size
        parts = [order[i : i + block] for i in range(0, len(order), block)]
        sorted_parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
        batches = [b for p in sorted_parts for b in even_batches(p, self.batch_size)]
        return [self.dataset.rows[batches[i]] for i in rng.permutation(len(batches))]


class Balanced(Order):
    """As many clips an epoch, drawn with replacement so that each class is as frequent."""

    def batches(self, epoch: int) -> list[Rows]:
        """Draw rows with probability inverse to the frequency of their classes."""
        rng = generator(self.dataset.seed or 0, "order", epoch)
        positive = np.nan_to_num(self.dataset.target[self.dataset.rows])
        share = positive / np.maximum(positive.sum(axis=0), 1)
        chance = share.sum(axis=1)
        chance = np.where(chance > 0, chance, chance[chance > 0].min())
        drawn = rng.choice(self.dataset.rows, len(self.dataset), p=chance / chance.sum())
        return even_batches(drawn, self.batch_size)


class Loader:
    """Iterates over the batches of an epoch, a few made ahead.

    Attributes:
        wait_seconds: Time that the consumer has spent waiting for batches.
    """

    def __init__(self, order: Order, *, ahead: int = 4, threads: int = 1) -> None:
        self.order, self.ahead, self.threads = order, ahead, threads
        self.wait_seconds = 0.0

    @property
    def dataset(self) -> ClipDataset:
        """The clips that are read."""
        return self.order.dataset

    def num_batches(self, epoch: int = 0) -> int:
        """Batches in an epoch."""
        return len(self.order.batches(epoch))

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from number `start` on."""
        todo = iter(self.order.batches(epoch)[start:])
        with ThreadPoolExecutor(self.threads, thread_name_prefix="loader") as pool:
            pending: deque[Future[Batch]] = deque()
            for rows in todo:
                pending.append(pool.submit(self.dataset.batch, rows, epoch))
                if len(pending) > self.ahead:
                    yield self._take(pending)
            while pending:
                yield self._take(pending)

    def _take(self, pending: deque[Future[Batch]]) -> Batch:
        began = time.perf_counter()
        batch = pending.popleft().result()
        self.wait_seconds += time.perf_counter() - began
        return batch
