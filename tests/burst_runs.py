"""Runs that tell low and high bursts of tone in noise, and noise alone; the times are known.

The third label matters: with two, a network needs to know one tone only, and takes its absence for
the other.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from harken.backbones import Backbone
from harken.explain import Subject
from harken.frontends import Frontend, LogMel
from harken.heads import Heads
from harken.labels import Labels
from harken.model import Classifier
from harken.pooling import Pooling
from harken.recipe import validate
from harken.verbs.train import train

SECONDS, RATE, BURST = 1.5, 8000, 0.15
TONES = {"low": 700.0, "high": 2200.0, "none": 0.0}

BACKBONES: dict[str, dict[str, Any]] = {
    "cnn": {"kind": "cnn", "widths": [8, 16, 16], "convs_per_block": 1},
    "ast": {"kind": "ast", "dim": 32, "depth": 2, "num_heads": 2, "patch_size": [32, 6],
            "patch_stride": [32, 6], "positions": "sincos"},
}  # fmt: skip


def burst_clip(label: str, seed: int) -> tuple[np.ndarray, float]:
    """Return a clip of noise with at most one burst, and the second at which it begins."""
    rng = np.random.default_rng(seed)
    start = float(rng.uniform(0.05, SECONDS - BURST - 0.05))
    wave = 0.05 * rng.standard_normal(round(SECONDS * RATE))
    time = np.arange(round(BURST * RATE)) / RATE
    tone = 0.2 * np.sin(2 * np.pi * TONES[label] * rng.uniform(0.95, 1.05) * time)
    first = round(start * RATE)
    wave[first : first + len(time)] += tone * np.hanning(len(time)) ** 0.25
    return wave.astype(np.float32), start


def burst_table(folder: Path, clips: int = 96) -> Path:
    """Write clips and their table; every fourth speaker is for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        label = list(TONES)[number % 3]
        wave, start = burst_clip(label, number)
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        part = ("train", "train", "valid", "test")[number // 3 % 4]
        rows.append([f"{number}.wav", label, part, start, "ab"[number % 2]])
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split", "burst", "site"], *rows])
    return folder / "clips.csv"


def recipe_tree(table: Path, name: str) -> dict[str, Any]:
    """Return the recipe that tells the bursts apart with a network of `BACKBONES`."""
    return {
        "data": {
            "source": {"kind": "table", "path": str(table)},
            "target": "label",
            "split": {"kind": "column", "column": "split"},
        },
        "audio": {"sample_rate": RATE},
        "frontend": {"kind": "log_mel", "n_mels": 32, "n_fft": 256, "win_length": 200,
                     "hop_length": 80},
        "backbone": BACKBONES[name],
        "pooling": "mean_max" if name == "cnn" else "cls",
        "optimizer": {"kind": "adamw", "lr": 0.01 if name == "cnn" else 0.003},
        "train": {"epochs": 14 if name == "cnn" else 40, "batch_size": 8, "device": "cpu"},
        "evaluate": {"num_resamples": 20},
    }  # fmt: skip


def burst_run(folder: Path, name: str, trained: bool = True, **over: Any) -> Path:
    """Train in a folder; return the run folder."""
    tree = recipe_tree(burst_table(folder / "clips"), name) | over
    if not trained:
        tree["optimizer"] = {"kind": "adamw", "lr": 1e-12}
        tree["train"] = {**tree["train"], "epochs": 1}
    return train(validate(tree), folder / "run").path


def small(
    backbone: dict[str, Any],
    pooling: str = "mean",
    frontend: dict[str, Any] | None = None,
    task: Any = "single",
    seconds: float | None = 1.0,
) -> Classifier:
    """Return an untrained classifier of clips at 8 kHz."""
    torch.manual_seed(0)
    mel = LogMel(n_mels=32, n_fft=256, win_length=200, hop_length=80)
    chosen = Backbone.member(backbone["kind"]).model_validate(backbone)
    classifier = Classifier.build(
        mel if frontend is None else Frontend.member(frontend["kind"]).model_validate(frontend),
        chosen.resolved(),
        Pooling.member(pooling)(),
        Heads(),
        Labels(task, ("a", "b", "c"), ("label",)),
        RATE,
        None if seconds is None else round(seconds * RATE),
    )
    return classifier.eval()


def noise_wave(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def small_subject(model: Classifier, seconds: float = 1.0, label: int = 0) -> Subject:
    return Subject.of(model, noise_wave(seconds), label)
