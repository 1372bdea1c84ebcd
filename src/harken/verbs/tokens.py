"""`harken tokens fit` and `listen`: from sound to a vocabulary, and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from harken import storage
from harken.audio import Audio, load
from harken.errors import ConfigError, RunError
from harken.frontends import NotFiniteError
from harken.frontends.griffin_lim import resynthesise, unnormalise
from harken.frontends.mel_frontend import MelFrontend
from harken.frontends.tokens import Tokens, TokensModule
from harken.manifest import Clip, Manifest
from harken.parts import local_parts, part_names, parts_folder, remove_parts
from harken.pcm_cache import Quarantined
from harken.recipe import Recipe
from harken.storage import Location, Place
from harken.tokens.frame_filters import shape_frames, unfilter
from harken.tokens.frame_sample import FrameSample, merge_samples, shard_size
from harken.tokens.token_table import Shard
from harken.tokens.vocabulary import Vocabulary, read_vocabulary
from harken.verbs.prepare import Told
from harken.verbs.token_clips import CLIPS, decode_some, store_facts

NUM_FRAMES = 2_000_000
"""Frames that are clustered unless the recipe or the caller says another number."""


@dataclass(frozen=True)
class Fitted:
    """What `fit` made.

    Attributes:
        out: The vocabulary's file.
        vocabulary: The vocabulary, or None while other shards are missing.
        num_missing: Shards that are missing.
        quarantined: Recordings of this shard that were left out.
    """

    out: str
    vocabulary: Vocabulary | None
    num_missing: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)


def tokens_config(recipe: Recipe, **over: Any) -> Tokens:
    """Return the front-end whose vocabulary a recipe means.

    A recipe without tokens gives the settings of its frames.

    Args:
        recipe: The recipe.
        over: Other settings of the front-end; None leaves one as it is.

    Raises:
        ConfigError: the recipe has a vocabulary already, or a setting cannot be.
    """
    given = recipe.frontend
    config = given if isinstance(given, Tokens) else Tokens()
    if given is not None and not isinstance(given, Tokens):
        config = Tokens(features=given)
    if config.vocabulary is not None:
        raise ConfigError(
            "this recipe has a vocabulary already",
            where="frontend.vocabulary",
            fix="frontend.vocabulary=null",
        )
    if "num_frames" not in config.model_fields_set:
        over = {"num_frames": NUM_FRAMES} | {k: v for k, v in over.items() if v is not None}
    said = {name: value for name, value in over.items() if value is not None}
    try:
        return Tokens.model_validate(config.model_dump() | said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(("frontend", *map(str, first["loc"])))
        raise ConfigError(first["msg"], where=where) from None


def fit(
    recipe: Recipe,
    clips: Manifest,
    out: Location,
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    **over: Any,
) -> Fitted:
    """Fit a vocabulary to a uniform sample of the frames of some clips.

    Shards each read their share of the clips; the one that comes last clusters. However many there
    are, the sample is the same, and so is the vocabulary.

    Args:
        recipe: Its sections `audio` and `frontend` decide the frames; `data.cache…` and
            `data.on_bad_audio` how they are read.
        clips: Training clips.
        out: File to write.
        shard: Which part of the clips this process reads.
        overwrite: Replace another file.
        told: Called with clips done and clips of this shard.
        over: Settings of the front-end `tokens` such as `k` and `seed`.

    Raises:
        ConfigError: a setting cannot be.
        DataError: there are fewer frames than clusters, or a clip's features are not finite.
        RunError: the file is there already.
    """
    shard = shard or Shard()
    if storage.exists(out) and not overwrite:
        raise RunError(
            "this file is there already", where=str(out), fix="another --out, or --overwrite"
        )
    config = tokens_config(recipe, **over)
    module = config.build(recipe.audio.sample_rate, recipe.audio.clip_samples)
    folder = parts_folder(str(out), _fingerprint(recipe, config, clips, shard.count)[:12])
    path = folder / f"frames-{shard.number:04d}.safetensors"
    bad: list[Quarantined] = []
    if shard.count == 1:
        sample = gather(recipe, module, clips, bad, told=told)
        num_clips = len(clips) - len(bad)
    else:
        if not storage.is_file(path):
            mine = clips.take(np.arange(shard.number - 1, len(clips), shard.count))
            size = shard_size(config.num_frames, shard.count)
            sample = gather(recipe, module, mine, bad, size=size, told=told)
            _save(path, sample, len(mine) - len(bad))
        paths = [folder / f"frames-{i + 1:04d}.safetensors" for i in range(shard.count)]
        missing = len({each.name for each in paths} - part_names(folder))
        if missing:
            return Fitted(str(out), None, missing, bad)
        bins = module.features.spec.dim
        with local_parts(paths) as copies:
            parts, used = zip(*map(_load, copies), strict=True)
        sample, num_clips = merge_samples(parts, config.num_frames, bins), sum(used)
    known = _cluster(recipe, module, sample, num_clips)
    known.write(out)
    remove_parts(folder)
    return Fitted(str(out), known, 0, bad)


def _cluster(
    recipe: Recipe, module: TokensModule, sample: FrameSample, num_clips: int
) -> Vocabulary:
    clusters = module.cluster(sample)
    module.centroids.copy_(clusters.centroids)
    known = module.vocabulary(recipe.audio.model_dump(mode="json"), clusters)
    known.settings.update(
        num_clips=num_clips, num_frames=int(clusters.counts.sum()), passes=module.config.passes
    )
    return known


def gather(
    recipe: Recipe,
    module: TokensModule,
    clips: Manifest,
    bad: list[Quarantined],
    *,
    size: int | None = None,
    told: Told | None = None,
) -> FrameSample:
    """Draw a sample of the frames of clips, decoded a few at a time.

    Raises:
        DataError: a clip's features are not finite; names it.
    """
    sample, stores = module.new_sample(size), store_facts(clips)
    for start in range(0, len(clips), CLIPS):
        some = clips.take(np.arange(start, min(start + CLIPS, len(clips))))
        batches, left_out = decode_some(recipe, some, stores)
        bad += left_out
        for batch in batches:
            frames, counts = module.frames(batch.waveform, batch.lengths)
            for row, clip, count in zip(batch.rows.tolist(), frames, counts.tolist(), strict=True):
                known = clip[:count].numpy()
                if not np.isfinite(known).all():
                    raise NotFiniteError([row], [str(some.frame["path"][row])])
                sample.add(str(some.frame["id"][row]), known)
        if told is not None:
            told(start + len(some), len(clips))
    return sample


def _fingerprint(recipe: Recipe, config: Tokens, clips: Manifest, count: int) -> str:
    parts = [config.model_dump_json(), recipe.audio.model_dump_json(), str(count)]
    content = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16)
    for name in ("id", "path", "start", "duration"):
        content.update(json.dumps(clips.frame[name].to_list()).encode())
    return content.hexdigest()


def _save(path: Place, sample: FrameSample, num_clips: int) -> None:
    frames, numbers, order = sample.done()
    tensors: dict[str, Any] = {"frames": frames[order], "numbers": numbers[order]}
    note = {"is_cut": json.dumps(sample.is_cut), "num_clips": str(num_clips)}
    storage.write_atomic(path, lambda to: save_file(tensors, to, metadata=note))


def _load(path: Path) -> tuple[tuple[Any, Any, bool], int]:
    """Return a shard's frames, their numbers and whether it left some out; and its clips."""
    try:
        with safe_open(path, framework="np") as file:
            note = file.metadata()
            frames, numbers = file.get_tensor("frames"), file.get_tensor("numbers")
            return (frames, numbers, json.loads(note["is_cut"])), int(note["num_clips"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(f"this shard cannot be read: {error}", where=str(path)) from None


@dataclass(frozen=True)
class Heard:
    """What `listen` made.

    Attributes:
        seconds: Length of the sound.
        num_tokens: Frames.
        num_different: Different tokens among them.
        correlation: Between the levels of the clip and those of its centroids.
        heard_correlation: Between the levels of the clip and those of the sound that was made.
    """

    seconds: float
    num_tokens: int
    num_different: int
    correlation: float
    heard_correlation: float


def vocabulary_module(known: Vocabulary, url: Location) -> tuple[TokensModule, Audio]:
    """Return the front-end of a vocabulary's file, and how its sound is decoded."""
    audio = Audio.model_validate(known.settings["audio"])
    module = Tokens(vocabulary=str(url)).build(audio.sample_rate, audio.clip_samples)
    return module, audio


@torch.no_grad()
def listen(vocabulary: Location, clip: Location, out: Location, *, seed: int = 0) -> Heard:
    """Write what a vocabulary keeps of a clip: the sound of its frames' centroids.

    What a token does not say is the clip's own: the shift and scale of its normalisation, and with
    `l2_normalize` each frame's length. Phases are found anew.

    Raises:
        BadAudio: the clip cannot be used.
        ConfigError: the frames are not mel levels, or `out` is no name of a sound.
    """
    suffix = Path(str(out)).suffix
    if not soundfile.check_format(suffix.removeprefix(".").upper()):
        text = f"no sound can be written under a name that ends in {suffix or 'no suffix'}"
        raise ConfigError(text, where=str(out), fix=".wav or .flac")
    known = read_vocabulary(vocabulary)
    module, audio = vocabulary_module(known, vocabulary)
    frontend = module.features
    if not isinstance(frontend, MelFrontend):
        raise ConfigError("only mel levels can be heard", where="frontend.features")
    waveform = torch.from_numpy(load(Clip(str(clip), str(clip)), audio))[None]
    lengths = torch.tensor([waveform.shape[1]])
    tokens = module(waveform, lengths)[0][0]
    levels = frontend.levels(waveform, lengths)[0][0]
    features = module.frames(waveform, lengths)[0][0]
    kept = unnormalise(levels, features.T, _of_centroids(module, tokens, features).T)
    heard = resynthesise(frontend, kept, waveform.shape[1], seed=seed)
    with storage.atomic_path(out) as temporary:
        loudest = max(1.0, float(heard.abs().max()))
        soundfile.write(temporary, (heard / loudest).numpy(), audio.sample_rate)
    return Heard(
        waveform.shape[1] / audio.sample_rate,
        len(tokens),
        len(tokens.unique()),
        _correlation(levels, kept),
        _correlation(levels, frontend.levels(heard[None], lengths)[0][0]),
    )


def _of_centroids(module: TokensModule, tokens: Tensor, features: Tensor) -> Tensor:
    """Return the frames `(frames, bins)` that tokens stand for, as long as a clip's own."""
    rows = module.centroids[tokens]
    if module.config.l2_normalize:
        length = shape_frames(features, module.filters, False).norm(dim=1, keepdim=True)
        rows = torch.nn.functional.normalize(rows, dim=1) * length
    return unfilter(rows, module.filters, features.shape[1])


def _correlation(one: Tensor, two: Tensor) -> float:
    return float(np.corrcoef(one.flatten().numpy(), two.flatten().numpy())[0, 1])
