"""`harken evaluate`: predictions, metrics with intervals, and the summary over folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.calibrate import Calibration
from harken.checkpoint import RunFolder
from harken.choice import nearest
from harken.dataset import Rows
from harken.errors import ConfigError, DataError, RunError
from harken.inference import infer, pick_device, refuse_non_finite
from harken.labels import Labels
from harken.loader import Loader, Order
from harken.losses import LossModule, default_loss
from harken.manifest import Manifest
from harken.model import Classifier
from harken.multi_hot import TargetTable, is_empty
from harken.predictor import (
    Predictor,
    load_classifier,
    read_calibration,
    read_run_recipe,
)
from harken.recipe import Recipe
from harken.split import Fold
from harken.storage import Location
from harken.tables import free_name
from harken.thresholds import Thresholds, decision_text
from harken.verbs.measure import (
    one_row_a_clip,
    summarise_predictions,
    threshold_names,
    write_tables,
    write_votes,
)
from harken.verbs.new_table import encode, labels_in, load_table
from harken.verbs.prepare import Corpus, Told, decode_clips, load_clips, open_corpus

SplitName = Literal["train", "valid", "test"]
JUDGED: tuple[SplitName, ...] = ("valid", "test")
"""The clips that a run is measured on; a trial of a search does not look at its test clips."""
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def evaluate(
    run: Location | RunFolder,
    *,
    on: Location | None = None,
    split: SplitName = "test",
    csv: bool = False,
    told: Told | None = None,
) -> dict[str, Any]:
    """Evaluate a run again, on its own clips or on a new table.

    Args:
        run: A run folder.
        on: A table that is read like the run's own; None takes the run's own clips. A table with
            none of the run's label columns is predicted without metrics.
        split: Which of the run's own clips.
        csv: Also write the predictions as `predictions.csv`, for the run's own clips to
            `evaluations/<split>/`.
        told: Called with clips decoded and clips in all.

    Returns:
        The metrics (`metrics.json` in the docs of the run folder). With `on` they are also written
        to `evaluations/<table>/` in the run folder, with the predictions.

    Raises:
        RunError: the run is not complete, or its weights are not those of its recipe.
        DataError: the table lacks some of the label columns, or holds labels that the run does not
            know.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    if folder.has("probe.json"):
        raise RunError(
            "this is a probe, which reads embeddings and no recordings",
            where=str(folder.path),
            fix="harken probe measures it anew",
        )
    if on is not None:
        return _evaluate_table(folder, str(on), csv, told)
    parts = folder.folds or [folder]
    recipe, labels = read_run_recipe(parts[0]), parts[0].labels()
    frame = one_row_a_clip(labels, pl.concat([_predict_split(part, split, told) for part in parts]))
    metrics = summarise_predictions(recipe, labels, frame)
    if csv:
        _write_evaluation(folder, recipe, labels, split, frame, metrics, csv)
    return metrics


def _predict_split(part: RunFolder, split: SplitName, told: Told | None) -> pl.DataFrame:
    recipe, labels = read_run_recipe(part), part.labels()
    parted, clips = part.read_table("splits.parquet"), load_clips(recipe)
    _refuse_vanished(parted, clips, "in its table")
    # The run left the others out, and their recordings may not be there.
    clips = clips.filter(pl.col("id").is_in(parted["id"].implode()))
    corpus = open_corpus(recipe, clips, labels, told)
    _refuse_vanished(parted, corpus.manifest, "fit for use")
    known = corpus.manifest.frame.select("id").join(
        parted, on="id", how="left", maintain_order="left"
    )
    rows = np.flatnonzero((known["split"] == split).fill_null(False).to_numpy()).astype(np.int64)
    if not len(rows):
        raise ConfigError(
            f"this run has no {split} clips", where=str(part.path), fix="--split valid"
        )
    device = pick_device(recipe.train.device)
    model = load_classifier(part, recipe, labels, device)
    corpus = corpus.informed(part.covariates())
    train = known["split"].eq("train").fill_null(False).to_numpy()
    table = corpus.training_table(np.flatnonzero(train).astype(np.int64))
    loss = (recipe.loss or default_loss(labels.task)).build(labels, table)
    name = part.path.name.removeprefix("fold-")
    return predict_rows(
        recipe, corpus, model, loss.to(device), rows, read_calibration(part), split, name
    )


