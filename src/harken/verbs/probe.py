"""`harken probe`: a small model on embeddings, with the folds and the metrics of training."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from harken import storage
from harken.calibrate import Calibration
from harken.check import check_splits
from harken.checkpoint import RunFolder
from harken.embedder import Wanted
from harken.embeddings import Embeddings, read_embeddings, read_settings
from harken.environment import environment
from harken.errors import ConfigError, DataError, RunError
from harken.labels import Labels, required_names
from harken.manifest import Manifest
from harken.predictor import read_run_recipe
from harken.probe import Kind, Probe, Rows, fit_probe
from harken.recipe import Recipe, dump_recipe, merge, parse_word, read_recipe, validate
from harken.sources.table import absolute
from harken.split import Fold
from harken.storage import Location, Url
from harken.verbs.embed import embed, is_run, own_clips
from harken.verbs.evaluate import (
    prediction_table,
)
from harken.verbs.fold_summary import summarise_folds
from harken.verbs.measure import summarise_predictions, write_tables, write_votes
from harken.verbs.prepare import Told, load_clips, target_of

TABLES = (".parquet", ".pq", ".pqt", ".npz")
_FREE = (
    "data.target",
    "data.on_bad_audio",
    "data.cache",
    "calibrate",
    "evaluate",
    "train.monitor",
    "train.batch_size",
    "train.device",
)
"""What a probe of a run may override; clips, folds and network stay the run's."""


@dataclass(frozen=True)
class Bench:
    """What one fold's probe is fitted on and judged by.

    Attributes:
        recipe: The recipe, for metrics and calibration.
        manifest: The clips.
        labels: What is learned.
        target: float32 `(clips, classes)`.
        vectors: float32 `(clips, dim)`.
        fold: Which clips train, choose and test.
        about: What made the embeddings.
        notes: What a person should know.
    """

    recipe: Recipe
    manifest: Manifest
    labels: Labels
    target: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float32]
    fold: Fold
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    def rows(self, split: str) -> Rows:
        """Return the rows of a split."""
        weight = np.ones(len(self.manifest))
        if "weight" in self.manifest:
            column = self.manifest.frame["weight"].cast(pl.Float64)
            weight = column.fill_null(1.0).to_numpy().copy()
        return Rows(self.vectors, self.target, weight).take(self.fold.rows(split))


def probe(
    subject: Location | Sequence[Location],
    out: Location = "runs/probe",
    *,
    embeddings: Location | None = None,
    target: Sequence[str] = (),
    model: Kind = "logistic",
    wanted: Wanted | None = None,
    words: Sequence[str] = (),
    overwrite: bool = False,
    told: Told | None = None,
) -> RunFolder:
    """Fit a probe for each fold, and measure it as training would be measured.

    Args:
        subject: A run, whose every fold is embedded by its own network; or recipe files, with
            `embeddings`; or a table of embeddings that has the labels, too.
        out: The folder to make; like a run folder without weights.
        embeddings: A table of embeddings by `id`, such as a bare checkpoint's.
        target: Columns to learn instead of the run's or the recipe's.
        model: `logistic`, `knn` or `ridge`.
        wanted: Which embedding of a run is taken.
        words: Overrides such as `data.split.kind=kfold`.
        overwrite: Replace what is in `out`.
        told: Called with clips done and clips in all, while decoding and while embedding.

    Returns:
        The folder: `metrics.json`, `predictions.parquet`, `per_class.csv`, `splits.parquet`,
        `probe.json`; for several folds in `fold-NAME/` each, with a summary.

    Raises:
        ConfigError: nothing says what to learn, or the probe does not suit it.
        DataError: clips have no embedding, or test clips trained the network that made them.
    """
    names = [subject] if isinstance(subject, str | os.PathLike | Url) else list(subject)
    if not names or (is_run(names[0]) and len(names) > 1):
        raise ConfigError("name one run, one table of embeddings, or recipe files")
    first = str(names[0])
    if is_run(first):
        _refuse_to_replace(first, str(out))
        benches = _of_run(first, embeddings, target, wanted, words, told)
    elif wanted not in (None, Wanted()):
        raise ConfigError(
            "levels, layers and poolings are chosen when embeddings are made",
            where="--level",
            fix="give them to harken embed",
        )
    else:
        recipe, table = _recipe_of(names, embeddings, target, words)
        benches = _of_recipe(recipe, str(table))
    return judge(benches, out, model, overwrite)


