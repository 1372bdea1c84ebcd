"""The command line: a thin shell over the verbs. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys

import typer

from harken.cli import (
    check,
    embed,
    explain,
    legacy,
    prepare,
    pretrain,
    recipe,
    run,
    score,
    tokens,
    tune,
    vertex,
)
from harken.cli.app import app
from harken.errors import HarkenError

__all__ = [
    "app",
    "check",
    "embed",
    "explain",
    "legacy",
    "main",
    "prepare",
    "pretrain",
    "recipe",
    "run",
    "score",
    "tokens",
    "tune",
    "vertex",
]


def main() -> None:
    """Run the command line; a person's mistake is one line on standard error, exit status 1."""
    try:
        app()
    except HarkenError as error:
        typer.echo(f"harken: {error}", err=True)
        sys.exit(1)
