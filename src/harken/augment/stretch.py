"""Changes of a training waveform's tempo and pitch: both at once, or one of them.

`stretch` and `pitch` use Signalsmith Stretch through python-stretch, a phase vocoder that keeps the
clip in place: what lies at second t lies at t / rate afterwards.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import soxr
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.formants import keep_envelope
from harken.augment.waveform import draw_gap
from harken.errors import import_extra

Align = Literal["start", "centre"]


class Speed(WaveformAugment):
    """Play the clip faster and higher, or slower and lower, as a tape does.

    The clip is resampled by a rate drawn evenly. Twice the rate is half as long, and an octave up.
    """

    kind: Literal["speed"] = "speed"
    min_rate: float = Field(0.8, gt=0.05, le=20)
    """Smallest rate; under 1 is slower and lower."""
    max_rate: float = Field(1.25, gt=0.05, le=20)
    """Largest rate; over 1 is faster and higher."""
    keep_length: bool = True
    """Crop or pad to the clip's own length; false leaves a clip shorter or longer."""
    align: Align = "centre"
    """Part of a slower clip that is kept, and place of a faster one between its padding."""
    fill_noise: float = Field(0.0, ge=0)
    """Padding holds noise between plus and minus this amplitude; 0 leaves it silent."""
    resampler: Literal["soxr", "linear"] = "soxr"
    """`soxr` filters what would alias; `linear` interpolates between samples and does not."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the resampled waveform."""
        rate = rng.uniform(self.min_rate, self.max_rate)
        changed = self._resample(waveform, rate)
        if not self.keep_length:
            return changed
        return fit(changed, len(waveform), self.align, self.fill_noise, rng)

    def _resample(self, waveform: Wave, rate: float) -> Wave:
        if len(waveform) == 0:
            return waveform.copy()
        if self.resampler == "linear":
            size = max(round(len(waveform) / rate), 1)
            places = rate * np.arange(size)
            read: Wave = np.interp(places, np.arange(len(waveform)), waveform).astype(np.float32)
            return read
        changed: Wave = soxr.resample(waveform, rate, 1.0, quality="MQ")
        return changed if len(changed) else waveform[:1].copy()


class Stretch(WaveformAugment):
    """Play the clip faster or slower at its own pitch; needs python-stretch."""

    kind: Literal["stretch"] = "stretch"
    min_rate: float = Field(0.8, ge=0.1, le=10)
    """Smallest rate; under 1 is slower."""
    max_rate: float = Field(1.25, ge=0.1, le=10)
    """Largest rate; over 1 is faster."""
    keep_length: bool = True
    """Crop or pad to the clip's own length; false leaves a clip shorter or longer."""
    align: Align = "start"
    """Part of a slower clip that is kept, and place of a faster one between its padding."""
    fill_noise: float = Field(0.0, ge=0)
    """Padding holds noise between plus and minus this amplitude; 0 leaves it silent."""
    fast: bool = False
    """Use fewer and shorter frames: faster, and rougher."""

    def check(self, sample_rate: int) -> None:
        """Refuse to begin without python-stretch."""
        _import_stretch()

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the stretched waveform."""
        rate = rng.uniform(self.min_rate, self.max_rate)
        processor = _new_processor(sample_rate, self.fast, rng)
        processor.timeFactor = rate
        changed = _process(processor, waveform)
        if not self.keep_length:
            return changed if len(changed) else waveform[:1].copy()
        return fit(changed, len(waveform), self.align, self.fill_noise, rng)


class Pitch(WaveformAugment):
    """Move the clip's pitch at its own tempo; needs python-stretch."""

    kind: Literal["pitch"] = "pitch"
    min_semitones: float = Field(-2.0, ge=-36, le=36)
    """Smallest shift in semitones; 12 are an octave."""
    max_semitones: float = Field(2.0, ge=-36, le=36)
    """Largest shift in semitones."""
    tonality_limit_hz: float | None = Field(None, gt=0)
    """Frequencies above it move less, which leaves hiss and air as they are; null moves all."""
    keep_formants: bool = False
    """Give the spectral envelope back, so that a voice keeps its vowels and its speaker's size."""
    fast: bool = False
    """Use fewer and shorter frames: faster, and rougher."""

    def check(self, sample_rate: int) -> None:
        """Refuse to begin without python-stretch."""
        _import_stretch()

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the shifted waveform, as long as it was."""
        semitones = rng.uniform(self.min_semitones, self.max_semitones)
        limit = 0.0 if self.tonality_limit_hz is None else self.tonality_limit_hz / sample_rate
        processor = _new_processor(sample_rate, self.fast, rng)
        processor.setTransposeSemitones(semitones, limit)
        changed = _process(processor, waveform)
        changed = fit(changed, len(waveform), "start", 0.0, rng)
        return keep_envelope(changed, waveform, sample_rate) if self.keep_formants else changed


def fit(
    waveform: Wave, samples: int, align: Align, fill_noise: float, rng: np.random.Generator
) -> Wave:
    """Crop or pad a waveform to `samples`, at its end or evenly at both ends."""
    spare = len(waveform) - samples
    before = abs(spare) // 2 if align == "centre" else 0
    if spare >= 0:
        return waveform[before : before + samples]
    gap = draw_gap(-spare, fill_noise, rng)
    return np.concatenate([gap[:before], waveform, gap[before:]])


def _import_stretch() -> Any:
    return import_extra("python_stretch", "augment")


def _new_processor(sample_rate: int, fast: bool, rng: np.random.Generator) -> Any:
    # At rates under a half the library draws phases, from a seed that has to be given.
    processor = _import_stretch().Signalsmith.Stretch(int(rng.integers(2**31)))
    processor.preset(1, sample_rate, fast)
    return processor


def _process(processor: Any, waveform: Wave) -> Wave:
    # The library refuses arrays that may not be written to.
    changed: Wave = processor.process(np.array(waveform[None], order="C"))[0]
    return changed
