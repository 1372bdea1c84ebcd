"""`harken embed` and `harken probe`: embeddings, and what can be read from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.app import WORDS, app

if TYPE_CHECKING:
    from harken.embedder import Wanted

_WORD = re.compile(r"(--)?[a-z_]+(\.\w+)*=")

Level = Annotated[str, typer.Option(help="pt, wt, st or ft.")]
Layer = Annotated[int | None, typer.Option(help="Hidden layer, for pt of a speech encoder.")]
Pooling = Annotated[
    str | None, typer.Option(help="mean, sum or max, for pt and wt; else the run's own.")
]
Merge = Annotated[str | None, typer.Option(help="mean or sum of the heads, for ft.")]


@app.command(context_settings=WORDS)
def embed(
    model: Annotated[str, typer.Argument(help="A run folder, or a checkpoint: hub id or folder.")],
    out: Annotated[str, typer.Option(help="Table to write: .parquet or .npz.")],
    given: Annotated[
        list[str] | None, typer.Argument(help="Audio files, and overrides such as data.cache=DIR.")
    ] = None,
    on: Annotated[str | None, typer.Option(help="A table of clips; needs no labels.")] = None,
    split: Annotated[str | None, typer.Option(help="Only these of the run's own clips.")] = None,
    fold: Annotated[str | None, typer.Option(help="Whose network, in a run over folds.")] = None,
    level: Level = "pt",
    layer: Layer = None,
    pooling: Pooling = None,
    merge: Merge = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="parquet or npz; else what --out says.")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="vector: columns e0, e1, …; list: one column.")
    ] = "vector",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another table.")] = False,
) -> None:
    """Turn clips into embeddings; what was broken off goes on where it stood."""
    from harken.verbs import embed as verb

    files = [word for word in given or [] if not _WORD.match(word)]
    with _progress() as told:
        made = verb.embed(
            model,
            out,
            files=files,
            on=on,
            split=split,
            fold=fold,
            wanted=_wanted(level, layer, pooling, merge),
            words=[word for word in given or [] if word not in files],
            file_format=file_format,
            columns=columns,  # type: ignore[arg-type]
            overwrite=overwrite,
            told=told,
        )
    for note in made.notes:
        typer.echo(f"note: {note}")
    for clip in made.quarantined:
        typer.echo(f"left out {clip.path}: {clip.reason}")
    width = "" if made.dim is None else f" × {made.dim}"
    typer.echo(f"{made.num_clips} clips{width}: {made.out}")


@app.command(context_settings=WORDS)
def probe(
    subject: Annotated[
        list[str],
        typer.Argument(help="A run, a table of embeddings, or recipe files; then overrides."),
    ],
    embeddings: Annotated[
        str | None, typer.Option(help="Embeddings by id, for a recipe or a run's folds.")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="Column to learn; may repeat.")] = None,
    model: Annotated[str, typer.Option(help="logistic, knn or ridge.")] = "logistic",
    level: Level = "pt",
    layer: Layer = None,
    pooling: Pooling = None,
    merge: Merge = None,
    out: Annotated[str, typer.Option(help="Folder to make.")] = "runs/probe",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON.")] = False,
) -> None:
    """Fit a small model on embeddings, and measure it fold by fold as training would be."""
    from harken.verbs import probe as verb

    names = [word for word in subject if not _WORD.match(word)]
    with _progress() as told:
        run = verb.probe(
            names,
            out,
            embeddings=embeddings,
            target=target or (),
            model=model,  # type: ignore[arg-type]
            wanted=_wanted(level, layer, pooling, merge),
            words=[word for word in subject if word not in names],
            overwrite=overwrite,
            told=told,
        )
    metrics = run.read_json("metrics.json")
    found = metrics.get("pooled") or metrics.get("test") or metrics["valid"]
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else metrics_table(found))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar that fills while decoding and again while embedding."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("clips", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _wanted(level: str, layer: int | None, pooling: str | None, merge: str | None) -> Wanted:
    from harken.embedder import Wanted

    return Wanted(level, layer, pooling, merge)  # type: ignore[arg-type]


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return metrics with their intervals, one a line."""
    groups = f", {metrics['num_groups']} groups" if metrics.get("num_groups") else ""
    lines = [f"{metrics['num_clips']} clips{groups}"]
    for name, entry in metrics["metrics"].items():
        if entry["value"] is not None:
            low, high = entry["low"], entry["high"]
            spread = "" if low is None or high is None else f"  [{low:.3f}, {high:.3f}]"
            lines.append(f"  {name:22} {entry['value']:.3f}{spread}")
    return "\n".join([*lines, *(f"  note: {note}" for note in metrics["notes"])])
