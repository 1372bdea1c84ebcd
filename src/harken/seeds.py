"""One seed, many independent random streams.

Nothing in harken keeps the state of a random generator: every draw is a function of the seed, a
purpose and a position (epoch, step, clip). Resuming therefore needs no generator state, and a clip
is augmented alike whichever batch, worker or process handles it.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *path: str | int) -> int:
    """Hash a seed and a path such as `("augment", epoch, clip)` to a 63-bit seed."""
    text = "/".join([str(seed), *map(str, path)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return the numpy generator of one purpose and position."""
    return np.random.Generator(np.random.PCG64(derive(seed, *path)))


def seed_torch(seed: int, *path: str | int) -> None:
    """Seed torch's default generators, the only ones that dropout and initialisers read."""
    import torch

    torch.manual_seed(derive(seed, *path))
