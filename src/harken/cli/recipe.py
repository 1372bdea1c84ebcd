"""`harken recipe …` and `harken list`: show and describe what recipes hold."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harken.cli.app import WORDS, Words, app, recipe_of

recipe_app = typer.Typer(help="Show, describe and check recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


@app.command(name="list")
def list_(slot: Annotated[str, typer.Argument(help="Such as backbones or frontends.")]) -> None:
    """List the kinds of a slot."""
    from harken.recipe_help import list_kinds

    for kind, text in list_kinds(slot):
        typer.echo(f"{kind:16} {text}")


@recipe_app.command(context_settings=WORDS)
def show(recipe: Words) -> None:
    """Print the whole recipe that files and overrides make, defaults included."""
    from harken.recipe import dump_recipe

    typer.echo(dump_recipe(recipe_of(recipe)), nl=False)


@recipe_app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from harken.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=1, ensure_ascii=False))


@recipe_app.command(name="help")
def help_(part: Annotated[str, typer.Argument(help="Such as train or backbone.ast.")]) -> None:
    """Describe a section, a slot or a kind."""
    from harken.recipe_help import describe

    typer.echo(describe(part))
