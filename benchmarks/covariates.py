"""What age and word, and balancing by word, are worth on the made-up children: UAR, five seeds.

    python benchmarks/covariates.py [--jobs 2] [--first-seed 0] [--seeds 5] [--split test]

Each seed makes other children, parts them by child and starts from other weights. Six small
networks are trained for each: plain; with class weights, which know nothing of words; with age and
word entering by FiLM; with these and class weights; with the loss balanced by word; with age, word
and balancing. Nothing is chosen on test children: the last epoch is kept, a clip is decided by the
larger score, and the settings were chosen on validation children of other seeds (from 100 on).
Printed are the UAR over all test clips, the smallest and the largest of a seed, and each network's
difference from the plain one with a 95 % interval from a paired bootstrap over children. The limit:
with both, the interval excludes 0.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.bootstrap import draws

RESAMPLES = 2000

COVARIATES = [
    {"kind": "film", "covariate": "age"},
    {"kind": "film", "covariate": {"name": "word", "encoding": "category"}},
]
BALANCING = {"kind": "balancing", "by": "word", "normalize": True}

WEIGHTED = {"kind": "cross_entropy", "class_weights": "balanced"}

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"loss": WEIGHTED},
    "age and word": {"covariates": COVARIATES},
    "with weights": {"covariates": COVARIATES, "loss": WEIGHTED},
    "balancing": {"loss": BALANCING},
    "both": {"covariates": COVARIATES, "loss": BALANCING},
}


def recipe(name: str, seed: int, folder: str) -> dict[str, Any]:
    """Return the settings of one network."""
    return {
        "data": {
            "source": {
                "kind": "synthetic",
                "style": "children",
                "speakers": 500,
                "clips_per_speaker": 5,
                "seconds": 0.85,
                "seed": seed,
                "path": f"{folder}/children-{seed}",
            },
            "split": {"kind": "random", "valid": 0.1, "test": 0.3},
            "cache": f"{folder}/cache-{seed}",
        },
        "audio": {"clip_seconds": 1.0},
        "augment": [
            {
                "kind": "spec_stretch",
                "min_time": 0.9,
                "max_time": 1.1,
                "min_freq": 0.93,
                "max_freq": 1.07,
            },
            {"kind": "spec_mask", "num_time": 1, "time_width": 8, "num_freq": 1, "freq_width": 6},
        ],
        "frontend": {"kind": "log_mel", "n_mels": 40, "hop_length": 160, "normalize": "dataset"},
        "backbone": {
            "kind": "cnn",
            "widths": [8, 16, 32, 64],
            "convs_per_block": 1,
            "pool": "max",
        },
        "pooling": "mean_max",
        "optimizer": {"kind": "adamw", "lr": 2e-3, "weight_decay": 0.05},
        "schedule": "onecycle",
        "train": {"epochs": 16, "batch_size": 32, "keep": "last"},
        "evaluate": {"num_resamples": 0},
        "seed": seed,
        **VARIANTS[name],
    }


def make_children(job: tuple[int, str]) -> None:
    """Make and decode the children of a seed, before several networks ask for them at once."""
    from harken import prepare
    from harken.recipe import validate

    prepare(validate(recipe("plain", *job)))


def run_one(job: tuple[str, int, str]) -> pl.DataFrame:
    """Train one network, and return what it says of validation and test clips."""
    import torch

    from harken import train
    from harken.recipe import validate

    torch.set_num_threads(1)
    name, seed, folder = job
    run = train(validate(recipe(*job)), Path(folder) / f"{seed}-{name}")
    columns = ["split", "speaker", "target", "decision"]
    said = run.read_table("predictions.parquet").select(columns)
    return said.with_columns(seed=pl.lit(seed), variant=pl.lit(name))


def uar(said: pl.DataFrame, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the UAR of clips under weights `(clips, resamples)`."""
    right = (said["decision"] == said["target"]).to_numpy().astype(float)
    ill = (said["target"] == "ssd").to_numpy()
    recalls = [right[part] @ weight[part] / weight[part].sum(0) for part in (ill, ~ill)]
    return np.asarray((recalls[0] + recalls[1]) / 2)


def show(said: pl.DataFrame) -> None:
    """Print a line for each network, all of which have judged the same clips in the same order."""
    parts = {
        name: said.filter(variant=name) for name in said["variant"].unique(maintain_order=True)
    }
    plain = next(iter(parts.values()))
    children = plain.select("seed", "speaker").to_struct().rank("dense").to_numpy() - 1
    count = int(children.max()) + 1
    weight = np.concatenate(list(draws(count, RESAMPLES, 0, RESAMPLES)), axis=1)[children]
    once = np.ones((len(plain), 1))
    print(f"{count} children, {len(plain)} clips")
    print(f"{'':14}   UAR   (by seed)       difference from plain")
    for name, part in parts.items():
        assert part["target"].equals(plain["target"])
        value = uar(part, once)[0]
        own = [float(uar(one, np.ones((len(one), 1)))[0]) for _, one in part.group_by("seed")]
        low, high = np.percentile(uar(part, weight) - uar(plain, weight), [2.5, 97.5])
        change = f"{value - uar(plain, once)[0]:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"{name:14} {value:6.3f}  ({min(own):.3f}-{max(own):.3f})   {change}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=["test", "valid"], default="test")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(name, seed, folder) for name in VARIANTS for seed in seeds]
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            list(pool.map(make_children, [(seed, folder) for seed in seeds]))
            said = pl.concat(pool.map(run_one, jobs)).filter(split=options.split)
    show(said)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
