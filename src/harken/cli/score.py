"""`harken tune score`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.tune import tune_app

if TYPE_CHECKING:
    from harken.standings import Row, Standings

SHOWN, SHOWN_REASONS, SHOWN_SETTINGS = 10, 10, 6


@tune_app.command()
def score(
    places: Annotated[
        list[str], typer.Argument(help="Folders or URLs that hold runs, at any depth.")
    ],
    split: Annotated[str, typer.Option(help="Clips to rank by: valid or test.")] = "valid",
    metric: Annotated[
        str | None, typer.Option(help="What to compare; roc_auc, or mae for regressions.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the tables and the page; scores/ in DIR.")
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="Also rank finished trials of 001.")
    ] = False,
) -> None:
    """Rank runs: a number for each label, their sum, distances; a table and a page."""
    from harken.verbs import score as verb

    scored = verb.score(places, split=split, metric=metric, out=out, legacy=legacy)
    for note in scored.standings.notes:
        typer.echo(f"note: {note}")
    _tell(scored.standings)
    for note in scored.notes:
        typer.echo(note)
    typer.echo(f"scores: {', '.join(scored.files)}")
    if not scored.standings.ranked:
        raise typer.Exit(1)


def _tell(standings: Standings) -> None:
    ranked = standings.ranked
    for row in ranked[:SHOWN]:
        typer.echo(f"{row.rank:>4}  {_line(standings, row)}")
    if len(ranked) > SHOWN:
        typer.echo(f"      … and {len(ranked) - SHOWN} more")
    others = [row.run for row in standings.rows if row.rank is None]
    if others:
        typer.echo(f"{len(others)} not ranked:")
    for run in others[:SHOWN_REASONS]:
        typer.echo(f"      {run.name}  {run.state}: {run.reason}")
    if len(others) > SHOWN_REASONS:
        typer.echo(f"      … and {len(others) - SHOWN_REASONS} more")


def _line(standings: Standings, row: Row) -> str:
    from harken.standings import setting_text

    shown = standings.settings[:SHOWN_SETTINGS]
    settings = [f"{path}={setting_text(row.run.settings.get(path))}" for path in shown]
    return "  ".join([row.run.name, f"{standings.metric} {row.mean:.4f}", *settings])
