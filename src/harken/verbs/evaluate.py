"""`harken evaluate`: predictions, metrics with intervals, and the summary over folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.calibrate import Calibration
from harken.checkpoint import RunFolder
from harken.dataset import Rows
from harken.errors import ConfigError, DataError
from harken.inference import infer, pick_device
from harken.labels import Labels
from harken.loader import Loader, Order
from harken.losses import LossModule, default_loss
from harken.metrics import summarise
from harken.model import Classifier
from harken.predictor import (
    Predictor,
    decision_text,
    load_classifier,
    read_calibration,
    read_run_recipe,
)
from harken.recipe import Recipe
from harken.sources import Table
from harken.split import Fold
from harken.verbs.prepare import Corpus, Told, open_corpus

SplitName = Literal["train", "valid", "test"]
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def evaluate(
    run: str | Path | RunFolder,
    *,
    on: str | Path | None = None,
    split: SplitName = "test",
    told: Told | None = None,
) -> dict[str, Any]:
    """Evaluate a run again, on its own clips or on a new table.

    Args:
        run: A run folder.
        on: A table with the run's columns; None takes the run's own clips.
        split: Which of the run's own clips.
        told: Called with clips decoded and clips in all.

    Returns:
        The metrics (`metrics.json` in the docs of the run folder). With `on` they are also written
        to `evaluations/<table>/` in the run folder, with the predictions.

    Raises:
        RunError: the run is not complete.
        DataError: the table lacks a column or holds labels that the run does not know.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    if on is not None:
        return _evaluate_table(folder, str(on), told)
    parts = folder.folds or [folder]
    frames = [_predict_split(part, split, told) for part in parts]
    recipe, labels = read_run_recipe(parts[0]), parts[0].labels()
    return summarise_predictions(recipe, labels, pl.concat(frames))


def _predict_split(part: RunFolder, split: SplitName, told: Told | None) -> pl.DataFrame:
    recipe, labels = read_run_recipe(part), part.labels()
    corpus = open_corpus(recipe, recipe.data.source.load(), labels, told)
    parted = part.read_table("splits.parquet")
    known = corpus.manifest.frame.select("id").join(
        parted, on="id", how="left", maintain_order="left"
    )
    missing = parted.filter(~pl.col("id").is_in(corpus.manifest.frame["id"].implode()))
    if len(missing):
        raise DataError(
            f"{len(missing)} clips of this run are no longer in its table, "
            f"{missing['id'][0]!r} first",
            where=corpus.manifest.origin,
        )
    rows = np.flatnonzero((known["split"] == split).fill_null(False).to_numpy()).astype(np.int64)
    if not len(rows):
        raise ConfigError(
            f"this run has no {split} clips", where=str(part.path), fix="--split valid"
        )
    device = pick_device(recipe.train.device)
    model = load_classifier(part, recipe, labels, device)
    loss = (recipe.loss or default_loss(labels.task)).build(labels, corpus.target)
    name = part.path.name.removeprefix("fold-")
    return predict_rows(
        recipe, corpus, model, loss.to(device), rows, read_calibration(part), split, name
    )


def _evaluate_table(folder: RunFolder, on: str, told: Told | None) -> dict[str, Any]:
    predictor = Predictor.load(folder)
    recipe, labels = predictor.recipe, predictor.labels
    source = recipe.data.source
    table = source.model_copy(update={"path": on}) if isinstance(source, Table) else Table(path=on)
    corpus = open_corpus(recipe, table.load(), labels, told)
    rows = np.arange(len(corpus.manifest), dtype=np.int64)
    order = Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size)
    score = predictor.scores(Loader(order).epoch())
    frame = prediction_table(
        corpus, rows, score, np.full(len(rows), np.nan), predictor.thresholds, "test", ""
    )
    metrics = summarise_predictions(recipe, labels, frame)
    target = RunFolder(folder.path / "evaluations" / Path(on).stem)
    target.write_table("predictions.parquet", frame)
    target.write_json("metrics.json", {"test": metrics})
    return metrics


def evaluate_fold(
    recipe: Recipe, corpus: Corpus, fold: Fold, folder: RunFolder, loss: LossModule
) -> None:
    """Predict the validation and test clips of one fold with its kept weights, and measure."""
    device = pick_device(recipe.train.device)
    labels = corpus.labels
    model = load_classifier(folder, recipe, labels, device)
    calibration = _calibrate(recipe, corpus, model, fold)
    folder.write_json("calibration.json", calibration.to_json())
    frames, metrics = [], {}
    for split in ("valid", "test"):
        rows = np.flatnonzero(fold.split == split).astype(np.int64)
        if not len(rows):
            continue
        frame = predict_rows(
            recipe, corpus, model, loss.to(device), rows, calibration, split, fold.name
        )
        metrics[split] = summarise_predictions(recipe, labels, frame, calibration.notes)
        frames.append(frame)
    folder.write_table("predictions.parquet", pl.concat(frames))
    # The metrics come last: a fold that has them is complete.
    folder.write_json("metrics.json", metrics)


