"""Changes of a training spectrogram's geometry: moved, or stretched, along time and frequency.

On the log-mel a stretch costs a hundredth of the same on the waveform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from harken.augment.augment import SpectrogramAugment
from harken.augment.spectrogram import Fill, draw, filling


class SpecShift(SpectrogramAugment):
    """Move the spectrogram along time and frequency; what leaves it is lost."""

    kind: Literal["spec_shift"] = "spec_shift"
    max_time: int = Field(20, ge=0)
    """Largest shift in frames, either way, at most half of the clip; 0 leaves time as it is."""
    max_freq: int = Field(4, ge=0)
    """Largest shift in bins, either way, at most half of them; 0 leaves frequency as it is."""
    fill: Fill = "min"
    """What the gap holds: the clip's mean, 0, or the clip's smallest value."""

    @model_validator(mode="after")
    def _moves_something(self) -> Self:
        if self.max_time + self.max_freq == 0:
            raise ValueError("max_time and max_freq are both 0: nothing would move")
        return self

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the moved features, each clip within its true length."""
        draws = draw(rngs, 5, features.device)
        time = _draw_shift(draws[:, 1:3], (lengths // 2).clamp(max=self.max_time))
        most = min(features.shape[1] // 2, self.max_freq)
        freq = _draw_shift(draws[:, 3:5], torch.full_like(lengths, most))
        frames = _positions(features, 2) - time[:, None]
        bins = _positions(features, 1) - freq[:, None]
        read = _take_frames(_take_bins(features, bins), frames)
        moved = _patch(read, features, lengths, bins, frames, self.fill)
        return torch.where((draws[:, 0] < self.p)[:, None, None], moved, features)


class SpecStretch(SpectrogramAugment):
    """Stretch the spectrogram along time (tempo) and frequency (pitch and formants together).

    Values between frames or bins are interpolated. A clip keeps its length: a slower one loses its
    end, a faster one is filled up.
    """

    kind: Literal["spec_stretch"] = "spec_stretch"
    min_time: float = Field(0.9, gt=0)
    """Smallest rate of time; under 1 is slower."""
    max_time: float = Field(1.1, gt=0)
    """Largest rate of time; over 1 is faster."""
    min_freq: float = Field(0.95, gt=0)
    """Smallest factor of the bins' numbers; under 1 is lower."""
    max_freq: float = Field(1.05, gt=0)
    """Largest factor of the bins' numbers; over 1 is higher."""
    fill: Fill = "min"
    """What the gap holds: the clip's mean, 0, or the clip's smallest value."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the stretched features, each clip within its true length."""
        draws = draw(rngs, 3, features.device)
        time = self.min_time + (self.max_time - self.min_time) * draws[:, 1:2]
        freq = self.min_freq + (self.max_freq - self.min_freq) * draws[:, 2:3]
        frames = _positions(features, 2) * time
        bins = _positions(features, 1) / freq
        low, left = bins.long(), frames.long()
        read = torch.lerp(
            _take_bins(features, low), _take_bins(features, low + 1), (bins - low)[:, :, None]
        )
        read = torch.lerp(
            _take_frames(read, left), _take_frames(read, left + 1), (frames - left)[:, None]
        )
        warped = _patch(read, features, lengths, bins, frames, self.fill)
        return torch.where((draws[:, 0] < self.p)[:, None, None], warped, features)


def _draw_shift(draws: Tensor, most: Tensor) -> Tensor:
    """Turn two numbers in [0, 1) into a shift from 1 to `most` either way; 0 where that is 0."""
    shift = torch.minimum(1 + (draws[:, 0] * most).long(), most)
    return torch.where(draws[:, 1] < 0.5, shift, -shift)


def _positions(features: Tensor, axis: int) -> Tensor:
    return torch.arange(features.shape[axis], device=features.device)


def _take_bins(features: Tensor, bins: Tensor) -> Tensor:
    """Read whole numbers of bins `(batch, bins)`, the nearest there is."""
    clip = torch.arange(len(features), device=features.device)[:, None]
    return features[clip, bins.clamp(0, features.shape[1] - 1)]


def _take_frames(features: Tensor, frames: Tensor) -> Tensor:
    """Read whole numbers of frames `(batch, frames)`, the nearest there is."""
    index = frames.clamp(0, features.shape[2] - 1)[:, None]
    return features.gather(2, index.expand(-1, features.shape[1], -1))


def _patch(
    read: Tensor, features: Tensor, lengths: Tensor, bins: Tensor, frames: Tensor, fill: Fill
) -> Tensor:
    """Fill up what was read outside a clip, and keep what lies behind its true length.

    Args:
        read: float32 `(batch, bins, frames)`, what was read.
        features: float32 `(batch, bins, frames)`, what it was read from.
        lengths: int64 `(batch,)`.
        bins: `(batch, bins)`, where each bin was read.
        frames: `(batch, frames)`, where each frame was read.
        fill: What is outside.
    """
    inside = _positions(features, 2) < lengths[:, None]
    low_or_high = (bins < 0) | (bins > features.shape[1] - 1)
    early_or_late = (frames < 0) | (frames > lengths[:, None] - 1)
    outside = low_or_high[:, :, None] | early_or_late[:, None]
    read = torch.where(outside, filling(fill, features, inside), read)
    return torch.where(inside[:, None], read, features)
