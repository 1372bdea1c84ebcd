"""Batches in a reproducible order, made ahead by threads.

The order is a function of (seed, epoch), so a run can be resumed at any step. Threads suffice
because decoding is done: reading the memory map and numpy's arithmetic release the GIL.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np
import numpy.typing as npt

from harken.batch import Batch
from harken.dataset import ClipDataset, Rows
from harken.multi_hot import MultiHot, label_counts, some_rows
from harken.permutation import endless
from harken.seeds import generator


def even_batches(rows: Rows, batch_size: int) -> list[Rows]:
    """Cut rows into batches of at most `batch_size` whose sizes differ by at most one.

    A last batch of one clip would spoil batch normalisation; dropping it would waste a clip.
    """
    count = -(-len(rows) // batch_size)
    return list(np.array_split(rows, count))


class Order:
    """Which rows come in which batch, epoch by epoch.

    Args:
        dataset: The clips of a split.
        batch_size: Most clips of a batch.
        clips: Clips of an epoch, where an order draws them; None is as many as there are. The time
            that an epoch's batches take depends on it alone.
    """

    def __init__(self, dataset: ClipDataset, batch_size: int, clips: int | None = None) -> None:
        self.dataset, self.batch_size, self.clips = dataset, batch_size, clips

    def batches(self, epoch: int) -> list[Rows]:
        """Return the epoch's batches of manifest rows: here, all rows as they stand."""
        del epoch
        return even_batches(self.dataset.rows, self.batch_size)


class Shuffled(Order):
    """Every clip once an epoch; clips of any length are batched with clips of like length.

    Where an epoch has a number of clips, it goes on where the last one ended, and every clip comes
    once before any comes again.
    """

    bucket_batches = 50

    def batches(self, epoch: int) -> list[Rows]:
        """Return a fresh permutation, sorted by length inside blocks of `bucket_batches`."""
        rng = generator(self.dataset.seed or 0, "order", epoch)
        rows = self.dataset.rows[self._order(epoch, rng)]
        if self.dataset.audio.clip_seconds is not None:
            return even_batches(rows, self.batch_size)
        lengths = self.dataset.lengths_of(rows)
        block = self.bucket_batches * self.batch_size
        parts = [np.arange(i, min(i + block, len(rows))) for i in range(0, len(rows), block)]
        sorted_parts = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
        batches = [b for p in sorted_parts for b in even_batches(p, self.batch_size)]
        return [rows[batches[i]] for i in rng.permutation(len(batches))]

    def _order(self, epoch: int, rng: np.random.Generator) -> Rows:
        count, seed = len(self.dataset), self.dataset.seed or 0
        if self.clips is None:
            return rng.permutation(count)
        return endless(epoch * self.clips, self.clips, count, seed, "pass")


class Balanced(Order):
    """As many clips an epoch, drawn with replacement so that each class is as frequent."""

    def batches(self, epoch: int) -> list[Rows]:
        """Draw rows with probability inverse to the frequency of their classes."""
        rng = generator(self.dataset.seed or 0, "order", epoch)
        drawn = self._bounds.searchsorted(rng.random(self.clips or len(self.dataset)), "right")
        return even_batches(self.dataset.rows[drawn], self.batch_size)

    @cached_property
    def _bounds(self) -> npt.NDArray[np.float64]:
        """Where each row's share of 0 to 1 ends, `(rows,)`."""
        target = some_rows(self.dataset.target, self.dataset.rows)
        rarity = 1 / np.maximum(label_counts(target)[0], 1)
        positive = target.flags if isinstance(target, MultiHot) else np.nan_to_num(target)
        chance = np.asarray(positive @ rarity)
        # A clip without any class is drawn as seldom as the seldomest that has one.
        bounds = np.where(chance > 0, chance, chance[chance > 0].min()).cumsum()
        return np.asarray(bounds / bounds[-1])


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
