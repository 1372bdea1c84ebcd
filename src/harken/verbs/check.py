"""`harken check`: what would make results wrong, looked for before they are believed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from harken import storage
from harken.audit import (
    Finding,
    Floats,
    Sound,
    audit_duplicates,
    audit_labels,
    audit_leaks,
    audit_shortcuts,
    audit_sounds,
    audit_split,
    listen,
    some_of,
)
from harken.checkpoint import RunFolder
from harken.dataset import Rows
from harken.errors import HarkenError
from harken.labels import Labels, required_names
from harken.loader import even_batches
from harken.manifest import Manifest
from harken.pcm_cache import PcmCache
from harken.recipe import Recipe
from harken.seeds import generator
from harken.soundness import audit_augments, audit_frontend, audit_gradients, audit_outputs
from harken.split import Fold
from harken.storage import Location
from harken.track import Silent
from harken.trainer import Trainer
from harken.verbs.prepare import Corpus, Told, load_clips, target_of
from harken.verbs.run_audit import audit_run
from harken.verbs.train import build_trainer, learn_covariates, rows_of

NUM_CLIPS = 400
NUM_TRIED = 24
"""Clips that the network is tried on."""


def check(recipe: Recipe, *, clips: int = NUM_CLIPS, told: Told | None = None) -> list[Finding]:
    """Look at a recipe's data, and try what it builds on some of its clips.

    Args:
        recipe: The recipe.
        clips: Recordings to look at; more are sampled. Labels and splits are looked at in full.
        told: Called with clips decoded and clips in all.

    Returns:
        What was found, good and bad. Nothing is raised for what would be a finding.
    """
    try:
        recipe = recipe.resolved()
        manifest = load_clips(recipe)
        labels = Labels.learn(target_of(recipe), manifest)
        usable = labels.usable(manifest)
        manifest = manifest.filter(usable)
    except HarkenError as error:
        return [_broken("table", error)]
    found = [
        Finding("table", "ok", f"{len(manifest)} clips; {labels.task}: {', '.join(labels.names)}")
    ]
    found += [Finding("table", "warning", note) for note in manifest.notes]
    if not usable.all():
        text = f"{int((~usable).sum())} clips without a target are left out"
        found.append(Finding("table", "warning", text))
    target = labels.encode(manifest)
    found += audit_labels(labels, target)
    folds, of_split = _parted(recipe, manifest, labels, target)
    return found + of_split + _listened(recipe, manifest, labels, target, folds, clips, told)


def check_run(run: Location | RunFolder) -> list[Finding]:
    """Look at a run folder: files, weights, predictions, metrics; see `harken.verbs.run_audit`."""
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    return audit_run(folder)


def _broken(topic: str, error: HarkenError) -> Finding:
    place = f"{error.where}: " if error.where else ""
    return Finding(topic, "problem", f"{place}{error.message}", error.fix)


def _parted(
    recipe: Recipe, manifest: Manifest, labels: Labels, target: Floats
) -> tuple[list[Fold], list[Finding]]:
    split = recipe.data.split
    names = required_names(labels, manifest)
    try:
        folds = split.assign(manifest, labels.strata(manifest), recipe.seed, names)
    except HarkenError as error:
        return [], [_broken("split", error)]
    return folds, audit_split(labels, target, folds, tests=split.tests)


def _listened(
    recipe: Recipe,
    manifest: Manifest,
    labels: Labels,
    target: Floats,
    folds: Sequence[Fold],
    clips: int,
    told: Told | None,
) -> list[Finding]:
    """Decode a sample of the recordings, and look at everything that needs their sound."""
    rows = _sampled(len(manifest), clips, recipe.seed, target, folds[0] if folds else None)
    part = manifest.take(rows)
    folder = None if recipe.data.cache is None else storage.local_path(recipe.data.cache)
    cache = PcmCache(folder, recipe.audio, recipe.data.cache_gigabytes)
    try:
        bad = cache.fill(part.clips(), on_bad="skip", progress=told)
    except HarkenError as error:
        return [_broken("audio", error)]
    found = [_on_bad(recipe, [f"{q.id}: {q.reason}" for q in bad], len(rows), len(manifest))]
    sounds = listen(part.clips())
    found += audit_sounds(part.frame["id"].to_list(), sounds, recipe.audio.sample_rate)
    digests = [cache.digest(i) for i in range(len(part))]
    found.append(audit_duplicates(part, labels, target[rows], digests))
    if not folds:
        return found
    everywhere: list[str | None] = [None] * len(manifest)
    heard: list[Sound | None] = [None] * len(manifest)
    for row, digest, sound in zip(rows.tolist(), digests, sounds, strict=True):
        everywhere[row], heard[row] = digest or None, sound
    found += audit_leaks(manifest, folds, everywhere)
    found += audit_shortcuts(manifest, labels, target, folds[0], heard)
    good = np.flatnonzero(cache.good)
    if not len(good):
        return found
    cache.fill(part.take(good).clips(), on_bad="stop", progress=None)
    corpus = Corpus(part.take(good), labels, target[rows[good]], cache, [])
    fold = replace(folds[0], split=folds[0].split[rows[good]])
    return found + _tried(recipe, corpus, fold)


def _sampled(count: int, wanted: int, seed: int, target: Floats, fold: Fold | None) -> Rows:
    """Draw clips, with one of every class from every part among them."""
    order = generator(seed, "check", "clips").permutation(count)
    if count <= wanted:
        return np.arange(count)
    first = []
    for part in ("train", "valid", "test") if fold is not None else ():
        inside = order[fold.split[order] == part] if fold is not None else order
        for column in target.T:
            first += inside[np.nan_to_num(column[inside]) > 0.5][:2].tolist()
    drawn = dict.fromkeys([*first, *order.tolist()])
    return np.sort(np.array(list(drawn)[: max(wanted, len(set(first)))], dtype=np.int64))


def _on_bad(recipe: Recipe, bad: list[str], heard: int, count: int) -> Finding:
    sample = f" (of {count})" if heard < count else ""
    if not bad:
        return Finding("bad_audio", "ok", f"all of {heard} recordings{sample} can be used")
    text = f"cannot be used: {some_of(bad, len(bad))}, of {heard}{sample}"
    if recipe.data.on_bad_audio == "skip":
        return Finding("bad_audio", "warning", text, "they are left out: data.on_bad_audio is skip")
    fix = "mend them, or leave them out: data.on_bad_audio=skip"
    return Finding("bad_audio", "problem", text, fix)


def _tried(recipe: Recipe, corpus: Corpus, fold: Fold) -> list[Finding]:
    """Build what the recipe asks for, and try it on training clips."""
    rows = rows_of(fold, "train")
    if len(rows) < 2:
        return [Finding("model", "warning", "too few training clips to try the network on")]
    with tempfile.TemporaryDirectory(prefix="harken-check-") as folder:
        try:
            corpus = learn_covariates(recipe, corpus, fold)
            trainer = _trainer(recipe, corpus, fold, RunFolder.create(folder))
        except HarkenError as error:
            return [_broken("model", error)]
        picked = generator(recipe.seed, "check", "tried").permutation(rows)[:NUM_TRIED]
        try:
            return _of_model(recipe, corpus, trainer, picked)
        except HarkenError as error:
            return [_broken("model", error)]


def _trainer(recipe: Recipe, corpus: Corpus, fold: Fold, run: RunFolder) -> Trainer:
    changes = {"memory_gigabytes": 0.0, "keep": "last", "patience": None, "tensorboard": False}
    train = recipe.train.model_copy(update=changes)
    shorter = recipe.model_copy(update={"train": train})
    return build_trainer(shorter, corpus, fold, run, Silent())


def _of_model(recipe: Recipe, corpus: Corpus, trainer: Trainer, rows: Rows) -> list[Finding]:
    model, clips = trainer.model, corpus.dataset(rows, recipe.audio)
    batch = clips.batch(rows[:8], 0).to(trainer.device)
    model.eval()
    found = [audit_frontend(model, batch)]
    found += audit_augments(recipe, model, clips, rows[:12])
    if found[0].status == "problem":
        return found
    # Outputs are looked at after these steps, since some networks begin as constants.
    batches = [clips.batch(part, 0) for part in even_batches(rows, 8)]
    found += audit_gradients(trainer, batches)
    return found + audit_outputs(model.eval(), batch, recipe.seed)
