"""Front-ends of imported models: padding is heard, as it was when those models learned.

A recipe that uses them says `plugins: [harken.frontends.legacy]`; `harken import-legacy` writes it.
A new recipe has no use for them: `kaldi_fbank` and `waveform` leave padding out.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harken.frontends.framing import frame_mask
from harken.frontends.frontend import FeatureSpec, Frontend, FrontendModule
from harken.frontends.kaldi_fbank import KaldiFbank
from harken.frontends.mel_frontend import MelFrontend
from harken.frontends.normalize import NoNormalize


class LegacyFbank(Frontend):
    """Kaldi filter banks of the clip and its padding, cut or zero-padded to so many frames.

    The levels are (x - mean) / (2 std), and padding is shifted and scaled like sound.
    """

    kind: Literal["legacy_fbank"] = "legacy_fbank"
    n_mels: int = Field(128, ge=1)
    """Number of mel filters."""
    frames: int = Field(1024, ge=1)
    """Frames of every clip (`target_length`)."""
    mean: float = Field(0.0, allow_inf_nan=False)
    """What is taken from the levels."""
    std: float = Field(gt=0, allow_inf_nan=False)
    """Half of what the levels are divided by."""

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module."""
        fbank = KaldiFbank(n_mels=self.n_mels, normalize=NoNormalize())
        mel = fbank.build(sample_rate, max_samples)
        assert isinstance(mel, MelFrontend)
        return LegacyFbankModule(self, mel, max_samples)


class LegacyFbankModule(FrontendModule):
    """Waveforms to levels of a fixed number of frames."""

    def __init__(self, config: LegacyFbank, mel: MelFrontend, max_samples: int | None) -> None:
        super().__init__()
        self.config, self.mel, self.max_samples = config, mel, max_samples
        self.spec = FeatureSpec("spectrogram", config.n_mels, mel.spec.rate, config.frames)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(batch, n_mels, frames)`, all of whose frames count."""
        centred, heard = centre(waveform, lengths, self.max_samples)
        levels, _ = self.mel.levels(centred, heard)
        frames = self.config.frames
        levels = F.pad(levels[..., :frames], (0, max(frames - levels.shape[2], 0)))
        features = (levels - self.config.mean) / (2 * self.config.std)
        return features, torch.full_like(lengths, frames)


class LegacyWaveform(Frontend):
    """The samples and their padding, as the wav2vec 2.0 models of old were given them."""

    kind: Literal["legacy_waveform"] = "legacy_waveform"
    normalize: Literal["none", "clip"] = "clip"
    """`clip` gives the clip with its padding unit variance; its mean is always taken away."""

    def build(self, sample_rate: int, max_samples: int | None) -> FrontendModule:
        """Build the module."""
        return LegacyWaveformModule(self.normalize == "clip", sample_rate, max_samples)


class LegacyWaveformModule(FrontendModule):
    """Waveforms to waveforms without mean, all of whose samples count."""

    def __init__(self, standardise: bool, sample_rate: int, max_samples: int | None) -> None:
        super().__init__()
        self.standardise, self.max_samples = standardise, max_samples
        self.spec = FeatureSpec("waveform", 1, float(sample_rate), max_samples)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples, over sqrt(variance + 1e-7) if asked, and what counts of them."""
        centred, heard = centre(waveform, lengths, self.max_samples)
        if not self.standardise:
            return centred, heard
        variance = centred.square().sum(1, keepdim=True) / heard[:, None]
        return centred / (variance + 1e-7).sqrt(), heard


def centre(waveform: Tensor, lengths: Tensor, samples: int | None) -> tuple[Tensor, Tensor]:
    """Take each clip's mean away; what fills it up to `samples`, once its mean, is zero then.

    Returns:
        The waveforms `(batch, samples)`, and how much of each counts: all of it, or where clips
        have no common length its own.
    """
    mask = frame_mask(lengths, waveform.shape[1])[:, 0]
    count = lengths[:, None].clamp(min=1)
    mean = torch.where(mask, waveform, 0.0).sum(1, keepdim=True) / count
    centred = torch.where(mask, waveform - mean, 0.0)
    if samples is None:
        return centred, lengths
    filled = F.pad(centred[:, :samples], (0, max(samples - centred.shape[1], 0)))
    return filled, torch.full_like(lengths, samples)
