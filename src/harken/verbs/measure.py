"""From a table of predictions to metrics and the tables beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from harken.by_group import by_group, flat_rows
from harken.labels import Labels
from harken.metrics import summarise
from harken.thresholds import decision_text, positive_index
from harken.votes import Votes, count_votes

if TYPE_CHECKING:  # torch comes with these, and `harken tune score` has no use for it
    from harken.checkpoint import RunFolder
    from harken.recipe import Recipe

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def arrays_of(labels: Labels, frame: pl.DataFrame) -> tuple[Array, Array, Flags | None]:
    """Return target, score and decision `(rows, classes)` of a predictions table."""
    score = frame.select(f"score_{name}" for name in labels.names).to_numpy()
    if labels.task == "single":
        target = _marks(labels, frame["target"]).astype(np.float64)
        target[frame["target"].is_null().to_numpy()] = np.nan
    else:
        target = frame.select(f"target_{name}" for name in labels.names).to_numpy()
    decision = None if labels.task == "regression" else _marks(labels, frame["decision"])
    return target, score, decision


def _marks(labels: Labels, texts: pl.Series) -> Flags:
    """Return bool `(rows, classes)`: which labels each text names."""
    named = texts.fill_null("").to_frame("t")
    if labels.task == "single":
        return named.select((pl.col("t") == name).alias(name) for name in labels.names).to_numpy()
    padded = "|" + pl.col("t") + "|"
    marks = [padded.str.contains(f"|{n}|", literal=True).alias(n) for n in labels.names]
    return named.select(marks).to_numpy()


def threshold_names(labels: Labels) -> list[str]:
    """Return the columns of a predictions table that hold the clips' thresholds."""
    if labels.task == "single":
        return [f"threshold_{labels.names[positive_index(labels)]}"]
    return [f"threshold_{name}" for name in labels.names]


def limits_of(labels: Labels, frame: pl.DataFrame) -> Array | None:
    """Return the thresholds `(rows, labels)` of a predictions table; None where it has none."""
    names = threshold_names(labels)
    if labels.task == "regression" or any(name not in frame.columns for name in names):
        return None
    return np.asarray(frame.select(names).to_numpy(), dtype=np.float64)


def summarise_predictions(
    recipe: Recipe, labels: Labels, frame: pl.DataFrame, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the metrics, with intervals, of a predictions table and its decisions.

    Where the recipe asks for them, `by` holds the metrics of subgroups, by column, and `vote` those
    of speakers.
    """
    target, score, decision = arrays_of(labels, frame)
    num_resamples, seed = recipe.evaluate.num_resamples, recipe.seed
    groups = frame["group"].to_list() if "group" in frame.columns else None
    found = summarise(
        labels,
        target,
        score,
        groups=groups,
        decision=decision,
        num_resamples=num_resamples,
        seed=seed,
    )
    found["notes"] = [*found["notes"], *notes]
    for wanted in recipe.evaluate.by:
        column = _column(frame, wanted.column)
        if column is None or frame[column].null_count() == len(frame):
            found["notes"].append(f"nothing is said by {wanted.column}: these clips lack it")
            continue
        own = wanted.model_copy(update={"column": column})
        found.setdefault("by", {})[wanted.column] = by_group(
            labels,
            target,
            score,
            decision,
            own.members(frame, "predictions"),
            groups=groups,
            min_clips=wanted.min_clips,
            num_resamples=num_resamples,
            seed=seed,
        )
    votes = votes_of(recipe, labels, frame)
    if votes is not None:
        found["vote"] = _summarise_votes(recipe, votes)
    return found


def _column(frame: pl.DataFrame, name: str) -> str | None:
    """Return the name of a table's column among the predictions, which have some of their own."""
    return next((n for n in (f"table_{name}", name) if n in frame.columns), None)


def votes_of(recipe: Recipe, labels: Labels, frame: pl.DataFrame) -> Votes | None:
    """Return one decision for each speaker, if the recipe asks for it and they are known."""
    if recipe.evaluate.vote is None:
        return None
    column = _column(frame, recipe.evaluate.vote)
    if column is None or frame[column].null_count() == len(frame):
        return None
    target, score, _ = arrays_of(labels, frame)
    voters = frame[column].cast(pl.String).to_list()
    return count_votes(labels, target, score, voters, limits_of(labels, frame))


def _summarise_votes(recipe: Recipe, votes: Votes) -> dict[str, Any]:
    about = {"voter": recipe.evaluate.vote, "num_voters": len(votes.voters)}
    if np.isnan(votes.target).all():
        return about | {"metrics": {}, "notes": [*votes.notes, "no speaker has a target"]}
    found = summarise(
        votes.labels,
        votes.target,
        votes.score,
        groups=votes.voters,
        decision=votes.decision,
        num_resamples=recipe.evaluate.num_resamples,
        seed=recipe.seed,
    )
    clips = "clips without a target"
    told = [note.replace(clips, "speakers without a target") for note in found["notes"]]
    kept = ("metrics", "per_class", "confusion", "labels")
    return about | {name: found[name] for name in kept} | {"notes": [*votes.notes, *told]}


def one_row_a_clip(labels: Labels, frame: pl.DataFrame) -> pl.DataFrame:
    """Return predictions with each clip once, where several models judged the same one.

    Scores, losses and thresholds are the mean over the models, and decide anew, as `harken predict`
    does; the fold is empty then.
    """
    if frame["id"].n_unique() == len(frame):
        return frame
    means = [n for n in frame.columns if n == "loss" or n.startswith(("score_", "threshold_"))]
    means = [name for name in means if frame[name].dtype.is_numeric()]
    once = frame.group_by("id", maintain_order=True).agg(
        *(
            pl.col(name).mean() if name in means else pl.col(name).first()
            for name in frame.columns
            if name != "id"
        )
    )
    _, score, _ = arrays_of(labels, once)
    decision = decision_text(labels, score, limits_of(labels, once))
    again = once.with_columns(pl.lit("").alias("fold"), decision.alias("decision"))
    return again.select(frame.columns)


def write_tables(folder: RunFolder, metrics: dict[str, Any]) -> None:
    """Write `per_class.csv`, and `by_group.csv` where subgroups were asked for.

    Cells are empty where a metric is undefined.
    """
    first = ["label", "support", "roc_auc", "average_precision"]
    rows = []
    for entry in metrics["per_class"]:
        row: dict[str, Any] = {}
        for name in sorted(entry, key=lambda n: first.index(n) if n in first else len(first)):
            value = entry[name]
            spread = {f"{name}_low": "low", f"{name}_high": "high"}
            if isinstance(value, dict):
                row |= {name: value["value"]} | {k: value[v] for k, v in spread.items()}
            else:
                row[name] = value
        rows.append(row)
    for name, table in (("per_class", rows), ("by_group", flat_rows(metrics.get("by") or {}))):
        if table:
            frame = pl.DataFrame(table, infer_schema_length=None)
            folder.write_text(f"{name}.csv", frame.write_csv())


def write_votes(folder: RunFolder, recipe: Recipe, labels: Labels, frame: pl.DataFrame) -> None:
    """Write `votes.parquet`: one row for each speaker, where votes were asked for."""
    votes = votes_of(recipe, labels, frame)
    if votes is not None:
        folder.write_table("votes.parquet", votes.table())
