"""`harken embed`: from a run or a bare checkpoint and some clips to a table of embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
import yaml

from harken import storage
from harken.checkpoint import RunFolder
from harken.covariates import Covariates
from harken.dataset import ClipDataset
from harken.embedder import Embedder, Wanted, embed_clips, embedder_of_checkpoint, embedder_of_run
from harken.embeddings import Columns, Parts, clip_columns, format_of
from harken.errors import ConfigError, DataError, RunError
from harken.inference import pick_device
from harken.manifest import Manifest
from harken.pcm_cache import Quarantined
from harken.predictor import read_run_recipe
from harken.recipe import Recipe, dump_recipe, merge, parse_word, validate
from harken.storage import Location
from harken.verbs.new_table import load_table, manifest_of_files
from harken.verbs.prepare import Decoded, Told, decode_clips, load_clips

PART_ROWS = 256
"""Clips whose embeddings are written together; what a kill can cost."""


@dataclass(frozen=True)
class Embedded:
    """What `embed` made.

    Attributes:
        out: The table of embeddings.
        num_clips: Its rows.
        dim: The embeddings' width; None where the table was there already.
        quarantined: Recordings that were left out, with reasons.
        notes: What a person should know.
    """

    out: str
    num_clips: int
    dim: int | None
    quarantined: list[Quarantined] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """A network and the clips that it reads."""

    recipe: Recipe
    embedder: Embedder
    manifest: Manifest
    covariates: Covariates
    settings: dict[str, Any]
    about: dict[str, Any]
    device: torch.device
    notes: list[str]


def embed(
    model: Location,
    out: Location,
    *,
    files: Sequence[Location] = (),
    on: Location | None = None,
    split: str | None = None,
    fold: str | None = None,
    wanted: Wanted | None = None,
    words: Sequence[str] = (),
    file_format: str | None = None,
    columns: Columns = "vector",
    overwrite: bool = False,
    told: Told | None = None,
    part_rows: int = PART_ROWS,
) -> Embedded:
    """Compute embeddings; what was broken off goes on where it stood.

    Args:
        model: A run folder, or a checkpoint of `transformers`: a hub id or a folder.
        out: The table to write.
        files: Audio files.
        on: A table of clips, which needs no labels. Without it and files, the run's own clips.
        split: Only these of the run's own clips.
        fold: Which fold's network, for a run over folds.
        wanted: Which embedding is taken.
        words: Overrides: for a run of `data.…`, `train.batch_size` and `train.device`; for a
            checkpoint of the whole recipe.
        file_format: `parquet` or `npz`; None is what the name says.
        columns: `vector` makes a column for each number, `list` one column of lists.
        overwrite: Replace a table of other embeddings.
        told: Called with clips done and clips in all, while decoding and while embedding.
        part_rows: Clips that are written together.

    Raises:
        ConfigError: the network has no such level, layer or pooling, or options contradict.
        DataError: a recording cannot be used, and `data.on_bad_audio` is `stop`.
        RunError: there is no such run, or `out` holds something else.
    """
    if columns not in ("vector", "list"):
        raise ConfigError(f"there is no form {columns!r}", where="--columns", fix="vector or list")
    chosen = format_of(str(out), file_format)
    if on is not None and files:
        raise ConfigError("give a table or audio files, not both", where="--on")
    wanted = wanted or Wanted()
    wanted.check()
    asked = [str(file) for file in files]
    make = _job_of_run if is_run(model) else _job_of_checkpoint
    job = make(model, None if on is None else str(on), asked, split, fold, wanted, words)
    _side_information(job, job.manifest)  # What is missing is said before any decoding.
    clips = decode_clips(job.recipe, job.manifest, told)
    digests = [clips.cache.digest(row) for row in range(len(clips.manifest))]
    settings = job.settings | {"audio": _hash(digests)}
    frame = clip_columns(clips.manifest.frame)
    parts = Parts(
        str(out),
        frame,
        settings,
        about=job.about,
        file_format=chosen,
        columns=columns,
        rows=part_rows,
    )
    _write_quarantine(str(out), clips.quarantined)
    if parts.is_done:
        parts.close()
        return Embedded(
            str(out), len(frame), None, clips.quarantined, [*job.notes, "there already"]
        )
    if storage.exists(out) and not overwrite:
        raise RunError(
            "this file exists already, and was made by other settings or of other clips",
            where=str(out),
            fix="choose another --out, or say --overwrite",
        )
    width = _compute(job, clips, parts, told)
    return Embedded(str(out), len(frame), width, clips.quarantined, job.notes)


def _compute(job: _Job, clips: Decoded, parts: Parts, told: Told | None) -> int:
    if parts.open():
        job.notes.append("an unfinished table of other settings was thrown away")
    count = len(clips.manifest)
    nothing = np.zeros((count, 0), np.float32), np.ones(count, np.float32)
    side = _side_information(job, clips.manifest)
    for number, rows in parts.todo():
        dataset = ClipDataset(
            clips.cache,
            rows,
            *nothing,
            job.recipe.audio,
            covariates=side,
            names=clips.manifest.frame["path"],
        )
        vectors = embed_clips(job.embedder, dataset, job.recipe.train.batch_size, job.device)
        _refuse_not_finite(vectors, clips.manifest, rows)
        parts.save(number, vectors)
        if told is not None:
            told(int(rows[-1]) + 1, count)
    return parts.join()


def _side_information(job: _Job, manifest: Manifest) -> npt.NDArray[np.float32]:
    """Return covariates `(clips, columns)`; those that only the loss read stay 0."""
    columns = job.covariates.columns
    values = np.zeros((len(manifest), len(columns)), dtype=np.float32)
    for place in set(job.embedder.model.places):
        values[:, place] = columns[place].encode(manifest.frame, manifest.origin)
    return values


def _refuse_not_finite(vectors: Any, manifest: Manifest, rows: Any) -> None:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise DataError(
            "the network's embedding of this clip is not finite",
            where=manifest.place(rows[int(bad.argmax())]),
        )


def is_run(model: Location) -> bool:
    """Whether a name is a run folder (and not a checkpoint)."""
    return storage.is_file(storage.join(model, "recipe.yaml"))


def part_of(folder: RunFolder, fold: str | None) -> RunFolder:
    """Return the run, or the fold of it, whose network is meant.

    Raises:
        ConfigError: a run over folds and no fold's name, or a fold that there is not.
    """
    names = [part.path.name.removeprefix("fold-") for part in folder.folds]
    if not names and fold is None:
        return folder
    if fold in names and fold is not None:
        return folder.fold(fold)
    if not names:
        raise ConfigError("this run has no folds", where="--fold", fix="leave it out")
    what = "each fold has a network of its own" if fold is None else f"there is no fold {fold!r}"
    raise ConfigError(
        f"{what}; the folds are {', '.join(names)}", where="--fold", fix=f"--fold {names[0]}"
    )


def _job_of_run(
    model: Location,
    on: str | None,
    files: list[str],
    split: str | None,
    fold: str | None,
    wanted: Wanted,
    words: Sequence[str],
) -> _Job:
    part = part_of(RunFolder.open(model), fold)
    recipe = _with_words(read_run_recipe(part), words)
    if split is not None and (on is not None or files):
        raise ConfigError("splits are of the run's own clips", where="--split", fix="leave it out")
    if on is None and not files:
        manifest, notes = own_clips(part, recipe, split), list[str]()
    else:
        found = manifest_of_files(files) if files else load_table(recipe, on or "")
        manifest, notes = _with_parts_of(part, recipe, found)
    device = pick_device(recipe.train.device)
    embedder = embedder_of_run(part, recipe, wanted, device)
    settings = asdict(wanted) | {"network": _network(recipe, embedder)}
    about = {"model": str(model), "fold": fold, "trained": True}
    return _Job(recipe, embedder, manifest, part.covariates(), settings, about, device, notes)


def _job_of_checkpoint(
    model: Location,
    on: str | None,
    files: list[str],
    split: str | None,
    fold: str | None,
    wanted: Wanted,
    words: Sequence[str],
) -> _Job:
    if split is not None or fold is not None:
        option = "--split" if split is not None else "--fold"
        raise ConfigError("a checkpoint has no clips of its own", where=option, fix="leave it out")
    sourced = any("data.source" in word.partition("=")[0] for word in words)
    if on is None and not files and not sourced:
        raise ConfigError(
            "say which clips: a bare checkpoint has none of its own",
            where=str(model),
            fix="--on clips.csv, or name audio files",
        )
    recipe = checkpoint_recipe(str(model), on, words)
    manifest = manifest_of_files(files) if files else load_clips(recipe)
    device = pick_device(recipe.train.device)
    embedder = embedder_of_checkpoint(recipe, wanted, device)
    settings = asdict(wanted) | {"network": _network(recipe, embedder)}
    about = {"model": str(model), "fold": None, "trained": False}
    return _Job(
        recipe, embedder, manifest, Covariates(), settings, about, device, list(manifest.notes)
    )


def checkpoint_recipe(checkpoint: str, on: str | None, words: Sequence[str]) -> Recipe:
    """Return the recipe of a pretrained speech encoder, without anything trained.

    Raises:
        ConfigError: there is no such checkpoint, or a word cannot be read.
    """
    config = storage.join(checkpoint, "config.json")
    if storage.is_folder(checkpoint) and not storage.is_file(config):
        raise RunError(
            "neither a run (no recipe.yaml) nor a checkpoint (no config.json)", where=checkpoint
        )
    tree: dict[str, Any] = {
        "data": {"source": {"kind": "table", "path": on or ""}},
        "backbone": {"kind": "speech", "checkpoint": checkpoint},
        "pooling": "mean",
    }
    for word in words:
        tree = merge(tree, parse_word(word, tree))
    return validate(tree, where="the command line").resolved()


def _with_words(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """Lay overrides on a run's recipe; what belongs to its network stays."""
    tree = yaml.safe_load(dump_recipe(recipe))
    for word in words:
        key = word.removeprefix("--").partition("=")[0]
        if not key.startswith("data.") and key not in ("train.batch_size", "train.device"):
            raise ConfigError(
                f"{key} belongs to the trained network and cannot change",
                fix="override data.…, train.batch_size or train.device only",
            )
        tree = merge(tree, parse_word(word, tree))
    return validate(tree, where="the command line") if words else recipe


