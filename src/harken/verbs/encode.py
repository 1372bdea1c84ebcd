"""`harken tokens encode`: clips → a table of tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harken import storage
from harken.batch import Batch
from harken.errors import ConfigError, RunError
from harken.frontends.tokens import TokensModule
from harken.inference import naming
from harken.manifest import Manifest
from harken.recipe import Recipe
from harken.storage import Facts, Location
from harken.tokens.token_table import ROWS, Shard, TokenParts
from harken.tokens.vocabulary import Vocabulary, read_vocabulary
from harken.verbs.prepare import Told
from harken.verbs.token_clips import decode_some, store_facts
from harken.verbs.tokens import vocabulary_module

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Encoded:
    """What `encode` made.

    Attributes:
        out: The table.
        num_clips: Clips of all shards.
        num_missing: Parts of 256 clips that other shards have not made yet; 0 once the table is
            there.
        quarantined: Clips without tokens, each with `id`, `path` and `reason`; known with the
            table.
        was_there: Whether the table was there already.
    """

    out: str
    num_clips: int
    num_missing: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    was_there: bool = False


def encode(
    vocabulary: Location,
    recipe: Recipe,
    clips: Manifest,
    out: Location,
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    rows: int = ROWS,
) -> Encoded:
    """Write the tokens of clips, `id`, `path` and `tokens`; what was broken off goes on.

    Args:
        vocabulary: The vocabulary's file.
        recipe: How recordings are read; its `audio` must be the vocabulary's, as `encode_settings`
            gives it.
        clips: All clips, of all shards.
        out: Parquet file to write.
        shard: Which part of the clips this process encodes.
        overwrite: Replace another file; without shards, the table of these very clips too.
        told: Called with clips done and clips of all shards.
        rows: Clips that are written together.

    Raises:
        ConfigError: `out` does not end in .parquet.
        DataError: a recording cannot be used or its features are not finite; names it.
        RunError: `out` holds something else.
    """
    if not str(out).lower().endswith(".parquet"):
        raise ConfigError("a table of tokens is a Parquet file", where=str(out), fix="NAME.parquet")
    known = read_vocabulary(vocabulary)
    module, _ = vocabulary_module(known, vocabulary)
    parts = TokenParts(str(out), len(clips), _fingerprint(known, recipe, clips, rows), rows)
    shard = shard or Shard()
    again = overwrite and shard.count == 1  # recordings may have changed under their names
    if parts.is_done and not again:
        return Encoded(str(out), len(clips), 0, read_left_out(str(out)), was_there=True)
    if storage.exists(out) and not overwrite:
        raise RunError(
            "this file exists already, and was made by another vocabulary or of other clips",
            where=str(out),
            fix="choose another --out, or say --overwrite",
        )
    todo = list(parts.todo(shard))
    stores = store_facts(clips.take(np.concatenate([rows for _, rows in todo]))) if todo else {}
    for number, chosen in todo:
        some = clips.take(chosen)
        parts.save(number, some.frame, *_encode_some(module, recipe, some, stores))
        if told is not None:
            told(int(chosen[-1]) + 1, len(clips))
    missing = parts.num_missing
    if missing and not parts.is_done:
        return Encoded(str(out), len(clips), missing)
    joins = again or not parts.is_done
    bad = parts.join(_about(known, module, vocabulary)) if joins else None
    if bad is None:  # another shard has joined the parts, and lists what was left out
        return Encoded(str(out), len(clips), 0, read_left_out(str(out)))
    write_left_out(str(out), bad)
    return Encoded(str(out), len(clips), 0, bad)


def encode_settings(vocabulary: Location) -> dict[str, Any]:
    """Return the section `audio` of recipes for clips that a vocabulary is applied to."""
    return {"audio": read_vocabulary(vocabulary).settings["audio"]}


def _encode_some(
    module: TokensModule, recipe: Recipe, some: Manifest, stores: Mapping[str, Facts]
) -> tuple[list[Tokens | None], list[str | None]]:
    """Return the tokens of clips, None for bad ones, and why these are bad."""
    found: list[Tokens | None] = [None] * len(some)
    reasons: list[str | None] = [None] * len(some)
    batches, bad = decode_some(recipe, some, stores)
    for batch in batches:
        tokens, lengths = _tokens(module, batch, some)
        for row, line, length in zip(batch.rows.tolist(), tokens, lengths, strict=True):
            found[row] = line[:length]
    places = {name: row for row, name in enumerate(some.frame["id"].to_list())}
    for clip in bad:
        reasons[places[clip.id]] = clip.reason
    return found, reasons


def _tokens(module: TokensModule, batch: Batch, some: Manifest) -> tuple[Tokens, list[int]]:
    with naming(batch, some.frame["path"]):
        tokens, lengths = module(batch.waveform, batch.lengths)
    return tokens.numpy().astype(np.int32), lengths.tolist()


def _about(known: Vocabulary, module: TokensModule, url: Location) -> dict[str, Any]:
    return {
        "vocabulary": str(url),
        "digest": known.digest,
        "k": len(known),
        "frames_per_second": module.spec.rate,
        "silhouette": known.settings.get("silhouette"),
    }


def _fingerprint(known: Vocabulary, recipe: Recipe, clips: Manifest, rows: int) -> str:
    settings = [known.digest, recipe.audio.model_dump_json(), str(rows)]
    content = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    for name in ("id", "path", "start", "duration"):
        content.update(clips.frame.select(name).write_ndjson().encode())
    return content.hexdigest()


def write_left_out(out: str, bad: list[dict[str, str]]) -> None:
    """List the clips without tokens beside the table, `NAME.quarantine.json`."""
    url = _listing(out)
    if bad:
        storage.write_atomic(url, json.dumps(bad, indent=1, ensure_ascii=False) + "\n")
    else:
        storage.remove_file(url)


def read_left_out(out: str) -> list[dict[str, str]]:
    """Return the clips that are listed beside the table."""
    url = _listing(out)
    return json.loads(storage.read_bytes(url)) if storage.is_file(url) else []


def _listing(out: str) -> str:
    return f"{out[: -len('.parquet')]}.quarantine.json"
