"""Run folders as training writes them, made without training; the tests of the report read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

RECIPE = """\
data:
  source: {kind: table, path: clips.csv}
  split: {kind: random, valid: 0.15, test: 0.2}
frontend: {kind: log_mel, n_mels: 64}
backbone: {kind: timm, name: efficientnet_b0}
train: {epochs: 12, monitor: balanced_accuracy}
evaluate: {num_resamples: 500}
"""


def write_json(path: Path, told: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8")


def write_history(folder: Path, epochs: int = 12, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for epoch in range(1, epochs + 1):
            ease = np.exp(-epoch / 5)
            row = {
                "epoch": epoch,
                "lr": 1e-3 * ease,
                "train_loss": 0.2 + 1.5 * ease + 0.03 * rng.standard_normal(),
                "valid_loss": 0.4 + 1.3 * ease + 0.05 * rng.standard_normal() + 0.01 * epoch,
                "valid_balanced_accuracy": 0.9 - 0.6 * ease + 0.02 * rng.standard_normal(),
                "seconds": 3.2,
                "data_seconds": 0.1,
            }
            file.write(json.dumps(row) + "\n")


def write_sound(folder: Path, index: int, seconds: float, sample_rate: int) -> Path:
    """A chirp over noise, another one for each clip."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    rng = np.random.default_rng(index)
    sweep = np.sin(2 * np.pi * (200 + 60 * index) * time * (1 + time / seconds))
    swell = np.abs(np.sin(np.pi * time / seconds * (1 + index % 5)))
    wave = 0.5 * sweep * swell + 0.02 * rng.standard_normal(len(time))
    path = folder / f"clip {index}.wav"
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, sample_rate, subtype="PCM_16")
    return path