def _refuse_to_replace(run: str, out: str) -> None:
    """Refuse to write a probe where the run itself is, which `overwrite` would delete first."""
    mine, made = (absolute(place).rstrip("/") + "/" for place in (run, out))
    if mine.startswith(made):
        raise ConfigError(
            "this is the run itself, which has to stay", where=f"--out {out}", fix="another --out"
        )


def judge(benches: Iterator[Bench], out: Location, model: Kind, overwrite: bool) -> RunFolder:
    """Fit and measure a probe for each fold, and write all of it to a folder."""
    every = list(benches)
    run, several = RunFolder.create(out, overwrite=overwrite), len(every) > 1
    recipe = every[0].recipe
    run.write_text("recipe.yaml", dump_recipe(recipe))
    run.write_json("environment.json", environment())
    for bench in every:
        folder = run.fold(bench.fold.name if several else "")
        storage.make_folder(folder.path)
        _probe_fold(bench, model, folder)
    if several:
        summarise_folds(run, recipe)
        chosen = {bench.fold.name: f"fold-{bench.fold.name}/probe.json" for bench in every}
        run.write_json("probe.json", {"model": model, "folds": chosen})
    return run


def _probe_fold(bench: Bench, model: Kind, folder: RunFolder) -> None:
    recipe, labels = bench.recipe, bench.labels
    fitted = fit_probe(
        model,
        labels,
        bench.rows("train"),
        bench.rows("valid"),
        recipe.calibrate,
        recipe.train.monitor,
        bench.manifest.take(bench.fold.rows("valid"))
        if recipe.calibrate.thresholds.columns
        else None,
    )
    folder.write_text("recipe.yaml", dump_recipe(recipe))
    folder.write_json("environment.json", environment())
    folder.write_json("labels.json", labels.to_json())
    folder.write_json("calibration.json", fitted.calibration.to_json())
    parts = pl.DataFrame({"id": bench.manifest.frame["id"], "split": bench.fold.split})
    folder.write_table("splits.parquet", parts)
    folder.write_json("probe.json", {**fitted.to_json(), "embeddings": bench.about})
    frames, metrics = [], {}
    notes = [*fitted.calibration.notes, *fitted.notes, *bench.notes]
    for split in ("valid", "test"):
        if (bench.fold.split == split).any():
            frame = _predict(bench, fitted, split)
            metrics[split] = summarise_predictions(recipe, labels, frame, notes)
            frames.append(frame)
    folder.write_table("predictions.parquet", pl.concat(frames))
    write_tables(folder, metrics.get("test") or metrics["valid"])
    write_votes(folder, recipe, labels, frames[-1])
    folder.write_json("metrics.json", metrics)


def _predict(bench: Bench, fitted: Probe, split: str) -> pl.DataFrame:
    rows = bench.fold.rows(split)
    calibration: Calibration = fitted.calibration
    score = calibration.scores(bench.labels, fitted.logits(bench.vectors[rows]))
    limits = calibration.limits(bench.labels, bench.manifest.take(rows))
    losses = np.full(len(rows), np.nan)
    return prediction_table(bench, rows, score, losses, limits, split, bench.fold.name)


# --- a run ---


