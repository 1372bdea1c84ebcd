"""`harken prepare`: read the table, decode the audio, part the clips, and check all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.audio import Audio
from harken.check import check_splits
from harken.dataset import ClipDataset
from harken.errors import ConfigError
from harken.labels import Labels, Target
from harken.manifest import Manifest
from harken.pcm_cache import PcmCache, Quarantined
from harken.recipe import Recipe
from harken.split import Fold

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """Clips that are ready to be batched.

    Attributes:
        manifest: The usable clips.
        labels: What is learned.
        target: float32 `(clips, classes)`.
        cache: Their decoded audio.
        quarantined: The recordings that were left out, with reasons.
        notes: What a person should know about the table.
    """

    manifest: Manifest
    labels: Labels
    target: npt.NDArray[np.float32]
    cache: PcmCache
    quarantined: list[Quarantined]
    notes: list[str] = field(default_factory=list)

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """Each clip's weight in the loss: the column `weight`, or 1."""
        if "weight" not in self.manifest:
            return np.ones(len(self.manifest), dtype=np.float32)
        return self.manifest.frame["weight"].cast(pl.Float32).fill_null(1.0).to_numpy().copy()

    def dataset(self, rows: npt.NDArray[np.int64], audio: Audio) -> ClipDataset:
        """Return some clips as evaluation sees them: nothing drawn."""
        return ClipDataset(self.cache, rows, self.target, self.weight, audio)


def target_of(recipe: Recipe) -> Target:
    """Return what the recipe learns: its own `data.target`, or its source's usual column.

    Raises:
        ConfigError: neither says it.
    """
    if recipe.data.target is not None:
        return recipe.data.target
    column = recipe.data.source.default_target
    if not column:
        raise ConfigError("say what to learn", where="data.target", fix="data.target=COLUMN")
    return Target(columns=column)


def open_corpus(
    recipe: Recipe, manifest: Manifest, labels: Labels, told: Told | None = None
) -> Corpus:
    """Encode the targets of a manifest and decode its audio.

    Raises:
        DataError: a target or (with `on_bad_audio: stop`) a recording cannot be used.
    """
    target = labels.encode(manifest)
    folder = None if recipe.data.cache is None else Path(recipe.data.cache)
    cache = PcmCache(folder, recipe.audio, recipe.data.cache_gigabytes)
    quarantined = cache.fill(manifest.clips(), on_bad=recipe.data.on_bad_audio, progress=told)
    if quarantined:
        good = np.flatnonzero(cache.good)
        manifest, target = manifest.take(good), target[good]
        cache.fill(manifest.clips(), on_bad="stop", progress=None)
    return Corpus(manifest, labels, target, cache, quarantined)


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
    manifest = recipe.data.source.load()
    labels = Labels.learn(target, manifest)
    usable = labels.usable(manifest)
    manifest = manifest.filter(usable)
    corpus = open_corpus(recipe, manifest, labels, told)
    corpus.notes.extend(manifest.notes)
    if not usable.all():
        corpus.notes.append(f"{int((~usable).sum())} clips without a target are left out")
    folds = recipe.data.split.assign(
        corpus.manifest,
        labels.strata(corpus.manifest),
        recipe.seed,
        None if labels.task == "regression" else labels.names,
    )
    digests = [corpus.cache.digest(i) for i in range(len(corpus.manifest))]
    check_splits(corpus.manifest, folds, digests)
    return corpus, folds
