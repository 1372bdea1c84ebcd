"""Whether a run folder is whole, and whether its numbers are those of its predictions."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch

from harken.audit import Finding
from harken.checkpoint import RunFolder
from harken.errors import HarkenError
from harken.labels import Labels
from harken.predictor import load_classifier, read_run_recipe
from harken.recipe import Recipe
from harken.verbs.measure import summarise_predictions
from harken.verbs.prepare import load_clips

FILES = (
    "recipe.yaml", "labels.json", "environment.json", "splits.parquet", "metrics.jsonl",
    "model.safetensors", "predictions.parquet", "metrics.json", "calibration.json",
)  # fmt: skip
IMPORTED = ("recipe.yaml", "labels.json", "environment.json", "model.safetensors")
CHANCE = {"single": "balanced_accuracy", "multi": "roc_auc", "regression": "r2"}
"""What shows that something was learned, by task."""


def audit_run(run: RunFolder) -> list[Finding]:
    """Look at a run folder, or at each of its folds."""
    found = []
    for part in run.folds or [run]:
        name = f"{part.path.name}: " if run.folds else ""
        found += [Finding(f.topic, f.status, name + f.text, f.fix) for f in _audit_part(part)]
    if run.folds and not run.has("metrics.json"):
        text = f"the summary over {len(run.folds)} folds is missing"
        found.append(Finding("files", "problem", text, "harken train … --resume"))
    return found


def _audit_part(part: RunFolder) -> list[Finding]:
    imported = part.has("environment.json") and "imported" in part.read_json("environment.json")
    wanted = IMPORTED if imported else FILES
    missing = [name for name in wanted if not part.has(name)]
    if missing:
        text = f"not there: {', '.join(missing)}"
        return [Finding("files", "problem", text, "finish the run: harken train … --resume")]
    found = [Finding("files", "ok", f"all of {len(wanted)} files are there")]
    try:
        recipe, labels = read_run_recipe(part), part.labels()
        found.append(_weights(part, recipe, labels))
        return found if imported else found + _numbers(part, recipe, labels)
    except HarkenError as error:
        place = f"{error.where}: " if error.where else ""
        return [*found, Finding("files", "problem", f"{place}{error.message}", error.fix)]


def _weights(part: RunFolder, recipe: Recipe, labels: Labels) -> Finding:
    model = load_classifier(part, recipe, labels, torch.device("cpu"))
    tensors = {n: v for n, v in model.state_dict().items() if v.is_floating_point()}
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        text = f"{len(bad)} weights hold values that are no numbers: {', '.join(bad[:3])}"
        return Finding("weights", "problem", text, "train again with a lower optimizer.lr")
    return Finding(
        "weights", "ok", f"{model.num_parameters(trainable=False):,} weights, all finite"
    )


def _numbers(part: RunFolder, recipe: Recipe, labels: Labels) -> list[Finding]:
    predictions, splits = part.read_table("predictions.parquet"), part.read_table("splits.parquet")
    metrics = part.read_json("metrics.json")
    judged = "test" if "test" in metrics else "valid"
    return [
        _complete(predictions, splits),
        _apart(part, recipe, splits),
        _recomputed(recipe, labels, predictions, metrics),
        _learned(labels, metrics[judged], judged),
    ]


def _complete(predictions: pl.DataFrame, splits: pl.DataFrame) -> Finding:
    wanted = splits.filter(pl.col("split").is_in(["valid", "test"])).select("id", "split")
    given = predictions.select("id", "split")
    lacking = wanted.join(given, on=["id", "split"], how="anti")
    strange = given.join(wanted, on=["id", "split"], how="anti")
    twice = given.filter(given.is_duplicated())["id"].unique()
    odd = {
        f"{len(lacking)} clips have no prediction": lacking["id"].to_list(),
        f"{len(strange)} predictions are of clips outside the split": strange["id"].to_list(),
        f"{len(twice)} clips are predicted twice": twice.to_list(),
    }
    texts = [f"{text} ({ids[0]} …)" for text, ids in odd.items() if ids]
    if texts:
        return Finding(
            "predictions", "problem", "; ".join(texts), "evaluate again: harken evaluate"
        )
    return Finding("predictions", "ok", f"one prediction for each of {len(given)} clips")


def _apart(part: RunFolder, recipe: Recipe, splits: pl.DataFrame) -> Finding:
    """Look for groups of test clips among the training clips, if the table is still there."""
    try:
        table = load_clips(recipe).frame
    except HarkenError:
        return Finding("leak", "warning", "the table of clips is not here: groups are not compared")
    if "group" not in table.columns:
        return Finding("leak", "warning", "no group column: speakers may be in train and test")
    known = splits.join(table.select("id", pl.col("group").cast(pl.String)), on="id")
    parts = {
        s: set(known.filter(pl.col("split") == s)["group"].drop_nulls()) for s in ("train", "test")
    }
    shared = sorted(parts["train"] & parts["test"])
    if not shared:
        return Finding("leak", "ok", f"none of {len(parts['test'])} test groups is in train")
    text = f"{len(shared)} groups are in train and test ({', '.join(shared[:3])})"
    if not recipe.data.split.grouped:
        return Finding("leak", "warning", f"{text}: data.split.grouped is off")
    return Finding("leak", "problem", text, "split by group and train again")


def _recomputed(
    recipe: Recipe, labels: Labels, predictions: pl.DataFrame, metrics: dict[str, Any]
) -> Finding:
    least = {"num_resamples": 0, "by": (), "vote": None}
    quick = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=least)})
    odd = []
    for split, told in ((name, metrics[name]) for name in ("valid", "test") if name in metrics):
        frame = predictions.filter(pl.col("split") == split)
        own = summarise_predictions(quick, labels, frame)["metrics"]
        for name, entry in told["metrics"].items():
            mine = own.get(name, {}).get("value")
            if not _same(mine, entry["value"]):
                odd.append(f"{split} {name} {entry['value']} ≠ {mine}")
    if odd:
        text = f"metrics.json does not follow from predictions.parquet: {'; '.join(odd[:3])}"
        return Finding("metrics", "problem", text, "one of the two was changed: evaluate again")
    return Finding("metrics", "ok", "metrics.json follows from predictions.parquet")


def _same(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return abs(one - two) <= 1e-6 * max(1.0, abs(one))


def _learned(labels: Labels, told: dict[str, Any], split: str) -> Finding:
    name = CHANCE[labels.task]
    chance = {"single": 1 / max(labels.num_classes, 1), "multi": 0.5, "regression": 0.0}[
        labels.task
    ]
    entry = told["metrics"].get(name) or {"value": None}
    value, low = entry["value"], entry.get("low")
    if value is None:
        return Finding("learned", "warning", f"{name} on {split} clips is not defined")
    text = f"{name} {value:.3f} on {split} clips, chance {chance:.3f}"
    if value <= chance:
        return Finding(
            "learned", "problem", f"{text}: no better than guessing", "see harken check RECIPE"
        )
    if low is not None and low <= chance:
        return Finding("learned", "warning", f"{text}, and its interval begins at {low:.3f}")
    return Finding("learned", "ok", text)