def _of_run(
    run: str,
    embeddings: Location | None,
    target: Sequence[str],
    wanted: Wanted | None,
    words: Sequence[str],
    told: Told | None,
) -> Iterator[Bench]:
    folder = RunFolder.open(run)
    parts = folder.folds or [folder]
    if embeddings is not None and wanted not in (None, Wanted()):
        raise ConfigError("the embeddings are made already", where="--level", fix="leave it out")
    recipe = _run_recipe(parts[0], target, words)
    for part in parts:
        name = part.path.name.removeprefix("fold-") if folder.folds else ""
        clips = own_clips(part, recipe, None)
        split = clips.frame["split"].fill_null("").to_numpy().astype("<U5")
        manifest = Manifest(clips.frame.drop("split"), clips.origin, clips.notes)
        fold = Fold(name or "1", split)
        if embeddings is not None:
            table = read_embeddings(str(embeddings))
        else:
            table = _embedded(run, part, name, wanted or Wanted(), words, told)
        labels = None if _says_target(target, words) else part.labels()
        yield _bench(recipe, manifest, table, fold, labels)


def _embedded(
    run: str, part: RunFolder, fold: str, wanted: Wanted, words: Sequence[str], told: Told | None
) -> Embeddings:
    """Embed a fold's clips with its own network, or take what an earlier probe embedded."""
    chosen = [wanted.layer, wanted.pooling, wanted.merge]
    name = "-".join([wanted.level, *(str(each) for each in chosen if each is not None)])
    file = part.path / "embeddings" / f"{name}.parquet"
    mine = [w for w in words if _key(w).startswith(("data.on", "data.cache", "train.b", "train.d"))]
    embed(run, file, fold=fold or None, wanted=wanted, words=mine, overwrite=True, told=told)
    return read_embeddings(str(file))


def _run_recipe(part: RunFolder, target: Sequence[str], words: Sequence[str]) -> Recipe:
    for word in words:
        if not any(_key(word) == key or _key(word).startswith(f"{key}.") for key in _FREE):
            raise ConfigError(
                f"{_key(word)} belongs to the run and cannot change",
                fix=f"override only {', '.join(_FREE)}",
            )
    recipe = read_run_recipe(part)
    if not words and not target:
        return recipe
    return _overridden(yaml.safe_load(dump_recipe(recipe)), target, words)


def _overridden(tree: dict[str, Any], target: Sequence[str], words: Sequence[str]) -> Recipe:
    if target:
        tree["data"]["target"] = {"columns": list(target)}
    for word in words:
        tree = merge(tree, parse_word(word, tree))
    return validate(tree, where="the command line")


def _key(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]


def _says_target(target: Sequence[str], words: Sequence[str]) -> bool:
    return bool(target) or any(_key(word).startswith("data.target") for word in words)


# --- a recipe, or a table of embeddings that stands for one ---


def _recipe_of(
    names: Sequence[Location],
    embeddings: Location | None,
    target: Sequence[str],
    words: Sequence[str],
) -> tuple[Recipe, str]:
    """Return the recipe and the table of embeddings that go together."""
    first = str(names[0])
    if first.lower().endswith(TABLES):
        if embeddings is not None or len(names) > 1:
            raise ConfigError("name one table of embeddings", where="--embeddings")
        return _overridden(_tree_of_table(first), target, words), first
    if storage.is_folder(first):
        raise RunError("there is no run here (no recipe.yaml)", where=first)
    if embeddings is None:
        raise ConfigError(
            "a recipe alone has no embeddings", where="--embeddings", fix="--embeddings FILE"
        )
    given = [f"data.target={yaml.safe_dump(list(target), default_flow_style=True)}"] * bool(target)
    return read_recipe(list(names), [*given, *words]), str(embeddings)


def _tree_of_table(table: str) -> dict[str, Any]:
    """Return a recipe that reads a table of embeddings as its table of clips."""
    if table.endswith(".npz"):
        raise ConfigError(
            "an npz of embeddings holds no labels",
            where=table,
            fix=f"harken probe RECIPE --embeddings {table}",
        )
    if not storage.is_file(table):
        raise DataError("there is no such table of embeddings", where=table, fix="harken embed")
    read_settings(table)  # Refuses what is no Parquet file.
    split: dict[str, Any] = {"kind": "random"}
    frame = pl.scan_parquet(storage.local_copy(table))
    names = frame.collect_schema().names()
    if "split" in names:
        known = set(frame.select(pl.col("split").unique()).collect()["split"])
        split = {"kind": "column"} if {"train", "test"} <= known else split
    source = {"kind": "table", "path": table, "weight": "weight" if "weight" in names else None}
    return {"data": {"source": source, "split": split}}