def _refuse_vanished(parted: pl.DataFrame, clips: Manifest, place: str) -> None:
    missing = parted.filter(~pl.col("id").is_in(clips.frame["id"].implode()))
    if len(missing):
        raise DataError(
            f"{len(missing)} clips of this run are no longer {place}, {missing['id'][0]!r} first",
            where=clips.origin,
        )


def _evaluate_table(folder: RunFolder, on: str, csv: bool, told: Told | None) -> dict[str, Any]:
    predictor = Predictor.load(folder)
    recipe, labels = predictor.recipe, predictor.labels
    corpus = _open_new_table(recipe, labels, on, told)
    rows = np.arange(len(corpus.manifest), dtype=np.int64)
    order = Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size)
    score = predictor.scores(Loader(order).epoch(), corpus.manifest)
    frame = prediction_table(
        corpus,
        rows,
        score,
        np.full(len(rows), np.nan),
        predictor.limits(corpus.manifest),
        "test",
        "",
    )
    if is_empty(corpus.target):
        metrics = _no_metrics(labels, corpus)
    else:
        metrics = summarise_predictions(recipe, labels, frame, corpus.notes)
    name = PurePosixPath(on).stem
    _write_evaluation(folder, recipe, labels, name, frame, metrics, csv)
    left_out = [{"id": q.id, "path": q.path, "reason": q.reason} for q in corpus.quarantined]
    RunFolder(folder.path / "evaluations" / name).write_json("quarantine.json", left_out)
    return metrics


def _open_new_table(recipe: Recipe, labels: Labels, on: str, told: Told | None) -> Corpus:
    """Decode a table that the run has not seen; targets are NaN where it has no labels."""
    manifest = load_table(recipe, on)
    known = labels_in(labels, manifest)
    if known is not None:
        encode(known, manifest)
    found = decode_clips(recipe, manifest, told)
    if known is not None:
        target = encode(known, found.manifest)
    else:
        target = np.full((len(found.manifest), labels.num_classes), np.nan, dtype=np.float32)
    notes = [*manifest.notes, *(f"left out {q.path}: {q.reason}" for q in found.quarantined)]
    return Corpus(found.manifest, labels, target, found.cache, found.quarantined, notes)


def _no_metrics(labels: Labels, corpus: Corpus) -> dict[str, Any]:
    columns = [name for name in labels.columns if name not in corpus.manifest]
    known = [name for name in corpus.manifest.columns if name not in labels.columns]
    named = ", ".join(f"{name!r}{nearest(name, known)}" for name in columns)
    why = f"the table has no column {named}" if columns else "its label cells are empty"
    note = f"no labels: no metrics, only predictions of {len(corpus.manifest)} clips ({why})"
    return {
        "num_clips": 0,
        "num_groups": None,
        "metrics": {},
        "per_class": [],
        "confusion": None,
        "labels": list(labels.names),
        "notes": [note, *corpus.notes],
    }


