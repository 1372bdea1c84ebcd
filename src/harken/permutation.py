"""Any part of a shuffled range, without shuffling the range.

A Feistel network maps numbers below a power of four onto themselves, one to one, whatever its
round function is; numbers that leave the range are mapped again until they are back (Black &
Rogaway 2002). So clip 7 million of a random order is known without the 7 million before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harken.seeds import generator

Ints = npt.NDArray[np.int64]
_ROUNDS = 6


def permuted(places: npt.NDArray[np.integer[Any]], size: int, seed: int, *path: str | int) -> Ints:
    """Return what stands at some places of a random order of 0, …, size - 1.

    Args:
        places: Places, each below `size`.
        size: How many numbers are ordered.
        seed: Root of the draw.
        path: Purpose and position of the draw; each gives an order of its own.
    """
    keys = generator(seed, *path).integers(1 << 63, size=_ROUNDS, dtype=np.uint64)
    half = max(1, ((max(size, 2) - 1).bit_length() + 1) // 2)
    found = _feistel(np.asarray(places).astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(found >= size)):
        found[outside] = _feistel(found[outside], half, keys)
    return found.astype(np.int64)


def endless(start: int, count: int, size: int, seed: int, *path: str | int) -> Ints:
    """Return part of an endless sequence in which every `size` numbers are all of them once.

    Args:
        start: Where the part begins.
        count: How many numbers it has.
        size: How many numbers there are.
        seed: Root of the draws.
        path: Purpose of the draws.
    """
    parts = []
    while count:
        passes, place = divmod(start, size)
        some = min(count, size - place)
        parts.append(permuted(np.arange(place, place + some), size, seed, *path, passes))
        start, count = start + some, count - some
    return np.concatenate(parts)


def _feistel(
    values: npt.NDArray[np.uint64], half: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Map numbers of 2 * `half` bits onto themselves."""
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << shift) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of 64-bit numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))