def _of_recipe(recipe: Recipe, table: str) -> Iterator[Bench]:
    made = read_embeddings(table)
    manifest = load_clips(recipe)
    labels = Labels.learn(target_of(recipe), manifest)
    usable = labels.usable(manifest)
    notes = [f"{int((~usable).sum())} clips without a target are left out"] * (not usable.all())
    manifest, left_out = _with_embedding(recipe, manifest.filter(usable), made)
    names = required_names(labels, manifest)
    folds = recipe.data.split.assign(manifest, labels.strata(manifest), recipe.seed, names)
    check_splits(manifest, folds)
    for fold in folds:
        bench = _bench(recipe, manifest, made, fold, labels)
        yield replace(bench, notes=(*notes, *left_out, *bench.notes))


def _with_embedding(
    recipe: Recipe, manifest: Manifest, made: Embeddings
) -> tuple[Manifest, list[str]]:
    """Return the clips that have an embedding; the others are an error, or left out and told."""
    has = manifest.frame["id"].is_in(made.frame["id"].implode())
    if has.all():
        return manifest, []
    first = int(has.arg_min() or 0)
    lacking = f"{int((~has).sum())} clips have no embedding, {manifest.frame['id'][first]!r} first"
    if recipe.data.on_bad_audio == "stop" or not has.any():
        raise DataError(
            lacking,
            where=manifest.place(first),
            fix="embed them, or leave such clips out: data.on_bad_audio=skip",
        )
    return manifest.filter(has), [f"{lacking}: left out"]


def _bench(
    recipe: Recipe, manifest: Manifest, made: Embeddings, fold: Fold, labels: Labels | None
) -> Bench:
    """Put clips, targets and embeddings side by side, by id.

    Raises:
        DataError: embeddings are missing or not finite, or test clips trained their network.
    """
    known = manifest
    manifest, notes = _with_embedding(recipe, manifest, made)
    if len(manifest) < len(known):
        kept = known.frame["id"].is_in(manifest.frame["id"].implode()).to_numpy()
        fold = replace(fold, split=fold.split[kept])
    if labels is None:
        labels = Labels.learn(target_of(recipe), manifest)
    target = labels.encode(manifest)
    numbered = made.frame.select("id").with_row_index("number")
    places = manifest.frame.select("id").join(numbered, on="id", maintain_order="left")
    order = places["number"].to_numpy().astype(np.int64)
    bad = np.asarray(~np.isfinite(made.vectors).all(axis=1))[order] & (fold.split != "")
    if bad.any():
        place = manifest.place(int(bad.argmax()))
        raise DataError("the embedding of this clip is not finite", where=place)
    _refuse_seen(made, order[fold.rows("test")], manifest)
    about = {name: value for name, value in made.settings.items() if value is not None}
    return Bench(recipe, manifest, labels, target, made.vectors[order], fold, about, tuple(notes))


def _refuse_seen(made: Embeddings, test: npt.NDArray[np.int64], manifest: Manifest) -> None:
    """Refuse to judge on clips that trained the network whose embeddings these are."""
    if not made.settings.get("trained") or "split" not in made.frame.columns:
        return
    seen = made.frame["split"].is_in(["train", "valid"]).fill_null(False).to_numpy()[test]
    if seen.any():
        raise DataError(
            f"{int(seen.sum())} of the {len(test)} test clips trained the network that made these "
            "embeddings",
            where=manifest.origin,
            fix="probe the run itself (each fold has its own network), or embed with a checkpoint "
            "that was not trained on them",
        )
