"""Noise added to a training waveform: white, coloured, or a recording of another place."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from harken.augment.augment import Wave, WaveformAugment
from harken.augment.fourier import fast_length, frequencies
from harken.augment.level import amplitude, rms
from harken.augment.recordings import find_recordings, read_somewhere
from harken.seeds import generator

_POOL_SAMPLES = 2**20  # 4 MB: a minute at 16 kHz, and a million places to start reading
_LOWEST_HZ = 20.0  # what is lower is not heard, and would be most of brown noise's power
_QUIETEST = 0.01  # −40 dB: a pause in a recording is not made louder than its sounds


class Noise(WaveformAugment):
    """Add white Gaussian noise at a signal-to-noise ratio; silence stays silent."""

    kind: Literal["noise"] = "noise"
    min_snr_db: float = 10.0
    """Smallest ratio of the clip's power to the noise's, in decibels."""
    max_snr_db: float = 40.0
    """Largest ratio in decibels."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with noise, a stretch of a fixed pool from a random place on."""
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        return _add(waveform, draw_noise(len(waveform), rng), snr_db)


class GaussianNoise(WaveformAugment):
    """Add white Gaussian noise of a given amplitude, however loud the clip is."""

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    min_amplitude: float = Field(0.001, ge=0)
    """Smallest standard deviation of the noise; full scale is 1."""
    max_amplitude: float = Field(0.01, gt=0)
    """Largest standard deviation of the noise."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform + amplitude · N(0, 1)."""
        level = rng.uniform(self.min_amplitude, self.max_amplitude)
        return waveform + np.float32(level) * draw_noise(len(waveform), rng)


class ColourNoise(WaveformAugment):
    """Add Gaussian noise whose power falls with frequency as 1 / f^exponent; silence stays silent.

    The exponent 0 is white, 1 pink, 2 brown, −1 blue and −2 violet noise. Under 20 Hz there is
    none.
    """

    kind: Literal["colour_noise"] = "colour_noise"
    min_exponent: float = -1.0
    """Smallest exponent."""
    max_exponent: float = 2.0
    """Largest exponent."""
    min_snr_db: float = 10.0
    """Smallest ratio of the clip's power to the noise's, in decibels."""
    max_snr_db: float = 40.0
    """Largest ratio in decibels."""

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with noise, shaped as a spectrum of random numbers."""
        exponent = rng.uniform(self.min_exponent, self.max_exponent)
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        return _add(waveform, draw_colour(len(waveform), sample_rate, exponent, rng), snr_db)


class Background(WaveformAugment):
    """Add a recording of another place at a signal-to-noise ratio; silence stays silent.

    The recording is drawn from a folder, and a part of it as long as the clip; a shorter one is
    repeated. A pause in it counts as 40 dB softer than the recording at most.
    """

    kind: Literal["background"] = "background"
    path: str
    """A recording, or a folder whose recordings (and its sub-folders') are drawn evenly."""
    min_snr_db: float = 3.0
    """Smallest ratio of the clip's power to the recording's, in decibels."""
    max_snr_db: float = 30.0
    """Largest ratio in decibels."""

    def check(self, sample_rate: int) -> None:
        """Refuse a path without recordings."""
        find_recordings(self.path, "background.path")

    def apply(self, waveform: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the waveform with a part of a recording."""
        files = find_recordings(self.path, "background.path")
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        file, samples = files[int(rng.integers(len(files)))], len(waveform)
        around = read_somewhere(file, sample_rate, samples, rng)
        if len(around) > samples:
            start = int(rng.integers(len(around) - samples + 1))
            part = around[start : start + samples]
        else:
            part = np.resize(np.roll(around, -int(rng.integers(len(around)))), samples)
        return _add(waveform, part, snr_db, floor=_QUIETEST * rms(around))


def _add(waveform: Wave, noise: Wave, snr_db: float, floor: float = 0.0) -> Wave:
    level = rms(waveform) / (amplitude(snr_db) * max(rms(noise), floor, 1e-12))
    return waveform + np.float32(level) * noise


def draw_noise(samples: int, rng: np.random.Generator) -> Wave:
    """Return white Gaussian noise of variance 1, a stretch of a fixed pool with either sign."""
    start = int(rng.integers(_POOL_SAMPLES))
    sign = 1 if rng.random() < 0.5 else -1
    return np.float32(sign) * _read_pool(start, samples)


def draw_colour(samples: int, sample_rate: int, exponent: float, rng: np.random.Generator) -> Wave:
    """Return Gaussian noise whose power is proportional to 1 / f^exponent above 20 Hz."""
    size = fast_length(samples)
    pitch = frequencies(size, sample_rate)
    spectrum = draw_noise(2 * len(pitch), rng).view(np.complex64)
    factor = (np.maximum(pitch, _LOWEST_HZ) / _LOWEST_HZ) ** np.float32(-exponent / 2)
    noise = np.fft.irfft(spectrum * np.where(pitch < _LOWEST_HZ, np.float32(0), factor), size)
    return noise[:samples].astype(np.float32, copy=False)


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
