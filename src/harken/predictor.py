"""Trained classifiers: what `harken.load("runs/a")` gives.

A run over k folds holds k classifiers; their scores are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import yaml

from harken.audio import BadAudio
from harken.audio import load as load_audio
from harken.batch import Batch
from harken.calibrate import Calibration
from harken.checkpoint import RunFolder
from harken.choice import nearest
from harken.covariates import UNKNOWN, Covariates
from harken.dataset import ClipDataset
from harken.errors import DataError
from harken.frontends import BadClipsError
from harken.inference import DeviceName, infer, pick_device
from harken.labels import Labels
from harken.manifest import Clip, Manifest
from harken.model import Classifier
from harken.recipe import Recipe, validate
from harken.storage import Location
from harken.thresholds import Thresholds, decision_text

Array = npt.NDArray[np.float64]


def new_classifier(
    recipe: Recipe, labels: Labels, covariates: Covariates | None = None, *, fetch: bool = True
) -> Classifier:
    """Build the classifier of a recipe, with pretrained weights only where `fetch` allows."""
    if recipe.frontend is None:
        recipe = recipe.resolved()
    assert recipe.frontend is not None
    seconds, rate = recipe.audio.clip_seconds, recipe.audio.sample_rate
    return Classifier.build(
        recipe.frontend,
        recipe.backbone,
        recipe.pooling,
        recipe.heads,
        labels,
        rate,
        None if seconds is None else round(seconds * rate),
        conditions=recipe.covariates,
        covariates=covariates,
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
        covariates: What each classifier knows of side information.
    """

    recipe: Recipe
    labels: Labels
    models: list[Classifier]
    calibrations: list[Calibration]
    device: torch.device
    covariates: list[Covariates]

    @classmethod
    def load(cls, run: Location | RunFolder, device: DeviceName | None = None) -> Predictor:
        """Load a run.

        Args:
            run: A run folder; a path or a URL.
            device: `cpu`, `cuda` or `mps`; None takes what the recipe says.

        Raises:
            RunError: it is no run, it has no weights yet, or they do not fit its recipe.
        """
        folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
        parts = [part for part in folder.folds if part.has("model.safetensors")] or [folder]
        recipe, labels = read_run_recipe(parts[0]), parts[0].labels()
        where = pick_device(device or recipe.train.device)
        models = [load_classifier(part, recipe, labels, where) for part in parts]
        calibrations = [read_calibration(part) for part in parts]
        known = [part.covariates() for part in parts]
        return cls(recipe, labels, models, calibrations, where, known)

    def limits(self, table: Manifest | None) -> Thresholds:
        """Return the thresholds of some clips, averaged over the classifiers.

        Args:
            table: What is known of the clips, for thresholds that depend on it.

        Returns:
            What `harken.thresholds.decide` takes.

        Raises:
            DataError: a column that they depend on is missing or cannot be used.
        """
        found = [c.limits(self.labels, table) for c in self.calibrations]
        known = [np.asarray(limits) for limits in found if limits is not None]
        return np.asarray(np.mean(known, axis=0)) if known else None

    def scores(
        self, batches: Sequence[Batch] | Iterator[Batch], table: Manifest | None = None
    ) -> Array:
        """Return scores `(clips, classes)` of batches, averaged over the classifiers.

        Args:
            batches: The clips.
            table: Their side information, where the classifiers read any; a batch's rows count in
                it.

        Raises:
            DataError: side information is missing or unknown.
        """
        every = list(batches)
        scores = []
        for model, calibration, known in zip(
            self.models, self.calibrations, self.covariates, strict=True
        ):
            informed = every if not known.columns else _informed(every, known, table)
            names = None if table is None else table.frame["path"]
            logits, _ = infer(model, informed, self.device, names=names)
            scores.append(calibration.scores(self.labels, logits))
        return np.asarray(np.mean(scores, axis=0))

    def predict(
        self,
        files: Sequence[Location],
        *,
        on_bad: str = "skip",
        covariates: Mapping[str, object] | None = None,
    ) -> pl.DataFrame:
        """Classify audio files.

        Args:
            files: Paths or URLs.
            on_bad: `skip` gives unusable files a row with the reason in `error`; `stop` raises.
            covariates: Side information about all of the files, such as `{"age": 5}`.

        Returns:
            One row per file: `path`, `decision`, `score_<label>` per class, `error`.

        Raises:
            BadAudio: a file cannot be used and `on_bad` is `stop`.
            BadClipsError: the network cannot read it, and `on_bad` is `stop`.
            DataError: side information is missing or unknown.
        """
        self._refuse_missing(covariates or {})
        rows = [self._predict_clip(self.clip(file), on_bad, covariates or {}) for file in files]
        names = [f"score_{name}" for name in self.labels.names]
        value = pl.Float64() if self.labels.task == "regression" else pl.String()
        numbers = {name: pl.Float64() for name in names}
        schema: dict[str, pl.DataType] = {"path": pl.String(), "decision": value, **numbers}
        schema["error"] = pl.String()
        return pl.DataFrame(rows, schema=schema)

    def _refuse_missing(self, given: Mapping[str, object]) -> None:
        columns = [known for each in self.covariates for known in each.columns]
        needed = {known.name for known in columns if known.needed}
        needed |= {name for each in self.calibrations for name in each.columns}
        missing = sorted(needed - set(given))
        if missing:
            words = " ".join(f"--with {name}=…" for name in missing)
            raise DataError(f"this run needs to know {', '.join(missing)} of a clip", fix=words)
        names = {known.name for known in columns} | needed
        strange = sorted(set(given) - names)
        if strange:
            hint = nearest(strange[0], names)
            raise DataError(f"this run reads no covariate {strange[0]!r}{hint}")

    def _predict_clip(
        self, clip: Clip, on_bad: str, covariates: Mapping[str, object]
    ) -> dict[str, Any]:
        table = Manifest(
            pl.DataFrame(
                {"id": [clip.id], "path": [clip.path]} | {k: [v] for k, v in covariates.items()}
            ),
            origin="--with",
        )
        try:
            score = self.scores([self.batch([clip])], table)
            if not np.isfinite(score).all():
                raise BadAudio("not_finite", "the scores are not finite", where=clip.path)
        except (BadAudio, BadClipsError) as error:
            if on_bad == "stop":
                raise
            return {"path": clip.path, "error": str(error)}
        named = {f"score_{n}": float(v) for n, v in zip(self.labels.names, score[0], strict=True)}
        decision = decision_text(self.labels, score, self.limits(table))[0]
        return {"path": clip.path, "decision": decision, **named}

    @staticmethod
    def clip(file: Location) -> Clip:
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


