"""Which clips a vocabulary is fitted on or applied to, and their waveforms, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harken import storage
from harken.batch import Batch
from harken.dataset import ClipDataset
from harken.errors import ConfigError
from harken.labels import Labels, required_names
from harken.manifest import Manifest
from harken.pcm_cache import PcmCache, Quarantined
from harken.recipe import Recipe, merge, parse_word, read_recipe, validate
from harken.sources.folder import SUFFIXES
from harken.split import Fold
from harken.storage import Facts
from harken.verbs.new_table import manifest_of_files
from harken.verbs.prepare import Told, decode_clips, load_clips, target_of

CLIPS = 256
"""Clips that are decoded together."""
_BATCH = 32


def given_clips(
    names: Sequence[str], words: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> tuple[Recipe, Manifest | None]:
    """Read what a person names: recipe files, a folder, a table, or audio files.

    Args:
        names: Recipe files (YAML), or one folder or table, or audio files.
        words: Overrides of the recipe.
        settings: Sections of the recipe where `names` has none.

    Returns:
        The recipe, and the clips where they are not those of its source.

    Raises:
        ConfigError: recipes and other files are mixed, or a word cannot be read.
        DataError: there is no such folder, table or file.
    """
    recipes = [name for name in names if name.lower().endswith((".yaml", ".yml"))]
    if recipes:
        if len(recipes) < len(names):
            other = next(name for name in names if name not in recipes)
            raise ConfigError("give recipes or clips, not both", where=other)
        return read_recipe(recipes, words), None
    if not names:
        raise ConfigError("say which clips", fix="a recipe, a folder, a table or audio files")
    tree: dict[str, Any] = {"data": {"source": {"kind": "table", "path": names[0]}}}
    tree = merge(tree, settings or {})
    for word in words:
        tree = merge(tree, parse_word(word, tree))
    recipe = validate(tree, where="the command line")
    if len(names) == 1 and storage.is_folder(names[0]):
        return recipe, manifest_of_files(_recordings(names[0]))
    if len(names) == 1 and not names[0].lower().endswith(SUFFIXES):
        return recipe, recipe.data.source.load()
    return recipe, manifest_of_files(names)


def _recordings(folder: str) -> list[str]:
    files = storage.list_files(folder, SUFFIXES)
    if not files:
        raise ConfigError("there are no recordings in this folder", where=folder)
    return files


def training_clips(recipe: Recipe, fold: str | None = None, told: Told | None = None) -> Manifest:
    """Return the clips that a recipe trains on, of one fold where it has several.

    A recipe without labels has no folds; then a column `split` decides, if there is one.

    Raises:
        ConfigError: there are several folds and none is chosen, or no such fold.
        DataError: the data cannot be used.
    """
    manifest = load_clips(recipe)
    if not has_labels(recipe, manifest):
        return marked_as_training(manifest)
    labels = Labels.learn(target_of(recipe), manifest)
    manifest = manifest.filter(labels.usable(manifest))
    if recipe.data.on_bad_audio == "skip":
        manifest = decode_clips(recipe, manifest, told).manifest  # as training parts what is left
    names = required_names(labels, manifest)
    folds = recipe.data.split.assign(manifest, labels.strata(manifest), recipe.seed, names)
    return manifest.take(np.flatnonzero(_chosen(folds, fold).split == "train"))


def has_labels(recipe: Recipe, manifest: Manifest) -> bool:
    """Whether a recipe says what to learn, or its clips have the usual column of their source."""
    usual = recipe.data.source.default_target
    return recipe.data.target is not None or (usual is not None and usual in manifest)


def _chosen(folds: list[Fold], fold: str | None) -> Fold:
    names = [each.name for each in folds]
    if fold is not None and fold not in names:
        raise ConfigError(f"there is no fold {fold!r}", where="--fold", fix=", ".join(names))
    if fold is None and len(folds) > 1:
        raise ConfigError(
            f"this recipe has {len(folds)} folds, and a vocabulary must not have seen test clips",
            where="--fold",
            fix=f"--fold {names[0]}, or frontend.vocabulary=null, which learns one for every fold, "
            "or --split all",
        )
    return folds[0 if fold is None else names.index(fold)]


def marked_as_training(manifest: Manifest) -> Manifest:
    """Return the clips whose column `split` says train, or all without such a column."""
    if "split" not in manifest or manifest.frame["split"].null_count() == len(manifest):
        return manifest
    return manifest.take(np.flatnonzero((manifest.frame["split"] == "train").fill_null(False)))


def store_facts(clips: Manifest) -> dict[str, Facts]:
    """Ask about all clips that lie in buckets, at once.

    Asked a few at a time, folders of millions of files would be listed time and again.
    """
    paths = clips.frame["path"]
    return storage.facts(paths.filter(paths.str.contains("://", literal=True)))


def decode_some(
    recipe: Recipe, some: Manifest, stores: Mapping[str, Facts]
) -> tuple[Iterator[Batch], list[Quarantined]]:
    """Decode some clips and return them in batches, as evaluation sees them.

    Batches hold the numbers of clips within `some`; bad ones are in none. `stores` is what
    `store_facts` says of these clips, and perhaps of others.

    Raises:
        BadAudio: with `on_bad_audio: stop`, a recording cannot be used.
    """
    folder = None if recipe.data.cache is None else storage.local_path(recipe.data.cache)
    cache = PcmCache(folder, recipe.audio, recipe.data.cache_gigabytes)
    bad = cache.fill(some.clips(), on_bad=recipe.data.on_bad_audio, stores=stores)
    rows = np.flatnonzero(cache.good).astype(np.int64)
    nothing = np.zeros((len(some), 0), np.float32), np.ones(len(some), np.float32)
    clips = ClipDataset(cache, rows, *nothing, recipe.audio)
    starts = range(0, len(rows), _BATCH)
    return (clips.batch(rows[start : start + _BATCH], 0) for start in starts), bad
