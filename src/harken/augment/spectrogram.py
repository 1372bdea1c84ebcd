"""Changes of a batch of training spectrograms: masks and rolls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from harken.augment.augment import SpectrogramAugment


def apply_spectrogram_augments(
    augments: Sequence[SpectrogramAugment],
    features: Tensor,
    lengths: Tensor,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """Apply changes in order, each with its own probability `p` per clip.

    Args:
        augments: What to apply.
        features: float32 `(batch, bins, frames)`, left as it was.
        lengths: int64 `(batch,)`, true frames of each clip.
        rngs: One generator a clip.
    """
    for augment in augments:
        features = augment.apply(features, lengths, rngs)
    return features


class SpecMask(SpectrogramAugment):
    """Hide stretches of time and bands of frequency (SpecAugment, Park et al., 2019).

    Masks are 1 to `*_width` wide and may overlap; a mask in time covers at most half of a clip, so
    that short clips keep something to be recognised by.
    """

    kind: Literal["spec_mask"] = "spec_mask"
    num_time: int = Field(2, ge=0)
    """Number of masks over time."""
    num_freq: int = Field(2, ge=0)
    """Number of masks over frequency."""
    time_width: int = Field(40, ge=1)
    """Largest width of a time mask in frames."""
    freq_width: int = Field(12, ge=1)
    """Largest width of a frequency mask in bins."""
    fill: Literal["mean", "zero", "min"] = "mean"
    """What hidden parts hold: the clip's mean, 0, or the clip's smallest value."""

    @model_validator(mode="after")
    def _hides_something(self) -> Self:
        if self.num_time + self.num_freq == 0:
            raise ValueError("num_time and num_freq are both 0: nothing would be hidden")
        return self

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the features with masks, drawn for each clip by itself."""
        _, bins, frames = features.shape
        draws = _draw(rngs, 1 + 2 * (self.num_time + self.num_freq), features.device)
        chosen = (draws[:, 0] < self.p)[:, None, None]
        spans = draws[:, 1:].reshape(len(draws), -1, 2)
        widest = (lengths // 2).clamp(min=1, max=self.time_width)
        time = _stretches(spans[:, : self.num_time], widest, lengths, frames)
        bands = torch.full_like(lengths, bins)
        widest = bands.clamp(max=self.freq_width)
        freq = _stretches(spans[:, self.num_time :], widest, bands, bins)
        inside = torch.arange(frames, device=features.device) < lengths[:, None]
        hidden = (time[:, None, :] | freq[:, :, None]) & inside[:, None] & chosen
        return torch.where(hidden, self._filling(features, inside[:, None]), features)

    def _filling(self, features: Tensor, inside: Tensor) -> Tensor:
        if self.fill == "zero":
            return features.new_zeros(())
        if self.fill == "min":
            return features.masked_fill(~inside, torch.inf).amin((1, 2), keepdim=True)
        count = inside.sum(dim=2, keepdim=True) * features.shape[1]
        total = torch.where(inside, features, 0.0).sum((1, 2), keepdim=True)
        return total / count.clamp(min=1)


class SpecRoll(SpectrogramAugment):
    """Move frames in a circle within each clip's true length."""

    kind: Literal["spec_roll"] = "spec_roll"
    max_shift: int | None = Field(None, ge=1)
    """Largest shift in frames, either way; null allows any."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the rolled features."""
        draws = _draw(rngs, 3, features.device)
        most = lengths // 2 if self.max_shift is None else (lengths // 2).clamp(max=self.max_shift)
        shift = torch.minimum(1 + (draws[:, 1] * most).long(), most)
        shift = torch.where(draws[:, 2] < 0.5, shift, -shift)
        shift = torch.where(draws[:, 0] < self.p, shift, 0)[:, None]
        size = lengths.clamp(min=1)[:, None]
        frame = torch.arange(features.shape[2], device=features.device)[None]
        source = torch.where(frame < size, (frame - shift) % size, frame)
        return features.gather(2, source[:, None].expand_as(features))


def _draw(rngs: Sequence[np.random.Generator], count: int, device: torch.device) -> Tensor:
    """Draw uniform numbers in [0, 1), float32 `(batch, count)`, a row from each generator."""
    rows = np.stack([rng.random(count, dtype=np.float32) for rng in rngs])
    return torch.from_numpy(rows).to(device, non_blocking=True)


def _stretches(spans: Tensor, widest: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Return bool `(batch, size)`, True inside any of a clip's stretches.

    Args:
        spans: float32 `(batch, stretches, 2)` in [0, 1): width and place of each.
        widest: int64 `(batch,)`, largest width.
        lengths: int64 `(batch,)`: stretches end before this.
        size: Positions in all.
    """
    # Products of float32 may round up to their limit, hence the minima.
    limit = widest[:, None]
    width = torch.minimum(1 + (spans[..., 0] * limit).long(), limit)
    room = (lengths[:, None] - width).clamp(min=0)
    start = torch.minimum((spans[..., 1] * (room + 1)).long(), room)[..., None]
    position = torch.arange(size, device=spans.device)
    return ((position >= start) & (position < start + width[..., None])).any(dim=1)
