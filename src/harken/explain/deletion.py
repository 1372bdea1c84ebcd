"""The deletion curve: does the network lose its evidence where the map says it lies?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harken.explain.subject import Flags, Subject
from harken.seeds import generator

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

LEVELS = 10
"""Points of a curve after its start, up to everything deleted."""
MAX_BLOCKS, BLOCK_SECONDS = 40, 0.05


@dataclass(frozen=True)
class Deletion:
    """What is left of the label's evidence while more and more of the clip is deleted.

    Attributes:
        share: Share of the clip that is deleted, from 0 to 1.
        relevant: Evidence after deleting the most relevant blocks of time first.
        random: After deleting blocks in random order, `(draws, levels)`.
        least: After deleting the least relevant blocks first.
    """

    share: Array
    relevant: Array
    random: Array
    least: Array

    @property
    def areas(self) -> Array:
        """Mean height of each random curve."""
        return _area(self.share, self.random)

    @property
    def effect(self) -> float:
        """Evidence by which the random curves lie above the relevant one, on average."""
        return float(self.areas.mean() - _area(self.share, self.relevant))

    @property
    def span(self) -> float:
        """Range of the evidence over all curves."""
        return float(np.ptp(np.concatenate([self.relevant, self.least, self.random.ravel()])))

    @property
    def score(self) -> float:
        """`effect` as a share of the range: 0 is chance, above it is better."""
        return self.effect / self.span if self.span > 1e-9 else 0.0

    @property
    def beaten(self) -> float:
        """Share of the random deletions that took more of the evidence less quickly."""
        return float((self.areas > _area(self.share, self.relevant) + 1e-9).mean())


def delete(subject: Subject, over_time: Array, draws: int, seed: int) -> Deletion:
    """Delete a clip's blocks of time in the order of their relevance, in reverse, and at random.

    The curve of Petsiuk, Das & Saenko (2018), on evidence instead of probability, which saturates.
    Blocks rather than single frames, because a network sees through holes of one frame.

    Args:
        subject: The clip.
        over_time: Relevance of each step.
        draws: Random orders.
        seed: Of the random orders.
    """
    blocks = _blocks(subject)
    mean = np.bincount(blocks, over_time) / np.bincount(blocks)
    rng = generator(seed, "explain", "deletion")
    best_first = np.argsort(-mean, kind="stable")
    orders = [best_first, best_first[::-1], *(rng.permutation(len(mean)) for _ in range(draws))]
    counts = np.unique(np.round(np.linspace(0, len(mean), LEVELS + 1)).astype(int))
    gone = np.concatenate([_gone(order, counts, blocks) for order in orders])
    curves = subject.judge(gone).reshape(len(orders), len(counts))
    return Deletion(counts / counts[-1], curves[0], curves[2:], curves[1])


def _blocks(subject: Subject) -> Places:
    """Return the block of each step: at most 40 of at least 50 ms."""
    wanted = min(MAX_BLOCKS, int(subject.seconds / BLOCK_SECONDS), subject.steps)
    return np.arange(subject.steps) * max(1, wanted) // subject.steps


def _gone(order: Places, counts: npt.NDArray[np.int_], blocks: Places) -> Flags:
    """Return bool `(levels, 1, steps)`: the first so many blocks of an order."""
    rank = np.argsort(order)[blocks]
    return np.asarray(rank < counts[:, None])[:, None]


def _area(share: Array, curves: Array) -> Array:
    return np.asarray(np.trapezoid(curves, share, axis=-1))
