"""`harken import-legacy`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from harken.cli.app import app
from harken.errors import ConfigError


@app.command(name="import-legacy")
def import_legacy(
    weights: Annotated[str, typer.Argument(help="The model: a state dict, …_mdl.pt.")],
    arguments: Annotated[str, typer.Argument(help="Its arguments: args.pkl.")],
    out: Annotated[str, typer.Option(help="Run folder to make.")],
    labels: Annotated[str | None, typer.Option(help="A label file, if args.pkl has none.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Folder or name of its wav2vec 2.0 encoder.")
    ] = None,
    over: Annotated[
        list[str] | None, typer.Option("--set", help="An argument to replace: NAME=VALUE.")
    ] = None,
    shared_activation: Annotated[
        str, typer.Option(help="What follows the shared dense layer: relu or none.")
    ] = "relu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run.")] = False,
) -> None:
    """Turn an older model (state dict, args.pkl) into a run; nothing in its files is executed."""
    from harken.verbs import import_legacy as verb

    if shared_activation not in ("relu", "none"):
        raise ConfigError("it is relu or none", where="--shared-activation")
    found = verb.import_legacy(
        weights,
        arguments,
        out,
        labels=labels,
        checkpoint=checkpoint,
        over=dict(_value(word) for word in over or []),
        shared_activation=shared_activation,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"run: {found.run.path} (harken predict {found.run.path} FILE …)")


def _value(word: str) -> tuple[str, Any]:
    from harken.recipe import parse_word

    ((name, value),) = parse_word(word).items()
    return name, value
