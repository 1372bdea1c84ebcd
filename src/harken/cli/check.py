"""`harken check`: look for what would spoil results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.app import WORDS, app, decoding, recipe_of
from harken.errors import ConfigError

if TYPE_CHECKING:
    from harken.audit import Finding

MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


@app.command(context_settings=WORDS)
def check(
    what: Annotated[list[str], typer.Argument(help="A run folder, or a recipe and overrides.")],
    clips: Annotated[int, typer.Option(help="Recordings to look at.", min=2)] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for mistakes in a recipe and its data, or in a run; a problem gives exit status 1."""
    from harken import storage

    is_run = storage.is_file(storage.join(what[0], "recipe.yaml"))
    found = _of_run(what) if is_run else _of_recipe(what, clips)
    if as_json:
        from harken.audit import to_json

        typer.echo(json.dumps(to_json(found), ensure_ascii=False, indent=1))
    else:
        for finding in found:
            typer.echo(f"{MARKS[finding.status]}  {finding.topic:15} {finding.text}")
            if finding.fix and finding.status != "ok":
                typer.echo(f"{'':25}→ {finding.fix}")
        counts = [sum(f.status == s for f in found) for s in ("problem", "warning", "ok")]
        typer.echo("{} problems, {} warnings, {} ok".format(*counts))
    if any(finding.status == "problem" for finding in found):
        raise typer.Exit(1)


def _of_run(words: list[str]) -> list[Finding]:
    from harken.verbs.check import check_run

    if len(words) > 1:
        raise ConfigError(
            "a run is checked as it is", where=words[1], fix=f"harken check {words[0]}"
        )
    return check_run(words[0])


def _of_recipe(words: list[str], clips: int) -> list[Finding]:
    from harken.audit import Finding
    from harken.errors import HarkenError
    from harken.verbs.check import check as verb

    try:
        recipe = recipe_of(words)
    except HarkenError as error:
        place = f"{error.where}: " if error.where else ""
        return [Finding("recipe", "problem", f"{place}{error.message}", error.fix)]
    with decoding() as told:
        return [Finding("recipe", "ok", "valid"), *verb(recipe, clips=clips, told=told)]
