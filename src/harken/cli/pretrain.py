"""`harken pretrain` and `harken bag`: sequence models without labels, and their baseline."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harken.cli.app import WORDS, Words, app, decoding, display, recipe_of


@app.command(context_settings=WORDS)
def pretrain(
    words: Words,
    out: Annotated[str, typer.Option(help="Run folder to make.")],
    rate: Annotated[float, typer.Option(help="Share of the tokens that is hidden.")] = 0.15,
    span: Annotated[int, typer.Option(help="Neighbouring tokens hidden at once.")] = 1,
    fold: Annotated[str | None, typer.Option(help="Whose training clips, over folds.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue where it stands.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.")] = False,
) -> None:
    """Let a sequence model tell hidden tokens of clips, for which it needs no labels.

    Then: harken train RECIPE backbone.checkpoint=OUT frontend.vocabulary=OUT/vocabulary.safetensors
    """
    from harken.backbones.sequence import PRETRAINING
    from harken.errors import ConfigError
    from harken.pretraining import Masking
    from harken.verbs import pretrain as verb

    if not 0 < rate < 1 or span < 1:
        raise ConfigError("a share between 0 and 1, and spans of 1 or more", where="--rate, --span")
    with decoding() as told:
        run = verb.pretrain(
            recipe_of(words),
            out,
            masking=Masking(rate=rate, span=span),
            fold=fold,
            resume=resume,
            overwrite=overwrite,
            tracker=display(),
            told=told,
        )
    found = run.read_json(PRETRAINING)["valid"]
    if found:
        likely = found["unigram"]
        typer.echo(
            f"hidden tokens of validation clips: {found['accuracy']:.3f} right "
            f"(the most frequent one: {likely['accuracy']:.3f}), surprise "
            f"{found['surprise']:.3f} nats (by frequency: {likely['surprise']:.3f})"
        )
    typer.echo(str(run.path))


@app.command(context_settings=WORDS)
def bag(
    words: Words,
    out: Annotated[str, typer.Option(help="Folder to make.")] = "runs/bag",
    tokens: Annotated[
        str | None, typer.Option(help="A table of `harken tokens encode`; no audio is needed.")
    ] = None,
    largest: Annotated[int, typer.Option("--ngrams", help="Tokens of the longest run.", min=1)] = 2,
    min_clips: Annotated[int, typer.Option(help="Training clips a run must be in.", min=1)] = 2,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Count a repeated token once.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON.")] = False,
) -> None:
    """Classify clips by how often runs of tokens occur: what sequence models must beat."""
    from harken.cli.embed import metrics_table
    from harken.ngrams import NGrams
    from harken.verbs import bag as verb

    ngrams = NGrams(largest=largest, min_clips=min_clips, collapse=collapse)
    with decoding() as told:
        recipe = recipe_of(words)
        run = verb.bag(recipe, out, tokens=tokens, ngrams=ngrams, overwrite=overwrite, told=told)
    metrics = run.read_json("metrics.json")
    found = metrics.get("pooled") or metrics.get("test") or metrics["valid"]
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else metrics_table(found))
