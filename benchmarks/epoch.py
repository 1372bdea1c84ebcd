"""What an epoch of the small CNN spends on waiting for data, and what later runs decode.

    python benchmarks/epoch.py ../shared/data/esc10 [--epochs 3]

Trains `examples/esc10_cnn.yaml` on one fold with an empty cache of its own. Printed are the clips
decoded by a first and by a second run, and for each epoch the share of its time that went into
waiting for batches. The limit is 5 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from harken import prepare, read_recipe, train

RECIPE = Path(__file__).parents[1] / "examples" / "esc10_cnn.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"data.source.path={options.data}",
            f"data.cache={folder}/cache",
            f"train.epochs={options.epochs}",
        ]
        recipe = read_recipe([RECIPE], words)
        for name in ("first", "second"):
            began = time.perf_counter()
            corpus, _ = prepare(recipe)
            seconds = time.perf_counter() - began
            print(f"{name} run: {corpus.cache.num_decoded} clips decoded, {seconds:.2f} s")
        run = train(recipe, f"{folder}/run", folds="1")
        lines = (run.folds[0].path / "metrics.jsonl").read_text().splitlines()
        for row in map(json.loads, lines):
            share = row["data_seconds"] / row["seconds"]
            print(f"epoch {row['epoch']}: {row['seconds']:.2f} s, waiting {share:.2%} (limit 5 %)")


if __name__ == "__main__":
    main()
