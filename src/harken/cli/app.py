"""The command line's root: the Typer application, and what its commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harken.errors import ConfigError

if TYPE_CHECKING:
    from harken.recipe import Recipe

ORDER = """
demo prepare check train evaluate report predict embed probe explain
tokens pretrain tune vertex
recipe list import-legacy
""".split()  # noqa: SIM905
"""The commands as a person meets them; `--help` lists them so, and others after them."""


class InOrder(TyperGroup):
    """Lists its commands in the order of the work."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names."""
        names = super().list_commands(ctx)
        return [n for n in ORDER if n in names] + [n for n in names if n not in ORDER]


app = typer.Typer(
    cls=InOrder,
    help="From a folder of recordings and a table of labels to an audio classifier you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

WORDS = {"ignore_unknown_options": True}
"""Context settings of commands that take overrides as `--a.b=c` too."""

Words = Annotated[
    list[str], typer.Argument(help="Recipe files (YAML), then overrides such as train.epochs=5.")
]
Run = Annotated[str, typer.Argument(help="A run folder; a path or a URL.")]


class DefaultGroup(TyperGroup):
    """Commands under one word, whose command `recipe` needs no naming.

    `harken prepare splits …` runs `splits`; `harken prepare my.yaml` runs `recipe`.
    """

    default = "recipe"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command's name before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Part words into recipe files and overrides."""
    files = [word for word in words if "=" not in word and not word.startswith("--")]
    return files, [word for word in words if word not in files]


def recipe_of(words: list[str]) -> Recipe:
    """Read the recipe that files and overrides make."""
    from harken.recipe import read_recipe

    return read_recipe(*parted(words))


def side_information(words: list[str]) -> dict[str, object]:
    """Read `--with age=5` words.

    Raises:
        ConfigError: a word has no `=`.
    """
    from harken.overrides import read_value

    parted = [word.partition("=") for word in words]
    bad = [word for word, (_, equals, _) in zip(words, parted, strict=True) if not equals]
    if bad:
        raise ConfigError(f"cannot read {bad[0]!r}", where="--with", fix="--with age=5")
    return {name: read_value(value) for name, _, value in parted}


@contextmanager
def decoding(text: str = "decoding") -> Iterator[Callable[[int, int], None]]:
    """Show a bar of clips done; yields the function `(done, total)` that moves it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        yield told


def display() -> Any:
    """Return the tracker that draws training in the terminal."""
    from rich.console import Console

    from harken.track import Display

    return Display(Console(stderr=True))
