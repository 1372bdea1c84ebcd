"""Run folders of a search, made without training through the run folder's own writers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from harken.checkpoint import RunFolder
from harken.labels import Labels
from harken.recipe import dump_recipe, parse_word, validate
from harken.recipe import merge as laid_on
from test_trainer import tiny_recipe

PAIR = Labels("single", ("clear", "rough"), ("label",), positive="rough")
THREE = Labels("single", ("dog", "rain", "siren"), ("label",))
SIGNS = ("breathy", "rough voice", "slow")
MULTI = Labels("multi", SIGNS, SIGNS, missing="mask")
SIDE_BY_SIDE = Labels("multi", SIGNS, SIGNS, groups=(SIGNS[:1], SIGNS[1:]), missing="mask")
AGE = Labels("regression", ("age", "height"), ("age", "height"), missing="mask")


def predictions(
    labels: Labels, skill: float, *, seed: int = 0, split: str = "valid", count: int = 60
) -> pl.DataFrame:
    """Targets that depend on the split only, and scores that know them with some skill."""
    rng = np.random.default_rng({"valid": 1, "test": 2}[split])
    noise = np.random.default_rng(seed).standard_normal((count, labels.num_classes))
    made: dict[str, Any] = {"id": [f"{split}-{i}" for i in range(count)], "split": [split] * count}
    if labels.task == "single":
        truth = rng.integers(labels.num_classes, size=count)
        logits = skill * np.eye(labels.num_classes)[truth] + noise
        score = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        made["target"] = [labels.names[i] for i in truth]
        made["decision"] = [labels.names[i] for i in score.argmax(axis=1)]
    elif labels.task == "multi":
        target = (rng.random((count, labels.num_classes)) < 0.4).astype(float)
        score = 1 / (1 + np.exp(-(skill * (target - 0.5) + noise)))
        made["target"] = [_text(labels, row) for row in target]
        made["decision"] = [_text(labels, row) for row in score > 0.5]
        made |= {f"target_{n}": target[:, i] for i, n in enumerate(labels.names)}
    else:
        target = rng.normal(50, 10, (count, labels.num_classes))
        score = target + (10 / (1 + skill)) * noise
        made["target"] = made["decision"] = [f"{row[0]:.4g}" for row in target]
        made |= {f"target_{n}": target[:, i] for i, n in enumerate(labels.names)}
    made |= {f"score_{n}": score[:, i] for i, n in enumerate(labels.names)}
    return pl.DataFrame(made)


def _text(labels: Labels, row: Any) -> str:
    return "|".join(name for name, one in zip(labels.names, row, strict=True) if one)


@functools.cache
def recipe_text(words: tuple[str, ...]) -> str:
    """Return a whole recipe with some settings changed, as a run folder keeps it."""
    tree = yaml.safe_load(dump_recipe(tiny_recipe(Path("clips.csv"))))
    for word in words:
        tree = laid_on(tree, parse_word(word))
    return dump_recipe(validate(tree))


def write_run(
    path: Path,
    frames: pl.DataFrame | Sequence[pl.DataFrame] | None,
    labels: Labels = PAIR,
    words: Sequence[str] = (),
    trial: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run folder; several frames are those of its folds."""
    run = RunFolder.create(path)
    run.write_text("recipe.yaml", recipe_text(tuple(words)))
    run.write_json("labels.json", labels.to_json())
    if trial is not None:
        run.write_json("trial.json", trial)
    if isinstance(frames, pl.DataFrame):
        run.write_table("predictions.parquet", frames)
    for number, frame in enumerate(frames or [] if not isinstance(frames, pl.DataFrame) else []):
        fold = RunFolder(path / f"fold-{number + 1}")
        (path / f"fold-{number + 1}").mkdir()
        fold.write_text("recipe.yaml", run.read_text("recipe.yaml"))
        fold.write_json("labels.json", labels.to_json())
        fold.write_table("predictions.parquet", frame)
    if not isinstance(frames, pl.DataFrame) and frames:
        run.write_json("metrics.json", {"folds": []})
    return path
