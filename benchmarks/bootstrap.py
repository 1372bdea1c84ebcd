"""Group-bootstrap intervals: harken's vectorised resamples against a loop over scikit-learn.

Both compute every overall and per-class metric of `metrics.json` for single-label clips, on the
same predictions, interleaved in one process on one thread; the loop runs fewer resamples and is
scaled.

    python benchmarks/bootstrap.py [--clips 2000] [--classes 10] [--groups 60] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk
from threadpoolctl import threadpool_limits

from harken.labels import Labels
from harken.metrics import summarise

RESAMPLES = 1000
LOOPED = 20

Array = npt.NDArray[np.float64]


def make_predictions(clips: int, classes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=clips)
    logits = rng.normal(size=(clips, classes))
    logits[np.arange(clips), truth] += 1.5
    score = np.exp(logits)
    return np.eye(classes)[truth], score / score.sum(axis=1, keepdims=True)


def measure_once(target: Array, score: Array) -> None:
    """Compute with scikit-learn what harken computes for one resample."""
    truth, chosen = target.argmax(axis=1), score.argmax(axis=1)
    labels = np.arange(score.shape[1])
    sk.accuracy_score(truth, chosen)
    sk.balanced_accuracy_score(truth, chosen)
    sk.log_loss(truth, score, labels=labels)
    sk.top_k_accuracy_score(truth, score, k=3, labels=labels)
    sk.roc_auc_score(target, score, average=None)
    sk.average_precision_score(target, score, average=None)
    sk.multilabel_confusion_matrix(truth, chosen, labels=labels)
    for average in (None, "macro", "micro", "weighted"):
        sk.precision_recall_fscore_support(
            truth, chosen, labels=labels, average=average, zero_division=np.nan
        )


def loop(target: Array, score: Array, groups: npt.NDArray[np.int64], resamples: int) -> None:
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    for _ in range(resamples):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        measure_once(target[drawn], score[drawn])


def main() -> None:
    parser = argparse.ArgumentParser()
    for word, default in (("clips", 2000), ("classes", 10), ("groups", 60), ("rounds", 3)):
        parser.add_argument(f"--{word}", type=int, default=default)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    target, score = make_predictions(args.clips, args.classes)
    groups = np.random.default_rng(1).integers(args.groups, size=args.clips)
    labels = Labels("single", tuple(f"c{i}" for i in range(args.classes)), ("label",))
    ours, theirs, by_clip = [], [], []
    for _ in range(args.rounds):
        began = time.perf_counter()
        summarise(labels, target, score, groups=groups, num_resamples=RESAMPLES)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        summarise(labels, target, score, num_resamples=RESAMPLES)
        by_clip.append(time.perf_counter() - began)
        began = time.perf_counter()
        loop(target, score, groups, LOOPED)
        theirs.append((time.perf_counter() - began) * RESAMPLES / LOOPED)
    print(f"{args.clips} clips, {args.classes} classes, {RESAMPLES} resamples, one thread, medians")
    print(f"harken, {args.groups} groups    {np.median(ours):8.2f} s")
    print(f"harken, every clip    {np.median(by_clip):8.2f} s")
    print(f"scikit-learn loop     {np.median(theirs):8.2f} s  (scaled from {LOOPED} resamples)")
    print(f"ratio                 {np.median(np.divide(theirs, ours)):8.1f} x")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
