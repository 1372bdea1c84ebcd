"""`harken train`, `evaluate`, `predict`, `report` and `demo`."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.app import (
    WORDS,
    Run,
    Words,
    app,
    decoding,
    display,
    parted,
    recipe_of,
    side_information,
)
from harken.errors import ConfigError, HarkenError

if TYPE_CHECKING:
    from harken.storage import Place


@app.command(context_settings=WORDS)
def train(
    recipe: Words,
    out: Annotated[str, typer.Option(help="Run folder to make.")] = "runs/run",
    folds: Annotated[str, typer.Option(help="Folds to run: all, or names such as 1,3.")] = "all",
    jobs: Annotated[int, typer.Option(help="Folds to train side by side.", min=1)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; begin it if there is none.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only overfit one batch and say whether it worked.")
    ] = False,
) -> None:
    """Train a classifier, evaluate it and write its report."""
    from harken import storage
    from harken.trial_metric import trial_id
    from harken.verbs import train as verb

    if (number := trial_id()) is not None and not dry_run:
        if jobs > 1:
            raise ConfigError("a trial trains its folds one after another", where="--jobs")
        _train_trial(recipe, out, number, folds)
        return
    if resume and overwrite:
        raise ConfigError("a run is continued or replaced, not both", where="--resume --overwrite")
    settings = recipe_of(recipe)
    with decoding() as told:
        if dry_run:
            _tell_dry_run(verb.dry_run(settings, told))
            return
        run = verb.train(
            settings,
            out,
            folds=folds,
            jobs=jobs,
            resume=resume and storage.is_file(storage.join(out, "recipe.yaml")),
            overwrite=overwrite,
            tracker=display(),
            told=told,
        )
    metrics = run.read_json("metrics.json")
    _tell_metrics(metrics.get("pooled") or metrics.get("test") or metrics["valid"])
    _try_report(run.path)


def _train_trial(words: list[str], out: str, number: str, folds: str) -> None:
    """Train as a trial of a tuning service, which its environment numbers."""
    from harken.verbs.vertex import run_trial

    with decoding() as told:
        found = run_trial(*parted(words), out, number, folds=folds, tracker=display(), told=told)
    if found is None:
        typer.echo(f"trial {number} is infeasible and was not trained")
    else:
        typer.echo(f"trial {number}: {found[0]} {found[1]:.4f} on validation clips")


@app.command()
def evaluate(
    run: Run,
    on: Annotated[str | None, typer.Option(help="A new table with the run's columns.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test, without --on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Also write evaluations/NAME/predictions.csv.")
    ] = False,
) -> None:
    """Measure a run again, on its own clips or on a new table."""
    from harken.verbs import evaluate as verb

    if split not in ("train", "valid", "test"):
        raise ConfigError(
            f"there is no split {split!r}; one of train, valid, test", where="--split"
        )
    with decoding() as told:
        metrics = verb.evaluate(run, on=on, split=split, csv=as_csv, told=told)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(metrics, ensure_ascii=False))
    else:
        _tell_metrics(metrics)


@app.command()
def predict(
    run: Run,
    files: Annotated[list[str], typer.Argument(help="Audio files.")],
    top: Annotated[int, typer.Option(help="Labels to show per file.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every score.")] = False,
    known: Annotated[
        list[str] | None,
        typer.Option("--with", help="Side information about the files, such as age=5."),
    ] = None,
) -> None:
    """Classify audio files; files that cannot be used are named and give exit status 1."""
    if as_json and as_csv:
        raise ConfigError("one form is printed, not two", where="--json --csv")
    from harken.predictor import Predictor

    predictor = Predictor.load(run)
    table = predictor.predict(files, covariates=side_information(known or []))
    rows = table.to_dicts()
    if as_csv:
        writer = csv.DictWriter(sys.stdout, table.columns)
        writer.writeheader()
        writer.writerows(rows)
    else:
        for row in rows:
            _tell_prediction(row, top, as_json)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@app.command()
def report(run: Run) -> None:
    """Write the run's report.html anew."""
    from harken.report.page import build

    typer.echo(f"report: {build(run)}")


@app.command(context_settings=WORDS)
def demo(
    words: Annotated[list[str] | None, typer.Argument(help="Overrides of the recipe.")] = None,
    out: Annotated[str, typer.Option(help="Run folder to make.")] = "runs/demo",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.")] = False,
) -> None:
    """Synthesise voices, clear and rough; train on some speakers; measure on others."""
    from harken.verbs.demo import RECIPE

    train([str(RECIPE), *(words or [])], out=out, overwrite=overwrite)


def _tell_metrics(metrics: dict[str, Any]) -> None:
    if "num_clips" not in metrics:
        # The folds of a trial of a search, which are not judged together.
        typer.echo("validation clips only; harken evaluate measures the test clips")
        return
    groups = f", {metrics['num_groups']} groups" if metrics.get("num_groups") else ""
    typer.echo(f"{metrics['num_clips']} clips{groups}")
    for name, entry in metrics["metrics"].items():
        if entry["value"] is not None:
            low, high = entry.get("low"), entry.get("high")
            interval = f"  [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
            typer.echo(f"  {name:22} {entry['value']:.3f}{interval}")
    for note in metrics.get("notes", []):
        typer.echo(f"  note: {note}")


def _tell_dry_run(found: dict[str, float | bool]) -> None:
    typer.echo(
        f"one batch: loss {found['first_loss']:.3f} → {found['last_loss']:.3f} "
        f"in {found['steps']} steps; "
        f"{found['parameters']:,} parameters; about {found['seconds_per_epoch']:.1f} s an epoch"
    )
    if found["parameters_without_gradient"]:
        typer.echo(f"{found['parameters_without_gradient']:,} parameters never get a gradient")
    if not found["learned"]:
        raise HarkenError(
            "the network could not learn one batch by heart",
            fix="try another optimizer.lr, or look at the front-end with harken recipe show",
        )
    typer.echo("the network can learn one batch by heart")


def _tell_prediction(row: dict[str, Any], top: int, as_json: bool) -> None:
    scores = {k.removeprefix("score_"): v for k, v in row.items() if k.startswith("score_")}
    known = [(name, value) for name, value in scores.items() if value is not None]
    ranked = sorted(known, key=lambda item: -item[1])[:top]
    if as_json:
        shown = {key: row[key] for key in ("path", "decision", "error")} | {"scores": dict(ranked)}
        typer.echo(json.dumps(shown, ensure_ascii=False))
    elif row["error"]:
        typer.echo(row["error"])
    else:
        typer.echo(f"{row['path']}  " + "  ".join(f"{name} {value:.3f}" for name, value in ranked))


def _try_report(run: Place) -> None:
    from harken.errors import MissingExtraError
    from harken.report.page import build

    try:
        typer.echo(f"report: {build(run)}")
    except MissingExtraError as error:
        typer.echo(f"no report: {error}")
