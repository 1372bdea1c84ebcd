"""Looking up contrastive partners: what it costs at a thousand and at a million training clips.

A look-up draws both partners of 64 clips and reads their embeddings (width 256). The sizes are
interleaved, in processor time on one thread; printed are microseconds and the ratio, which would be
1,000 for a search through the table.

    python benchmarks/partners.py [--sizes 1000 1000000] [--rounds 30]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from harken.losses.partners import Partners

WORDS, CLASSES, WIDTH, BATCH, TIMES = 80, 2, 256, 64, 100


class Table:
    """Training clips with their groups, classes and embeddings."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.groups = rng.integers(WORDS, size=size)
        self.classes = rng.integers(CLASSES, size=size)
        ids = np.arange(size)
        self.partners = Partners(ids, self.groups, self.classes, WORDS, CLASSES)
        self.bank = torch.zeros(size, WIDTH)
        rows = [rng.integers(size, size=BATCH) for _ in range(TIMES)]
        self.batches = [
            (
                torch.from_numpy(r),
                torch.from_numpy(self.groups[r]),
                torch.from_numpy(self.classes[r]),
            )
            for r in rows
        ]

    def look_up(self) -> float:
        """Return the processor time of one look-up, in seconds."""
        began = time.process_time()
        for rows, groups, classes in self.batches:
            self._read(rows, groups, classes)
        return (time.process_time() - began) / TIMES

    def _read(self, rows: Tensor, groups: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        like, unlike = self.partners.draw(rows, groups, classes)
        return self.bank[like.slot], self.bank[unlike.slot]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = [Table(size) for size in options.sizes]
    seconds: list[list[float]] = [[] for _ in tables]
    for each in range(options.rounds + 1):
        for table, found in zip(tables, seconds, strict=True):
            took = table.look_up()
            if each:  # The first round warms up.
                found.append(took)
    first = statistics.median(seconds[0])
    for size, found in zip(options.sizes, seconds, strict=True):
        median = statistics.median(found)
        print(f"{size:>9} clips: {1e6 * median:.0f} µs a batch of {BATCH}, {median / first:.2f} ×")


if __name__ == "__main__":
    main()
