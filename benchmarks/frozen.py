"""Epochs over a frozen encoder: remembered outputs against running the encoder every time.

    python benchmarks/frozen.py ../shared/data/fsdd/recordings [--clips 96] [--epochs 4]

A wav2vec 2.0 encoder of base size (12 blocks of 768) with random weights is frozen under a linear
head and trained on FSDD clips twice, by turns: with `train.memory_gigabytes` at its default, where
the second and later epochs start from the pooled states, and at 0, where every epoch runs the
encoder. Printed are the seconds of each epoch and the ratio from the second epoch on; 20 is asked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from harken import train
from harken.recipe import Recipe, validate


def recipe_of(data: str, epochs: int, gigabytes: float, folder: str, clips: int) -> Recipe:
    """Return the recipe; takes are left out until about so many clips are there."""
    takes = list(range(max(1, round(clips / 60))))
    return validate(
        {
            "data": {
                "source": {
                    "kind": "folder",
                    "path": data,
                    "pattern": "{label}_{speaker}_{take}.wav",
                    "where": {"take": takes},
                },
                "split": {"kind": "random", "train": 0.8, "valid": 0.1, "test": 0.1},
                "cache": f"{folder}/cache",
            },
            "backbone": {"kind": "speech", "config": {"model_type": "wav2vec2"}, "freeze": "all"},
            "pooling": "mean",
            "train": {"epochs": epochs, "batch_size": 16, "memory_gigabytes": gigabytes},
            "evaluate": {"num_resamples": 0},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"remembered": [], "every time": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2):
            for name, gigabytes in (("remembered", 4.0), ("every time", 0.0)):
                recipe = recipe_of(options.data, options.epochs, gigabytes, folder, options.clips)
                run = train(recipe, Path(folder) / f"{turn}-{gigabytes}")
                lines = (run.path / "metrics.jsonl").read_text().splitlines()
                found = [json.loads(line)["seconds"] for line in lines]
                seconds[name] += found[1:]
                print(f"{name:12} " + "  ".join(f"{s:7.3f} s" for s in found))
    means = {name: sum(found) / len(found) for name, found in seconds.items()}
    ratio = means["every time"] / means["remembered"]
    print(f"second and later epochs: {ratio:.0f}x faster (20x is asked)")


if __name__ == "__main__":
    main()
