"""ESC-10, published folds: a quick baseline beside runs of harken.

    python benchmarks/esc10.py ../shared/data/esc10 [runs/esc10-cnn runs/esc10-ast …]

The baseline is a logistic regression on log-mel statistics (mean, deviation, maximum and mean
absolute change of the example's bands); its C is chosen by grouped folds inside the training part,
never on the test fold. Printed are accuracies per fold, their mean, and its ratio to the baseline.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from harken import prepare, read_recipe
from harken.backbones.mlp import summarise
from harken.checkpoint import RunFolder

RECIPE = Path(__file__).parents[1] / "examples" / "esc10_cnn.yaml"


def statistics(data: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features `(clips, 4 * bands)`, class numbers, published folds and sources."""
    recipe = read_recipe([RECIPE], [f"data.source.path={data}", "frontend.normalize=none"])
    corpus, _ = prepare(recipe)
    frontend = recipe.frontend.build(recipe.audio.sample_rate, recipe.audio.clip_samples)
    clips = corpus.dataset(np.arange(len(corpus.manifest)), recipe.audio)
    with torch.inference_mode():
        rows = [
            summarise(*frontend(batch.waveform, batch.lengths))
            for batch in (clips.batch(part, 0) for part in np.array_split(clips.rows, 20))
        ]
    frame = corpus.manifest.frame
    groups = frame["group"].to_numpy()
    return torch.cat(rows).numpy(), corpus.target.argmax(1), frame["fold"].to_numpy(), groups


def baseline(data: str) -> dict[str, float]:
    features, classes, folds, groups = statistics(data)
    found = {}
    for fold in np.unique(folds):
        train = folds != fold
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
            cv=StratifiedGroupKFold(4),
        )
        # Hundreds of small fits are faster on one thread than on several that wait for each other.
        with threadpool_limits(1):
            search.fit(features[train], classes[train], groups=groups[train])
        found[str(fold)] = float(search.score(features[~train], classes[~train]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("runs", nargs="*")
    options = parser.parse_args()
    began = time.perf_counter()
    results = {"log-mel statistics + logistic regression": baseline(options.data)}
    print(f"baseline: {time.perf_counter() - began:.1f} s")
    for run in options.runs:
        summary = RunFolder.open(run).read_json("metrics.json")
        results[run] = {f["name"]: f["test"]["accuracy"] for f in summary["folds"]}
    first = np.mean(list(next(iter(results.values())).values()))
    for name, folds in results.items():
        values = np.array(list(folds.values()))
        each = " ".join(f"{value:.3f}" for value in values)
        spread = values.std(ddof=1)
        print(f"{name:42} {each}  {values.mean():.3f} ± {spread:.3f}  {values.mean() / first:.2f}x")


if __name__ == "__main__":
    main()
