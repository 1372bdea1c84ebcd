"""What the spectrogram networks ask of their features, and how they bring them to one length."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harken.errors import ConfigError, DataError
from harken.frontends.frontend import FeatureSpec


def require_spectrogram(spec: FeatureSpec, kind: str) -> None:
    """Refuse features that are no spectrogram.

    Raises:
        ConfigError: the front-end makes waveforms or tokens.
    """
    if spec.kind != "spectrogram":
        raise ConfigError(
            f"{kind} cannot read {spec.kind} features",
            where="backbone.kind",
            fix="choose frontend.kind=log_mel or frontend.kind=kaldi_fbank",
        )


def fixed_frames(spec: FeatureSpec, what: str) -> int:
    """Return the frames that every clip is padded to, for networks built for one size.

    Raises:
        ConfigError: clips have no fixed length.
    """
    if spec.max_frames is None:
        raise ConfigError(
            f"{what} reads clips of one length only, and audio.clip_seconds is not set",
            where="audio.clip_seconds",
            fix="set audio.clip_seconds, e.g. audio.clip_seconds=5",
        )
    return spec.max_frames


def pad_frames(features: Tensor, frames: int) -> Tensor:
    """Zero-pad features `(batch, bins, n)` at the end to `(batch, bins, frames)`.

    Raises:
        DataError: `n` is larger than `frames`.
    """
    missing = frames - features.shape[-1]
    if missing < 0:
        raise DataError(
            f"a clip has {features.shape[-1]} frames and the network was built for {frames}",
            fix="crop it to audio.clip_seconds",
        )
    return F.pad(features, (0, missing)) if missing else features


def is_full(lengths: Tensor, frames: int) -> bool:
    """Whether no clip of the batch is padded, so that masking may be skipped.

    Always False while the model is exported or compiled, where the answer must not depend on data.
    """
    if torch.compiler.is_compiling():
        return False
    return bool((lengths >= frames).all())
