"""Changes of one training waveform: shift, roll, gain and noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harken.augment.augment import Wave, WaveformAugment
from harken.seeds import generator

_POOL_SAMPLES = 2**20  # 4 MB: a minute at 16 kHz, and a million places to start reading


def apply_waveform_augments(
    augments: Sequence[WaveformAugment], waveform: Wave, sample_rate: int, rng: np.random.Generator
) -> Wave:
    """Apply changes in order, each with its own probability `p`.

    Args:
        augments: What to apply.
        waveform: float32 `(samples,)`, left as it was.
        sample_rate: In Hz.
        rng: The clip's own generator.
    """
    for augment in augments:
        if rng.random() < augment.p:
            waveform = augment.apply(waveform, sample_rate, rng)
    return waveform


class TimeShift(WaveformAugment):
    """Move the sound earlier or later; what leaves the clip is lost and its length stays."""

    kind: Literal["time_shift"] = "time_shift"
    max_shift: float = Field(0.5, gt=0)
    """Largest shift in seconds, either way; never more than half of the clip."""
    fill_noise: float = Field(0.0, ge=0)
    """The gap holds noise between plus and minus this amplitude; 0 leaves it silent."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the shifted waveform."""
        most = min(round(self.max_shift * sample_rate), len(waveform) // 2)
        shift = _draw_shift(most, rng)
        gap = np.zeros(abs(shift), dtype=np.float32)
        if self.fill_noise:
            gap = rng.uniform(-self.fill_noise, self.fill_noise, abs(shift)).astype(np.float32)
        if shift >= 0:
            return np.concatenate([gap, waveform[: len(waveform) - shift]])
        return np.concatenate([waveform[-shift:], gap])


class Roll(WaveformAugment):
    """Move the sound in a circle: what leaves at one end returns at the other."""

    kind: Literal["roll"] = "roll"
    max_shift: float | None = Field(None, gt=0)
    """Largest shift in seconds, either way; null allows any."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the rolled waveform."""
        most = len(waveform) // 2
        if self.max_shift is not None:
            most = min(round(self.max_shift * sample_rate), most)
        return np.roll(waveform, _draw_shift(most, rng))


class Gain(WaveformAugment):
    """Make the whole clip louder or softer."""

    kind: Literal["gain"] = "gain"
    min_gain_db: float = -12.0
    """Smallest gain in decibels."""
    max_gain_db: float = 12.0
    """Largest gain in decibels; samples may exceed 1, they are not clipped."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_gain_db > self.max_gain_db:
            raise ValueError("min_gain_db is more than max_gain_db")
        return self

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform times 10^(gain / 20)."""
        factor = 10.0 ** (rng.uniform(self.min_gain_db, self.max_gain_db) / 20.0)
        return waveform * np.float32(factor)


class Noise(WaveformAugment):
    """Add white Gaussian noise at a signal-to-noise ratio; silence stays silent."""

    kind: Literal["noise"] = "noise"
    min_snr_db: float = 10.0
    """Smallest ratio of the clip's power to the noise's, in decibels."""
    max_snr_db: float = 40.0
    """Largest ratio in decibels."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_snr_db > self.max_snr_db:
            raise ValueError("min_snr_db is more than max_snr_db")
        return self

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with noise, a stretch of a fixed pool from a random place on."""
        ratio = 10.0 ** (rng.uniform(self.min_snr_db, self.max_snr_db) / 20.0)
        start = int(rng.integers(_POOL_SAMPLES))
        sign = 1 if rng.random() < 0.5 else -1
        noise = _read_pool(start, len(waveform))
        level = _rms(waveform) / (ratio * max(_rms(noise), 1e-12))
        return waveform + np.float32(sign * level) * noise


def _draw_shift(most: int, rng: np.random.Generator) -> int:
    """Draw a whole number from 1 to `most`, with either sign; 0 only where nothing can move."""
    if most < 1:
        return 0
    shift = int(rng.integers(1, most + 1))
    return shift if rng.random() < 0.5 else -shift


def _rms(waveform: Wave) -> float:
    return float(np.sqrt(np.dot(waveform, waveform) / max(len(waveform), 1)))


@lru_cache(maxsize=1)
def _noise_pool() -> Wave:
    pool = generator(0, "noise pool").standard_normal(_POOL_SAMPLES, dtype=np.float32)
    pool.setflags(write=False)
    return pool


def _read_pool(start: int, samples: int) -> Wave:
    """Read on from `start`, round and round; making new noise would cost 20 times as much."""
    pool = _noise_pool()
    if start + samples <= len(pool):
        return pool[start : start + samples]
    return np.resize(np.roll(pool, -start), samples)
