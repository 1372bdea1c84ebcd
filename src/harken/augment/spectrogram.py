"""Changes of a batch of training spectrograms: masks, holes, rolls and noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from harken.augment.augment import SpectrogramAugment

Fill = Literal["mean", "zero", "min"]


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
    fill: Fill = "mean"
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
        draws = draw(rngs, 1 + 2 * (self.num_time + self.num_freq), features.device)
        chosen = (draws[:, 0] < self.p)[:, None, None]
        spans = draws[:, 1:].reshape(len(draws), -1, 2)
        widest = (lengths // 2).clamp(min=1, max=self.time_width)
        time = _spans(spans[:, : self.num_time], 1, widest, lengths, frames).any(dim=1)
        bands = torch.full_like(lengths, bins)
        widest = bands.clamp(max=self.freq_width)
        freq = _spans(spans[:, self.num_time :], 1, widest, bands, bins).any(dim=1)
        inside = torch.arange(frames, device=features.device) < lengths[:, None]
        hidden = (time[:, None, :] | freq[:, :, None]) & inside[:, None] & chosen
        return torch.where(hidden, filling(self.fill, features, inside), features)


class CoarseDropout(SpectrogramAugment):
    """Hide rectangles of time and frequency (cutout, DeVries & Taylor, 2017).

    The names follow albumentations' CoarseDropout. Holes lie within a clip's true length.
    """

    kind: Literal["coarse_dropout"] = "coarse_dropout"
    min_holes: int = Field(8, ge=1)
    """Smallest number of rectangles; they may overlap."""
    max_holes: int = Field(16, ge=1)
    """Largest number of rectangles."""
    min_height: int = Field(4, ge=1)
    """Smallest height of a rectangle in bins."""
    max_height: int = Field(8, ge=1)
    """Largest height of a rectangle in bins."""
    min_width: int = Field(4, ge=1)
    """Smallest width of a rectangle in frames."""
    max_width: int = Field(8, ge=1)
    """Largest width of a rectangle in frames; never more than half of the clip."""
    fill: Fill = "mean"
    """What hidden parts hold: the clip's mean, 0, or the clip's smallest value."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the features with holes, drawn for each clip by itself."""
        _, bins, frames = features.shape
        draws = draw(rngs, 2 + 4 * self.max_holes, features.device)
        chosen = (draws[:, 0] < self.p)[:, None, None]
        count = self.min_holes + (draws[:, 1] * (self.max_holes - self.min_holes + 1)).long()
        places = draws[:, 2:].reshape(len(draws), self.max_holes, 4)
        high = torch.full_like(lengths, bins)
        rows = _spans(places[..., :2], self.min_height, high.clamp(max=self.max_height), high, bins)
        widest = (lengths // 2).clamp(min=1, max=self.max_width)
        columns = _spans(places[..., 2:], self.min_width, widest, lengths, frames)
        used = torch.arange(self.max_holes, device=features.device) < count[:, None]
        # A product of matrices marks all holes at once, without an array of every hole's area.
        covers = (rows & used[..., None]).float().transpose(1, 2) @ columns.float()
        inside = torch.arange(frames, device=features.device) < lengths[:, None]
        hidden = (covers > 0) & inside[:, None] & chosen
        return torch.where(hidden, filling(self.fill, features, inside), features)


class SpecNoise(SpectrogramAugment):
    """Add even noise between 0 and an amplitude to every value, as the AST recipe does.

    The features are what the front-end gives, normalised where it normalises.
    """

    kind: Literal["spec_noise"] = "spec_noise"
    min_amplitude: float = Field(0.0, ge=0)
    """Smallest amplitude, drawn per clip."""
    max_amplitude: float = Field(0.1, gt=0)
    """Largest amplitude."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return features + amplitude · U(0, 1), within each clip's true length."""
        draws = draw(rngs, 2, features.device)
        spread = self.max_amplitude - self.min_amplitude
        level = torch.where(draws[:, 0] < self.p, self.min_amplitude + spread * draws[:, 1], 0.0)
        noise = np.zeros(tuple(features.shape), dtype=np.float32)
        for clip, length, rng in zip(noise, lengths.tolist(), rngs, strict=True):
            # As many draws as the clip is long, so that its noise is the same in any batch.
            clip[:, :length] = rng.random((len(clip), length), dtype=np.float32)
        added = torch.from_numpy(noise).to(features.device, non_blocking=True)
        return torch.where(
            level[:, None, None] > 0, features + level[:, None, None] * added, features
        )


class SpecRoll(SpectrogramAugment):
    """Move frames in a circle within each clip's true length."""

    kind: Literal["spec_roll"] = "spec_roll"
    max_shift: int | None = Field(None, ge=1)
    """Largest shift in frames, either way; null allows any."""

    def apply(
        self, features: Tensor, lengths: Tensor, rngs: Sequence[np.random.Generator]
    ) -> Tensor:
        """Return the rolled features."""
        draws = draw(rngs, 3, features.device)
        most = lengths // 2 if self.max_shift is None else (lengths // 2).clamp(max=self.max_shift)
        shift = torch.minimum(1 + (draws[:, 1] * most).long(), most)
        shift = torch.where(draws[:, 2] < 0.5, shift, -shift)
        shift = torch.where(draws[:, 0] < self.p, shift, 0)[:, None]
        size = lengths.clamp(min=1)[:, None]
        frame = torch.arange(features.shape[2], device=features.device)[None]
        source = torch.where(frame < size, (frame - shift) % size, frame)
        return features.gather(2, source[:, None].expand_as(features))


def draw(rngs: Sequence[np.random.Generator], count: int, device: torch.device) -> Tensor:
    """Draw uniform numbers in [0, 1), float32 `(batch, count)`, a row from each generator."""
    rows = np.stack([rng.random(count, dtype=np.float32) for rng in rngs])
    return torch.from_numpy(rows).to(device, non_blocking=True)


def filling(fill: Fill, features: Tensor, inside: Tensor) -> Tensor:
    """Return what hidden parts of each clip hold, `(batch, 1, 1)` or a number.

    Args:
        fill: The clip's mean, 0, or the clip's smallest value.
        features: float32 `(batch, bins, frames)`.
        inside: bool `(batch, frames)`, True within each clip's true length.
    """
    if fill == "zero":
        return features.new_zeros(())
    inside = inside[:, None]
    if fill == "min":
        return features.masked_fill(~inside, torch.inf).amin((1, 2), keepdim=True)
    count = inside.sum(dim=2, keepdim=True) * features.shape[1]
    total = torch.where(inside, features, 0.0).sum((1, 2), keepdim=True)
    return total / count.clamp(min=1)


def _spans(spans: Tensor, narrowest: int, widest: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Return bool `(batch, spans, size)`, True inside each span.

    Args:
        spans: float32 `(batch, spans, 2)` in [0, 1): width and place of each.
        narrowest: Smallest width, where `widest` is not smaller.
        widest: int64 `(batch,)`, largest width.
        lengths: int64 `(batch,)`: spans end before this.
        size: Positions in all.
    """
    # Products of float32 may round up to their limit, hence the minima.
    limit = widest[:, None]
    least = limit.clamp(max=narrowest)
    width = torch.minimum(least + (spans[..., 0] * (limit - least + 1)).long(), limit)
    room = (lengths[:, None] - width).clamp(min=0)
    start = torch.minimum((spans[..., 1] * (room + 1)).long(), room)[..., None]
    position = torch.arange(size, device=spans.device)
    return (position >= start) & (position < start + width[..., None])
