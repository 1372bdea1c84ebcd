"""The front-end `stacked_fbank`: the filter banks that w2v-BERT 2.0 reads."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from harken.errors import ConfigError
from harken.frontends.framing import frame_mask
from harken.frontends.frontend import FeatureSpec, Frontend, FrontendModule
from harken.frontends.kaldi_fbank import KaldiFbank
from harken.frontends.mel_frontend import MelFrontend
from harken.frontends.normalize import NoNormalize


class StackedFbank(Frontend):
    """Kaldi's filter banks, standardised per bin and stacked in time (Barrault et al., 2023).

    What `SeamlessM4TFeatureExtractor` of `transformers` makes at 16 kHz: 80 filters with Kaldi's
    own window and levels, each bin with zero mean and unit variance over its clip, then two frames
    side by side, 160 values 50 times a second.
    """

    kind: Literal["stacked_fbank"] = "stacked_fbank"
    n_mels: int = Field(80, ge=1)
    """Number of mel filters."""
    stack: int = Field(2, ge=1)
    """Frames that are put side by side; what is left at the end of a clip is dropped."""

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module.

        Raises:
            ConfigError: the sample rate is too low for a frame, or for one stack of frames.
        """
        fbank = KaldiFbank(
            n_mels=self.n_mels, window="povey", input_scale=32768.0, normalize=NoNormalize()
        ).build(sample_rate, max_samples)
        assert isinstance(fbank, MelFrontend)
        frames = fbank.spec.max_frames
        if frames is not None and frames < self.stack:
            raise ConfigError(
                f"clips have {frames} frames and {self.stack} are stacked",
                where="audio.clip_seconds",
                fix="longer clips",
            )
        return StackedFbankModule(fbank, self.stack)


class StackedFbankModule(FrontendModule):
    """Filter banks, their standardisation and the stacking."""

    def __init__(self, fbank: MelFrontend, stack: int) -> None:
        super().__init__()
        self.fbank, self.stack = fbank, stack
        inner = fbank.spec
        most = None if inner.max_frames is None else inner.max_frames // stack
        self.spec = FeatureSpec("spectrogram", inner.dim * stack, inner.rate / stack, most)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn waveforms `(batch, samples)` into `(batch, stack * bins, frames)`.

        A clip too short for one stack is filled up with zeros.
        """
        levels, counts = self.fbank(waveform, lengths)
        levels = standardise(levels, counts)
        counts = torch.div(counts, self.stack, rounding_mode="floor").clamp(min=1)
        missing = max(0, self.stack - levels.shape[2])
        levels = torch.nn.functional.pad(levels, (0, missing))
        whole = levels.shape[2] // self.stack
        frames = torch.unflatten(levels[:, :, : whole * self.stack], 2, (whole, self.stack))
        stacked = frames.permute(0, 3, 1, 2).flatten(1, 2)
        return stacked.masked_fill(~frame_mask(counts, whole), 0.0), counts


def standardise(levels: Tensor, counts: Tensor) -> Tensor:
    """Give each bin of each clip zero mean and unit variance, (x - mean) / sqrt(var + 1e-7).

    The variance is the unbiased one, over a clip's own frames; zeros beyond.
    """
    mask = frame_mask(counts, levels.shape[2])
    count = counts[:, None, None]
    mean = torch.where(mask, levels, 0.0).sum(2, keepdim=True) / count
    centred = torch.where(mask, levels - mean, 0.0)
    variance = centred.square().sum(2, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance + 1e-7).sqrt()