def _write_evaluation(
    folder: RunFolder,
    recipe: Recipe,
    labels: Labels,
    name: str,
    frame: pl.DataFrame,
    metrics: dict[str, Any],
    csv: bool,
) -> None:
    target = RunFolder(folder.path / "evaluations" / name)
    target.write_table("predictions.parquet", frame)
    if csv:
        target.write_text("predictions.csv", flat(frame).write_csv())
    write_tables(target, metrics)
    write_votes(target, recipe, labels, frame)
    target.write_json("metrics.json", {"test": metrics})


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose cells a text table can hold: lists are joined by `|`."""
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    structs = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Struct)]
    joined = [
        pl.col(name).cast(pl.List(pl.String)).list.join("|", ignore_nulls=True) for name in lists
    ]
    return frame.with_columns(*joined, *(pl.col(name).struct.json_encode() for name in structs))


def evaluate_fold(
    recipe: Recipe,
    corpus: Corpus,
    fold: Fold,
    folder: RunFolder,
    loss: LossModule,
    judged: Sequence[SplitName] = JUDGED,
) -> None:
    """Predict the clips of one fold that are to be judged, with its kept weights, and measure."""
    device = pick_device(recipe.train.device)
    labels = corpus.labels
    model = load_classifier(folder, recipe, labels, device)
    folder.write_json("network.json", model.describe())
    calibration = _calibrate(recipe, corpus, model, fold)
    folder.write_json("calibration.json", calibration.to_json())
    frames, metrics = [], {}
    for split in judged:
        rows = np.flatnonzero(fold.split == split).astype(np.int64)
        if not len(rows):
            continue
        frame = predict_rows(
            recipe, corpus, model, loss.to(device), rows, calibration, split, fold.name
        )
        metrics[split] = summarise_predictions(recipe, labels, frame, calibration.notes)
        frames.append(frame)
    folder.write_table("predictions.parquet", pl.concat(frames))
    write_tables(folder, metrics.get("test") or metrics["valid"])
    write_votes(folder, recipe, labels, frames[-1])
    # The metrics come last: a fold that has them is complete.
    folder.write_json("metrics.json", metrics)


def _calibrate(recipe: Recipe, corpus: Corpus, model: Classifier, fold: Fold) -> Calibration:
    rows = np.flatnonzero(fold.split == "valid").astype(np.int64)
    if not len(rows):
        logits = np.zeros((0, corpus.labels.num_classes), dtype=np.float32)
    else:
        order = Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size)
        device = pick_device(recipe.train.device)
        logits, _ = infer(model, Loader(order).epoch(), device, names=corpus.paths)
    clips = corpus.manifest.take(rows) if len(rows) else None
    return recipe.calibrate.fit(corpus.labels, corpus.target[rows], logits, clips)


def predict_rows(
    recipe: Recipe,
    corpus: Corpus,
    model: Classifier,
    loss: LossModule,
    rows: Rows,
    calibration: Calibration,
    split: str,
    fold: str,
) -> pl.DataFrame:
    """Return the predictions table of some clips (`predictions.parquet`)."""
    order = Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size)
    device = next(model.parameters()).device
    logits, losses = infer(model, Loader(order).epoch(), device, loss, names=corpus.paths)
    score = calibration.scores(corpus.labels, logits)
    limits = calibration.limits(corpus.labels, corpus.manifest.take(rows))
    return prediction_table(corpus, rows, score, losses, limits, split, fold)


class Clips(Protocol):
    """Clips with their targets, such as a corpus."""

    @property
    def manifest(self) -> Manifest:
        """The clips."""

    @property
    def labels(self) -> Labels:
        """What is learned."""

    @property
    def target(self) -> TargetTable:
        """float32 `(clips, classes)`."""


def prediction_table(
    corpus: Clips,
    rows: Rows,
    score: Array,
    losses: npt.NDArray[np.floating[Any]],
    thresholds: Thresholds,
    split: str,
    fold: str,
) -> pl.DataFrame:
    """Put clips, targets, decisions, scores and losses side by side, then the table's columns.

    Where decisions have thresholds, each clip's stand beside its scores.
    """
    labels, target = corpus.labels, corpus.target[rows]
    clips = corpus.manifest.take(rows).frame
    refuse_non_finite(score, clips["id"].to_list(), np.arange(len(rows)))
    fixed = [name for name in ("id", "path", "start", "duration", "group") if name in clips.columns]
    made: dict[str, Any] = {
        "split": pl.repeat(split, len(rows), eager=True),
        "fold": pl.repeat(fold, len(rows), eager=True),
        "target": labels.to_text(target),
        "decision": decision_text(labels, score, thresholds),
        **{f"score_{name}": score[:, i] for i, name in enumerate(labels.names)},
        "loss": losses.astype(np.float64),
    }
    if thresholds is not None:
        names = threshold_names(labels)
        limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (len(rows), len(names)))
        made |= {name: limits[:, i] for i, name in enumerate(names)}
    if labels.task != "single":
        made |= {f"target_{name}": target[:, i] for i, name in enumerate(labels.names)}
    frame = clips.select(fixed).with_columns(**{k: pl.Series(v) for k, v in made.items()})
    left = [name for name in clips.columns if name not in fixed and name != "row"]
    return frame.with_columns(
        clips[name].alias(free_name(name, frame.columns, left)) for name in left
    )
