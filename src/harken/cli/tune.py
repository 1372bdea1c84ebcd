"""`harken tune`: search the settings of a recipe."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.app import WORDS, DefaultGroup, Words, app, decoding, recipe_of

if TYPE_CHECKING:
    from harken.recipe import Recipe
    from harken.verbs.study import Trial
    from harken.verbs.tune import Tuned

tune_app = typer.Typer(
    cls=DefaultGroup,
    help="Search the settings of a recipe: harken tune RECIPE, or one of the commands below.",
)
app.add_typer(tune_app, name="tune")

STOPPED = 130
"""The exit status of what was asked to stop, as shells have it for Ctrl-C."""


@tune_app.command(name="recipe", context_settings=WORDS)
def tune(
    recipe: Words,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Trials of the study in all: complete, pruned, failed and under way, whichever "
            "process ran them; by default 20, or a grid to its end.",
            min=1,
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(help="Folder of the study: a run folder for each trial.")
    ] = "runs/tune",
    study: Annotated[
        str | None,
        typer.Option(
            help="Where the study is kept: sqlite:///study.db, another database's URL, or the path "
            "of a journal; by default OUT/study.journal."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The study's name; by default that of the folder.")
    ] = None,
    folds: Annotated[
        str, typer.Option(help="Folds that each trial trains: all, or names such as 1,3.")
    ] = "all",
    timeout: Annotated[
        float | None, typer.Option(help="Begin no trial after so many minutes.", min=0)
    ] = None,
) -> None:
    """Try combinations of settings, and keep the best by validation clips.

    The same command goes on with its study; started twice, both work on it.
    """
    from harken.verbs import tune as verb

    settings = recipe_of(recipe)
    with decoding() as told:
        tuned = verb.tune(
            settings,
            out,
            trials=trials,
            study=study,
            name=name,
            folds=folds,
            minutes=timeout,
            told=lambda trial, best: _tell_trial(settings, trial, best),
            decoding=told,
        )
    _tell_result(settings, tuned)
    if tuned.stopped:
        raise typer.Exit(STOPPED)


def _words(recipe: Recipe, trial: Trial) -> str:
    assert recipe.search is not None, "it was searched"
    return " ".join(shlex.quote(word) for word in recipe.search.words(trial.values))


def _tell_trial(recipe: Recipe, trial: Trial, best: Trial | None) -> None:
    reached = trial.state if trial.value is None else f"{trial.value:.4f}"
    ahead = "no best yet"
    if best is not None and best.value is not None:
        ahead = f"best {best.value:.4f} (trial {best.number})"
    why = f"  {trial.error}" if trial.error else ""
    typer.echo(f"trial {trial.number}  {reached}  {ahead}  {_words(recipe, trial)}{why}")


def _tell_result(recipe: Recipe, tuned: Tuned) -> None:
    states = [trial.state for trial in tuned.trials]
    kinds = ("complete", "pruned", "failed", "running")
    counts = ", ".join(f"{states.count(kind)} {kind}" for kind in kinds if kind in states)
    typer.echo(f"{len(states)} trials: {counts or 'none'}")
    if tuned.best is not None and tuned.best.value is not None:
        number, value = tuned.best.number, tuned.best.value
        typer.echo(f"best: trial {number}, {tuned.metric} {value:.4f} of validation clips")
        typer.echo(f"  {_words(recipe, tuned.best)}")
        out = shlex.quote(str(tuned.out))
        if tuned.tests:
            typer.echo(f"measure it on test clips: harken evaluate {out}/{tuned.best.name}")
        typer.echo(f"train it anew: harken train {out}/best.yaml --out runs/best")
    if tuned.stopped:
        typer.echo("stopped; the same command goes on, and takes up the trial under way")
