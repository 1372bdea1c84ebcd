"""Filters on a training waveform: a band or an end of the spectrum is kept or removed.

All have the magnitude of a Butterworth filter (1930) and no phase, so that nothing moves in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.fourier import filtered
from harken.errors import ConfigError

_RING_SECONDS = 0.1
_LARGEST_EXPONENT = 80.0  # beyond it float32 has no exponential, and the filter lets nothing pass


class _Band(WaveformAugment):
    """A filter of a band, centred by ratio; centres are drawn evenly by ratio, too."""

    min_centre_hz: float = Field(300.0, gt=0)
    """Lowest centre of the band in Hz."""
    max_centre_hz: float = Field(3000.0, gt=0)
    """Highest centre of the band in Hz; at most half of the sample rate."""
    min_octaves: float = Field(0.5, gt=0)
    """Smallest width of the band in octaves."""
    max_octaves: float = Field(1.5, gt=0)
    """Largest width of the band in octaves."""
    order: int = Field(4, ge=1, le=16)
    """Steepness: 6 dB an octave each, on either side."""

    def check(self, sample_rate: int) -> None:
        """Refuse bands beyond half of the sample rate."""
        _check_below_half("max_centre_hz", self.max_centre_hz, sample_rate)

    def _draw(self, sample_rate: int, rng: np.random.Generator) -> tuple[float, float]:
        self.check(sample_rate)
        centre = _draw_by_ratio(self.min_centre_hz, self.max_centre_hz, rng)
        return centre, float(rng.uniform(self.min_octaves, self.max_octaves))


class BandPass(_Band):
    """Keep a band of frequencies, as a telephone does."""

    kind: Literal["band_pass"] = "band_pass"
    min_octaves: float = Field(1.0, gt=0)
    """Smallest width of the band in octaves."""
    max_octaves: float = Field(4.0, gt=0)
    """Largest width of the band in octaves."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return what is inside the band."""
        band = self._draw(sample_rate, rng)
        return _keep(waveform, sample_rate, lambda pitch: power_in_band(pitch, *band, self.order))


class BandStop(_Band):
    """Remove a band of frequencies."""

    kind: Literal["band_stop"] = "band_stop"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return what is outside the band."""
        band = self._draw(sample_rate, rng)
        return _keep(
            waveform, sample_rate, lambda pitch: 1 - power_in_band(pitch, *band, self.order)
        )


class _Cutoff(WaveformAugment):
    """A filter of one end of the spectrum; its limit is drawn evenly by ratio."""

    min_cutoff_hz: float = Field(100.0, gt=0)
    """Lowest frequency, in Hz, at which 3 dB are lost."""
    max_cutoff_hz: float = Field(1000.0, gt=0)
    """Highest such frequency in Hz; at most half of the sample rate."""
    order: int = Field(4, ge=1, le=16)
    """Steepness: 6 dB an octave each."""

    def check(self, sample_rate: int) -> None:
        """Refuse frequencies beyond half of the sample rate."""
        _check_below_half("max_cutoff_hz", self.max_cutoff_hz, sample_rate)

    def _draw(self, sample_rate: int, rng: np.random.Generator) -> float:
        self.check(sample_rate)
        return _draw_by_ratio(self.min_cutoff_hz, self.max_cutoff_hz, rng)


class HighPass(_Cutoff):
    """Remove low frequencies, as a small loudspeaker does."""

    kind: Literal["high_pass"] = "high_pass"

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the higher frequencies."""
        cutoff = self._draw(sample_rate, rng)
        return _keep(
            waveform, sample_rate, lambda pitch: 1 - power_below(pitch, cutoff, self.order)
        )


class LowPass(_Cutoff):
    """Remove high frequencies, as a wall does."""

    kind: Literal["low_pass"] = "low_pass"
    min_cutoff_hz: float = Field(1000.0, gt=0)
    """Lowest frequency, in Hz, at which 3 dB are lost."""
    max_cutoff_hz: float = Field(3500.0, gt=0)
    """Highest such frequency in Hz; at most half of the sample rate."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the lower frequencies."""
        cutoff = self._draw(sample_rate, rng)
        return _keep(waveform, sample_rate, lambda pitch: power_below(pitch, cutoff, self.order))


def power_below(pitch: Wave, cutoff: float, order: int) -> Wave:
    """Return a Butterworth low-pass filter's factor of power at frequencies in Hz."""
    return _butterworth(pitch / np.float32(cutoff), order)


def power_in_band(pitch: Wave, centre: float, octaves: float, order: int) -> Wave:
    """Return a Butterworth band-pass filter's factor of power at frequencies in Hz."""
    # A band is a low-pass filter of the distance |f² − centre²| / (width · f).
    width = centre * (2 ** (octaves / 2) - 2 ** (-octaves / 2))
    safe = np.maximum(pitch, np.float32(1e-3))
    distance: Wave = np.abs(safe - np.float32(centre**2) / safe)
    return _butterworth(distance / np.float32(width), order)


def _butterworth(ratio: Wave, order: int) -> Wave:
    exponent = np.float32(2 * order) * np.log(np.maximum(ratio, np.float32(1e-20)))
    grown: Wave = np.exp(np.minimum(exponent, np.float32(_LARGEST_EXPONENT)))
    return np.float32(1) / (1 + grown)


def _keep(waveform: Wave, sample_rate: int, power: Callable[[Wave], Wave]) -> Wave:
    tail = round(_RING_SECONDS * sample_rate)
    return filtered(waveform, sample_rate, lambda pitch: np.sqrt(power(pitch)), tail)


def _draw_by_ratio(low: float, high: float, rng: np.random.Generator) -> float:
    return float(low * (high / low) ** rng.random())


def _check_below_half(option: str, frequency: float, sample_rate: int) -> None:
    if frequency > sample_rate / 2:
        raise ConfigError(
            f"{frequency:g} Hz is beyond half of the sample rate, {sample_rate / 2:g} Hz",
            where=f"augment: {option}",
            fix=f"choose at most {sample_rate / 2:g}",
        )