def estimate(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def single_predictions(
    names: Sequence[str], count: int, paths: Sequence[Path], seed: int = 0
) -> pl.DataFrame:
    """Softmax scores of a fair model; speakers are groups, with age and site beside."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % len(names)
    logits = rng.standard_normal((count, len(names))) * 1.2
    logits[np.arange(count), truth] += 2.4
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    decided = scores.argmax(axis=1)
    frame = pl.DataFrame(
        {
            "id": [f"clip-{i:03d}" for i in range(count)],
            "path": [str(paths[i % len(paths)]) for i in range(count)],
            "start": pl.Series([None] * count, dtype=pl.Float64),
            "duration": pl.Series([None] * count, dtype=pl.Float64),
            "split": ["test"] * count,
            "fold": [i % 3 + 1 for i in range(count)],
            "group": [f"s{i % 12:02d}" for i in range(count)],
            "target": [names[i] for i in truth],
            "decision": [names[i] for i in decided],
            "loss": -np.log(scores[np.arange(count), truth]),
            "age": [20 + i % 50 for i in range(count)],
        }
    )
    return frame.with_columns(
        pl.Series(f"score_{name}", scores[:, i]) for i, name in enumerate(names)
    )


def single_results(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    truth, decided = frame["target"].to_list(), frame["decision"].to_list()
    counts = confusion_matrix(truth, decided, labels=list(names))
    recall = counts.diagonal() / counts.sum(axis=1)
    precision = counts.diagonal() / counts.sum(axis=0).clip(1)
    f1 = f1_score(truth, decided, labels=list(names), average=None)
    accuracy = float(np.mean([a == b for a, b in zip(truth, decided, strict=True)]))
    return {
        "num_clips": len(frame),
        "num_groups": frame["group"].n_unique(),
        "metrics": {
            "accuracy": estimate(accuracy, 0.03),
            "balanced_accuracy": estimate(float(recall.mean()), 0.04),
            "f1_macro": estimate(float(f1.mean()), 0.06),
            "roc_auc": estimate(0.951, 0.02),
            "average_precision": {"value": 0.9, "low": None, "high": None},
        },
        "per_class": [
            {
                "label": name,
                "support": int(counts[i].sum()),
                "precision": estimate(float(precision[i]), 0.1),
                "recall": estimate(float(recall[i]), 0.1),
                "f1": estimate(float(f1[i]), 0.1),
                "roc_auc": {"value": None, "low": None, "high": None},
            }
            for i, name in enumerate(names)
        ],
        "confusion": counts.tolist(),
        "labels": list(names),
        "notes": ["intervals are rough: they rest on 12 groups"],
    }


def write_single(
    folder: Path,
    names: Sequence[str] = ("clear", "rough"),
    count: int = 60,
    seconds: float = 1.0,
    sample_rate: int = 16000,
) -> Path:
    """A run with one split, wrong decisions, sound and two recordings that were left out."""
    paths = [write_sound(folder.parent / "sound", i, seconds, sample_rate) for i in range(14)]
    frame = single_predictions(names, count, paths)
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / "predictions.parquet")
    parts = ["train"] * 240 + ["valid"] * 40 + ["test"] * count
    pl.DataFrame({"id": [f"c{i}" for i in range(len(parts))], "split": parts}).write_parquet(
        folder / "splits.parquet"
    )
    results = single_results(frame, names)
    write_json(folder / "metrics.json", {"test": results, "valid": results})
    write_json(folder / "labels.json", {"task": "single", "names": list(names)})
    environment = {
        "time": "2026-01-02T03:04:05+0000",
        "command": ["/venv/bin/harken", "train", "my recipe.yaml", "--out", "runs/a"],
        "folder": "/home/me",
        "python": "3.11.9",
        "cuda": None,
        "packages": {"harken": "0.1.0", "torch": "2.15.0", "timm": None},
    }
    write_json(folder / "environment.json", environment)
    left_out = [
        {"id": "bad-1", "path": "/data/bad 1.wav", "reason": "the file is empty"},
        {"id": "bad-2", "path": "/data/bad 2.wav", "reason": "all samples are zero"},
    ]
    write_json(folder / "quarantine.json", left_out)
    (folder / "recipe.yaml").write_text(RECIPE)
    write_history(folder)
    return folder


def write_kfold(folder: Path, num_folds: int = 3) -> Path:
    """The root of a k-fold run: pooled results here, histories in the folds."""
    write_single(folder)
    (folder / "metrics.jsonl").unlink()
    (folder / "splits.parquet").unlink()
    pooled = json.loads((folder / "metrics.json").read_text())["test"]
    values = {name: told["value"] for name, told in pooled["metrics"].items()}
    folds = []
    for i in range(1, num_folds + 1):
        write_history(folder / f"fold-{i}", epochs=10 + 2 * i, seed=i)
        folds.append({"name": str(i), "test": {k: v - 0.02 * (i - 2) for k, v in values.items()}})
    told = {"folds": folds, "mean": values, "std": dict.fromkeys(values, 0.02), "pooled": pooled}
    write_json(folder / "metrics.json", told)
    return folder


def write_multi(folder: Path, names: Sequence[str] = ("dog", "rain", "siren")) -> Path:
    """A run with any number of labels a clip, some of them unknown."""
    rng = np.random.default_rng(3)
    target = (rng.random((80, len(names))) < 0.3).astype(float)
    scores = 1 / (1 + np.exp(-(2.5 * target - 1.3 + rng.standard_normal(target.shape))))
    target[rng.random(target.shape) < 0.1] = np.nan
    sets = [[n for n, s in zip(names, row, strict=True) if s > 0.5] for row in scores]
    told = [[n for n, t in zip(names, row, strict=True) if t == 1] for row in target]
    frame = pl.DataFrame(
        {
            "id": [f"m{i}" for i in range(80)],
            "path": ["/gone/away.wav"] * 80,
            "start": [0.5] * 80,
            "duration": [1.0] * 80,
            "split": ["valid"] * 20 + ["test"] * 60,
            "target": ["|".join(row) for row in told],
            "decision": ["|".join(row) for row in sets],
            "loss": np.nanmean(np.abs(np.nan_to_num(target) - scores), axis=1),
            **{f"score_{n}": scores[:, i] for i, n in enumerate(names)},
            **{f"target_{n}": target[:, i] for i, n in enumerate(names)},
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / "predictions.parquet")
    known = np.isfinite(target[:, 0])
    area = float(roc_auc_score(target[known, 0], scores[known, 0]))
    averaged = float(average_precision_score(target[known, 0], scores[known, 0]))
    metrics = {"roc_auc": estimate(area), "average_precision": estimate(averaged)}
    results = {
        "num_clips": 60,
        "num_groups": None,
        "metrics": metrics,
        "per_class": [],
        "notes": [],
    }
    write_json(folder / "metrics.json", {"test": results})
    write_json(folder / "labels.json", {"task": "multi", "names": list(names)})
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def write_regression(folder: Path) -> Path:
    rng = np.random.default_rng(4)
    target = rng.normal(50, 12, 90)
    predicted = 0.7 * target + 15 + rng.normal(0, 4, 90)
    path = write_sound(folder.parent / "sound", 0, 1.0, 16000)
    frame = pl.DataFrame(
        {
            "id": [f"r{i}" for i in range(90)],
            "path": [str(path)] * 90,
            "start": [0.2] * 90,
            "duration": [0.5] * 90,
            "split": ["test"] * 90,
            "group": [f"p{i % 9}" for i in range(90)],
            "target": [f"{value:.6g}" for value in target],
            "decision": [f"{value:.6g}" for value in predicted],
            "loss": (target - predicted) ** 2,
            "score_age": predicted,
            "target_age": target,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / "predictions.parquet")
    mae = float(np.abs(target - predicted).mean())
    metrics = {
        "mae": {"value": mae, "low": mae - 0.4, "high": mae + 0.5},
        "r2": {"value": 0.71, "low": 0.6, "high": 0.8},
    }
    write_json(
        folder / "metrics.json", {"test": {"num_clips": 90, "num_groups": 9, "metrics": metrics}}
    )
    write_json(folder / "labels.json", {"task": "regression", "names": ["age"]})
    return folder
