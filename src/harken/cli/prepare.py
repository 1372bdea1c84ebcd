"""`harken prepare`: make data ready, and say what was found."""

from __future__ import annotations

from typing import Annotated

import typer

from harken.cli.app import WORDS, DefaultGroup, Words, app, decoding, recipe_of

prepare_app = typer.Typer(
    cls=DefaultGroup, help="Make data ready: harken prepare RECIPE, or one of the commands below."
)
app.add_typer(prepare_app, name="prepare")


@prepare_app.command(name="recipe", context_settings=WORDS)
def prepare(recipe: Words) -> None:
    """Read the table, decode the audio, part the clips, and check all of it."""
    from harken.verbs import prepare as verb

    with decoding() as told:
        corpus, folds = verb.prepare(recipe_of(recipe), told)
    names = ", ".join(corpus.labels.names)
    typer.echo(f"{len(corpus.manifest)} clips, {corpus.labels.task}: {names}")
    for note in corpus.notes:
        typer.echo(f"note: {note}")
    for clip in corpus.quarantined:
        typer.echo(f"left out {clip.path}: {clip.reason}")
    for fold in folds:
        sizes = (f"{part} {int((fold.split == part).sum())}" for part in ("train", "valid", "test"))
        typer.echo(f"{'fold ' + fold.name if fold.name else 'split'}: {', '.join(sizes)}")


Task = Annotated[list[str] | None, typer.Option(help="Keep only these tasks; may be repeated.")]
TaskColumn = Annotated[str, typer.Option(help="Column with the task.")]
Study = Annotated[str | None, typer.Option(help="The study's folder in a UID tree.")]


@prepare_app.command()
def splits(
    source: Annotated[str, typer.Argument(help="A table, or the root of a UID tree.")],
    out: Annotated[str, typer.Option(help="Folder to write to.")],
    train: Annotated[
        str | None, typer.Option(help="Speakers that train; by default all that are left.")
    ] = None,
    valid: Annotated[
        str, typer.Option(help="Speakers that validate: 50, or a share: 0.2.")
    ] = "0.15",
    test: Annotated[str, typer.Option(help="Speakers that are tested.")] = "0.15",
    group: Annotated[
        str | None, typer.Option(help="Column with the speaker; else subject, speaker or group.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
    train_task: Task = None,
    test_task: Task = None,
    task_column: TaskColumn = "task",
    test_speakers: Annotated[
        str | None, typer.Option(help="A file with the only speakers who may be tested.")
    ] = None,
    stratify: Annotated[
        list[str] | None, typer.Option(help="Column to spread evenly; may be repeated.")
    ] = None,
    study: Study = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace old tables.")] = False,
) -> None:
    """Part a table by speakers into train.csv, valid.csv and test.csv."""
    from harken.verbs import splits as verb

    done = verb.make_splits(
        source,
        out,
        train=None if train is None else verb.read_size(train, "--train"),
        valid=verb.read_size(valid, "--valid"),
        test=verb.read_size(test, "--test"),
        group=group,
        seed=seed,
        task_column=task_column,
        train_task=train_task or (),
        test_task=test_task or (),
        test_speakers=test_speakers,
        stratify=stratify or (),
        study=study,
        overwrite=overwrite,
    )
    typer.echo("\n".join(verb.describe(done)))


@prepare_app.command()
def labels(
    annotations: Annotated[
        str, typer.Argument(help="A table with a row per rating, or the root of a UID tree.")
    ],
    out: Annotated[str, typer.Option(help="Table to write, .csv or .parquet.")],
    ignore: Annotated[
        list[float] | None, typer.Option(help="Score that means `not rated`; may be repeated.")
    ] = None,
    over_raters: Annotated[str, typer.Option(help="max, mean or median.")] = "max",
    binary_above: Annotated[
        float | None, typer.Option(help="Write 1 above this score, else 0.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Table of recordings whose task and subject join.")
    ] = None,
    task: Task = None,
    task_column: TaskColumn = "task",
    uid: Annotated[str, typer.Option(help="Column with the recording.")] = "uid",
    feature: Annotated[str, typer.Option(help="Column with what was rated.")] = "feature",
    score: Annotated[str, typer.Option(help="Column with the rating.")] = "score",
    study: Study = None,
) -> None:
    """Turn ratings, one a row, into a table of labels, one recording a row."""
    from harken.verbs import annotations as verb

    done = verb.make_labels(
        annotations,
        out,
        ignore=ignore or (),
        over_raters=over_raters,  # type: ignore[arg-type]
        binary_above=binary_above,
        table=table,
        task=task or (),
        task_column=task_column,
        uid=uid,
        feature=feature,
        score=score,
        study=study,
    )
    typer.echo("\n".join(verb.describe(done)))


@prepare_app.command()
def unpack(
    archives: Annotated[
        list[str], typer.Argument(help="Archives (.tar, .tar.gz, …), or folders of them.")
    ],
    out: Annotated[str, typer.Option(help="Folder to write to.")],
    shards: Annotated[
        str, typer.Option(help="id2: any/id.flac becomes id[:2]/id.flac; none: as archived.")
    ] = "id2",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run was interrupted.")
    ] = False,
) -> None:
    """Unpack archives of recordings; members that point outside the folder are refused."""
    from harken.verbs import unpack as verb

    done = verb.unpack_archives(archives, out, shards=shards, resume=resume, told=typer.echo)
    typer.echo(verb.describe(done))
