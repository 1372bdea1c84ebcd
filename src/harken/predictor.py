"""Trained classifiers: what `harken.load("runs/a")` gives.

A run over k folds holds k classifiers; their scores are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import yaml

from harken.audio import load as load_audio
from harken.batch import Batch
from harken.calibrate import Calibration, decide
from harken.checkpoint import RunFolder
from harken.dataset import ClipDataset
from harken.errors import DataError
from harken.inference import DeviceName, infer, pick_device
from harken.labels import Labels
from harken.manifest import Clip
from harken.model import Classifier
from harken.recipe import Recipe, validate

Array = npt.NDArray[np.float64]


def new_classifier(recipe: Recipe, labels: Labels, *, fetch: bool = True) -> Classifier:
    """Build the classifier of a recipe, with pretrained weights only where `fetch` allows."""
    seconds, rate = recipe.audio.clip_seconds, recipe.audio.sample_rate
    return Classifier.build(
        recipe.frontend,
        recipe.backbone,
        recipe.pooling,
        recipe.heads,
        labels,
        rate,
        None if seconds is None else round(seconds * rate),
        fetch=fetch,
    )


def read_run_recipe(folder: RunFolder) -> Recipe:
    """Read the resolved recipe of a run, importing the plug-ins it names."""
    return validate(
        yaml.safe_load(folder.read_text("recipe.yaml")), where=str(folder.path / "recipe.yaml")
    )


class _Audio:
    """Decodes clips when they are read, exactly as the cache would hold them."""

    def __init__(self, recipe: Recipe, clips: Sequence[Clip]) -> None:
        self.recipe, self.clips = recipe, clips

    def read(self, row: int) -> npt.NDArray[np.float32]:
        """Return the decoded clip."""
        return load_audio(self.clips[row], self.recipe.audio)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the samples of every clip."""
        return np.array([len(self.read(row)) for row in range(len(self.clips))], dtype=np.int64)


@dataclass(frozen=True)
class Predictor:
    """The classifiers of a run, ready to use.

    Attributes:
        recipe: The run's recipe.
        labels: The columns of the scores.
        models: One classifier per fold.
        calibrations: Their temperatures and thresholds.
        device: Where they run.
    """

    recipe: Recipe
    labels: Labels
    models: list[Classifier]
    calibrations: list[Calibration]
    device: torch.device

    @classmethod
    def load(cls, run: str | Path | RunFolder, device: DeviceName | None = None) -> Predictor:
        """Load a run.

        Args:
            run: A run folder.
            device: `cpu`, `cuda` or `mps`; None takes what the recipe says.

        Raises:
            RunError: it is no run, it has no weights yet, or they do not fit its recipe.
        """
        folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
        parts = [part for part in folder.folds if part.has("model.safetensors")] or [folder]
        recipe, labels = read_run_recipe(parts[0]), parts[0].labels()
        where = pick_device(device or recipe.train.device)
        models = [load_classifier(part, recipe, labels, where) for part in parts]
        return cls(recipe, labels, models, [read_calibration(part) for part in parts], where)

    @property
    def thresholds(self) -> list[float] | None:
        """Thresholds of the decisions, averaged over the classifiers; None where none are set."""
        known = [c.thresholds for c in self.calibrations if c.thresholds is not None]
        return np.mean(known, axis=0).tolist() if known else None

    def scores(self, batches: Sequence[Batch] | Iterator[Batch]) -> Array:
        """Return scores `(clips, classes)` of batches, averaged over the classifiers."""
        every = list(batches)
        scores = [
            calibration.scores(self.labels, infer(model, every, self.device)[0])
            for model, calibration in zip(self.models, self.calibrations, strict=True)
        ]
        return np.asarray(np.mean(scores, axis=0))

    def predict(self, files: Sequence[str | Path], *, on_bad: str = "skip") -> pl.DataFrame:
        """Classify audio files.

        Args:
            files: Paths or URLs.
            on_bad: `skip` gives unusable files a row with the reason in `error`; `stop` raises.

        Returns:
            One row per file: `path`, `decision`, `score_<label>` per class, `error`.

        Raises:
            BadAudio: a file cannot be used and `on_bad` is `stop`.
        """
        rows = [self._predict_clip(self.clip(file), on_bad) for file in files]
        names = [f"score_{name}" for name in self.labels.names]
        value = pl.Float64() if self.labels.task == "regression" else pl.String()
        numbers = {name: pl.Float64() for name in names}
        schema: dict[str, pl.DataType] = {"path": pl.String(), "decision": value, **numbers}
        schema["error"] = pl.String()
        return pl.DataFrame(rows, schema=schema)

    def _predict_clip(self, clip: Clip, on_bad: str) -> dict[str, Any]:
        try:
            score = self.scores([self.batch([clip])])
        except DataError as error:
            if on_bad == "stop":
                raise
            return {"path": clip.path, "error": str(error)}
        named = {f"score_{n}": float(v) for n, v in zip(self.labels.names, score[0], strict=True)}
        decision = decision_text(self.labels, score, self.thresholds)[0]
        return {"path": clip.path, "decision": decision, **named}

    @staticmethod
    def clip(file: str | Path) -> Clip:
        """Return a whole audio file as a clip."""
        return Clip(str(file), str(file), None, None)

    def batch(self, clips: Sequence[Clip]) -> Batch:
        """Decode clips into one batch, as evaluation would see them."""
        count = len(clips)
        target = np.full((count, self.labels.num_classes), np.nan, dtype=np.float32)
        dataset = ClipDataset(
            _Audio(self.recipe, clips),
            np.arange(count),
            target,
            np.ones(count, np.float32),
            self.recipe.audio,
        )
        return dataset.batch(np.arange(count), 0)


def decision_text(labels: Labels, score: Array, thresholds: Sequence[float] | None) -> pl.Series:
    """Return each row's decision: a label, labels joined by `|`, or the value."""
    regression = labels.task == "regression"
    return labels.to_text(score if regression else decide(labels, score, thresholds))


def load_classifier(
    folder: RunFolder, recipe: Recipe, labels: Labels, device: torch.device
) -> Classifier:
    """Build a run's classifier and fill it with the run's weights, strictly."""
    model = new_classifier(recipe, labels, fetch=False).to(device)
    folder.load_weights(model)
    return model.eval()


def read_calibration(folder: RunFolder) -> Calibration:
    """Read `calibration.json`; a run without one is not calibrated."""
    if not folder.has("calibration.json"):
        return Calibration()
    return Calibration.from_json(folder.read_json("calibration.json"))


def load(run: str | Path, device: DeviceName | None = None) -> Predictor:
    """Load a run folder's classifiers; see `Predictor.load`."""
    return Predictor.load(run, device)