def _calibrate(recipe: Recipe, corpus: Corpus, model: Classifier, fold: Fold) -> Calibration:
    rows = np.flatnonzero(fold.split == "valid").astype(np.int64)
    if not len(rows):
        logits = np.zeros((0, corpus.labels.num_classes), dtype=np.float32)
    else:
        order = Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size)
        logits, _ = infer(model, Loader(order).epoch(), pick_device(recipe.train.device))
    return recipe.calibrate.fit(corpus.labels, corpus.target[rows], logits)


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
    logits, losses = infer(model, Loader(order).epoch(), device, loss)
    score = calibration.scores(corpus.labels, logits)
    return prediction_table(
        corpus, rows, score, losses, list(calibration.thresholds or []) or None, split, fold
    )


def prediction_table(
    corpus: Corpus,
    rows: Rows,
    score: Array,
    losses: npt.NDArray[np.floating[Any]],
    thresholds: list[float] | None,
    split: str,
    fold: str,
) -> pl.DataFrame:
    """Put clips, targets, decisions, scores and losses side by side, then the table's columns."""
    labels, target = corpus.labels, corpus.target[rows]
    clips = corpus.manifest.take(rows).frame
    fixed = [name for name in ("id", "path", "start", "duration", "group") if name in clips.columns]
    made: dict[str, Any] = {
        "split": pl.repeat(split, len(rows), eager=True),
        "fold": pl.repeat(fold, len(rows), eager=True),
        "target": labels.to_text(target),
        "decision": decision_text(labels, score, thresholds),
        **{f"score_{name}": score[:, i] for i, name in enumerate(labels.names)},
        "loss": losses.astype(np.float64),
    }
    if labels.task != "single":
        made |= {f"target_{name}": target[:, i] for i, name in enumerate(labels.names)}
    frame = clips.select(fixed).with_columns(**{k: pl.Series(v) for k, v in made.items()})
    left = [name for name in clips.columns if name not in fixed and name != "row"]
    return frame.with_columns(
        clips[name].alias(name if name not in frame.columns else f"table_{name}") for name in left
    )


def arrays_of(labels: Labels, frame: pl.DataFrame) -> tuple[Array, Array, Flags | None]:
    """Return target, score and decision `(rows, classes)` of a predictions table."""
    score = frame.select(f"score_{name}" for name in labels.names).to_numpy()
    if labels.task == "single":
        target = _marks(labels, frame["target"]).astype(np.float64)
        target[frame["target"].is_null().to_numpy()] = np.nan
    else:
        target = frame.select(f"target_{name}" for name in labels.names).to_numpy()
    decision = None if labels.task == "regression" else _marks(labels, frame["decision"])
    return target, score, decision


def _marks(labels: Labels, texts: pl.Series) -> Flags:
    """Return bool `(rows, classes)`: which labels each text names."""
    named = texts.fill_null("").to_frame("t")
    if labels.task == "single":
        return named.select((pl.col("t") == name).alias(name) for name in labels.names).to_numpy()
    padded = "|" + pl.col("t") + "|"
    marks = [padded.str.contains(f"|{n}|", literal=True).alias(n) for n in labels.names]
    return named.select(marks).to_numpy()


def summarise_predictions(
    recipe: Recipe, labels: Labels, frame: pl.DataFrame, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the metrics, with intervals, of a predictions table and its decisions."""
    target, score, decision = arrays_of(labels, frame)
    found = summarise(
        labels,
        target,
        score,
        groups=frame["group"].to_list() if "group" in frame.columns else None,
        decision=decision,
        num_resamples=recipe.evaluate.num_resamples,
        seed=recipe.seed,
    )
    found["notes"] = [*found["notes"], *notes]
    return found


def summarise_folds(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """Write the summary over the finished folds: each, mean ± std, and pooled predictions."""
    folds = [fold for fold in run.folds if fold.has("metrics.json")]
    frames = [f.read_table("predictions.parquet").filter(pl.col("split") == "test") for f in folds]
    pooled, labels = pl.concat(frames), folds[0].labels()
    measured = [fold.read_json("metrics.json")["test"]["metrics"] for fold in folds]
    values = [{name: entry["value"] for name, entry in part.items()} for part in measured]
    table = {name: [part.get(name) for part in values] for name in values[0]}
    known = {name: [v for v in each if v is not None] for name, each in table.items()}
    summary = {
        "folds": [
            {"name": fold.path.name.removeprefix("fold-"), "test": test}
            for fold, test in zip(folds, values, strict=True)
        ],
        "mean": {name: float(np.mean(v)) if v else None for name, v in known.items()},
        "std": {
            name: float(np.std(v, ddof=1)) if len(v) > 1 else None for name, v in known.items()
        },
        "pooled": summarise_predictions(recipe, labels, pooled),
    }
    run.write_json("labels.json", labels.to_json())
    run.write_table("predictions.parquet", pooled)
    run.write_json("metrics.json", summary)
    return summary
