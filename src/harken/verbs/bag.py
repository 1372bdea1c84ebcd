"""`harken bag`: what the tokens tell without their order, the baseline of the sequence models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harken.check import check_splits
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FrontendModule
from harken.frontends.tokens import Tokens
from harken.inference import fit_frontend, naming, pick_device
from harken.labels import Labels, required_names
from harken.loader import Loader, Order
from harken.ngrams import NGrams
from harken.recipe import Recipe
from harken.storage import Location
from harken.tokens.token_table import scan_tokens
from harken.verbs.prepare import Corpus, Told, load_clips, prepare, target_of
from harken.verbs.probe import Bench, judge
from harken.verbs.train import ready, rows_of

Sentence = npt.NDArray[np.int64]

HEARD = (
    "the tokens were made beforehand: if test clips were among those that the vocabulary was "
    "fitted on, it has heard them, though not their labels"
)


def bag(
    recipe: Recipe,
    out: Location = "runs/bag",
    *,
    tokens: Location | None = None,
    ngrams: NGrams | None = None,
    overwrite: bool = False,
    told: Told | None = None,
) -> RunFolder:
    """Fit a logistic regression on TF-IDF of token n-grams, with a recipe's folds and metrics.

    Runs, their weights and, where the recipe learns one, the vocabulary come from a fold's training
    clips; validation clips choose the penalty.

    Args:
        recipe: Its `frontend.kind` must be tokens, unless `tokens` is given.
        out: The folder to make; like a run folder without weights.
        tokens: A table of `harken tokens encode`, so that no audio is needed.
        ngrams: Which runs are counted.
        overwrite: Replace what is in `out`.
        told: Called with clips decoded and clips in all.

    Returns:
        The folder, as `harken probe` makes it.

    Raises:
        ConfigError: the recipe has no tokens.
        DataError: clips have no tokens.
    """
    ngrams = ngrams or NGrams()
    if tokens is not None:
        return judge(_of_table(recipe, str(tokens), ngrams), out, "logistic", overwrite)
    recipe = ready(recipe)
    if not isinstance(recipe.frontend, Tokens):
        raise ConfigError(
            "this recipe makes no tokens",
            where="frontend.kind",
            fix="frontend.kind=tokens, or --tokens TABLE",
        )
    return judge(_of_recipe(recipe, ngrams, told), out, "logistic", overwrite)


def _of_recipe(recipe: Recipe, ngrams: NGrams, told: Told | None) -> Iterator[Bench]:
    assert recipe.frontend is not None
    corpus, folds = prepare(recipe, told)
    device = pick_device(recipe.train.device)
    for fold in folds:
        module = recipe.frontend.build(recipe.audio.sample_rate, recipe.audio.clip_samples)
        module = module.to(device).eval()
        train = rows_of(fold, "train")
        clips = Loader(Order(corpus.dataset(train, recipe.audio), recipe.train.batch_size))
        fit_frontend(module, clips.epoch(), device, corpus.paths)
        vectors = ngrams.tf_idf(_sentences(recipe, corpus, module, device), train)
        about = _about(ngrams, vectors)
        manifest, labels, notes = corpus.manifest, corpus.labels, tuple(corpus.notes)
        target = labels.encode(manifest)
        yield Bench(recipe, manifest, labels, target, vectors, fold, about, notes)


@torch.inference_mode()
def _sentences(
    recipe: Recipe, corpus: Corpus, module: FrontendModule, device: torch.device
) -> list[Sentence]:
    """Return the tokens of every clip, in the order of the manifest."""
    every = corpus.dataset(np.arange(len(corpus.manifest), dtype=np.int64), recipe.audio)
    found: list[Sentence] = []
    for batch in Loader(Order(every, recipe.train.batch_size)).epoch():
        batch = batch.to(device)
        with naming(batch, corpus.paths):
            tokens, lengths = module(batch.waveform, batch.lengths)
        pairs = zip(tokens.cpu().numpy(), lengths.tolist(), strict=True)
        found.extend(clip[:count] for clip, count in pairs)
    return found


def _of_table(recipe: Recipe, table: str, ngrams: NGrams) -> Iterator[Bench]:
    manifest = load_clips(recipe)
    labels = Labels.learn(target_of(recipe), manifest)
    usable = labels.usable(manifest)
    notes = [HEARD] + [f"{int((~usable).sum())} clips without a target are left out"] * (
        not usable.all()
    )
    manifest = manifest.filter(usable)
    made = scan_tokens(table).select("id", "tokens").collect()
    if made["id"].n_unique() < len(made):
        raise DataError("ids occur twice among the tokens", where=table)
    has = manifest.frame["id"].is_in(made["id"].implode())
    if not has.all():
        first = int(has.arg_min() or 0)
        lacking = f"{int((~has).sum())} clips have no tokens, {manifest.frame['id'][first]!r} first"
        if recipe.data.on_bad_audio == "stop" or not has.any():
            fix = "encode them, or leave such clips out: data.on_bad_audio=skip"
            raise DataError(lacking, where=manifest.place(first), fix=fix)
        manifest, notes = manifest.filter(has), [*notes, f"{lacking}: left out"]
    joined = manifest.frame.select("id").join(made, on="id", maintain_order="left")
    sentences = [np.asarray(clip, dtype=np.int64) for clip in joined["tokens"]]
    names = required_names(labels, manifest)
    target = labels.encode(manifest)
    folds = recipe.data.split.assign(manifest, labels.strata(manifest), recipe.seed, names)
    check_splits(manifest, folds)
    for fold in folds:
        vectors = ngrams.tf_idf(sentences, rows_of(fold, "train"))
        about = {"table": table, **_about(ngrams, vectors)}
        yield Bench(recipe, manifest, labels, target, vectors, fold, about, tuple(notes))


def _about(ngrams: NGrams, vectors: Any) -> dict[str, Any]:
    return {"ngrams": ngrams.model_dump(), "runs": int(vectors.shape[1])}
