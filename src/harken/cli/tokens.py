"""`harken tokens`: vocabularies of sound."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from harken.cli.app import WORDS, app, decoding
from harken.errors import ConfigError

tokens_app = typer.Typer(
    help="Sound as a sequence of tokens: fit a vocabulary, encode, look, listen.",
    no_args_is_help=True,
)
app.add_typer(tokens_app, name="tokens")

_WORD = re.compile(r"(--)?[a-z_]+(\.\w+)*=")

Given = Annotated[
    list[str],
    typer.Argument(help="Recipe files, or a folder, a table or audio files; then overrides."),
]
Vocabulary = Annotated[str, typer.Argument(help="A vocabulary: VOCAB.safetensors.")]
ShardOption = Annotated[
    str, typer.Option("--shard", help="This process's share of the clips: 1/8 … 8/8.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another file.")]


@tokens_app.command(context_settings=WORDS)
def fit(
    given: Given,
    out: Annotated[str, typer.Option(help="File to write: VOCAB.safetensors.")],
    k: Annotated[int | None, typer.Option(help="Tokens; 500 by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root of the draws.", min=0)] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames to cluster, drawn uniformly; 2,000,000 by default.")
    ] = None,
    passes: Annotated[int | None, typer.Option(help="Looks at each frame; 2 by default.")] = None,
    split: Annotated[str, typer.Option(help="`train`, or `all` clips.")] = "train",
    fold: Annotated[str | None, typer.Option(help="Whose training clips, over folds.")] = None,
    shard: ShardOption = "1/1",
    overwrite: Overwrite = False,
) -> None:
    """Fit a vocabulary on the training clips of a recipe, or on a folder or a table."""
    from harken.tokens.token_table import Shard
    from harken.verbs import tokens as verb
    from harken.verbs.prepare import load_clips
    from harken.verbs.token_clips import given_clips, marked_as_training, training_clips

    if split not in ("train", "all"):
        raise ConfigError(f"there is no split {split!r}", where="--split", fix="train or all")
    default = {"frontend": {"kind": "tokens", "features": {"kind": "log_mel"}}}
    recipe, clips = given_clips(*_parted(given), default)
    share = Shard.read(shard)
    with decoding() as told:
        if clips is not None:
            clips = clips if split == "all" else marked_as_training(clips)
        else:
            clips = load_clips(recipe) if split == "all" else training_clips(recipe, fold, told)
        done = verb.fit(
            recipe,
            clips,
            out,
            shard=share,
            overwrite=overwrite,
            told=told,
            k=k,
            seed=seed,
            num_frames=frames,
            passes=passes,
        )
    for clip in done.quarantined:
        typer.echo(f"left out {clip.path}: {clip.reason}")
    if done.vocabulary is None:
        typer.echo(f"shard {shard} is done; {done.num_missing} of {share.count} are missing")
        return
    about = done.vocabulary.settings
    typer.echo(
        f"{len(done.vocabulary)} tokens of {about['num_frames']} frames of {about['num_clips']} "
        f"clips, inertia {about['inertia']:.4g}: {done.out}"
    )


@tokens_app.command(context_settings=WORDS)
def encode(
    vocabulary: Vocabulary,
    given: Given,
    out: Annotated[str, typer.Option(help="Table to write: .parquet.")],
    shard: ShardOption = "1/1",
    overwrite: Overwrite = False,
) -> None:
    """Write the tokens of clips; what was broken off goes on where it stood."""
    from harken.tokens.token_table import Shard
    from harken.verbs import encode as verb
    from harken.verbs.prepare import load_clips
    from harken.verbs.token_clips import given_clips

    names, words = _parted(given)
    for section in (re.split(r"[.=]", word.removeprefix("--"))[0] for word in words):
        if section in ("audio", "frontend"):
            text = "the vocabulary says how sound is read"
            raise ConfigError(text, where=section, fix="leave it out")
    settings = verb.encode_settings(vocabulary)
    recipe, clips = given_clips(names, words, settings)
    recipe = recipe.model_copy(update={"audio": type(recipe.audio)(**settings["audio"])})
    with decoding() as told:
        done = verb.encode(
            vocabulary,
            recipe,
            load_clips(recipe) if clips is None else clips,
            out,
            shard=Shard.read(shard),
            overwrite=overwrite,
            told=told,
        )
    for clip in done.quarantined:
        typer.echo(f"left out {clip['path']}: {clip['reason']}")
    if done.num_missing:
        typer.echo(f"shard {shard} is done; other shards have {done.num_missing} parts to do")
        return
    there = ", there already" if done.was_there else ""
    typer.echo(f"{done.num_clips - len(done.quarantined)} clips: {done.out}{there}")


@tokens_app.command()
def stats(
    table: Annotated[str, typer.Argument(help="A table of tokens, from encode.")],
    out: Annotated[str | None, typer.Option(help="JSON file to write.")] = None,
    png: Annotated[str | None, typer.Option(help="Picture to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell how tokens are used: coverage, Zipf's slope, dead tokens."""
    from harken import storage
    from harken.tokens.stats import draw, token_stats

    found = token_stats(table)
    text = json.dumps(found.to_json(), indent=1)
    if out is not None:
        storage.write_atomic(out, text + "\n")
    if png is not None:
        with storage.atomic_path(png) as temporary:
            draw(found, temporary)
    if as_json:
        typer.echo(text)
        return
    typer.echo(f"{found.num_occurrences} tokens of {found.num_clips} clips")
    used = found.k - found.num_dead
    typer.echo(f"{used} of {found.k} occur; {found.num_covering} of them make 80 %")
    if found.zipf_slope is not None:
        r2 = "" if found.zipf_r2 is None else f", R² {found.zipf_r2:.2f}"
        typer.echo(f"Zipf slope {found.zipf_slope:.2f}{r2}")
    typer.echo(f"entropy {found.entropy_bits:.2f} bits, as of {found.perplexity:.0f} equal tokens")
    if found.silhouette is not None:
        typer.echo(f"silhouette of frames {found.silhouette:.3f}")


@tokens_app.command()
def listen(
    vocabulary: Vocabulary,
    clip: Annotated[str, typer.Argument(help="An audio file.")],
    out: Annotated[str, typer.Option(help="Sound to write: .wav.")],
) -> None:
    """Write what a vocabulary keeps of a clip, to be heard."""
    from harken.verbs import tokens as verb

    done = verb.listen(vocabulary, clip, out)
    typer.echo(
        f"{done.seconds:.2f} s, {done.num_tokens} frames, {done.num_different} different tokens; "
        f"levels correlate {done.correlation:.3f} with the clip's: {out}"
    )


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    overrides = [word for word in words if _WORD.match(word)]
    names = [word for word in words if word not in overrides]
    for name in names:
        if name.startswith("--") and not Path(name).exists():
            fix = "harken tokens --help; overrides are key.path=value, without spaces"
            raise ConfigError("there is no such option", where=name, fix=fix)
    return names, overrides
