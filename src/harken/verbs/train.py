"""`harken train`: from a recipe to a run folder, fold by fold, resumable at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from harken import storage
from harken.augment import NoMix, SpectrogramAugment, WaveformAugment
from harken.batch import Batch
from harken.checkpoint import RunFolder
from harken.covariates import Covariates
from harken.dataset import ClipDataset, Rows
from harken.environment import environment
from harken.errors import ConfigError, RunError
from harken.feature_memory import FeatureMemory
from harken.inference import fit_frontend, pick_device
from harken.labels import Labels
from harken.loader import Balanced, Loader, Order, Shuffled
from harken.losses import LossModule, default_loss
from harken.model import Classifier
from harken.multi_hot import label_counts, some_rows
from harken.predictor import new_classifier, read_run_recipe
from harken.recipe import Recipe, dump_recipe
from harken.seeds import seed_torch
from harken.split import Fold
from harken.storage import Location
from harken.track import Several, Silent, TensorBoard, Tracker
from harken.trainer import Trainer, monitored
from harken.verbs.evaluate import JUDGED, SplitName, evaluate_fold
from harken.verbs.fold_summary import summarise_folds
from harken.verbs.prepare import Corpus, Told, prepare
from harken.verbs.side_by_side import share_threads, train_side_by_side

WHY_FROZEN_RUNS_AGAIN = (
    "the frozen part of the network runs anew in every epoch: augmentation, mixing or a random "
    "crop changes the clips before it, or its results do not fit in train.memory_gigabytes"
)


def train(
    recipe: Recipe,
    out: Location,
    *,
    folds: str | Sequence[str] = "all",
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    told: Told | None = None,
) -> RunFolder:
    """Train and evaluate.

    Args:
        recipe: What to do.
        out: The run folder to make, a path or a URL; a split into k folds makes `fold-NAME` folders
            in it.
        folds: `all`, or the names of some folds.
        jobs: Folds that are trained side by side, each in a process of its own.
        resume: Continue the run in `out` where it stands.
        overwrite: Replace the run in `out`.
        tracker: Who follows the training.
        told: Called with clips decoded and clips in all.

    Returns:
        The run folder, evaluated on its validation and test clips.

    Raises:
        HarkenError: the recipe, the data or the run folder cannot be used; says why.
    """
    recipe = ready(recipe)
    begun = open_run(recipe, out, resume=True, overwrite=False) if resume else None
    if begun is None:
        RunFolder.refuse_existing(out, overwrite=overwrite)
    corpus, parted = prepare(recipe, told)
    monitored(recipe, corpus.labels)
    picked = {fold.name for fold in choose_folds(parted, folds)}
    # A mistake in the table is told before a folder is made, or an older run replaced.
    run = begun or open_run(recipe, out, resume=False, overwrite=overwrite)
    several = len(parted) > 1
    every = [(fold, run.fold(fold.name if several else "")) for fold in parted]
    for fold, folder in every if resume else []:
        folder.refuse_other_splits(parts_of(corpus, fold))
    write_quarantine(run, corpus)
    tracker = tracker or Silent()
    if not bf16_pays(recipe):
        tracker.note("this processor has no bf16 arithmetic: train.precision=fp32 is faster here")
    for note in [*corpus.notes, *(f"left out {q.path}: {q.reason}" for q in corpus.quarantined)]:
        tracker.note(note)
    chosen = [(fold, folder) for fold, folder in every if fold.name in picked]
    todo = [(fold, folder) for fold, folder in chosen if not folder.has("metrics.json")]
    if todo and jobs > 1 and len(chosen) > 1:
        threads = share_threads([fold.name for fold, _ in chosen], jobs)
        left = {fold.name: threads[fold.name] for fold, _ in todo}
        train_side_by_side(run, left, jobs, tracker)
    else:
        for fold, folder in todo:
            train_fold(recipe, corpus, fold, folder, tracker)
    if several:
        summarise_folds(run, recipe)
    return run


def ready(recipe: Recipe) -> Recipe:
    """Return the recipe as it is run, after refusing what cannot work before audio is decoded.

    Raises:
        ConfigError: something that the recipe refers to is not there.
    """
    for augment in recipe.augment:
        augment.check(recipe.audio.sample_rate)
    recipe = recipe.resolved()
    refuse_unreadable(recipe)
    return recipe


def refuse_unreadable(recipe: Recipe) -> None:
    """Refuse features that the backbone, an augmentation or mixing cannot take.

    Raises:
        ConfigError: they do not go together.
    """
    assert recipe.frontend is not None, "a resolved recipe has a front-end"
    seconds, rate = recipe.audio.clip_seconds, recipe.audio.sample_rate
    front = recipe.frontend.build(rate, None if seconds is None else round(seconds * rate))
    recipe.backbone.check(front.spec)
    if front.spec.kind != "tokens":
        return
    for number, augment in enumerate(recipe.augment):
        if isinstance(augment, SpectrogramAugment):
            raise ConfigError(
                "tokens are no spectrogram that could be changed",
                where=f"augment.{number}",
                fix="augment waveforms, or hide tokens: backbone.mask_rate=0.1",
            )
    if recipe.mix is not None and recipe.mix.domain == "features":
        raise ConfigError("tokens cannot be mixed", where="mix.domain", fix="mix.domain=waveform")


def bf16_pays(recipe: Recipe) -> bool:
    """Whether bf16, if the recipe asks for it, is arithmetic and not emulation on this device."""
    on_cpu = pick_device(recipe.train.device).type == "cpu"
    emulated = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return not (recipe.train.precision == "bf16" and on_cpu and emulated)


def train_named_fold(run: RunFolder, name: str) -> None:
    """Train one fold of a run over folds, or continue it where its folder stands."""
    recipe = read_run_recipe(run)
    corpus, parted = prepare(recipe)
    (fold,) = choose_folds(parted, [name])
    train_fold(recipe, corpus, fold, run.fold(name), Silent())


def write_quarantine(run: RunFolder, corpus: Corpus) -> None:
    """Write `quarantine.json`: the recordings that could not be used, with reasons."""
    left_out = [{"id": q.id, "path": q.path, "reason": q.reason} for q in corpus.quarantined]
    run.write_json("quarantine.json", left_out)


def open_run(recipe: Recipe, out: Location, *, resume: bool, overwrite: bool) -> RunFolder:
    """Make the run folder, or open the one to continue.

    Raises:
        RunError: there is a run already, or none, or one of another recipe.
    """
    if not resume:
        run = RunFolder.create(out, overwrite=overwrite)
        run.write_text("recipe.yaml", dump_recipe(recipe))
        run.write_json("environment.json", environment())
        return run
    run = RunFolder.open(out)
    if run.read_text("recipe.yaml") != dump_recipe(recipe):
        raise RunError(
            "this run was made by another recipe, so it cannot be resumed with this one",
            where=str(out),
            fix=f"harken train {out}/recipe.yaml --resume --out {out}",
        )
    return run


def choose_folds(parted: Sequence[Fold], wanted: str | Sequence[str]) -> list[Fold]:
    """Return the folds that are asked for.

    Raises:
        ConfigError: there is no such fold.
    """
    names = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else wanted
    if list(names) == ["all"]:
        return list(parted)
    known = {fold.name: fold for fold in parted}
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigError(
            f"there is no fold {missing[0]!r}; one of {', '.join(known)}", where="--folds"
        )
    return [known[name] for name in names]


def train_fold(
    recipe: Recipe,
    corpus: Corpus,
    fold: Fold,
    folder: RunFolder,
    tracker: Tracker,
    judged: Sequence[SplitName] = JUDGED,
) -> None:
    """Train one split and evaluate it on `judged` clips, or continue it where its folder stands."""
    storage.make_folder(folder.path)
    if not folder.has("recipe.yaml"):
        folder.write_text("recipe.yaml", dump_recipe(recipe))
        folder.write_json("environment.json", environment())
    folder.write_json("labels.json", corpus.labels.to_json())
    folder.refuse_other_splits(parts_of(corpus, fold))
    folder.write_table("splits.parquet", parts_of(corpus, fold))
    corpus = learn_covariates(recipe, corpus, fold)
    if corpus.covariates.columns:
        folder.write_json("covariates.json", corpus.covariates.to_json())
    trainer = build_trainer(recipe, corpus, fold, folder, tracker)
    trainer.fit(resume=True)
    evaluate_fold(recipe, corpus, fold, folder, trainer.loss, judged)


def parts_of(corpus: Corpus, fold: Fold) -> pl.DataFrame:
    """Return what `splits.parquet` says: the part of every clip."""
    return pl.DataFrame({"id": corpus.manifest.frame["id"], "split": fold.split})


def learn_covariates(recipe: Recipe, corpus: Corpus, fold: Fold) -> Corpus:
    """Return the corpus with side information as a fold's training clips teach it.

    Raises:
        DataError: a value is missing or unknown, and the recipe gives no default.
        ConfigError: clips are mixed, and what is known of them would be wrong for the mixture.
    """
    wanted = recipe.side_information()
    if not wanted:
        return corpus
    if recipe.mix is not None and not isinstance(recipe.mix, NoMix):
        raise ConfigError(
            "a mixture of two clips has no one age, word or site", where="mix", fix="mix=null"
        )
    known = Covariates.learn(wanted, corpus.manifest, rows_of(fold, "train"))
    return corpus.informed(known)


def build_trainer(
    recipe: Recipe, corpus: Corpus, fold: Fold, folder: RunFolder, tracker: Tracker
) -> Trainer:
    """Build everything that one split's training needs."""
    rows = rows_of(fold, "train")
    examples = training_set(recipe, corpus, rows)
    valid = rows_of(fold, "valid")
    seen = corpus.dataset(valid, recipe.audio)
    model, loss = build_model(recipe, corpus.labels, corpus, rows, folder)
    device = pick_device(recipe.train.device)
    memory = FeatureMemory.fill(recipe, model, examples, device)
    examples = replace(examples, silent=memory is not None)
    if memory is None and model.still_stage != "features":
        tracker.note(WHY_FROZEN_RUNS_AGAIN)
    used = 0 if memory is None else memory.nbytes
    seen_memory = None
    if len(valid):
        seen_memory = FeatureMemory.fill(recipe, model, seen, device, training=False, used=used)
        seen = replace(seen, silent=seen_memory is not None)
    trackers: list[Tracker] = [tracker]
    if recipe.train.tensorboard:
        trackers.append(TensorBoard(folder.path / "tensorboard"))
    return Trainer(
        recipe,
        model,
        loss,
        corpus.labels,
        Loader(_order(recipe, examples)),
        Loader(Order(seen, recipe.train.batch_size)) if len(valid) else None,
        folder,
        corpus.manifest.frame["id"].to_list(),
        Several(trackers),
        memory,
        seen_memory,
    )


