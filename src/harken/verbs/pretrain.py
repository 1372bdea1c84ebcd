"""`harken pretrain`: a sequence model learns what sound is like, before labels are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from harken.backbones.sequence import PRETRAINING, SequenceModule
from harken.check import check_splits
from harken.checkpoint import RunFolder
from harken.errors import ConfigError, RunError
from harken.feature_memory import FeatureMemory
from harken.frontends.tokens import TokensModule
from harken.inference import fit_frontend, infer, pick_device
from harken.labels import Labels, required_names
from harken.loader import Loader, Order, Shuffled
from harken.manifest import Manifest
from harken.pretraining import (
    NO_LABELS,
    MaskedTokens,
    Masking,
    Pretrainer,
    Surprise,
    overall,
    unigram,
)
from harken.recipe import Recipe, dump_recipe
from harken.seeds import seed_torch
from harken.split import Fold
from harken.storage import Location
from harken.track import Several, Silent, TensorBoard, Tracker
from harken.verbs.prepare import Corpus, Told, decode_clips, load_clips, target_of
from harken.verbs.token_clips import has_labels
from harken.verbs.train import (
    choose_folds,
    open_run,
    ready,
    rows_of,
    training_set,
    write_quarantine,
)

Parts = npt.NDArray[np.str_]

VOCABULARY = "vocabulary.safetensors"


def pretrain(
    recipe: Recipe,
    out: Location,
    *,
    masking: Masking | None = None,
    fold: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    told: Told | None = None,
) -> RunFolder:
    """Train a recipe's backbone to tell hidden tokens; labels are not needed, nor learned.

    Clips without a label train; labelled ones keep the parts that training gives them, so that a
    network which is fine-tuned by the same recipe has not heard its test clips.

    Args:
        recipe: `frontend.kind` must be tokens, and the backbone `lstm` or `bert`.
        out: The run folder to make; a recipe's `backbone.checkpoint` for fine-tuning.
        masking: What is hidden of a clip.
        fold: Whose training clips, where the split has several.
        resume: Continue the run in `out` where it stands.
        overwrite: Replace the run in `out`.
        tracker: Who follows the training.
        told: Called with clips decoded and clips in all.

    Returns:
        The run folder: weights, `vocabulary.safetensors`, and `pretraining.json` with how well
        hidden tokens of validation clips are told.

    Raises:
        ConfigError: the recipe has no tokens, or a backbone without order.
    """
    recipe, masking = _without_labels(ready(recipe)), masking or Masking()
    untrained = _model(recipe, masking)
    about, tracker = masking.model_dump() | {"fold": fold}, tracker or Silent()
    begun = _begun(recipe, out, about) if resume else None
    if begun is None:
        RunFolder.refuse_existing(out, overwrite=overwrite)
    corpus, part = _prepared(recipe, fold, told)
    # A mistake in the table is told before a folder is made, or an older run replaced.
    run = begun or open_run(recipe, out, resume=False, overwrite=overwrite)
    run.write_json("masking.json", about)
    write_quarantine(run, corpus)
    for note in [*corpus.notes, *(f"left out {q.path}: {q.reason}" for q in corpus.quarantined)]:
        tracker.note(note)
    trainer = _trainer(recipe, untrained, corpus, part, run, tracker)
    front = trainer.model.frontend
    assert isinstance(front, TokensModule)
    known = front.vocabulary(recipe.audio.model_dump(mode="json"))
    known.write(run.path / VOCABULARY)
    trainer.fit(resume=True)
    run.load_weights(trainer.model)
    measured = _measured(trainer)
    names = {"vocabulary": known.digest, "vocabulary_file": VOCABULARY}
    run.write_json(PRETRAINING, {**names, "masking": about, "valid": measured})
    return run


def _begun(recipe: Recipe, out: Location, about: dict[str, Any]) -> RunFolder:
    """Open the run to continue.

    Raises:
        RunError: there is none, or one of another recipe or other options.
    """
    run = RunFolder.open(out)
    its = run.read_json("masking.json") if run.has("masking.json") else about
    same = run.read_text("recipe.yaml") == dump_recipe(recipe)
    if not same or its != about:
        what = "with other options" if same else "by another recipe"
        words = [f"--{name} {value}" for name, value in its.items() if value is not None]
        raise RunError(
            f"this run was made {what}, so it cannot be resumed",
            where=str(out),
            fix=" ".join([f"harken pretrain {out}/recipe.yaml --resume --out {out}", *words]),
        )
    return run


def _without_labels(recipe: Recipe) -> Recipe:
    """Return the recipe without what labels are needed for."""
    train = recipe.train.model_copy(update={"monitor": "loss", "mode": None, "sampler": "shuffle"})
    return recipe.model_copy(update={"train": train, "loss": None, "covariates": ()})


def _model(recipe: Recipe, masking: Masking) -> MaskedTokens:
    """Build the network, before any audio is decoded.

    Raises:
        ConfigError: the front-end makes no tokens, or the backbone is none for sequences.
    """
    assert recipe.frontend is not None, "a resolved recipe has a front-end"
    seed_torch(recipe.seed, "init")
    rate = recipe.audio.sample_rate
    front = recipe.frontend.build(rate, recipe.audio.clip_samples)
    if not isinstance(front, TokensModule):
        raise ConfigError(
            f"hidden tokens are to be told, and the front-end makes {front.spec.kind} features",
            where="frontend.kind",
            fix="frontend.kind=tokens",
        )
    back = recipe.backbone.build(front.spec)
    if not isinstance(back, SequenceModule) or not back.has_order:
        raise ConfigError(
            "this backbone cannot tell a hidden token from its neighbours",
            where="backbone.kind",
            fix="backbone.kind=bert or backbone.kind=lstm",
        )
    return MaskedTokens(front, back, masking, rate)


def _prepared(recipe: Recipe, fold: str | None, told: Told | None) -> tuple[Corpus, Fold]:
    """Decode all clips, and part them as training does where they have labels."""
    found = decode_clips(recipe, load_clips(recipe), told)
    clips = found.manifest
    folds = _folds(recipe, clips)
    if fold is None and len(folds) > 1:
        raise ConfigError(
            f"this recipe has {len(folds)} folds, and a network must not have heard test clips",
            where="--fold",
            fix=f"--fold {folds[0].name}, or data.split.kind=random",
        )
    (part,) = choose_folds(folds, [fold or folds[0].name])
    target = np.zeros((len(clips), 1), np.float32)
    check_splits(clips, [part], [found.cache.digest(i) for i in range(len(clips))])
    notes = list(found.manifest.notes)
    return Corpus(clips, NO_LABELS, target, found.cache, found.quarantined, notes=notes), part


def _folds(recipe: Recipe, clips: Manifest) -> list[Fold]:
    if not has_labels(recipe, clips):
        return recipe.data.split.assign(clips, None, recipe.seed)
    labels = Labels.learn(target_of(recipe), clips)
    usable = labels.usable(clips)
    known = clips.filter(usable)
    names = required_names(labels, known)
    folds = recipe.data.split.assign(known, labels.strata(known), recipe.seed, names)
    return [replace(fold, split=_spread(fold.split, usable)) for fold in folds]


def _spread(split: Parts, usable: npt.NDArray[np.bool_]) -> Parts:
    full = np.full(len(usable), "train", dtype="<U5")
    full[usable] = split
    return full


def _trainer(
    recipe: Recipe,
    model: MaskedTokens,
    corpus: Corpus,
    part: Fold,
    run: RunFolder,
    tracker: Tracker,
) -> Pretrainer:
    device = pick_device(recipe.train.device)
    size = recipe.train.batch_size
    rows, valid = rows_of(part, "train"), rows_of(part, "valid")
    plain = corpus.dataset(rows, recipe.audio)
    clips = Loader(Order(plain, size)).epoch()
    fit_frontend(model.to(device).frontend, clips, device, corpus.paths)
    examples = training_set(recipe, corpus, rows)
    memory = FeatureMemory.fill(recipe, model, examples, device)
    examples = replace(examples, silent=memory is not None)
    seen = corpus.dataset(valid, recipe.audio)
    used = 0 if memory is None else memory.nbytes
    kept = None
    if len(valid):
        kept = FeatureMemory.fill(recipe, model, seen, device, training=False, used=used)
        seen = replace(seen, silent=kept is not None)
    trackers: list[Tracker] = [tracker]
    if recipe.train.tensorboard:
        trackers.append(TensorBoard(run.path / "tensorboard"))
    return Pretrainer(
        recipe,
        model,
        Surprise(),
        NO_LABELS,
        Loader(Shuffled(examples, size, recipe.train.epoch_clips)),
        Loader(Order(seen, size)) if len(valid) else None,
        run,
        corpus.manifest.frame["id"].to_list(),
        Several(trackers),
        memory,
        kept,
    )


def _measured(trainer: Pretrainer) -> dict[str, float | dict[str, float]]:
    """Return how well hidden tokens of validation clips are told, and what frequency alone tells.

    The validation clips chose the epoch, so the numbers flatter a little.
    """
    model, loader, device = trainer.model, trainer.valid_loader, trainer.device
    assert isinstance(model, MaskedTokens)
    if loader is None:
        return {}
    model.eval()
    table, _ = infer(model, loader.epoch(), device, None, trainer.valid_memory)
    plain = Loader(Order(trainer.train_loader.dataset, trainer.recipe.train.batch_size))
    frequent = unigram(
        model,
        _tokens(trainer, plain, trainer.memory),
        _tokens(trainer, loader, trainer.valid_memory),
    )
    return {**overall(table), "unigram": frequent}


def _tokens(
    trainer: Pretrainer, loader: Loader, memory: FeatureMemory | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens of clips and their lengths, batch by batch."""
    for batch in loader.epoch():
        batch = batch.to(trainer.device)
        if memory is not None:
            yield memory.batch(batch.rows)
        else:
            yield trainer.model.features(batch.waveform, batch.lengths)