def own_clips(part: RunFolder, recipe: Recipe, split: str | None) -> Manifest:
    """Return a run's own clips with the run's `split`; the table's own becomes `table_split`.

    Raises:
        ConfigError: the run has no clips in that split.
        DataError: clips of the run are no longer in its table.
    """
    manifest = load_clips(recipe)
    parted = part.read_table("splits.parquet")
    absent = parted.filter(~pl.col("id").is_in(manifest.frame["id"].implode()))
    if len(absent):
        raise DataError(
            f"{len(absent)} clips of this run are no longer in its table, "
            f"{absent['id'][0]!r} first",
            where=manifest.origin,
        )
    frame = _own_split(manifest.frame).join(parted, on="id", how="inner", maintain_order="left")
    known = sorted({name for name in frame["split"] if name})
    if split is not None and split not in known:
        raise ConfigError(
            f"this run has no {split} clips", where="--split", fix=f"one of {', '.join(known)}"
        )
    if split is not None:
        frame = frame.filter(pl.col("split") == split)
    return Manifest(_empty_as_null(frame), manifest.origin, manifest.notes)


def _own_split(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.rename({"split": "table_split"}) if "split" in frame.columns else frame


def _empty_as_null(frame: pl.DataFrame) -> pl.DataFrame:
    used = pl.when(pl.col("split") != "").then(pl.col("split"))
    return frame.with_columns(used.alias("split"))


def _with_parts_of(part: RunFolder, recipe: Recipe, found: Manifest) -> tuple[Manifest, list[str]]:
    """Say of new clips that are in truth the run's own which split they were in.

    A probe must not be judged on clips that the network was trained on, whatever their table.
    """
    try:
        own = own_clips(part, recipe, None).frame
    except (DataError, ConfigError):
        note = "the run's own table cannot be read, so nobody checked whether clips are its own"
        return found, [*found.notes, note]
    place = ["path", "start", "duration"]
    seen = own.select(*place, "split").unique(subset=place)
    frame = _own_split(found.frame).join(
        seen, on=place, how="left", nulls_equal=True, maintain_order="left"
    )
    if not frame["split"].is_not_null().any():
        return found, list(found.notes)
    trained = int(frame["split"].is_in(["train", "valid"]).sum())
    note = f"{trained} of these clips were in the run's training or validation (column split)"
    return Manifest(frame, found.origin, found.notes), [*found.notes, *([note] * bool(trained))]


def _network(recipe: Recipe, embedder: Embedder) -> str:
    names = ("audio", "frontend", "backbone", "pooling")
    tree = recipe.model_dump(mode="json", include=set(names))
    return _hash([json.dumps(tree, sort_keys=True), embedder.digest()])


def _hash(texts: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def _write_quarantine(out: str, quarantined: list[Quarantined]) -> None:
    """List what was left out beside the table, `NAME.quarantine.json`."""
    stem, dot, suffix = out.rpartition(".")
    url = f"{stem if dot and '/' not in suffix else out}.quarantine.json"
    if quarantined:
        rows = [{"id": q.id, "path": q.path, "reason": q.reason} for q in quarantined]
        storage.write_atomic(url, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    else:
        storage.remove_file(url)
