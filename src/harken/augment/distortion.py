"""Distortions of a training waveform: clipping, saturation, few bits and aliasing."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.level import amplitude, match_rms, peak


class Clipping(WaveformAugment):
    """Cut off the loudest samples, as a recorder does that is set too high."""

    kind: Literal["clipping"] = "clipping"
    min_share: float = Field(0.01, ge=0, le=1)
    """Smallest share of the clip's samples that are cut; one sample is always."""
    max_share: float = Field(0.3, gt=0, le=1)
    """Largest share of the clip's samples that are cut."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform between plus and minus a threshold."""
        share = rng.uniform(self.min_share, self.max_share)
        samples = len(waveform)
        if samples < 2:
            return waveform.copy()
        rank = min(max(round(share * samples), 1), samples - 1)
        threshold = np.partition(np.abs(waveform), samples - 1 - rank)[samples - 1 - rank]
        clipped: Wave = np.clip(waveform, -threshold, threshold)
        return clipped


class TanhDistortion(WaveformAugment):
    """Saturate the clip softly by a hyperbolic tangent; it keeps its loudness."""

    kind: Literal["tanh_distortion"] = "tanh_distortion"
    min_drive_db: float = 0.0
    """Smallest gain in decibels of the clip, its peak made 1, before the tangent."""
    max_drive_db: float = 24.0
    """Largest such gain in decibels: 0 is hardly heard, 24 a loud guitar amplifier."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the saturated waveform."""
        drive = amplitude(rng.uniform(self.min_drive_db, self.max_drive_db))
        scale = np.float32(drive / max(peak(waveform), 1e-20))
        return match_rms(np.tanh(waveform * scale), waveform)


class BitCrush(WaveformAugment):
    """Round the clip to few bits, of its own peak."""

    kind: Literal["bit_crush"] = "bit_crush"
    min_bits: int = Field(5, ge=2, le=16)
    """Fewest bits of a sample, with its sign."""
    max_bits: int = Field(10, ge=2, le=16)
    """Most bits of a sample, with its sign."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the rounded waveform."""
        bits = int(rng.integers(self.min_bits, self.max_bits + 1))
        step = np.float32(max(peak(waveform), 1e-20) / (2 ** (bits - 1) - 1))
        rounded: Wave = np.rint(waveform / step) * step
        return rounded


class Alias(WaveformAugment):
    """Leave out samples without a filter, so that high frequencies return as lower ones."""

    kind: Literal["alias"] = "alias"
    min_factor: float = Field(1.5, gt=1)
    """Smallest number of times by which the sample rate is lowered."""
    max_factor: float = Field(4.0, gt=1)
    """Largest number of times by which the sample rate is lowered."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the clip at its own rate, interpolated between the samples that were kept."""
        factor = rng.uniform(self.min_factor, self.max_factor)
        samples = len(waveform)
        if samples == 0:
            return waveform.copy()
        kept = np.arange(0, samples, factor)
        thinned = waveform[np.rint(kept).astype(np.int64).clip(max=samples - 1)]
        held: Wave = np.interp(np.arange(samples), kept, thinned).astype(np.float32)
        return held
