"""`harken prepare`: read the table, decode the audio, part the clips, and check all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from harken import storage
from harken.audio import Audio
from harken.check import check_splits
from harken.covariates import Covariates, TrainingTable
from harken.dataset import ClipDataset
from harken.derive import apply_all
from harken.errors import ConfigError
from harken.labels import Labels, required_names
from harken.manifest import Manifest
from harken.multi_hot import TargetTable, some_rows
from harken.pcm_cache import PcmCache, Quarantined
from harken.recipe import Recipe
from harken.sources import Source
from harken.split import Fold
from harken.target import Target

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """Clips that are ready to be batched.

    Attributes:
        manifest: The usable clips.
        labels: What is learned.
        target: float32 `(clips, classes)`, an array or what reads like one.
        cache: Their decoded audio.
        quarantined: The recordings that were left out, with reasons.
        notes: What a person should know about the table.
        covariates: What is known of side information, and each clip's values, float32
            `(clips, columns)`; see `informed`.
    """

    manifest: Manifest
    labels: Labels
    target: TargetTable
    cache: PcmCache
    quarantined: list[Quarantined]
    notes: list[str] = field(default_factory=list)
    covariates: Covariates = field(default_factory=Covariates)
    values: npt.NDArray[np.float32] | None = None

    def informed(self, known: Covariates) -> Corpus:
        """Return the corpus with side information as some run's training rows taught it.

        Raises:
            DataError: a clip's value is missing or unknown, and the recipe gives no default.
        """
        return replace(self, covariates=known, values=known.encode(self.manifest))

    def training_table(self, rows: npt.NDArray[np.int64]) -> TrainingTable:
        """Return what a loss may count on training rows."""
        nothing = np.zeros((len(self.manifest), 0), dtype=np.float32)
        values = nothing if self.values is None else self.values
        return TrainingTable(some_rows(self.target, rows), self.covariates, values[rows], rows)

    @property
    def paths(self) -> pl.Series:
        """Every clip's file, for errors."""
        return self.manifest.frame["path"]

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """Each clip's weight in the loss: the column `weight`, or 1."""
        if "weight" not in self.manifest:
            return np.ones(len(self.manifest), dtype=np.float32)
        return self.manifest.frame["weight"].cast(pl.Float32).fill_null(1.0).to_numpy().copy()

    def dataset(self, rows: npt.NDArray[np.int64], audio: Audio) -> ClipDataset:
        """Return some clips as evaluation sees them: nothing drawn."""
        return ClipDataset(
            self.cache,
            rows,
            self.target,
            self.weight,
            audio,
            covariates=self.values,
            names=self.paths,
        )


def load_clips(recipe: Recipe, source: Source | None = None) -> Manifest:
    """Read the table of clips, and add the columns that the recipe derives.

    Args:
        recipe: The recipe.
        source: Another source of clips than the recipe's own, such as new ones for evaluation; it
            need not have the columns that labels are derived from.

    Raises:
        DataError: the table, a column or a cell cannot be used.
    """
    clips = (source or recipe.data.source).load()
    return apply_all(recipe.data.derive, clips, strict=source is None)


def target_of(recipe: Recipe) -> Target:
    """Return what the recipe learns: its own `data.target`, or its source's usual column.

    A label file is read, so that the result stands by itself.

    Raises:
        ConfigError: neither says it.
        DataError: the label file cannot be used.
    """
    if recipe.data.target is not None:
        return recipe.data.target.resolved()
    column = recipe.data.source.default_target
    if not column:
        raise ConfigError("say what to learn", where="data.target", fix="data.target=COLUMN")
    return Target(columns=column)


@dataclass(frozen=True)
class Decoded:
    """Usable clips and their audio.

    Attributes:
        manifest: The usable clips.
        cache: Their decoded audio, in the order of the manifest.
        quarantined: The recordings that were left out, with reasons.
    """

    manifest: Manifest
    cache: PcmCache
    quarantined: list[Quarantined]


def decode_clips(recipe: Recipe, manifest: Manifest, told: Told | None = None) -> Decoded:
    """Decode the audio of a manifest; labels are not needed.

    Raises:
        DataError: with `on_bad_audio: stop`, a recording cannot be used; without, none can.
    """
    folder = None if recipe.data.cache is None else storage.local_path(recipe.data.cache)
    cache = PcmCache(folder, recipe.audio, recipe.data.cache_gigabytes)
    quarantined = cache.fill(manifest.clips(), on_bad=recipe.data.on_bad_audio, progress=told)
    if quarantined:
        manifest = manifest.take(np.flatnonzero(cache.good))
        cache.fill(manifest.clips(), on_bad="stop", progress=None)
    return Decoded(manifest, cache, quarantined)


def open_corpus(
    recipe: Recipe, manifest: Manifest, labels: Labels, told: Told | None = None
) -> Corpus:
    """Encode the targets of a manifest and decode its audio.

    Raises:
        DataError: a target or (with `on_bad_audio: stop`) a recording cannot be used.
    """
    # A wrong label is cheaper to find than a wrong recording, so it is looked for first.
    labels.targets(manifest)
    found = decode_clips(recipe, manifest, told)
    target = labels.targets(found.manifest)
    return Corpus(found.manifest, labels, target, found.cache, found.quarantined)


def prepare(recipe: Recipe, told: Told | None = None) -> tuple[Corpus, list[Fold]]:
    """Load, decode and part the clips of a recipe.

    Args:
        recipe: The recipe.
        told: Called with clips done and clips in all while decoding.

    Returns:
        The corpus and its folds, one for a single split.

    Raises:
        DataError: the data cannot be used, or the split would leak.
    """
    target = target_of(recipe)
    manifest = load_clips(recipe)
    labels = Labels.learn(target, manifest)
    usable = labels.usable(manifest)
    manifest = manifest.filter(usable)
    recipe.calibrate.check(labels, manifest)
    recipe.evaluate.check(manifest)
    corpus = open_corpus(recipe, manifest, labels, told)
    corpus.notes.extend(manifest.notes)
    if not usable.all():
        corpus.notes.append(f"{int((~usable).sum())} clips without a target are left out")
    folds = recipe.data.split.assign(
        corpus.manifest,
        labels.strata(corpus.manifest),
        recipe.seed,
        required_names(labels, corpus.manifest),
    )
    digests = [corpus.cache.digest(i) for i in range(len(corpus.manifest))]
    check_splits(corpus.manifest, folds, digests)
    return corpus, folds
