"""Changes of one training waveform along time: shift, roll, reverse, repeat and cut out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment


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
        gap = draw_gap(abs(shift), self.fill_noise, rng)
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


class Reverse(WaveformAugment):
    """Play the clip backwards."""

    kind: Literal["reverse"] = "reverse"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the samples in reverse order."""
        return waveform[::-1].copy()


class RepeatPart(WaveformAugment):
    """Say a random part of the clip again right after itself; the clip's length stays."""

    kind: Literal["repeat_part"] = "repeat_part"
    min_seconds: float = Field(0.1, gt=0)
    """Shortest part in seconds."""
    max_seconds: float = Field(0.5, gt=0)
    """Longest part in seconds; never more than half of the clip."""
    num_repeats: int = Field(1, ge=1)
    """How often the part is said again."""
    mode: Literal["replace", "insert"] = "replace"
    """Whether repeats replace what follows, or move it later, past the clip's end."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with repeats."""
        samples = len(waveform)
        seconds = rng.uniform(self.min_seconds, self.max_seconds)
        size = min(max(round(seconds * sample_rate), 1), samples // 2)
        start = int(rng.integers(samples - 2 * size + 1))
        repeats = np.tile(waveform[start : start + size], self.num_repeats)
        after = start + size
        kept = after + len(repeats) if self.mode == "replace" else after
        return np.concatenate([waveform[:after], repeats, waveform[kept:]])[:samples]


class Cutout(WaveformAugment):
    """Make random stretches of the clip silent (a time mask on the waveform)."""

    kind: Literal["cutout"] = "cutout"
    num: int = Field(1, ge=1)
    """Number of stretches; they may overlap."""
    min_share: float = Field(0.05, ge=0, le=1)
    """Smallest size of a stretch as a share of the clip."""
    max_share: float = Field(0.3, gt=0, le=1)
    """Largest size of a stretch as a share of the clip."""
    max_seconds: float | None = Field(None, gt=0)
    """Largest size of a stretch in seconds; null leaves it to `max_share`."""
    fill_noise: float = Field(0.0, ge=0)
    """Stretches hold noise between plus and minus this amplitude; 0 leaves them silent."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with silent stretches."""
        changed, samples = waveform.copy(), len(waveform)
        most = samples if self.max_seconds is None else round(self.max_seconds * sample_rate)
        for _ in range(self.num):
            share = rng.uniform(self.min_share, self.max_share)
            size = min(max(round(share * samples), 1), max(most, 1), samples)
            start = int(rng.integers(samples - size + 1))
            changed[start : start + size] = draw_gap(size, self.fill_noise, rng)
        return changed


def draw_gap(samples: int, amplitude: float, rng: np.random.Generator) -> Wave:
    """Return silence, or noise between plus and minus an amplitude."""
    if amplitude == 0:
        return np.zeros(samples, dtype=np.float32)
    return rng.uniform(-amplitude, amplitude, samples).astype(np.float32)


def _draw_shift(most: int, rng: np.random.Generator) -> int:
    """Draw a whole number from 1 to `most`, with either sign; 0 only where nothing can move."""
    if most < 1:
        return 0
    shift = int(rng.integers(1, most + 1))
    return shift if rng.random() < 0.5 else -shift
