"""Changes of a training waveform's level: gain, a ramp of gain, its peak and its sign."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment


class Gain(WaveformAugment):
    """Make the whole clip louder or softer."""

    kind: Literal["gain"] = "gain"
    min_gain_db: float = -12.0
    """Smallest gain in decibels."""
    max_gain_db: float = 12.0
    """Largest gain in decibels; samples may exceed 1, they are not clipped."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform times 10^(gain / 20)."""
        return waveform * np.float32(amplitude(rng.uniform(self.min_gain_db, self.max_gain_db)))


class GainTransition(WaveformAugment):
    """Fade from one gain to another, evenly in decibels, somewhere in the clip."""

    kind: Literal["gain_transition"] = "gain_transition"
    min_gain_db: float = -24.0
    """Smallest gain in decibels, before or after the fade."""
    max_gain_db: float = 6.0
    """Largest gain in decibels, before or after the fade."""
    min_seconds: float = Field(0.2, ge=0)
    """Shortest fade in seconds."""
    max_seconds: float = Field(2.0, ge=0)
    """Longest fade in seconds; it may reach over the clip's ends."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform times the fading gain."""
        before, after = rng.uniform(self.min_gain_db, self.max_gain_db, 2)
        size = max(round(rng.uniform(self.min_seconds, self.max_seconds) * sample_rate), 1)
        # The fade overlaps the clip by a sample at least.
        start = int(rng.integers(1 - size, max(len(waveform), 1)))
        factor = np.full(len(waveform), amplitude(after), dtype=np.float32)
        factor[: max(start, 0)] = amplitude(before)
        fade = np.geomspace(amplitude(before), amplitude(after), size + 1, dtype=np.float32)
        part = factor[max(start, 0) : start + size]
        part[:] = fade[max(-start, 0) :][: len(part)]
        return waveform * factor


class PeakNormalize(WaveformAugment):
    """Scale the clip so that its largest sample has a given size; silence stays silent."""

    kind: Literal["peak_normalize"] = "peak_normalize"
    peak: float = Field(1.0, gt=0)
    """Largest absolute sample afterwards; 1 is full scale."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the scaled waveform."""
        return waveform * np.float32(self.peak / max(peak(waveform), 1e-20))


class PolarityInversion(WaveformAugment):
    """Turn the waveform upside down, which nobody hears but a network on waveforms may see."""

    kind: Literal["polarity_inversion"] = "polarity_inversion"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform times −1."""
        return -waveform


def amplitude(level_db: float) -> float:
    """Turn decibels into a factor of amplitude."""
    return float(10.0 ** (level_db / 20.0))


def rms(waveform: Wave) -> float:
    """Return the root of the mean square; 0 for no samples."""
    return float(np.sqrt(np.dot(waveform, waveform) / max(len(waveform), 1)))


def peak(waveform: Wave) -> float:
    """Return the largest absolute sample; 0 for no samples."""
    return float(max(waveform.max(), -waveform.min())) if len(waveform) else 0.0


def match_rms(waveform: Wave, reference: Wave) -> Wave:
    """Scale a waveform to the loudness of another."""
    return waveform * np.float32(rms(reference) / max(rms(waveform), 1e-20))