def rows_of(fold: Fold, split: str) -> Rows:
    """Return the manifest rows of one split."""
    return np.flatnonzero(fold.split == split).astype(np.int64)


def training_set(recipe: Recipe, corpus: Corpus, rows: Rows) -> ClipDataset:
    """Return the training clips, augmented."""
    waveform = [augment for augment in recipe.augment if isinstance(augment, WaveformAugment)]
    clips = corpus.dataset(rows, recipe.audio)
    return replace(clips, augments=waveform, seed=recipe.seed)


def _order(recipe: Recipe, examples: ClipDataset) -> Order:
    clips = recipe.train.epoch_clips
    if recipe.train.sampler == "shuffle":
        return Shuffled(examples, recipe.train.batch_size, clips)
    if not label_counts(some_rows(examples.target, examples.rows))[0].any():
        raise ConfigError(
            "balancing needs classes", where="train.sampler", fix="train.sampler=shuffle"
        )
    return Balanced(examples, recipe.train.batch_size, clips)


def build_model(
    recipe: Recipe, labels: Labels, corpus: Corpus, rows: Rows, begun: RunFolder | None = None
) -> tuple[Classifier, LossModule]:
    """Build classifier and loss, and fit the front-end's statistics on training clips only.

    Where a run has `begun`, the model is that of its saved state: a checkpoint from which it
    started may be gone by now, or be another one, and what a frozen part makes of clips is
    remembered before training goes on.
    """
    seed_torch(recipe.seed, "init")
    resumed = begun if begun is not None and begun.has_state else None
    model = new_classifier(recipe, labels, corpus.covariates, fetch=resumed is None)
    table = corpus.training_table(rows)
    recipe.heads.check(table)
    loss = (recipe.loss or default_loss(labels.task)).build(labels, table)
    loss.attach(model.embedding_dim)
    device = pick_device(recipe.train.device)
    if resumed is not None:
        resumed.load_model(model)
        return model.to(device), loss
    clips = Loader(Order(corpus.dataset(rows, recipe.audio), recipe.train.batch_size))
    fit_frontend(model.to(device).frontend, clips.epoch(), device, corpus.paths)
    return model, loss


