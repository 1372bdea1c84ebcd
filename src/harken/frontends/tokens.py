"""The front-end `tokens`: each frame becomes the number of the most similar frame of a vocabulary.

Tokens run from 0 to k - 1. Beyond a clip's end they are 0, which is also a token: only the lengths
say where a clip ends. Numbers for padding, masking or a class belong to the networks that read
tokens, which put them behind the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, WithJsonSchema, model_validator
from torch import Tensor

from harken.errors import ConfigError, RunError
from harken.frontends.framing import frame_mask
from harken.frontends.frontend import FeatureSpec, Frontend, FrontendModule, NotFiniteError
from harken.frontends.log_mel import LogMel
from harken.frontends.sharing import cut, share_out
from harken.tokens import (
    Clusters,
    FrameSample,
    Vocabulary,
    draw_filters,
    fit_clusters,
    nearest,
    read_vocabulary,
    shape_frames,
)

_SHARE = 8192  # frames of one thread's part

# The schema of the slot would hold itself, so it is cut here.
Features = Annotated[
    Frontend, WithJsonSchema({"description": "a front-end of frames: log_mel or kaldi_fbank"})
]

_OF_VOCABULARY = ("k", "features", "l2_normalize", "num_kernels", "kernel_size")
"""Settings that a given vocabulary decides."""


class Tokens(Frontend):
    """Numbers of the nearest typical frames, found by k-means.

    A vocabulary is given, as `harken tokens fit` writes it, or learned from the training clips of
    each fold. Both travel in the run's weights. The vocabulary of 500 frames, of unit length, of
    mel decibels at 22050 Hz:

        {kind: tokens, k: 500, l2_normalize: true,
         features: {kind: log_mel, n_mels: 64, n_fft: 512, win_length: 512, hop_length: 128,
                    scale: htk, filter_norm: none, log: db, normalize: none}}
    """

    kind: Literal["tokens"] = "tokens"
    vocabulary: str | None = None
    """File that `harken tokens fit` wrote; null learns a vocabulary from the training clips."""
    k: int = Field(500, ge=2)
    """Number of tokens."""
    features: Features = LogMel()
    """The frames: `log_mel` or `kaldi_fbank`, with a normalisation that need not be learned."""
    l2_normalize: bool = False
    """Give every frame unit length, so that loudness does not choose the token."""
    num_kernels: int = Field(0, ge=0)
    """Fixed random filters along frequency, whose answers are clustered instead of the bins; 0
    takes the bins."""
    kernel_size: int = Field(3, ge=1)
    """Bins that such a filter sees; an odd number."""
    num_frames: int = Field(200_000, ge=1)
    """When learning: frames of the training clips that are clustered, drawn uniformly."""
    passes: int = Field(2, ge=1)
    """When learning: how often each of them is looked at."""
    init: Literal["k-means++", "sample"] = "k-means++"
    """When learning: the first centroids, far apart or drawn."""
    seed: int = Field(0, ge=0)
    """When learning: root of the draws."""
    digest: str | None = None
    """Hash of the vocabulary that the run was made with; harken fills it in."""

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}; it must be odd")
        if isinstance(self.features, Tokens):
            raise ValueError("features of tokens cannot be tokens again")
        return self

    def resolved(self) -> Self:
        """Return the config with the vocabulary's settings read in.

        Raises:
            ConfigError: the recipe says other settings than the vocabulary was made with.
            DataError: there is no such vocabulary.
        """
        return self if self.vocabulary is None else self._of(read_vocabulary(self.vocabulary))

    def _of(self, known: Vocabulary) -> Self:
        theirs = settings_of(known)
        said = self.model_fields_set - (set() if self.num_kernels else {"kernel_size"})
        for name in (name for name in _OF_VOCABULARY if name in said):
            if getattr(self, name) != getattr(theirs, name):
                raise ConfigError(
                    f"the vocabulary {self.vocabulary} was made with other settings: "
                    f"{_difference(getattr(self, name), getattr(theirs, name), name)}",
                    where=f"frontend.{name}",
                    fix="leave it out, or fit a vocabulary with it",
                )
        if self.digest not in (None, known.digest):
            raise ConfigError(
                f"the vocabulary {self.vocabulary} is no longer the one this recipe was made with",
                where="frontend.vocabulary",
            )
        update = {name: getattr(theirs, name) for name in _OF_VOCABULARY}
        return self.model_copy(update={**update, "digest": known.digest})

    def build(self, sample_rate: int, max_samples: int | None) -> TokensModule:
        """Build the module, whose vocabulary is read, to be learned, or to be loaded.

        Raises:
            ConfigError: the vocabulary was made with other settings, or of sound of another rate,
                or the features cannot be clustered.
            DataError: there is no such vocabulary.
        """
        if self.vocabulary is None:
            return TokensModule(self, sample_rate, max_samples)
        known = read_vocabulary(self.vocabulary)
        theirs = known.settings["audio"]["sample_rate"]
        if theirs != sample_rate:
            raise ConfigError(
                f"the vocabulary {self.vocabulary} was made of sound at {theirs} Hz, and the "
                f"recipe has {sample_rate} Hz",
                where="audio.sample_rate",
                fix=f"audio.sample_rate={theirs}",
            )
        module = TokensModule(self._of(known), sample_rate, max_samples)
        module.take(known)
        return module


class TokensModule(FrontendModule):
    """Frames, what is compared of them, and their nearest centroids."""

    centroids: Tensor
    filters: Tensor

    def __init__(self, config: Tokens, sample_rate: int, max_samples: int | None) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.features = config.features.build(sample_rate, max_samples)
        inner = self.features.spec
        _refuse(config, self.features)
        digest = None if config.vocabulary is None else config.digest
        self.spec = FeatureSpec("tokens", config.k, inner.rate, inner.max_frames, digest)
        dim = inner.dim * max(config.num_kernels, 1)
        filters = draw_filters(config.seed, config.num_kernels, config.kernel_size)
        self.register_buffer("filters", filters)
        self.register_buffer("centroids", torch.full((config.k, dim), torch.nan))
        self._known = False

    def take(self, known: Vocabulary) -> None:
        """Take over a vocabulary's centroids and filters."""
        self.centroids.copy_(known.centroids)
        if known.filters is not None:
            self.filters.copy_(known.filters)

    def vocabulary(self, audio: dict[str, Any], clusters: Clusters | None = None) -> Vocabulary:
        """Return what can be written to a file, and be given to other runs.

        Args:
            audio: The recipe's section `audio`, as plain values.
            clusters: What fitting found, if it is to be told.
        """
        config = self.config
        settings = {
            "audio": audio,
            "features": config.features.model_dump(mode="json"),
            "l2_normalize": config.l2_normalize,
            "seed": config.seed,
        }
        counts = torch.zeros(config.k, dtype=torch.int64)
        if clusters is not None:
            counts = clusters.counts
            settings |= {"inertia": clusters.inertia, "silhouette": clusters.silhouette}
        filters = self.filters.cpu() if config.num_kernels else None
        return Vocabulary(self.centroids.cpu(), counts, filters, settings)

    def needs_statistics(self) -> bool:
        """Whether there are no centroids yet."""
        self._known = self._known or bool(torch.isfinite(self.centroids).all())
        return not self._known

    @torch.no_grad()
    def frames(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spectrogram's frames `(batch, frames, bins)` and their lengths."""
        features, counts = self.features(waveform, lengths)
        return features.transpose(1, 2), counts

    def shaped(self, frames: Tensor) -> Tensor:
        """Return what is compared of frames `(frames, bins)`."""
        return shape_frames(frames, self.filters, self.config.l2_normalize)

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms `(batch, samples)` into tokens int64 `(batch, frames)`, 0 beyond each end.

        Raises:
            NotFiniteError: features are not finite (looked for on CPUs only: elsewhere it costs
                time).
            RunError: there is no vocabulary yet.
        """
        if self.needs_statistics():
            raise RunError(
                "the vocabulary is not known yet",
                where="frontend.vocabulary",
                fix="call fit with training clips, or load a trained model's weights",
            )
        frames, counts = self.frames(waveform, lengths)
        mask = frame_mask(counts, frames.shape[1])[:, 0]
        tokens, scores = self._nearest(frames.reshape(-1, frames.shape[2]))
        shape = mask.shape
        if waveform.device.type == "cpu":
            bad = (~scores.view(shape).isfinite() & mask).any(dim=1)
            if bool(bad.any()):
                raise NotFiniteError(bad.nonzero()[:, 0].tolist())
        return tokens.view(shape).masked_fill(~mask, 0), counts

    def _nearest(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        if frames.device.type != "cpu":
            return nearest(self.shaped(frames), self.centroids)
        tokens = torch.empty(len(frames), dtype=torch.int64)
        scores = torch.empty(len(frames))

        def work(part: slice) -> None:
            tokens[part], scores[part] = nearest(self.shaped(frames[part]), self.centroids)

        share_out(work, cut(len(frames), _SHARE))
        return tokens, scores

    def fit(self, batches: object) -> None:
        """Learn the vocabulary from `(waveform, lengths)` of training clips only.

        Raises:
            DataError: the clips have fewer frames than there are tokens.
            NotFiniteError: features are not finite.
        """
        clips = cast("Iterable[tuple[Tensor, Tensor]]", batches)
        device = self.centroids.device
        sample = self.new_sample()
        number = 0
        for waveform, lengths in clips:
            frames, counts = self.frames(waveform.to(device), lengths.to(device))
            pairs = zip(frames.cpu().numpy(), counts.tolist(), strict=True)
            for place, (clip, count) in enumerate(pairs):
                if not np.isfinite(clip[:count]).all():
                    raise NotFiniteError([place])
                sample.add(str(number), clip[:count])
                number += 1
        self.centroids.copy_(self.cluster(sample).centroids)

    def new_sample(self, size: int | None = None) -> FrameSample:
        """Return an empty sample of frames for this front-end."""
        config = self.config
        return FrameSample(config.seed, size or config.num_frames, self.features.spec.dim)

    def cluster(self, sample: FrameSample) -> Clusters:
        """Cluster a sample of frames as the config says.

        Raises:
            DataError: there are fewer frames, or fewer different ones, than tokens.
        """
        frames, _, order = sample.done()
        filters = self.filters.cpu()

        def rows(numbers: Any) -> Any:
            chosen = torch.from_numpy(frames[order[numbers]])
            return shape_frames(chosen, filters, self.config.l2_normalize).numpy()

        config = self.config
        return fit_clusters(
            rows, len(order), config.k, seed=config.seed, passes=config.passes, init=config.init
        )


def settings_of(known: Vocabulary) -> Tokens:
    """Return the config that a vocabulary was made with."""
    filters = known.filters
    kernels = {} if filters is None else {"num_kernels": len(filters)}
    if filters is not None and len(filters):
        kernels["kernel_size"] = filters.shape[1]
    return Tokens.model_validate(
        {
            "k": len(known),
            "features": known.settings["features"],
            "l2_normalize": known.settings["l2_normalize"],
            **kernels,
        }
    )


def _refuse(config: Tokens, features: FrontendModule) -> None:
    where = "frontend.features"
    if features.spec.kind != "spectrogram":
        text = f"{config.features.model_dump()['kind']} has no frames to cluster"
        raise ConfigError(text, where=where, fix="log_mel or kaldi_fbank")
    if features.needs_statistics():
        raise ConfigError(
            "frames cannot be clustered before their normalisation is known",
            where=f"{where}.normalize",
            fix="take clip, minmax or none, or give mean and std",
        )


def _difference(mine: object, theirs: object, name: str) -> str:
    """Say in which setting two values differ."""
    if isinstance(mine, Frontend) and isinstance(theirs, Frontend):
        one, two = mine.model_dump(), theirs.model_dump()
        for key in one:
            if key in two and one[key] != two[key]:
                return f"{name}.{key} is {one[key]} here and {two[key]} in it"
        return f"{name} is {one.get('kind')} here and {two.get('kind')} in it"
    return f"{name} is {mine} here and {theirs} in it"
