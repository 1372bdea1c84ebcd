"""The front-end `waveform`: samples for networks that read them, such as wav2vec 2.0."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from harken.frontends.framing import frame_mask
from harken.frontends.frontend import FeatureSpec, Frontend, FrontendModule


class Waveform(Frontend):
    """The samples themselves, `(batch, samples)`."""

    kind: Literal["waveform"] = "waveform"
    normalize: Literal["none", "clip"] = "clip"
    """`clip` gives each clip zero mean and unit variance over its true samples."""

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module."""
        return WaveformModule(self.normalize == "clip", sample_rate, max_samples)


class WaveformModule(FrontendModule):
    """Passes samples on, standardised if asked."""

    def __init__(self, standardise: bool, sample_rate: int, max_samples: int | None) -> None:
        super().__init__()
        self.standardise = standardise
        self.spec = FeatureSpec("waveform", 1, float(sample_rate), max_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x - mean) / sqrt(variance + 1e-7), as wav2vec 2.0 was trained with."""
        mask = frame_mask(lengths, waveform.shape[1])[:, 0]
        if not self.standardise:
            return torch.where(mask, waveform, 0.0), lengths
        count = lengths[:, None].clamp(min=1)
        mean = torch.where(mask, waveform, 0.0).sum(dim=1, keepdim=True) / count
        centred = torch.where(mask, waveform - mean, 0.0)
        variance = centred.square().sum(dim=1, keepdim=True) / count
        return centred / (variance + 1e-7).sqrt(), lengths