def dry_run(recipe: Recipe, told: Told | None = None, steps: int = 300) -> dict[str, float | bool]:
    """Overfit one batch of training clips, without augmentation, and say whether that worked.

    A network that cannot learn one batch by heart will not learn a data set: its learning rate,
    its loss or its wiring is wrong.

    Returns:
        `first_loss`, `last_loss`, `steps`, `learned` (the loss fell to a tenth within `steps`),
        `parameters`, `parameters_without_gradient`, and `seconds_per_epoch`, an estimate.
    """
    recipe = ready(recipe)
    corpus, parted = prepare(recipe, told)
    corpus = learn_covariates(recipe, corpus, parted[0])
    rows = rows_of(parted[0], "train")
    model, loss = build_model(recipe, corpus.labels, corpus, rows)
    device = pick_device(recipe.train.device)
    picked = np.linspace(0, len(rows) - 1, min(recipe.train.batch_size, len(rows))).astype(int)
    batch = corpus.dataset(rows[picked], recipe.audio).batch(rows[picked], 0).to(device)
    began = time.perf_counter()
    losses = overfit(recipe, model.to(device), loss.to(device), batch, steps)
    seconds = (time.perf_counter() - began) / len(losses)
    dead = sum(p.numel() for p in model.parameters() if p.requires_grad and p.grad is None)
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": len(losses),
        "learned": losses[-1] < 0.1 * losses[0],
        "parameters": model.num_parameters(),
        "parameters_without_gradient": dead,
        "seconds_per_epoch": seconds * len(rows) / len(picked),
    }


def overfit(
    recipe: Recipe, model: Classifier, loss: LossModule, batch: Batch, steps: int
) -> list[float]:
    """Train on one batch until its loss is a tenth of the first, for `steps` at most."""
    optimizer = recipe.optimizer.build(model)
    device = batch.waveform.device.type
    losses: list[float] = []
    model.train()
    for step in range(steps):
        seed_torch(recipe.seed, "dry-run", step)
        with torch.autocast(device, torch.bfloat16, enabled=recipe.train.precision == "bf16"):
            output = model(batch.waveform, batch.lengths, batch.covariates)
        value = (loss(output, batch) * batch.weight).sum() / (float(batch.weight.sum()) or 1.0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
        if losses[-1] < 0.1 * losses[0]:
            break
    return losses
