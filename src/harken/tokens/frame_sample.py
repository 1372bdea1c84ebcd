"""A uniform sample of all frames of a corpus, in constant memory and over any shards.

Every frame has a random number that depends on the seed, its clip and its place in it only; the
sample is the frames with the smallest numbers (bottom-k sampling; Cohen and Kaplan, 2007). It is
thus the same in whatever order and in however many processes the clips are read.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from harken.seeds import generator

Frames = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]


class FrameSample:
    """The sample while it is drawn.

    Args:
        seed: Root of the draws.
        size: Frames to keep at most.
        bins: Values per frame.

    Attributes:
        num_seen: Frames that were offered.
    """

    def __init__(self, seed: int, size: int, bins: int) -> None:
        self.seed, self.size, self.num_seen = seed, size, 0
        room = size + max(size // 8, 4096)
        self._frames: Frames = np.empty((room, bins), dtype=np.float32)
        self._numbers: Numbers = np.empty(room)
        self._used, self._limit = 0, np.inf

    def add(self, key: str, frames: Frames) -> None:
        """Offer all frames of a clip, float32 `(frames, bins)`; `key` is the clip's name."""
        numbers = generator(self.seed, "frames", key).random(len(frames))
        self.num_seen += len(frames)
        self._put(frames, numbers)

    def _put(self, frames: Frames, numbers: Numbers) -> None:
        wanted = np.flatnonzero(numbers < self._limit)
        room = len(self._numbers) - self.size
        for start in range(0, len(wanted), room):
            part = wanted[start : start + room]
            if self._used + len(part) > len(self._numbers):
                self._compact()
            into = slice(self._used, self._used + len(part))
            self._frames[into], self._numbers[into] = frames[part], numbers[part]
            self._used += len(part)

    def _compact(self) -> None:
        """Keep the `size` smallest in place: late ones that stay move where early ones go."""
        if self._used <= self.size:
            return
        smallest = np.argpartition(self._numbers[: self._used], self.size - 1)
        keep, go = smallest[: self.size], smallest[self.size :]
        late, holes = keep[keep >= self.size], go[go < self.size]
        self._frames[holes], self._numbers[holes] = self._frames[late], self._numbers[late]
        self._used = self.size
        self._limit = float(self._numbers[: self.size].max())

    def done(self) -> tuple[Frames, Numbers, npt.NDArray[np.int64]]:
        """Return the frames, their numbers, and the order in which the numbers rise."""
        self._compact()
        numbers = self._numbers[: self._used]
        return self._frames[: self._used], numbers, np.argsort(numbers, kind="stable")

    @property
    def is_cut(self) -> bool:
        """Whether frames were left out."""
        return self.num_seen > self.size


def shard_size(size: int, num_shards: int) -> int:
    """Return how many frames a shard keeps: twice its share, so that uneven shards do no harm."""
    return size if num_shards == 1 else min(size, 2 * size // num_shards + 10_000)


def merge_samples(
    parts: Iterable[tuple[Frames, Numbers, bool]], size: int, bins: int
) -> FrameSample:
    """Join the samples of shards to the sample of all their clips.

    Where a shard held more of the smallest numbers than it could keep, all numbers above its
    largest are left out, and the sample, though smaller, stays uniform.

    Args:
        parts: Of each shard the frames, their numbers, and whether frames were left out.
        size: Frames to keep at most.
        bins: Values per frame.
    """
    known = list(parts)
    cuts = [float(numbers.max()) for _, numbers, cut in known if cut]
    limit = min(cuts, default=np.inf)
    joined = FrameSample(0, size, bins)
    for frames, numbers, _ in known:
        good = numbers <= limit
        joined._put(frames[good], numbers[good])
        joined.num_seen += int(good.sum())
    return joined
