"""The command line: a thin shell over the verbs. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from typing import Any

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
from harken.errors import HarkenError, HarkenWarning

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
    _show_warnings_as_lines()
    try:
        app()
    except HarkenError as error:
        typer.echo(f"harken: {error}", err=True)
        sys.exit(1)


def _show_warnings_as_lines() -> None:
    """Print each warning of harken's own once, without the line of code that it comes from."""
    others, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, HarkenWarning):
            others(message, category, *place, **more)
        elif str(message) not in told:
            told.add(str(message))
            typer.echo(f"harken: warning: {message}", err=True)

    warnings.showwarning = show
