"""A manifest of two million clips, shaped as AudioSet's: loaded, learned, split and sampled.

Segment CSV, ontology and a listing of the audio are made up first and are not counted; there is no
audio, so decoding is left out. Each step's wall time, processor time and the peak memory of the
process so far (Linux) are printed.

    python benchmarks/scale.py [--clips 2000000] [--epoch-clips 50000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.audio import Audio
from harken.check import check_splits
from harken.dataset import ClipDataset
from harken.labels import Labels, required_names
from harken.loader import Balanced, Order, Shuffled
from harken.manifest import Manifest
from harken.multi_hot import TargetTable
from harken.sources import AudioSet
from harken.split import RandomSplit
from harken.target import Target

CLASSES = 527
LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype="S1"
)
T = TypeVar("T")


def write_inputs(folder: Path, clips: int) -> None:
    """Write what AudioSet publishes, and a list of files in folders named by two letters."""
    rng = np.random.default_rng(0)
    ids = rng.choice(LETTERS, (int(clips * 1.01), 11)).view("S11").ravel().astype(str)
    ids = pl.Series("id", ids).unique(maintain_order=True).head(clips)
    mids = np.array([f"/m/{number:05x}" for number in range(CLASSES)])
    chance = 1 / np.arange(1, CLASSES + 1)
    counts = rng.choice([1, 2, 3, 4], clips, p=[0.35, 0.35, 0.2, 0.1])
    drawn = rng.choice(mids, counts.sum(), p=chance / chance.sum())
    row = np.repeat(np.arange(clips), counts)
    labels = pl.DataFrame({"row": row, "mid": drawn}).group_by("row", maintain_order=True)
    cells = labels.agg(pl.col("mid").unique().str.join(","))["mid"]
    lines = pl.DataFrame({"id": ids, "cells": cells}).select(
        pl.format('{}, 30.000, 40.000, "{}"', "id", "cells")
    )
    head = "# Segments csv\n# num_ytids\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (folder / "segments.csv").write_text(head + "\n".join(lines.to_series()) + "\n")
    files = pl.DataFrame({"id": ids}).select(
        pl.format("{}/{}.flac", pl.col("id").str.head(2), "id")
    )
    (folder / "files.txt").write_text("\n".join(files.to_series()) + "\n")
    known = [{"id": mid, "name": f"sound {i}", "restrictions": []} for i, mid in enumerate(mids)]
    (folder / "ontology.json").write_text(json.dumps(known))


def source_in(folder: Path) -> AudioSet:
    return AudioSet(
        segments=str(folder / "segments.csv"),
        ontology=str(folder / "ontology.json"),
        root=str(folder),
        listing=str(folder / "files.txt"),
    )


def peak() -> float:
    """Return the process's peak memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Steps:
    """Prints the time and the peak memory of each step."""

    def __init__(self) -> None:
        self.total = self.busy = 0.0

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """Do a step."""
        began = time.perf_counter(), time.process_time()
        result = work()
        seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
        self.total, self.busy = self.total + seconds, self.busy + busy
        print(f"{name:<44}{seconds:8.2f} s {busy:8.2f} s {peak():6.2f} GiB", flush=True)
        return result


class NoAudio:
    """Stands for the cache: ten seconds of nothing a clip."""

    def __init__(self, clips: int) -> None:
        self.lengths = np.full(clips, 160_000, dtype=np.int64)

    def read(self, row: int) -> npt.NDArray[np.float32]:
        """There is nothing to read."""
        raise NotImplementedError


def clips_of(target: TargetTable, rows: npt.NDArray[np.int64]) -> ClipDataset:
    weight = np.ones(len(target), dtype=np.float32)
    cache = NoAudio(len(target))
    return ClipDataset(cache, rows, target, weight, Audio(), seed=0, silent=True)


def one_epoch(order: Order, epoch: int) -> int:
    """Go through an epoch's batches without their audio."""
    return sum(len(order.dataset.batch(rows, epoch).rows) for rows in order.batches(epoch))


def epochs(steps: Steps, target: TargetTable, rows: npt.NDArray[np.int64], clips: int) -> None:
    """Sample epochs of a fixed number of clips from more and more rows."""
    for size in (len(rows) // 100, len(rows) // 10, len(rows)):
        dataset = clips_of(target, rows[:size])
        balanced, shuffled = (kind(dataset, 32, clips) for kind in (Balanced, Shuffled))
        steps(f"  weights of {size} rows, once", lambda b=balanced: b.batches(0))
        steps(f"  balanced epoch of {clips} from {size}", lambda b=balanced: one_epoch(b, 1))
        steps(f"  shuffled epoch of {clips} from {size}", lambda s=shuffled: one_epoch(s, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=2_000_000)
    parser.add_argument("--epoch-clips", type=int, default=50_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Another process makes them up, so that its memory is not counted.
        maker = multiprocessing.get_context("spawn").Process(
            target=write_inputs, args=(Path(folder), args.clips)
        )
        maker.start()
        maker.join()
        steps = Steps()
        print(f"{args.clips} clips, {CLASSES} classes; {peak():.2f} GiB before the first step")
        source = source_in(Path(folder))
        manifest: Manifest = steps("read segments, find audio", source.load)
        labels = steps("learn labels", lambda: Labels.learn(Target(columns=["labels"]), manifest))
        usable = steps("usable clips", lambda: labels.usable(manifest))
        manifest = steps("keep them", lambda: manifest.filter(usable))
        target = steps("encode targets", lambda: labels.targets(manifest))
        strata = steps("strata", lambda: labels.strata(manifest))
        split = RandomSplit(valid=0.01, test=0.01)
        names = required_names(labels, manifest)
        folds = steps("split", lambda: split.assign(manifest, strata, 0, names))
        steps("check the split", lambda: check_splits(manifest, folds))
        print(f"{'all so far':<44}{steps.total:8.2f} s {steps.busy:8.2f} s {peak():6.2f} GiB")
        rows = folds[0].rows("train")
        whole = Shuffled(clips_of(target, rows), 32)
        steps("order of a whole epoch", lambda: whole.batches(0))
        epochs(steps, target, rows, args.epoch_clips)


if __name__ == "__main__":
    main()
