"""`harken explain`: which moments of a recording a decision rests on."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from harken.cli.app import WORDS, Run, app, side_information
from harken.errors import ConfigError, HarkenError

_WORD = re.compile(r"(--)?[a-z_]+=")


@app.command(context_settings=WORDS)
def explain(
    run: Run,
    given: Annotated[
        list[str], typer.Argument(help="Audio files, and options of the method: points=128.")
    ],
    method: Annotated[
        str,
        typer.Option(help="attention, rollout, gradcam, integrated_gradients or occlusion."),
    ] = "occlusion",
    label: Annotated[str | None, typer.Option(help="Explain this label, not the decision.")] = None,
    fold: Annotated[
        str | None, typer.Option(help="Whose network, in a run over folds; the first by default.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder to write to; RUN/explanations/NAME by default.")
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option("--with", help="Side information about the files, such as age=5."),
    ] = None,
) -> None:
    """Show which moments a decision rests on, and whether that can be believed.

    Writes a page with sound, a PNG, the arrays (npz) and the numbers (JSON) for each file. Files
    that cannot be used are named and give exit status 1.
    """
    from harken.verbs import explain as verb

    words = [word for word in given if _WORD.match(word)]
    files = [word for word in given if word not in words]
    if not files:
        raise ConfigError("no audio file is given", where="harken explain")
    bad: list[HarkenError] = []

    def name_it(error: HarkenError) -> None:
        bad.append(error)
        typer.echo(f"harken: {error}", err=True)

    verb.explain(
        run,
        files,
        method,
        label=label,
        fold=fold,
        out=out,
        words=[word.removeprefix("--") for word in words],
        covariates=side_information(known or []),
        told=_tell,
        on_bad=name_it,
    )
    if bad:
        raise typer.Exit(1)


def _tell(made: Any) -> None:
    e = made.explanation
    where = "nowhere" if e.moment is None else f"{e.moment.start:.2f}–{e.moment.end:.2f} s"
    typer.echo(f"{e.file}  {e.label} {e.score:.3f}  most relevant: {where}")
    typer.echo(f"  {e.checks.verdict}")
    if e.relevance.notes:
        numbers = (f"{k.replace('_', ' ')} {v:.3g}" for k, v in e.relevance.notes.items())
        typer.echo(f"  {', '.join(numbers)}")
    typer.echo(f"  {made.page}")