def _informed(batches: Sequence[Batch], known: Covariates, table: Manifest | None) -> list[Batch]:
    """Return batches with side information as one classifier knows it."""
    if table is None and any(column.needed for column in known.columns):
        raise DataError("this run reads side information, and none is given")
    if table is None:
        wide = len(known.columns)
        return [replace(b, covariates=torch.full((len(b), wide), UNKNOWN)) for b in batches]
    values = torch.from_numpy(known.encode(table))
    return [replace(batch, covariates=values[batch.rows]) for batch in batches]


def load_classifier(
    folder: RunFolder, recipe: Recipe, labels: Labels, device: torch.device
) -> Classifier:
    """Build a run's classifier and fill it with the run's weights, strictly."""
    model = new_classifier(recipe, labels, folder.covariates(), fetch=False).to(device)
    folder.load_weights(model)
    return model.eval()


def read_calibration(folder: RunFolder) -> Calibration:
    """Read `calibration.json`; a run without one is not calibrated."""
    if not folder.has("calibration.json"):
        return Calibration()
    return Calibration.from_json(folder.read_json("calibration.json"))


def load(run: Location, device: DeviceName | None = None) -> Predictor:
    """Load a run folder's classifiers; see `Predictor.load`."""
    return Predictor.load(run, device)
